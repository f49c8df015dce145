"""One phase of the main job as one ``model.fit``, which goes on where it was killed."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from isogrid.errors import RunError, TrainingError
from isogrid.frontier.events import EpochEnd, Listener
from isogrid.frontier.phases import Phase, Trained
from isogrid.frontier.rundir import RunDirectory
from isogrid.integrations.keras.callback import Sparsify
from isogrid.integrations.keras.copying import Compiled
from isogrid.integrations.keras.counting import count
from isogrid.integrations.keras.data import Data
from isogrid.integrations.keras.judging import Judge
from isogrid.integrations.keras.targets import Target
from isogrid.integrations.keras.weights import read, write
from isogrid.metrics import value_of

_MEASURED = "isogrid_validation"
"""What the validation metric is called in the logs, where `Sparsify` looks for it."""
_WARM_UP = 0.05
"""Share of a phase in which the learning rate rises to its peak."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Bench:
    """The one model that all phases train, and what it is trained and measured with."""

    model: Any
    compiled: Compiled
    judge: Judge
    data: Mapping[str, Data]
    targets: list[Target]
    selection: dict[str, Any]
    run: RunDirectory
    listener: Listener
    seed: int


def train_phase(bench: Bench, phase: Phase, start: Trained, history: list[dict[str, Any]]) -> Trained:
    """Train `bench.model` through a phase, from the weights and masks of `start`; finished ones are read.

    Raises:
        TrainingError: the loss or a weight is not finite.
        RunError: a checkpoint is damaged.
    """
    done = load_state(bench.run, phase.name)
    if done is not None:
        head, arrays = done
        bench.run.drop_checkpoint(f"{phase.name}.partial")
        history.extend(head["history"])
        bench.listener.phase_started(phase.title, phase.epochs, phase.epochs)
        return _trained(head, arrays)
    keeper = _Keeper(bench, phase)
    steps = bench.data["train"].steps
    bench.compiled.apply(bench.model, _rate(phase.lr, steps * phase.epochs))
    write(bench.model, start.model)
    sparsify = None
    if phase.method is not None:
        sparsify = Sparsify(
            phase.method, masks=start.masks, metric=_MEASURED, seed=bench.seed, allow_unfinished=True, **bench.selection
        )
    keeper.sparsify = sparsify
    bench.listener.phase_started(phase.title, phase.epochs, keeper.epoch)
    if not keeper.over:
        bench.model.fit(
            bench.data["train"].endless(bench.seed, phase.name, keeper.epoch),
            epochs=phase.epochs, initial_epoch=keeper.epoch, steps_per_epoch=steps, verbose=0, shuffle=False,
            callbacks=[_Measure(keeper), *([sparsify] if sparsify is not None else []), keeper],
        )  # fmt: skip
    masks = sparsify.masks if sparsify is not None else None
    head = {"metric": keeper.metric, "steps": keeper.epoch * steps, "history": keeper.history}
    arrays = {f"model/{name}": array for name, array in read(bench.model).items()}
    arrays |= {f"masks/{name}": mask for name, mask in (masks or {}).items()}
    history.extend(keeper.history)
    save_state(bench.run, phase.name, head, arrays)
    bench.run.drop_checkpoint(f"{phase.name}.partial")
    return _trained(head, arrays)


def _trained(head: Mapping[str, Any], arrays: Arrays) -> Trained:
    masks = _below("masks", arrays)
    return Trained(_below("model", arrays), masks or None, head["metric"], head["steps"], None)


def _below(part: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(f"{part}/"): array for name, array in arrays.items() if name.startswith(f"{part}/")}


def _rate(peak: float | None, steps: int) -> Any:
    """The learning rate of a phase: a linear warm-up, then half a cosine to nought; None keeps the optimiser's own."""
    if peak is None:
        return None
    warm_up = max(1, int(_WARM_UP * steps))
    return keras.optimizers.schedules.CosineDecay(
        peak / warm_up, max(1, steps - warm_up), alpha=0.0, warmup_target=peak, warmup_steps=warm_up
    )


class _Measure(keras.callbacks.Callback):
    """Measures the validation split at each epoch, before `Sparsify` looks for the result in the logs."""

    def __init__(self, keeper: _Keeper) -> None:
        super().__init__()
        self._keeper = keeper

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        keeper, bench = self._keeper, self._keeper.bench
        keeper.check_finite(epoch, float(logs["loss"]))
        keeper.metric = value_of(bench.judge(self.model, bench.data["validation"]))
        logs[_MEASURED] = keeper.metric


