"""The second lever: fewer bits for each number."""

from isogrid.precision.quantize import QuantizationReport, QuantizedWeight, quantize

__all__ = ["QuantizationReport", "QuantizedWeight", "quantize"]
