"""Distillation: a sparse student learns from what a dense teacher answers, and from how it gets there."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NoReturn

from torch import Tensor, nn

from isogrid.errors import UnsupportedError, UsageError
from isogrid.evaluating import call_model, evaluating, running_the_example
from isogrid.masks import unwrap
from isogrid.names import unknown_name

Measure = Literal["kl", "mse"]


def distillation_loss(answer: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(wanted / T) || softmax(answer / T))``, mean over all but the last axis.

    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.

    >>> import torch
    >>> distillation_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]), 3.0).item()
    0.0
    """
    student = nn.functional.log_softmax(answer.reshape(-1, answer.shape[-1]) / temperature, dim=-1)
    teacher = nn.functional.log_softmax(wanted.reshape(-1, wanted.shape[-1]) / temperature, dim=-1)
    divergence = nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


class Distiller:
    """Mixes a teacher's answers and features into the loss of a student, in any training loop.

    Answers: ``(1 - weight) loss + weight D(teacher, student)``, where D is `distillation_loss` for classifiers and the
    mean squared error else (Hinton, Vinyals and Dean 2015, arXiv:1503.02531).  Features: for each pair of modules
    ``feature_weight |P(s) - t|^2 / |t|^2`` is added (FitNets, Romero et al. 2015, arXiv:1412.6550, eq. 3; dividing by
    the teacher's own size is ours, so that one weight fits all layers).  P is the identity where the two have equal
    shapes, else a learned linear map of the channels, the one axis in which they differ, as for a student that was
    shrunk.

    Args:
        model: the student.
        teacher: a module that takes the same inputs; by default a copy of `model` as it is now.  It answers in eval
            mode and without gradients, and is not changed.
        weight: of the teacher's answers, 0 to 1.
        temperature: of the softmax, > 0.
        measure: ``"kl"`` for classifiers, ``"mse"`` for answers that are no logits.
        features: names of modules (or one) whose outputs are compared, or a mapping from the student's to the
            teacher's names.
        feature_weight: of each pair.
        example: inputs, needed where features are compared: the shapes must be known before training starts.

    Raises:
        UsageError: a number out of range, an unknown module, features without an example, or shapes that differ in
            more than their channels.
        UnsupportedError: the student or the teacher does not run on the example.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
    >>> with Distiller(model, weight=0.5, features=["0"], example=x) as distiller:
    ...     answer = model(x)
    ...     loss = distiller(nn.functional.cross_entropy(answer, y), answer, x)
    >>> torch.allclose(loss, 0.5 * nn.functional.cross_entropy(answer, y), atol=1e-6)  # it still is its own teacher
    True
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module | None = None,
        *,
        weight: float = 0.5,
        temperature: float = 3.0,
        measure: Measure = "kl",
        features: str | Sequence[str] | Mapping[str, str] = (),
        feature_weight: float = 1.0,
        example: Tensor | tuple[Any, ...] | None = None,
    ) -> None:
        if not (_is_number(weight) and 0 <= weight <= 1):
            raise UsageError(f"Distiller got weight={weight!r}; accepted is a number from 0 to 1.")
        if not (_is_number(temperature) and temperature > 0):
            raise UsageError(f"Distiller got temperature={temperature!r}; accepted is a finite number > 0.")
        if not (_is_number(feature_weight) and feature_weight >= 0):
            raise UsageError(f"Distiller got feature_weight={feature_weight!r}; accepted is a finite number >= 0.")
        if measure not in ("kl", "mse"):
            raise unknown_name("measure of distillation", str(measure), ["kl", "mse"])
        if teacher is not None and not isinstance(teacher, nn.Module):
            raise UsageError(f"Distiller got teacher={teacher!r}; accepted is a module, or None for a copy.")
        if teacher is not None and unwrap(teacher) is unwrap(model):
            raise UsageError("Distiller got the model as its own teacher; leave teacher out, and a copy is made.")
        self._pairs = _pairs(features)
        self.teacher = copy.deepcopy(unwrap(model)).eval() if teacher is None else teacher
        self.weight, self.temperature, self.measure = weight, temperature, measure
        self.feature_weight = feature_weight
        self._student = _Watched(unwrap(model), list(self._pairs), "student")
        try:
            self._taught = _Watched(unwrap(self.teacher), list(self._pairs.values()), "teacher")
        except BaseException:
            self._student.close()
            raise
        self.projections = nn.ModuleDict()
        if self._pairs:
            try:
                self._build_projections(model, example)
            except BaseException:
                self.close()
                raise

    def parameters(self) -> Iterator[nn.Parameter]:
        """The learned maps between features of different widths, for the optimiser: ``add_param_group`` takes them."""
        return self.projections.parameters()

    def __call__(self, loss: Tensor, answer: Any, *inputs: Any, **named: Any) -> Tensor:
        """The loss with the teacher's part, for an `answer` that the student just gave to these inputs.

        Raises:
            UsageError: the answer holds no logits or has another shape than the teacher's, or the features of the
                answer were not seen, or are of other inputs.
        """
        with evaluating(self.teacher):
            wanted = self.teacher(*inputs, **named)
        student, teacher = _logits(answer), _logits(wanted)
        if student.shape != teacher.shape:  # which would be stretched to one another without a word
            raise UsageError(
                f"The student's answer has shape {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; "
                "accepted are answers of one shape to the same inputs."
            )
        if self.measure == "kl":
            soft = distillation_loss(student, teacher, self.temperature)
        else:
            soft = nn.functional.mse_loss(student, teacher)
        total = (1 - self.weight) * loss + self.weight * soft
        seen, taught = self._student.take(), self._taught.take()
        for own, other in self._pairs.items():
            target = taught[other].detach()
            difference = (self._projected(own, other, seen[own], target) - target).square().mean()
            total = total + self.feature_weight * difference / target.square().mean().clamp_min(1e-12)
        return total

    def close(self) -> None:
        """Take the hooks off both models."""
        self._student.close()
        self._taught.close()

    def __enter__(self) -> Distiller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> NoReturn:
        raise UnsupportedError(
            "A Distiller cannot be copied or pickled, for its hooks belong to two models; make a new one."
        )

    def _build_projections(self, model: nn.Module, example: Any) -> None:
        if example is None:
            raise UsageError("Distiller compares features and got no example; pass example=, a batch of inputs.")
        _run("student", model, example)
        _run("teacher", self.teacher, example)
        seen, taught = self._student.take(), self._taught.take()
        for own, other in self._pairs.items():
            here, there = seen[own], taught[other]
            if here.shape == there.shape:
                continue
            axis = _mapped_axis(here, there)
            if axis is None:
                raise UsageError(
                    f"The features of {own} have shape {tuple(here.shape)} and those of the teacher's {other} "
                    f"{tuple(there.shape)}; accepted are shapes that differ in their channels only, "
                    "which are one axis and not that of the batch."
                )
            projection = nn.Linear(here.shape[axis], there.shape[axis], bias=False)
            self.projections[own.replace(".", "/")] = projection.to(here.device, here.dtype)

    def _projected(self, own: str, other: str, features: Tensor, target: Tensor) -> Tensor:
        """The student's features in the shape of the teacher's."""
        key, axis = own.replace(".", "/"), _mapped_axis(features, target)
        if key not in self.projections and features.shape == target.shape:
            return features
        if key in self.projections and axis is not None:
            projection = self.projections[key]
            if projection.weight.shape == (target.shape[axis], features.shape[axis]):
                projected: Tensor = projection(features.movedim(axis, -1))
                return projected.movedim(-1, axis)
        # Shapes that differ in the batch would be stretched to one another without a word.
        raise UsageError(
            f"The student's features of {own} have shape {tuple(features.shape)} and the teacher's of {other} "
            f"{tuple(target.shape)}; accepted are features of the same inputs, so that the student's last run before "
            "a call is on what the call gets, with channels as in the example."
        )


class _Watched:
    """The latest outputs of some modules."""

    def __init__(self, model: nn.Module, names: Sequence[str], role: str) -> None:
        modules = dict(model.named_modules())
        self._role, self._names = role, list(names)
        self._seen: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        for name in names:
            if name not in modules or not name:
                raise unknown_name(f"module of the {role}", name, [other for other in modules if other])
        for name in set(names):
            self._handles.append(modules[name].register_forward_hook(self._remember(name)))

    def _remember(self, name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(first, Tensor):
                self._seen[name] = first

        return hook

    def take(self) -> dict[str, Tensor]:
        """What was seen since the last call."""
        seen, self._seen = self._seen, {}
        for name in self._names:
            if name not in seen:
                raise UsageError(
                    f"The features of {name} in the {self._role} were not seen; the {self._role} must run it once "
                    "before each call of the distiller, and it must give a tensor."
                )
        return seen

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _logits(answer: Any) -> Tensor:
    found = answer if isinstance(answer, Tensor) else getattr(answer, "logits", None)
    if not isinstance(found, Tensor):
        raise UsageError(
            f"The answer is of type {type(answer).__name__}; accepted is a tensor, or an object with logits, such as a "
            "Hugging Face model's."
        )
    return found


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def _pairs(features: str | Iterable[str] | Mapping[str, str]) -> dict[str, str]:
    """Names of the student's modules to those of the teacher's."""
    named = [features] if isinstance(features, str) else features
    if isinstance(named, Iterable):
        pairs = list(named.items()) if isinstance(named, Mapping) else [(name, name) for name in named]
        if all(isinstance(name, str) for pair in pairs for name in pair):
            return dict(pairs)
    raise UsageError(
        f"Distiller got features={features!r}; accepted is the name of a module, a sequence of names, or a mapping "
        "from the student's to the teacher's names."
    )


def _run(role: str, model: nn.Module, example: Any) -> None:
    with running_the_example(f"The {role}"), evaluating(model):
        call_model(model, example)


def _mapped_axis(here: Tensor, there: Tensor) -> int | None:
    """The one axis in which two tensors differ; None where it is that of the batch, or not one."""
    if here.dim() != there.dim():
        return None
    differing = [axis for axis, (a, b) in enumerate(zip(here.shape, there.shape, strict=True)) if a != b]
    return differing[0] if len(differing) == 1 and differing[0] > 0 else None
