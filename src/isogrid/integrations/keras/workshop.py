"""The main job's workshop for Keras."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from isogrid.formats.files import write_atomically
from isogrid.formats.numbers import Values
from isogrid.frontier.layers import layer_row
from isogrid.frontier.phases import Pace, Phase, Trained
from isogrid.frontier.workshop import Findings, Weighed, Workshop
from isogrid.integrations.keras.copying import Compiled, copy_of
from isogrid.integrations.keras.exporting import export
from isogrid.integrations.keras.pruning import prune
from isogrid.integrations.keras.training import Bench, train_phase
from isogrid.integrations.keras.weights import census, quantize, read, write
from isogrid.metrics import Outcomes, value_of
from isogrid.report.data import InputUse


@dataclass(frozen=True, eq=False)
class Weights:
    """A model of the job: the weights alone, for all have one structure."""

    arrays: Mapping[str, NDArray[Any]]


class KerasWorkshop(Workshop):
    """Trains, prunes, measures and writes models of one structure, all on one Keras model that takes their weights."""

    def __init__(self, name: str, bench: Bench, recipe: Pace, *, pretrained: bool) -> None:
        self.name, self.metric, self.pretrained = name, bench.judge.metric, pretrained
        self.recipe, self.history, self.flops = recipe, [], None
        self._bench, self._model = bench, bench.model
        self._start = Trained(read(bench.model), None, float("nan"), 0, None)

    def _with(self, model: Weights) -> Any:
        write(self._model, model.arrays)
        return self._model

    # -- training ----------------------------------------------------------------------------------------------------

    def given(self) -> Trained:
        return self._measured(self._start.model, None, 0)

    def train(self, phase: Phase, start: Trained | None = None, *, taught: bool = False) -> Trained:
        return train_phase(self._bench, phase, start or self._start, self.history)

    def prune(self, dense: Trained, method: Any) -> Trained:
        model = self._with(Weights(dense.model))
        prune(model, method, seed=self._bench.seed, **self._bench.selection)
        masks = {target.name: _array(target.variable) != 0 for target in self._bench.targets}
        return self._measured(read(model), masks, dense.steps)

    def _measured(self, arrays: Mapping[str, NDArray[Any]], masks: Any, steps: int) -> Trained:
        return Trained(arrays, masks, value_of(self.measure(Weights(arrays), "validation")), steps, None)

    # -- models ------------------------------------------------------------------------------------------------------

    def at_precision(self, trained: Trained, precision: Values) -> Weights:
        model = self._with(Weights(trained.model))
        quantize(model, precision, **self._bench.selection)
        return Weights(read(model))

    def weigh(self, model: Weights, precision: Values) -> Weighed:
        counted = census(self._with(model), **self._bench.selection)
        return Weighed(counted.sparsity, counted.sparsity_of_model, counted.nonzeros, len(counted.file), None)

    def parameters(self, model: Weights) -> int:
        return census(self._with(model), **self._bench.selection).parameters

    def has(self, split: str) -> bool:
        return split in self._bench.data

    def measure(self, model: Weights, split: str) -> Outcomes | float:
        return self._bench.judge(self._with(model), self._bench.data[split])

    def findings(self, dense: Weights, sparse: Weights) -> Findings:
        rows = []
        for target in self._bench.targets:
            was, now = (target.view.canonical(model.arrays[target.name]) for model in (dense, sparse))
            rows.append(layer_row(target.name, tuple(target.variable.shape), was, now))
        return Findings(layers=rows, inputs=self._inputs(sparse))

    def _inputs(self, sparse: Weights) -> InputUse | None:
        """Surviving connections of each input feature, where the model begins with a dense layer on its inputs."""
        first, example = self._bench.targets[0], self.example()
        features = int(np.prod(example[0].shape[1:]))
        if first.kind != "dense" or first.shape[1] != features or len(example) != 1:
            return None
        counts = np.count_nonzero(first.view.canonical(sparse.arrays[first.name]), axis=0)
        shape = example[0].shape[1:]
        return InputUse(counts=[int(count) for count in counts], shape=shape if len(shape) == 2 else None)

    # -- files -------------------------------------------------------------------------------------------------------

    def save_dense(self, model: Weights, folder: Path) -> dict[str, int]:
        return {"dense.safetensors": self._save_weights(model, folder / "dense.safetensors")}

    def save_balance(self, model: Weights, precision: Values, folder: Path) -> dict[str, int]:
        return {
            "model.safetensors": self._save_weights(model, folder / "model.safetensors"),
            "model.keras": self._save_keras(model, folder / "model.keras"),
            "model.onnx": export(
                self._with(model), folder / "model.onnx", self._inputs_of_batch(), values=precision,
                **self._bench.selection,
            ),
        }  # fmt: skip

    def _save_weights(self, model: Weights, path: Path) -> int:
        data = census(self._with(model), **self._bench.selection).file
        write_atomically(path, data)
        return len(data)

    def _save_keras(self, model: Weights, path: Path) -> int:
        """As Keras saves it, compiled as the user's was, with an optimiser that has taken no step."""
        with tempfile.TemporaryDirectory(prefix="isogrid-") as folder:
            file = Path(folder, "model.keras")
            finished(self._model, self._bench.compiled, self._inputs_of_batch(), model).save(file)
            data = file.read_bytes()
        write_atomically(path, data)
        return len(data)

    def export(self, model: Weights, path: Path) -> int:
        return export(self._with(model), path, self._inputs_of_batch())

    def example(self) -> Sequence[NDArray[Any]]:
        return [np.asarray(part) for part in keras.tree.flatten(self._inputs_of_batch())]

    def _inputs_of_batch(self) -> Any:
        return keras.tree.map_structure(lambda part: part[:4], self._bench.data["validation"].first()[0])


def finished(model: Any, compiled: Compiled, inputs: Any, weights: Weights) -> Any:
    """A model of its own with those weights, compiled as the user's was."""
    own = copy_of(model, inputs)
    compiled.apply(own)
    own.optimizer.build(own.trainable_variables)  # an optimiser saved without its variables is read with a warning
    write(own, weights.arrays)
    return own


def _array(value: Any) -> NDArray[Any]:
    return np.asarray(keras.ops.convert_to_numpy(value))
