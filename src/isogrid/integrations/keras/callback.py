"""The callback that makes a Keras model sparse while ``model.fit`` trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from isogrid.checks import check_whole
from isogrid.errors import SparsifierError, UsageError
from isogrid.integrations.keras.counting import SparsityReport, count
from isogrid.integrations.keras.files import read_state
from isogrid.integrations.keras.methods import Method, OneShot
from isogrid.integrations.keras.riding import Riding, inner_optimizer
from isogrid.integrations.keras.state import SparseState
from isogrid.integrations.keras.targets import find_targets


class Sparsify(keras.callbacks.Callback):
    """Makes a model sparse during ``model.fit``, on TensorFlow, PyTorch and JAX.

    While it trains, masks are variables of the optimiser: gradients of pruned weights are zero before each step, the
    weights and what the optimiser remembers of them behind it.  So evaluation, saving and other callbacks see the
    sparse model.  Afterwards the optimiser is as it was, and the model an ordinary one that holds true zeros: its files
    need no custom object.  The masks are renewed between batches; with ``steps_per_execution`` above 1 that is after
    the first batch at or behind the step at which it is due, and the final sparsity is exact all the same.

    ``sparsity`` and the method's own numbers are added to the logs of each epoch.

    *Resuming.*  A file saved during the training holds its state too: give it as ``resume=`` and the epoch as
    ``initial_epoch`` to go on exactly where it stood.  ``BackupAndRestore`` does so by itself if it comes behind this
    callback in the list.  Without ``resume=``, an ``initial_epoch`` above 0 continues the schedule with the zeros that
    the model holds as masks.

    Args:
        method: `Gradual`, `Static`, `Trigger`, `Aware`, `SET` or `RigL`.
        targets, ignore: names or regular expressions, see `find_targets`.
        embeddings: whether embeddings are targets without being named.
        adopt: start from the zeros that the model holds, as masks.
        masks: start from these masks (weight name to boolean array of the weight's shape, True = active).
        total_steps: optimiser steps of the whole training; by default the batches of all epochs, divided by the
            optimiser's ``gradient_accumulation_steps``.
        metric: the logged metric that the method observes (a floor of `Aware`), such as ``"val_accuracy"``.
        resume: a ``.keras`` or ``.weights.h5`` file that was saved while the same training ran.
        allow_unfinished: accept a training that ends before the sparsity is final.
        seed: seeds every random choice of the method.

    Raises:
        UsageError: an option that is not accepted, no number of steps, or a method that holds a floor and no metric.
        TargetError, PatternError, UnsupportedError: what does not fit, when training begins.
        SparsifierError: a file without a state or of another training, or a training that ended too early.

    >>> from isogrid.keras import Gradual
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> callback = Sparsify(Gradual(sparsity=0.9))
    >>> x, y = np.random.rand(64, 20), np.random.rand(64, 5)
    >>> _ = model.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
    >>> callback.report.sparsity
    0.9
    """

    def __init__(
        self,
        method: Method,
        *,
        targets: str | Sequence[str] | None = None,
        ignore: str | Sequence[str] | None = None,
        embeddings: bool = False,
        adopt: bool = False,
        masks: Mapping[str, NDArray[np.bool_]] | None = None,
        total_steps: int | None = None,
        metric: str | None = None,
        resume: str | Path | None = None,
        allow_unfinished: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(method, Method) or isinstance(method, OneShot):
            raise UsageError(
                f"Sparsify got method={method!r}; accepted is a method that works during training, such as "
                "isogrid.keras.Gradual(sparsity=0.9)."
            )
        if getattr(method, "floor", None) is not None and metric is None:
            raise UsageError(
                f"{type(method).__name__} holds a floor and gets no metric to compare with it; name it with metric=."
            )
        if total_steps is not None:
            check_whole("Sparsify", "total_steps", total_steps)
        check_whole("Sparsify", "seed", seed, least=0)
        self.method = method
        self.report: SparsityReport | None = None
        """Exact counts, when training has ended."""
        self.state: SparseState | None = None
        """The layers, masks and clock of the training that runs, or ran last."""
        self._targets, self._ignore, self._embeddings = targets, ignore, embeddings
        self._adopt, self._masks = adopt, masks
        self._total_steps, self._seed = total_steps, seed
        self._metric, self._resume = metric, resume
        self._allow_unfinished = allow_unfinished
        self._riding: Riding | None = None
        self._begun = False
        self._epoch = 0
        self._raw = 0
        """Batches that the optimiser had seen before this epoch."""

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """A copy of the masks: weight name to boolean array of the weight's shape, True = active."""
        state = self._known()
        return {
            layer.name: layer.target.view.restore(layer.mask, tuple(layer.target.variable.shape))
            for layer in state.layers
        }

    @property
    def targets(self) -> list[str]:
        """The names of the weights being pruned."""
        return [layer.name for layer in self._known().layers]

    def _known(self) -> SparseState:
        if self.state is None:
            raise UsageError("Sparsify knows no masks yet; they are there from the beginning of model.fit on.")
        return self.state

    # -- the beginning and the end -----------------------------------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._release()  # where the training before was interrupted
        self.report = None
        if all(layer.built for layer in self.model._flatten_layers()):
            self._attach()
        else:
            self.model.train_function = self._build_first

    def _build_first(self, iterator: Any) -> Any:
        """The first training step with TensorFlow, which builds a model of unknown input within it: too late for us."""
        self.model._symbolic_build(data_batch=iterator.element_spec)
        self._attach()
        self._begin(self._epoch)
        return self.model.train_function(iterator)

    def _attach(self) -> None:
        """Put the masks into the optimiser."""
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        found = find_targets(self.model, self._targets, self._ignore, embeddings=self._embeddings)
        self.state = SparseState(found, self.method, self._count_steps(), self._seed)
        self._begun = False
        riding = Riding(optimizer, self.state, self.method)
        riding.attach()
        self._riding = riding
        try:
            if self._resume is not None:
                self.state.load_own_variables(read_state(self._resume))
        except BaseException:
            self._release()
            raise
        # The step that was compiled before knows no masks.
        self.model.make_train_function(force=True)

    def _count_steps(self) -> int:
        if self._total_steps is not None:
            return self._total_steps
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if not steps or not epochs:
            raise UsageError(
                "Sparsify cannot tell how many steps there will be, for the data has no length; pass total_steps=, or "
                "steps_per_epoch= to fit()."
            )
        return max(1, int(steps) * int(epochs) // self._every)

    @property
    def _every(self) -> int:
        """Batches that make one step of the optimiser."""
        return inner_optimizer(self.model.optimizer).gradient_accumulation_steps or 1

    def _begin(self, epoch: int) -> None:
        """Take up the masks to start from: when the epoch is known, and after other callbacks have restored weights."""
        state = self._known()
        self._begun = True
        self._raw = self._taken()
        try:
            if state.restored:
                state.write_masks(state.read_masks())
                return
            taken = self._raw // self._every
            state.origin = taken
            if epoch > 0:
                steps = self.params.get("steps") or 0
                state.step = epoch * int(steps) // self._every
                state.origin = taken - state.step
                state.numbers["initial_sparsity"] = 0.0
            if self._masks is not None:
                state.write_masks(state.fit_masks(self._masks))
            elif self._adopt or epoch > 0:
                state.adopt_zeros()
            self.method.begin(state)
        except BaseException:
            self._release()
            raise

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._riding is None or self.state is None:
            return
        state = self.state
        complete = self._epoch + 1 >= int(self.params.get("epochs") or 0) and not self.model.stop_training
        if complete and not state.finished and self._total_steps is None:
            # Steps that loss scaling skipped are missing to the schedule's end.
            state.step = state.total_steps
            self.method.update(state)
        state.write_masks(state.read_masks())
        self._release()
        self.report = count(self.model, [layer.target for layer in state.layers])
        if not state.finished and state.step < state.total_steps and not self._allow_unfinished:
            raise SparsifierError(
                f"Training ended after {state.step} of {state.total_steps} steps, before the sparsity was final; train "
                "on, or pass allow_unfinished=True to keep the sparsity reached so far."
            )

    def _release(self) -> None:
        """Leave model and optimiser as they were found."""
        if self._riding is not None:
            self._riding.detach()
            self.model.train_function = None
            self._riding = None

    # -- each batch and epoch ----------------------------------------------------------------------------------------

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        if self._riding is None:
            return
        if not self._begun:
            self._begin(epoch)
        self._raw = self._taken()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._riding is None:
            return
        # Reading the optimiser's own count would have JAX wait for the step, so it is read where an update may be due.
        reached = (self._raw + batch + 1) // self._every - self._known().origin
        if self._is_due(reached):
            self._update()

    def _is_due(self, reached: int) -> bool:
        state = self._known()
        return any(self.method.due(state, step) for step in range(state.step + 1, reached + 1))

    def _update(self) -> None:
        """Renew the masks if that is due by the optimiser's own count of steps."""
        state = self._known()
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        reached = self._taken() // self._every - state.origin
        is_due = self._is_due(reached)
        state.step = reached
        if is_due:
            self.method.update(state)

    def _taken(self) -> int:
        """Batches that the optimiser has seen."""
        return int(keras.ops.convert_to_numpy(inner_optimizer(self.model.optimizer)._iterations))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._riding is None:
            return
        self._update()
        if self._metric is not None:
            if self._metric not in (logs or {}):
                raise UsageError(
                    f"Sparsify got metric={self._metric!r}, which is not logged; accepted are "
                    f"{', '.join(sorted(logs or {}))}."
                )
            assert logs is not None
            self.method.observe(self._known(), float(logs[self._metric]))
        if logs is not None:
            logs.update(self.method.telemetry(self._known()))
