"""Sparse models on disk: small, exact, the same on every machine.

`numbers` says how a weight is rounded, `sparse` what a sparse tensor is, `safetensors` how it is stored; these need
numpy only.  `model` writes and reads PyTorch models, `onnx` exports them.
"""
