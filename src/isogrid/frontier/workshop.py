"""The one thing that the main job needs of a framework: somebody who trains, prunes, measures and writes models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from isogrid.formats.numbers import Values
from isogrid.frontier.phases import Pace, Phase, Trained
from isogrid.metrics import Metric, Outcomes
from isogrid.report.data import ActivationRow, InputUse, LayerRow


@dataclass(frozen=True)
class Weighed:
    """What a model costs.

    Attributes:
        sparsity, sparsity_of_model: real zeros, of the targets and of all parameters, from 0 to 1.
        nonzeros: of all parameters.
        bytes: of the smallest file that holds it.
        latency: expected milliseconds of a call, None where nobody estimates.
    """

    sparsity: float
    sparsity_of_model: float
    nonzeros: int
    bytes: int
    latency: float | None


@dataclass(frozen=True)
class Findings:
    """What the report shows of two models beside their numbers."""

    layers: Sequence[LayerRow] = field(default=())
    activations: Sequence[ActivationRow] = field(default=())
    inputs: InputUse | None = None


class Workshop(ABC):
    """A task in one framework.  The search, the verdict and the report only know models as what comes from here.

    Attributes:
        name: of the task.
        metric: what the task measures.
        pretrained: whether the model is the dense baseline as it stands.
        recipe: how long to train.
        history: one entry for each epoch of the run so far: phase, step, loss, metric, sparsity.
        flops: what all phases of the run have cost in training; None where nobody counts.
        earlier: seconds that processes before this one have trained of the same run.
    """

    name: str
    metric: Metric
    pretrained: bool
    recipe: Pace
    history: list[dict[str, Any]]
    flops: float | None
    earlier: float = 0.0

    # -- training ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def given(self) -> Trained:
        """The model as the user gave it, measured on the validation split and not trained."""

    @abstractmethod
    def train(self, phase: Phase, start: Trained | None = None, *, taught: bool = False) -> Trained:
        """Run a phase, or what is left of it, from `start` or from the initial weights.

        With `taught` it learns from the answers of those models too that `teach` was given last, as far as the recipe
        says.

        Raises:
            TrainingError: the loss or a weight is not finite.
            DataError: a pass gives no batch.
        """

    def teach(self, teachers: Sequence[Trained]) -> None:
        """Name the dense models that the rungs may learn from."""

    @abstractmethod
    def prune(self, dense: Trained, method: Any) -> Trained:
        """Prune a trained model at once by a method that needs no training."""

    # -- models ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def at_precision(self, trained: Trained, precision: Values) -> Any:
        """A phase's model, its weights rounded to what a file of that precision holds."""

    @abstractmethod
    def weigh(self, model: Any, precision: Values) -> Weighed:
        """What a model that `at_precision` gave costs."""

    @abstractmethod
    def parameters(self, model: Any) -> int:
        """How many numbers a model learns."""

    @abstractmethod
    def has(self, split: str) -> bool:
        """Whether there is such a split (``"train"``, ``"validation"`` or ``"test"``) to measure on."""

    @abstractmethod
    def measure(self, model: Any, split: str) -> Outcomes | float:
        """The metric on a split."""

    @abstractmethod
    def findings(self, dense: Any, sparse: Any) -> Findings:
        """What the report shows of the two models."""

    def class_names(self) -> Sequence[str] | None:
        """Names of the classes, where there are any."""
        return None

    def image(self, split: str, index: int) -> Any:
        """Sample `index` of a split as a two-dimensional array, where it is an image."""
        return None

    # -- files -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def save_dense(self, model: Any, folder: Path) -> dict[str, int]:
        """Write the dense model; names and sizes of the files."""

    @abstractmethod
    def save_balance(self, model: Any, precision: Values, folder: Path) -> dict[str, int]:
        """Write the balance point, ``model.safetensors`` and ``model.onnx`` among its files; names and sizes.

        The ONNX file must have been run, and answer as the model does.

        Raises:
            FormatError: it does not.
        """

    @abstractmethod
    def export(self, model: Any, path: Path) -> object:
        """Write a model as a plain ONNX file, to be timed.

        Raises:
            UnsupportedError, UsageError: it cannot be exported.
        """

    @abstractmethod
    def example(self) -> Sequence[NDArray[Any]]:
        """Inputs for an ONNX file of the model, batch first, in the order of its inputs."""
