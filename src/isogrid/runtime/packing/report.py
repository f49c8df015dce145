"""What became of the layers of a packed model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class NodeReport:
    """What became of a layer.

    Attributes:
        name, kind, shape: of the layer; the shape is that of its weights in the original file.
        sparsity: share of the weights that are zero.
        macs: multiply-adds of the dense layer on the example; 0 where they are not counted.
        bytes_before, bytes_after: that its weights take; weights of several layers count for each.
        gain: how many times faster it is expected to be; None where nothing was.
        choice: ``"sparse"`` or ``"dense"``.
        values: number format of packed weights; empty for others.
        fused: what is done in the same pass, for people.
        reason: why, for people.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    sparsity: float
    macs: int
    bytes_before: int
    bytes_after: int
    gain: float | None
    choice: str
    values: str
    fused: str
    reason: str


@dataclass(frozen=True)
class PackReport:
    """What `pack` did.

    Attributes:
        source, target: the files.
        values: the number format that was asked for.
        nodes: every layer with stored weights.
        bytes_before, bytes_after: of the files, with external data.
        difference: the largest found between the outputs of both, as a fraction of the largest output.
        notes: what a user should know, one sentence each.
    """

    source: Path
    target: Path
    values: str
    nodes: tuple[NodeReport, ...]
    bytes_before: int
    bytes_after: int
    difference: float
    notes: tuple[str, ...] = ()

    @property
    def packed(self) -> int:
        """Layers that run on sparse kernels."""
        return sum(node.choice == "sparse" for node in self.nodes)

    @property
    def coverage(self) -> float:
        """Share of the counted multiply-adds that run on sparse kernels."""
        total = sum(node.macs for node in self.nodes)
        return sum(node.macs for node in self.nodes if node.choice == "sparse") / total if total else 0.0

    @property
    def choices(self) -> dict[str, str]:
        """The decisions by name, as `pack` takes them."""
        return {node.name: node.choice for node in self.nodes}

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "source": str(self.source),
            "target": str(self.target),
            "values": self.values,
            "packed": self.packed,
            "coverage": self.coverage,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "difference": self.difference,
            "notes": list(self.notes),
            "nodes": [asdict(node) | {"shape": list(node.shape)} for node in self.nodes],
        }
