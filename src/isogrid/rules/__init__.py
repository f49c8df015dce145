"""The part of the methods that knows no framework: their options, and the rules that need arrays only.

`isogrid.sparsify` builds methods for PyTorch on it, `isogrid.integrations.keras` methods for Keras.
"""
