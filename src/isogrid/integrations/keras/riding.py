"""Masks inside an optimiser's own step: how a training is made sparse on every backend of Keras.

A callback only sees logs, and what a training step captures is frozen when JAX traces it.  So the masks, and what a
method remembers about gradients, are variables of the optimiser: they are part of the state that every trainer passes
through its compiled step.  See docs/decisions/0011-keras.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from keras import ops

from isogrid.errors import SparsifierError
from isogrid.integrations.keras.methods.base import Method
from isogrid.integrations.keras.state import SparseLayer, SparseState
from isogrid.integrations.keras.step_size import check_optimizer, step_size

STATE = "sparsity_state"
"""The attribute of an optimiser on which its state hangs; Keras makes a group of that name in the files it saves."""
_WRAPPED = ("apply", "save_own_variables", "load_own_variables")


def inner_optimizer(optimizer: Any) -> Any:
    """The optimiser that moves the weights, below the wrapper that scales the loss."""
    while (inner := getattr(optimizer, "inner_optimizer", None)) is not None:
        optimizer = inner
    return optimizer


def state_of(optimizer: Any) -> SparseState | None:
    """The state of the sparse training that rides on `optimizer`, if any."""
    found = getattr(inner_optimizer(optimizer), STATE, None) if optimizer is not None else None
    return found if isinstance(found, SparseState) else None


class Riding:
    """A state and a method on an optimiser, from `attach` to `detach`.

    Args:
        optimizer: the model's optimiser, built.
        state: the layers.
        method: what is done within a step.

    Raises:
        SparsifierError: another sparse training rides on the optimiser.
    """

    def __init__(self, optimizer: Any, state: SparseState, method: Method) -> None:
        self.outer, self.optimizer = optimizer, inner_optimizer(optimizer)
        self.state, self.method = state, method
        self._variables: list[Any] = []
        self._by_id = {id(layer.target.variable): layer for layer in self.layers}
        self._every = self.optimizer.gradient_accumulation_steps or 1
        self.moved: Any = True
        """Within a step: whether the optimiser really moves the weights, or only gathers gradients."""

    @property
    def layers(self) -> list[SparseLayer]:
        """The layers that the optimiser trains; frozen ones hold their zeros without it."""
        known = {id(variable) for variable in self.optimizer._trainable_variables}
        return [layer for layer in self.state.layers if id(layer.target.variable) in known]

    @property
    def scalars(self) -> dict[str, Any]:
        """The numbers that the method shares with its steps."""
        return self.state.scalars

    # -- on and off --------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Give the optimiser its variables and put our step around its own."""
        if state_of(self.optimizer) is not None:
            raise SparsifierError("Another Sparsify callback rides on this optimiser; one optimiser carries one.")
        scalars = self.method.scalars()
        if scalars:
            check_optimizer(self.optimizer)
        for layer in self.layers:
            layer.slots = list(self._slots(layer))
            layer.held = self._new(layer, "mask", "bool", "ones")
            for name, kind in self.method.memories().items():
                scalar = kind == "scalar"
                layer.memory[name] = self._new(layer, name, "int32" if scalar else "float32", "zeros", scalar=scalar)
            if self.method.memories() and self._every > 1:
                layer.memory["sum"] = self._new(layer, "sum", "float32", "zeros")
        for name, value in scalars.items():
            variable = self.optimizer.add_variable(shape=(), dtype="float32", name=f"sparsity_{name}")
            variable.assign(value)
            self._variables.append(variable)
            self.state.scalars[name] = variable
        setattr(self.optimizer, STATE, self.state)
        self._apply = self.optimizer.apply
        self.optimizer.apply = self.apply
        for optimizer in self._chain():
            optimizer.save_own_variables = lambda store, of=optimizer: self._save(of, store)
            optimizer.load_own_variables = lambda store, of=optimizer: self._load(of, store)

    def detach(self) -> None:
        """Leave the optimiser as it was found."""
        for optimizer in self._chain():
            for name in _WRAPPED:
                if name in vars(optimizer):
                    delattr(optimizer, name)
        if hasattr(self.optimizer, STATE):
            delattr(self.optimizer, STATE)
        for variable in self._variables:
            self.optimizer._untrack_variable(variable)
        self._variables.clear()
        _let_tensorflow_save(self.optimizer._variables)
        for layer in self.state.layers:
            layer.held, layer.memory, layer.slots = None, {}, []
        self.state.scalars.clear()

    def _chain(self) -> Iterator[Any]:
        """The optimiser and all that wraps it."""
        optimizer = self.outer
        while optimizer is not None:
            yield optimizer
            optimizer = getattr(optimizer, "inner_optimizer", None)

    def _new(self, layer: SparseLayer, name: str, dtype: str, initializer: str, *, scalar: bool = False) -> Any:
        shape = () if scalar else tuple(layer.target.variable.shape)
        path = layer.target.name.replace("/", "_")
        variable = self.optimizer.add_variable(shape=shape, dtype=dtype, initializer=initializer, name=f"{path}_{name}")
        self._variables.append(variable)
        return variable

    def _slots(self, layer: SparseLayer) -> Iterator[Any]:
        """The optimiser's variables that hold one number for each weight of a layer.

        Optimisers keep them in lists with one entry for each variable that they train.
        """
        variable = layer.target.variable
        index, count = self.optimizer._get_variable_index(variable), len(self.optimizer._trainable_variables)
        for name, listed in vars(self.optimizer).items():
            if name in ("_variables", "_trainable_variables") or not isinstance(listed, list) or len(listed) != count:
                continue
            slot = listed[index]
            if tuple(getattr(slot, "shape", ())) == tuple(variable.shape) and hasattr(slot, "assign"):
                yield slot

    # -- the step ----------------------------------------------------------------------------------------------------

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """The optimiser's step: gradients of pruned weights are zero before it, and the weights behind it."""
        optimizer = self.optimizer
        variables = optimizer._trainable_variables if trainable_variables is None else list(trainable_variables)
        raw = ops.cast(optimizer._iterations, "int32")
        self.moved = True if self._every == 1 else ops.equal(ops.mod(raw + 1, self._every), 0)
        step = ops.floor_divide(raw, self._every) + 1 - self.state.origin
        rate = ops.cast(optimizer.learning_rate, "float32")
        masked = [self._masked(variable, grad, step) for variable, grad in zip(variables, grads, strict=True)]
        self._apply(masked, trainable_variables)
        if self.state.scalars:
            self._rate, self._taken = rate, ops.cast(ops.floor_divide(raw, self._every) + 1, "float32")
            self.method.move(self)
        for layer in self.layers:
            for variable in (layer.target.variable, *layer.slots):
                variable.assign(_zeroed(layer.held, variable))
        self.moved = True

    def step_size(self, layer: SparseLayer) -> Any:
        """How far the step just taken moves a layer's weights for each unit of gradient."""
        return step_size(self.optimizer, layer.target.variable, self._rate, self._taken)

    def _masked(self, variable: Any, grad: Any, step: Any) -> Any:
        """The gradient that the optimiser shall see; what the method wants of it is remembered."""
        layer = self._by_id.get(id(variable))
        if layer is None or grad is None:
            return grad
        grad = ops.convert_to_tensor(grad)  # gradients of embeddings may come as slices
        masked = _zeroed(layer.held, grad)
        wanted = self.method.gradients
        if wanted != "none":
            seen = ops.cast(grad if wanted == "dense" else masked, "float32")
            self._remember(layer, seen if (scale := self.optimizer.loss_scale_factor) is None else seen / scale, step)
        return masked

    def _remember(self, layer: SparseLayer, gradient: Any, step: Any) -> None:
        memory = {name: ops.convert_to_tensor(variable) for name, variable in layer.memory.items()}
        if self._every > 1:
            total = memory["sum"] + gradient
            layer.memory["sum"].assign(ops.where(self.moved, ops.zeros_like(total), total))
            gradient = total / self._every
        kept = {**self.method.remember(memory, gradient, step, self.state.total_steps), "seen": memory["seen"] + 1}
        if "weight" in memory:
            kept["weight"] = ops.cast(layer.target.variable, "float32")
        for name, value in kept.items():
            layer.memory[name].assign(value if self.moved is True else ops.where(self.moved, value, memory[name]))

    # -- files -------------------------------------------------------------------------------------------------------

    def _own(self, optimizer: Any) -> list[Any]:
        ours = {id(variable) for variable in self._variables}
        return [variable for variable in optimizer.variables if id(variable) not in ours]

    def _save(self, optimizer: Any, store: Any) -> None:
        """What the optimiser saves of itself: without our variables, so that any Keras reads it back."""
        for index, variable in enumerate(self._own(optimizer)):
            store[str(index)] = ops.convert_to_numpy(variable)

    def _load(self, optimizer: Any, store: Any) -> None:
        own = self._own(optimizer)
        if len(store.keys()) != len(own):
            warnings.warn(  # as Keras itself does
                f"Skipping variable loading for optimizer '{optimizer.name}', because it has {len(own)} variables "
                f"whereas the saved optimizer has {len(store.keys())} variables.",
                stacklevel=2,
            )
            return
        for index, variable in enumerate(own):
            variable.assign(store[str(index)])


def _let_tensorflow_save(listed: Any) -> None:
    """TensorFlow exports no object that holds a list from which something was taken, whatever is in it now."""
    if hasattr(listed, "_non_append_mutation"):
        listed._non_append_mutation = listed._external_modification = False
        listed._last_wrapped_list_snapshot = list(listed)


def _zeroed(mask: Any, value: Any) -> Any:
    """Zeros where the mask has them (a product would keep NaN and infinity)."""
    value = ops.convert_to_tensor(value)
    return ops.where(ops.convert_to_tensor(mask), value, ops.zeros_like(value))
