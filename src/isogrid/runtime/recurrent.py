"""Sparse LSTM and GRU as modules that stand in for `torch.nn.LSTM` and `torch.nn.GRU`.  For inference."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from isogrid.errors import UnsupportedError, UsageError
from isogrid.runtime import operations
from isogrid.runtime.matrix import SparseMatrix, Values
from isogrid.runtime.recurrent_operations import GRU, KINDS, LSTM, PARTS, call, make_passes, run_passes

States = tuple[Any, Any]
"""h and c of all layers and directions: tensors or None, and a GRU has no c."""


class _SparseRecurrent(nn.Module):
    """What both have in common.

    The buffers are the truth: they travel in `state_dict`, copies and pickles.  The native operations, one for each
    layer and direction, are made from them when they are first needed, and anew when the buffers have been loaded.
    Weights stay float32, float16 or int8 on the CPU whatever the module is moved to.

    A matrix has the name that it has in PyTorch (``weight_ih_l0``, ``weight_hh_l1_reverse`` ...) and four buffers,
    ``weight_ih_l0_row_begin``, ``_column``, ``_values`` and ``_scales`` (see `isogrid.runtime.matrix.SparseMatrix`).
    """

    _cell: ClassVar[int]
    _gates: ClassVar[int]
    _dense: ClassVar[type[nn.RNNBase]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        matrices: dict[str, SparseMatrix],
        biases: dict[str, Tensor] | None = None,
        *,
        num_layers: int = 1,
        batch_first: bool = False,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = biases is not None, batch_first, bidirectional
        self._passes = [
            f"l{layer}{direction}"
            for layer in range(num_layers)
            for direction in (("", "_reverse") if bidirectional else ("",))
        ]
        for name in self._passes:
            for kind in ("ih", "hh"):
                for part, buffer in operations.buffers_of(matrices[f"weight_{kind}_{name}"]).items():
                    operations.register(self, f"weight_{kind}_{name}_{part}", buffer)
                bias = None if biases is None else biases[f"bias_{kind}_{name}"].detach().float().clone()
                operations.register(self, f"bias_{kind}_{name}", bias)
        self._operations: list[Any] | None = None
        self.eval()

    @classmethod
    def from_module(cls, module: nn.RNNBase, values: Values = "fp32", *, owner: str = "") -> Self:
        """The layers with the weights of ``module``, which is not changed.

        What it drops between layers while it is trained is left out.  ``values`` is how weights are stored: ``"fp32"``,
        ``"fp16"`` or ``"int8"``; ``owner`` is what an error sets before the name of a weight.

        Raises:
            TrainingError: a weight that is to be rounded is not finite.
            UnsupportedError: ``module`` has a ``proj_size``, or a weight is beyond the largest fp16 number.
            UsageError: ``module`` is of another kind, or unknown values.
        """
        if not isinstance(module, cls._dense):
            raise UsageError(
                f"{cls.__name__} got a {type(module).__name__}; accepted is a torch.nn.{cls._dense.__name__}."
            )
        if module.proj_size:
            raise UnsupportedError(f"{cls.__name__} got proj_size={module.proj_size}; accepted is 0, no projection.")
        named = {name: weight.detach().cpu().float() for name, weight in _weights(module).items()}
        return cls(
            module.input_size,
            module.hidden_size,
            {n: SparseMatrix.from_dense(w.numpy(), values, name=owner + n) for n, w in named.items() if w.dim() == 2},
            {name: w for name, w in named.items() if w.dim() == 1} if module.bias else None,
            num_layers=module.num_layers,
            batch_first=module.batch_first,
            bidirectional=module.bidirectional,
        )

    def matrix(self, name: str) -> SparseMatrix:
        """A weight matrix by its name in PyTorch, such as ``"weight_hh_l0"``, sharing the buffers' memory."""
        columns = self.hidden_size
        if name.startswith("weight_ih"):
            layer_0 = name.removeprefix("weight_ih_l").removesuffix("_reverse") == "0"
            columns = self.input_size if layer_0 else self.hidden_size * (2 if self.bidirectional else 1)
        buffers = [getattr(self, f"{name}_{part}") for part in PARTS]
        return operations.matrix_of(self._gates * self.hidden_size, columns, *buffers)

    @property
    def sparsity(self) -> float:
        """Share of the matrices' weights that are exactly zero, those that are stored as a zero among them."""
        matrices = [self.matrix(f"weight_{kind}_{name}") for name in self._passes for kind in ("ih", "hh")]
        nonzero = sum(int(m.values.astype(bool).sum()) for m in matrices)
        return 1 - nonzero / sum(m.rows * m.columns for m in matrices)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        dtype = {torch.float32: "fp32", torch.float16: "fp16", torch.int8: "int8"}[self.weight_hh_l0_values.dtype]  # type: ignore[index]
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f"num_layers={self.num_layers}"] if self.num_layers > 1 else []
        parts += [f"{name}=True" for name in ("batch_first", "bidirectional") if getattr(self, name)]
        return ", ".join([*parts, f"sparsity={self.sparsity:.3f}", dtype])

    def train(self, mode: bool = True) -> Self:
        """Refused for ``True``: there is no gradient to train by.

        Raises:
            UnsupportedError: ``mode`` is true.
        """
        if mode:
            raise UnsupportedError(
                f"{type(self).__name__} has no training mode; train the original and make it sparse again."
            )
        return super().train(False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_operations": None}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._operations = None

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        return self

    def _pass_buffers(self) -> list[Tensor | None]:
        """Those of all passes, in the order of `recurrent_operations`."""
        return [
            getattr(self, name)
            for one in self._passes
            for kind in KINDS
            for name in (*(f"weight_{kind}_{one}_{part}" for part in PARTS), f"bias_{kind}_{one}")
        ]

    def _run(
        self, x: Tensor, steps: int, batch: int, sizes: Tensor | None, before: States
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """All layers over contiguous tokens ``[..., input_size]``: the last layer's states, and all states after."""
        directions = 2 if self.bidirectional else 1
        if torch.compiler.is_compiling():
            return call(x, before, self._pass_buffers(), self._cell, self.hidden_size, directions)
        operations.refuse_jit(type(self).__name__)
        if self._operations is None:
            self._operations = make_passes(
                self._cell, self.input_size, self.hidden_size, directions, self._pass_buffers()
            )
        return run_passes(self._operations, self._cell, self.hidden_size, directions, x, steps, batch, sizes, before)

    def _checked(self, x: Any, what: str) -> Tensor:
        if not isinstance(x, Tensor):
            raise UsageError(f"{type(self).__name__} got {what} of type {type(x).__name__}; accepted is a tensor.")
        if x.dtype != torch.float32 or not x.is_cpu:
            raise UnsupportedError(
                f"{type(self).__name__} got {what} of {x.dtype} on {x.device}; accepted is float32 on the CPU."
            )
        if x.requires_grad and torch.is_grad_enabled():
            raise UnsupportedError(
                f"{type(self).__name__} got {what} that requires a gradient; it is for inference, under "
                "torch.no_grad()."
            )
        return x

    def _checked_state(self, state: Any, shape: tuple[int, ...], order: Tensor | None = None) -> Tensor:
        """A state before, contiguous, its samples in the order given."""
        tensor = self._checked(state, "a state")
        if tensor.shape != shape:
            raise UsageError(
                f"{type(self).__name__} got a state of shape {tuple(tensor.shape)}; accepted is {shape} for this input."
            )
        return (tensor if order is None else tensor.index_select(1, order)).contiguous()

    def _states(self, hx: Any, shape: tuple[int, ...], order: Tensor | None = None) -> States:
        """The states before as they are needed."""
        if hx is None:
            return None, None
        if self._cell == GRU:
            return self._checked_state(hx, shape, order), None
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            raise UsageError(f"{type(self).__name__} got a state of type {type(hx).__name__}; accepted is (h_0, c_0).")
        return self._checked_state(hx[0], shape, order), self._checked_state(hx[1], shape, order)

    def _forward(self, x: Any, hx: Any) -> tuple[Any, States]:
        """As `forward`, for both cells."""
        if isinstance(x, PackedSequence):
            return _uncompiled(self, x, hx) if torch.compiler.is_compiling() else self._forward_packed(x, hx)
        shape = tuple(self._checked(x, "an input").shape)
        batched = len(shape) == 3
        if not (batched or len(shape) == 2) or shape[-1] != self.input_size:
            raise UsageError(
                f"{type(self).__name__} got an input of shape {shape}; accepted is [steps, {self.input_size}] "
                f"or {'[batch, steps, ' if self.batch_first else '[steps, batch, '}{self.input_size}]."
            )
        transposed = batched and self.batch_first
        if transposed:
            x = x.transpose(0, 1)
            steps, batch = shape[1], shape[0]
        else:
            steps, batch = shape[0], shape[1] if batched else 1
        if steps == 0:
            raise UsageError(f"{type(self).__name__} got an input of shape {shape}; accepted is one step or more.")
        passes = len(self._passes)
        states = self._states(hx, (passes, batch, self.hidden_size) if batched else (passes, self.hidden_size))
        if not batched:
            x = x.unsqueeze(1)
            h, c = states
            states = (None if h is None else h.unsqueeze(1), None if c is None else c.unsqueeze(1))
        y, h, c = self._run(x.contiguous(), steps, batch, None, states)
        if not batched:
            return y[:, 0], (h[:, 0], None if c is None else c[:, 0])
        return y.transpose(0, 1) if transposed else y, (h, c)

    def _forward_packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, States]:
        data, sizes, order, back = packed
        shape = tuple(self._checked(data, "an input").shape)
        if len(shape) != 2 or shape[1] != self.input_size:
            raise UsageError(
                f"{type(self).__name__} got a packed input of shape {shape}; accepted is [tokens, {self.input_size}]."
            )
        batch = int(sizes[0])
        states = self._states(hx, (len(self._passes), batch, self.hidden_size), order)
        y, h, c = self._run(data.contiguous(), len(sizes), batch, sizes.contiguous(), states)
        if back is not None:
            h, c = h.index_select(1, back), None if c is None else c.index_select(1, back)
        return PackedSequence(y, sizes, order, back), (h, c)


class SparseGRU(_SparseRecurrent):
    """`torch.nn.GRU` with sparse matrices; float32 on the CPU, any number of layers, in one or both directions.

    >>> dense = nn.GRU(8, 16, num_layers=2).eval()
    >>> x = torch.ones(5, 3, 8)
    >>> with torch.no_grad():
    ...     sparse = SparseGRU.from_module(dense)
    ...     torch.allclose(sparse(x)[0], dense(x)[0], atol=1e-6)
    True
    """

    _cell = GRU
    _gates = 3
    _dense = nn.GRU

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:  # noqa: A002 - the name is torch's
        """As `torch.nn.GRU`.

        ``input`` is ``[steps, batch, input_size]`` (batch and steps change places with ``batch_first``),
        ``[steps, input_size]`` for a single sample, or a `torch.nn.utils.rnn.PackedSequence`; ``hx`` the state before,
        ``[layers * directions, batch, hidden_size]``, or none for zeros.  Returns the last layer's states after each
        step, ``[steps, batch, directions * hidden_size]``, and all states after the last step.

        Raises:
            UnsupportedError: not float32 on the CPU, or a gradient is asked for.
            UsageError: shapes that do not fit the layers, or no step.
        """
        y, (h, _) = self._forward(input, hx)
        return y, h


class SparseLSTM(_SparseRecurrent):
    """`torch.nn.LSTM` with sparse matrices; float32 on the CPU, any number of layers, in one or both directions.

    >>> dense = nn.LSTM(8, 16, bidirectional=True, batch_first=True).eval()
    >>> x = torch.ones(3, 5, 8)
    >>> with torch.no_grad():
    ...     sparse = SparseLSTM.from_module(dense)
    ...     torch.allclose(sparse(x)[0], dense(x)[0], atol=1e-6)
    True
    """

    _cell = LSTM
    _gates = 4
    _dense = nn.LSTM

    def forward(
        self,
        input: Any,  # noqa: A002 - the name is torch's
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """As `torch.nn.LSTM`: like `SparseGRU.forward`, but ``hx`` and the states after are ``(h, c)``.

        Raises:
            UnsupportedError: not float32 on the CPU, or a gradient is asked for.
            UsageError: shapes that do not fit the layers, or no step.
        """
        y, (h, c) = self._forward(input, hx)
        return y, (h, c)


# A packed sequence has no place in a graph; in a compiled model it is called as it is.
_uncompiled: Any = torch.compiler.disable(_SparseRecurrent._forward_packed)


def _weights(module: nn.RNNBase) -> dict[str, Tensor]:
    """All weights by name; read as attributes, so that parametrised ones are what the module computes with."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if module.bias else ("weight_ih", "weight_hh")
    directions = ("", "_reverse") if module.bidirectional else ("",)
    names = [f"{k}_l{i}{d}" for i in range(module.num_layers) for d in directions for k in kinds]
    return {name: getattr(module, name) for name in names}
