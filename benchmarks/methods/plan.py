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
        batch: samples a step.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 0.05
    weight_decay: float = 5e-4
    teacher: float = 0.0
    distill: float = 0.0
    batch: int = 128

    @property
    def key(self) -> str:
        """Tells settings apart in the file of results."""
        options = ",".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        taught = f" teacher={self.teacher:g} distill={self.distill:g}" if self.teacher else ""
        smaller = "" if self.batch == 128 else f" batch={self.batch}"
        return f"{self.method}({options}) lr={self.lr:g} wd={self.weight_decay:g}{taught}{smaller}"


def settings_of(method: str, task: str) -> list[Setting]:
    """The settings that are tried for a method: the task's own rate and decay, and a higher rate with less decay.

    The method that is the default gets more attention, as it would from somebody who wants the best of it.  The
    convolutional net is trained in one way by all: there are too many trainings to try two.
    """
    recipes = RECIPES.get(task, RECIPES["fashion-mnist"])
    tried = [Setting(method, lr=lr, weight_decay=decay) for lr, decay in recipes[: 1 if method in AFTER else None]]
    if method == "gradual" and task == "fashion-mnist":
        tried += [
            Setting(method, lr=0.1, weight_decay=1e-4),
            Setting(method, {"schedule": "cubic:0..0.5"}, lr=0.2, weight_decay=1e-4),
            Setting(method, {"allocation": "lamp"}, lr=0.2, weight_decay=1e-4),
            Setting(method, lr=0.1, weight_decay=1e-4, batch=64),
            Setting(method, lr=0.1, weight_decay=1e-4, teacher=0.3, distill=0.9),
            Setting(method, {"schedule": "cubic:0..0.5"}, lr=0.1, weight_decay=0.0, teacher=0.4, distill=0.9),
        ]
    return tried


RECIPES = {"fashion-mnist": ((0.05, 5e-4), (0.2, 1e-4)), "small-conv": ((0.1, 5e-4),)}
"""Peak learning rate and weight decay, by task."""

AFTER = ("one_shot", "wanda", "sparsegpt", "alps")
"""They prune a dense model, which is trained at the task's own rate."""
