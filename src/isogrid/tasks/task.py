"""What a task is: a model, its data, its metric, and how long to train."""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from isogrid.checks import check_whole, is_number
from isogrid.errors import DataError, UsageError
from isogrid.ladder import LADDER, check_ladder
from isogrid.metrics import ACCURACY, Metric, Outcomes
from isogrid.names import canonical, unknown_name

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Recipe:
    """How a task is trained.  Every number may be overridden from the command line.

    Attributes:
        epochs: passes over the training data for the dense baseline.
        rung_epochs: passes for each rung of the climb.
        lr: peak learning rate; each phase warms up to it and falls to nought along a half cosine.
        rung_lr: peak of the rungs' phases; None takes `lr`.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"`` (Nesterov momentum 0.9).
        weight_decay: of the optimiser.
        distill: weight of the dense model's soft answers in the loss of a rung, from 0 (none) to 1 (they alone).
        teachers: how many of the best dense cycles give those answers together.
        temperature: of those answers (Hinton, Vinyals and Dean 2015, arXiv:1503.02531).
        ladder: the sparsities of the climb, rising.

    Raises:
        UsageError: a number out of range, or a ladder that does not rise.

    >>> Recipe(epochs=3).rung_epochs
    5
    """

    epochs: int = 20
    rung_epochs: int = 5
    lr: float = 1e-3
    rung_lr: float | None = None
    optimizer: str = "adam"
    weight_decay: float = 0.0
    distill: float = 0.0
    teachers: int = 1
    temperature: float = 3.0
    ladder: Sequence[float] = LADDER

    def __post_init__(self) -> None:
        for name in ("epochs", "rung_epochs", "teachers"):
            check_whole("The recipe", name, getattr(self, name))
        rates = {"lr": self.lr, "rung_lr": self.lr if self.rung_lr is None else self.rung_lr}
        for name, rate in rates.items():
            if not (is_number(rate) and rate > 0):
                raise UsageError(f"The recipe got {name}={rate!r}; accepted is a finite number > 0.")
        if self.optimizer not in ("adam", "adamw", "sgd"):
            raise UsageError(f"The recipe got optimizer={self.optimizer!r}; accepted are adam, adamw and sgd.")
        if not (is_number(self.weight_decay) and self.weight_decay >= 0):
            raise UsageError(f"The recipe got weight_decay={self.weight_decay!r}; accepted is a finite number >= 0.")
        if not (is_number(self.distill) and 0 <= self.distill <= 1):
            raise UsageError(f"The recipe got distill={self.distill!r}; accepted is a number from 0 to 1.")
        if not (is_number(self.temperature) and self.temperature > 0):
            raise UsageError(f"The recipe got temperature={self.temperature!r}; accepted is a finite number > 0.")
        object.__setattr__(self, "ladder", check_ladder(self.ladder))

    def with_(self, **changes: Any) -> Recipe:
        """A copy with what is not None in `changes` replaced."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})


class Task(ABC):
    """A model, its data and its metric.  A task of your own is a subclass in a file of its own.

    The data come in three splits that share no sample: ``train`` is trained on, ``validation`` chooses, and ``test``
    only confirms.
    """

    name: ClassVar[str]
    """What ``isogrid optimize NAME`` and reports call it."""
    summary: ClassVar[str]
    """One line for ``isogrid tasks``."""
    metric: ClassVar[Metric] = ACCURACY
    recipe: ClassVar[Recipe] = Recipe()
    settings: ClassVar[Mapping[str, Recipe]] = {}
    """Recipes by the time that they take, such as ``smoke``, ``fast`` and ``full``; empty where there is one only."""
    setting: str | None = None
    """Which of them was chosen: a task may take fewer data or a smaller model for it.  None means `recipe`."""
    pretrained: ClassVar[bool] = False
    """Whether `model` is trained already, so that it is the dense baseline as it stands."""
    targets: ClassVar[Sequence[str] | None] = None
    """What may be pruned (`isogrid.masks.find_targets`); None takes the weights of all usual layers but embeddings."""
    ignore: ClassVar[Sequence[str] | None] = None

    def at(self, setting: str) -> Self:
        """This task in one of its `settings`.

        Raises:
            UsageError: it has no such setting.
        """
        chosen = canonical(setting)
        if chosen not in self.settings:
            if not self.settings:
                raise UsageError(f"The task {self.name} got setting={setting!r}, and it has one setting only.")
            raise unknown_name(f"setting of {self.name}", setting, self.settings)
        task = copy.copy(self)
        task.setting = chosen
        task.recipe = self.settings[chosen]  # type: ignore[misc]  # the object's own, from here on
        return task

    @abstractmethod
    def model(self) -> nn.Module:
        """A new model.  Torch's generator is seeded before the call, and only it may decide the initial weights."""

    @abstractmethod
    def batches(self) -> Iterable[Any]:
        """One pass over the training data, in batches.  Torch's generator is seeded before each pass, for shuffling."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: Split) -> Outcomes | float:
        """Measure `model`, which is in eval mode and under ``no_grad``, on a split.

        Return per-sample `Outcomes`; a bare number is accepted, and the report then has no interval and no classes.
        """

    @abstractmethod
    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the model for a batch of a few samples: what it is exported and verified with."""

    def free_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Axes beside the batch whose size the ONNX files leave open, as in `isogrid.export`; by default none."""
        return {}

    def has(self, split: Split) -> bool:
        """Whether `evaluate` can measure that split; only ``"validation"`` must be there.

        Without ``"test"`` nothing can be confirmed, and the verdict is ``untested``.
        """
        return True

    def steps_per_epoch(self) -> int:
        """Batches in one pass."""
        batches = self.batches()
        if not isinstance(batches, Iterable):
            raise DataError(
                f"batches() of {self.name} returned {type(batches).__name__}; accepted is an iterable of batches."
            )
        try:
            return len(batches)  # type: ignore[arg-type]
        except TypeError:  # what has no length, such as a loader of a stream
            return sum(1 for _ in batches)

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        """The model's answer to a batch; by default the batch is ``(inputs, labels)``."""
        answer: Tensor = model(batch[0])
        return answer

    def loss(self, answer: Tensor, batch: Any) -> Tensor:
        """The loss of that answer; by default the mean cross-entropy with ``batch[1]``."""
        return nn.functional.cross_entropy(answer, batch[1])

    def samples(self, split: Split) -> Iterable[Any] | None:
        """Batches of all samples of a split, each once, for `isogrid check`; None where the task cannot give them.

        By default those of the training data; more splits let more be checked.
        """
        return self.batches() if split == "train" else None

    def features(self, batch: Any) -> Tensor:
        """What tells the samples of a batch apart, ``[n, numbers]``; by default the inputs ``batch[0]``, flat."""
        if not isinstance(batch, Tensor | tuple | list):
            raise DataError(
                f"A batch of {self.name} is a {type(batch).__name__}; accepted is a tuple that begins with the inputs, "
                "or a task that defines features()."
            )
        inputs: Tensor = batch if isinstance(batch, Tensor) else batch[0]
        return inputs.flatten(1) if inputs.ndim > 1 else inputs[:, None]

    def classes(self, batch: Any) -> Tensor | None:
        """The class of each sample of a batch, integers ``[n]``; by default ``batch[1]`` where it is of that kind."""
        labels = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
        whole = isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point()
        return labels if whole else None

    def input_names(self, group: str) -> Sequence[str] | None:
        """Names of the inputs for `isogrid explain`: of ``"input"``, or of the rows of the embedding called `group`."""
        return None

    def class_names(self) -> Sequence[str] | None:
        """Names of the classes, where there are any."""
        return None

    def image(self, split: Split, index: int) -> Any:
        """Sample `index` of a split as a two-dimensional array for the report, where it is an image."""
        return None

    def image_shape(self) -> tuple[int, int] | None:
        """Height and width, where the first layer's inputs are the pixels of an image."""
        return None


