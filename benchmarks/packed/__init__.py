"""Packed ONNX models beside what else runs them."""
