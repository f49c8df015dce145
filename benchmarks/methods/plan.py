"""What is tried: for each method a few settings, among which the validation split chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One way to spend the epochs on one method.

    Attributes:
        method: its name, ``"dense"`` for none, ``"torch.prune"`` for the rival.
        options: of the method.
        lr: peak learning rate (Nesterov momentum 0.9, warm-up, half a cosine).
        weight_decay: of the optimiser.
        teacher: share of the epochs that train a dense model first, whose answers then teach, and from whose weights
            the sparse training starts unless the method starts afresh; all epochs count.
        distill: weight of these answers.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 0.05
    weight_decay: float = 5e-4
    teacher: float = 0.0
    distill: float = 0.0

    @property
    def key(self) -> str:
        """Tells settings apart in the file of results."""
        options = ",".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        taught = f" teacher={self.teacher:g} distill={self.distill:g}" if self.teacher else ""
        return f"{self.method}({options}) lr={self.lr:g} wd={self.weight_decay:g}{taught}"


def settings_of(method: str) -> list[Setting]:
    """The settings that are tried for a method: as it is published, and with what usually helps at few weights."""
    if method in ("dense", "torch.prune"):
        return [Setting(method, lr=lr) for lr in (0.05, 0.1)]
    plain = [Setting(method, options) for options in _OPTIONS.get(method, [{}])]
    if method in _AFTER:
        return plain
    best = plain[-1].options
    return [
        *plain,
        Setting(method, best, lr=0.1, weight_decay=1e-4),
        Setting(method, best, lr=0.1, weight_decay=1e-4, teacher=0.3, distill=0.9),
    ]


_AFTER = ("one_shot", "wanda", "sparsegpt", "alps")

_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "gradual": [{}, {"schedule": "cubic:0..0.5"}],
    "rigl": [{}, {"delta_t": 100}],
    "set": [{}, {"delta_t": 100}],
}
"""Options that are tried beside the published ones; the last is also tried with the other learning rate."""