def check_task(task: Task) -> None:
    """Raise ``UsageError`` for attributes that are not what `Task` says."""
    needed = {
        "name": (str, "a text"), "summary": (str, "a text"), "metric": (Metric, "a Metric"),
        "recipe": (Recipe, "a Recipe"),
    }  # fmt: skip
    for attribute, (kind, called) in needed.items():
        value = getattr(task, attribute, None)
        if not isinstance(value, kind):
            raise UsageError(
                f"class {type(task).__name__} needs {called} as its attribute {attribute}, and has {value!r}."
            )


class ClassificationTask(Task):
    """A classifier over tensors that fit into memory: fill in `data` and `model`, the rest follows.

    >>> import torch
    >>> from torch import nn
    >>> class Parity(ClassificationTask):
    ...     name, summary = "parity", "whether two bits differ"
    ...     def model(self): return nn.Linear(2, 2)
    ...     def data(self, split):
    ...         x = torch.tensor([[0., 0.], [0., 1.], [1., 0.], [1., 1.]])
    ...         return x, torch.tensor([0, 1, 1, 0])
    >>> Parity().evaluate(Parity().model(), "test").samples
    4
    """

    batch_size: ClassVar[int] = 128

    @abstractmethod
    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Inputs ``[n, ...]`` and integer labels ``[n]`` of a split.  Called often: keep what was loaded."""

    def batches(self) -> ShuffledBatches:
        return ShuffledBatches(*self.data("train"), batch_size=self.batch_size)

    def evaluate(self, model: nn.Module, split: Split) -> Outcomes:
        inputs, labels = self.data(split)
        answers = [model(part).argmax(dim=1) for part in torch.split(inputs, 2048)]
        return Outcomes.of_classes(torch.cat(answers).cpu().numpy(), labels.cpu().numpy())

    def samples(self, split: Split) -> Iterable[Any]:
        return zip(*(torch.split(part, 2048) for part in self.data(split)), strict=True)

    def example(self) -> tuple[Tensor, ...]:
        return (self.data("validation")[0][:4].clone(),)


class ShuffledBatches:
    """Batches of tensors in memory, shuffled anew by torch's generator in each pass.

    The last batch may be smaller.  One index operation a batch: far cheaper than collating samples one by one.

    >>> import torch
    >>> len(ShuffledBatches(torch.zeros(10, 2), torch.zeros(10), batch_size=4))
    3
    """

    def __init__(self, *tensors: Tensor, batch_size: int) -> None:
        self._tensors = tensors
        self._batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._tensors[0]) / self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = torch.randperm(len(self._tensors[0]))
        for picked in torch.split(order, self._batch_size):
            yield tuple(tensor[picked] for tensor in self._tensors)