class _Keeper(keras.callbacks.Callback):
    """Behind `Sparsify`: takes up what a killed run left, keeps what each epoch came to, and tells the listener."""

    def __init__(self, bench: Bench, phase: Phase) -> None:
        super().__init__()
        self.bench, self.phase = bench, phase
        self.sparsify: Sparsify | None = None
        self.epoch, self.metric = 0, math.nan
        self.history: list[dict[str, Any]] = []
        self._saved = load_state(bench.run, f"{phase.name}.partial")
        if self._saved is not None:
            head = self._saved[0]
            self.epoch, self.metric, self.history = head["epoch"], head["metric"], head["history"]

    @property
    def over(self) -> bool:
        """Whether enough epochs are done, or the metric asked for is reached."""
        until = self.phase.until
        reached = until is not None and self.epoch > 0 and self.bench.judge.metric.at_least(self.metric, until)
        return reached or self.epoch >= self.phase.epochs

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._saved is None:
            return
        arrays = self._saved[1]
        for variable, array in zip(self.model.variables, _below("model", arrays).values(), strict=True):
            variable.assign(array)
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        optimizer.load_own_variables(_below("optimizer", arrays))
        if self.sparsify is not None and self.sparsify.state is not None:
            self.sparsify.state.load_own_variables(_below("sparsity", arrays))
        self._saved = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch == 0:
            self.bench.data["train"].epoch_begun(self.bench.seed, self.phase.name, self.epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        steps = self.bench.data["train"].steps
        done = self.epoch * steps + batch + 1
        self.bench.listener.step_taken(self.phase.title, done / (steps * self.phase.epochs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        bench, phase = self.bench, self.phase
        self.epoch = epoch + 1
        step, loss = self.epoch * bench.data["train"].steps, float(logs["loss"])
        self._check_weights()
        sparsity = count(self.model, bench.targets).sparsity
        state = self.sparsify.state if self.sparsify is not None else None
        telemetry = phase.method.telemetry(state) if state is not None else {}
        self.history.append(
            {"phase": phase.title, "step": step, "loss": loss, "metric": self.metric, "sparsity": sparsity}
        )
        bench.listener.epoch_ended(
            EpochEnd(phase.title, self.epoch, phase.epochs, step, loss, self.metric, sparsity, telemetry)
        )
        if self.over:
            self.model.stop_training = True
            return
        self._save()

    def _save(self) -> None:
        optimizer: Arrays = {}
        sparsity: Arrays = {}
        self.model.optimizer.save_own_variables(optimizer)
        if self.sparsify is not None and self.sparsify.state is not None:
            self.sparsify.state.save_own_variables(sparsity)
        # Seeds of dropout are variables too, though no weights.
        arrays = {f"model/{index}": _array(variable) for index, variable in enumerate(self.model.variables)}
        arrays |= {f"optimizer/{name}": _array(value) for name, value in optimizer.items()}
        arrays |= {f"sparsity/{name}": value for name, value in sparsity.items()}
        head = {"epoch": self.epoch, "metric": self.metric, "history": self.history}
        save_state(self.bench.run, f"{self.phase.name}.partial", head, arrays)

    def check_finite(self, epoch: int, loss: float) -> None:
        """Raise ``TrainingError`` if the loss of an epoch is not finite."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss became {loss} in {self.phase.title}, epoch {epoch + 1}; lower the learning rate or check "
                "the data, and start again."
            )

    def _check_weights(self) -> None:
        for name, array in read(self.model).items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise TrainingError(
                    f"The numbers of {name} are not finite after {self.phase.title}, epoch {self.epoch}; lower the "
                    "learning rate, or check the data and the model."
                )


def _array(value: Any) -> NDArray[Any]:
    return np.array(keras.ops.convert_to_numpy(value))


# -- checkpoints -----------------------------------------------------------------------------------------------------


def save_state(run: RunDirectory, name: str, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write plain numbers and arrays as a checkpoint."""
    buffer = io.BytesIO()
    keys = list(arrays)
    text = np.frombuffer(json.dumps({**head, "keys": keys}).encode(), dtype=np.uint8)
    stored: dict[str, Any] = {f"array_{index}": arrays[key] for index, key in enumerate(keys)}
    np.savez(buffer, head=text, **stored)
    run.save_checkpoint(name, buffer.getvalue())


def load_state(run: RunDirectory, name: str) -> tuple[dict[str, Any], Arrays] | None:
    """What `save_state` wrote, or None where there is no such checkpoint.

    Raises:
        RunError: the checkpoint is damaged, or one of another framework.
    """
    payload = run.load_checkpoint(name)
    if payload is None:
        return None
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as file:
            head: dict[str, Any] = json.loads(file["head"].tobytes())
            return head, {key: file[f"array_{index}"] for index, key in enumerate(head.pop("keys"))}
    except (KeyError, ValueError, OSError, zipfile.BadZipFile):
        raise RunError(
            f"The checkpoint {name} in {run.path} is not one of a Keras model; name another folder, or pass force=True."
        ) from None
