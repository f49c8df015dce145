"""The main job's workshop for PyTorch: a task and its trainer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray
from torch import Tensor, nn

from isogrid.formats import onnx as onnx_format
from isogrid.formats.model import model_bytes, save
from isogrid.formats.numbers import Values
from isogrid.frontier import findings
from isogrid.frontier.ensemble import Ensemble
from isogrid.frontier.phases import Phase, Trained
from isogrid.frontier.training import Trainer
from isogrid.frontier.workshop import Findings, Weighed, Workshop
from isogrid.masks import count_zeros, find_targets
from isogrid.metrics import Outcomes
from isogrid.precision.quantize import quantize
from isogrid.runtime.estimate import Latency
from isogrid.sparsify import Method, prune
from isogrid.tasks import Split


class TorchWorkshop(Workshop):
    """Trains, prunes, measures and writes the models of one `Trainer`."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._task = trainer, trainer.task
        self.name, self.metric, self.pretrained = self._task.name, self._task.metric, self._task.pretrained
        self.recipe, self.history = trainer.recipe, trainer.history
        self._selection: dict[str, Any] = {"targets": self._task.targets, "ignore": self._task.ignore}
        self._latency = Latency(trainer.new_model(), self._task.example())
        self._teacher: Ensemble | None = None

    @property
    def flops(self) -> float:  # type: ignore[override]  # the trainer counts
        return self._trainer.flops

    @property
    def earlier(self) -> float:  # type: ignore[override]  # the trainer counts
        return self._trainer.earlier

    # -- training ----------------------------------------------------------------------------------------------------

    def given(self) -> Trained:
        model = self._trainer.new_model()
        value = self._trainer.metric_of(model, sparse=False)
        return Trained({name: part.detach().clone() for name, part in model.state_dict().items()}, None, value, 0, 0.0)

    def train(self, phase: Phase, start: Trained | None = None, *, taught: bool = False) -> Trained:
        return self._trainer.train(phase, start, self._teacher if taught else None)

    def teach(self, teachers: Sequence[Trained]) -> None:
        self._teacher = Ensemble([self._trainer.model_of(one) for one in teachers])

    def prune(self, dense: Trained, method: Method) -> Trained:
        model = self._trainer.model_of(dense)
        report = prune(
            model, method, data=self._trainer.calibration(method), forward=self._task.forward, loss=self._task.loss,
            seed=self._trainer.seed, **self._selection,
        )  # fmt: skip
        value = self._trainer.metric_of(model, sparse=True)
        return Trained(dict(model.state_dict()), report.masks, value, dense.steps, dense.flops)

    # -- models ------------------------------------------------------------------------------------------------------

    def at_precision(self, trained: Trained, precision: Values) -> nn.Module:
        model = copy.deepcopy(self._trainer.model_of(trained)).eval()
        if precision != "fp32":
            quantize(model, weights=precision, **self._selection)
        return model

    def weigh(self, model: nn.Module, precision: Values) -> Weighed:
        counts = count_zeros(model, find_targets(model, **self._selection))
        size = model_bytes(model, precision, **self._selection)
        latency = self._latency(model)
        return Weighed(counts["sparsity"], counts["sparsity_of_model"], counts["nonzeros"], size, latency)

    def parameters(self, model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    def has(self, split: str) -> bool:
        return self._task.has(cast("Split", split))

    def measure(self, model: nn.Module, split: str) -> Outcomes | float:
        return self._trainer.measure(model, cast("Split", split))

    def findings(self, dense: nn.Module, sparse: nn.Module) -> Findings:
        return Findings(
            layers=findings.layer_rows(self._task, dense, sparse),
            activations=findings.activation_rows(self._task, dense, sparse),
            inputs=findings.input_use(self._task, sparse),
        )

    def class_names(self) -> Sequence[str] | None:
        return self._task.class_names()

    def image(self, split: str, index: int) -> Any:
        return self._task.image(cast("Split", split), index)

    # -- files -------------------------------------------------------------------------------------------------------

    def save_dense(self, model: nn.Module, folder: Path) -> dict[str, int]:
        path = folder / "dense.safetensors"
        return {path.name: save(model, path, **self._selection)}

    def save_balance(self, model: nn.Module, precision: Values, folder: Path) -> dict[str, int]:
        weights, graph = folder / "model.safetensors", folder / "model.onnx"
        files = {weights.name: save(model, weights, values=precision, **self._selection)}
        free_axes = self._task.free_axes()
        files[graph.name] = onnx_format.export(
            model, graph, self._task.example(), values=precision, free_axes=free_axes, **self._selection
        )
        onnx_format.verify(graph, model, self._task.example())
        return files

    def export(self, model: nn.Module, path: Path) -> int:
        return onnx_format.export(copy.deepcopy(model), path, self._task.example(), free_axes=self._task.free_axes())

    def example(self) -> list[NDArray[Any]]:
        return [part.detach().cpu().numpy() for part in self._task.example() if isinstance(part, Tensor)]
