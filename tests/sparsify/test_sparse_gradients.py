"""Tables with sparse gradients: a step looks at the rows that it touches, and zeros hold to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.training import assert_same_bits
from isogrid.errors import UnsupportedError
from isogrid.penalties import L1, L2
from isogrid.sparsify import (
    ACDC,
    IMP,
    SET,
    Aware,
    Gradual,
    KeepZeros,
    OneShot,
    Regularized,
    RigL,
    SparseLayer,
    Sparsifier,
    Static,
    TopKAST,
    Trigger,
    prune,
)

ROWS, WIDTH, BATCH, STEPS = 400, 6, 12, 24

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

Optimizers = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizers] = {
    "sparse_adam": lambda p: torch.optim.SparseAdam(p, lr=0.05),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}
METHODS: dict[str, Any] = {
    "gradual": Gradual(sparsity=0.8, delta_t=6),
    "gradual_rows": Gradual(sparsity=0.8, delta_t=6, pattern="row"),
    "gradual_by_gradient": Gradual(sparsity=0.8, delta_t=6, score="taylor"),
    "static": Static(sparsity=0.8),
    "set": SET(sparsity=0.8, delta_t=6),
    "set_rows": SET(sparsity=0.8, delta_t=6, pattern="row"),
}


def table(rows: int = ROWS, *, sparse: bool = True) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(rows, WIDTH, sparse=sparse)


def looked_up(step: int, rows: int = ROWS) -> Tensor:
    """Row numbers ``[BATCH]`` of a step, some of them twice."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, rows, (BATCH,), generator=generator)


class Run:
    """A table that learns to answer with ones, under a sparsifier."""

    def __init__(self, method: Any, optimizer: str = "sparse_adam", model: nn.Embedding | None = None) -> None:
        self.model = table() if model is None else model
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.sparsifier = Sparsifier(
            self.model, method, optimizer=self.optimizer, total_steps=STEPS, targets="weight"
        )  # fmt: skip

    def step(self) -> Tensor:
        """One step; the rows that it touched."""
        rows = looked_up(self.sparsifier.state.step, self.model.num_embeddings)
        loss = (self.model(rows) - 1).square().sum() + self.sparsifier.penalty()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return rows

    def steps(self) -> Iterator[Tensor]:
        while self.sparsifier.state.step < STEPS:
            yield self.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_zeros_hold_exactly_and_only_touched_rows_move(method: str, optimizer: str) -> None:
    run = Run(METHODS[method], optimizer)
    before = run.model.weight.detach().clone()
    masks = run.sparsifier.masks["weight"]
    seen = torch.zeros(ROWS, dtype=torch.bool)
    for rows in run.steps():
        seen[rows] = True
        now, active = run.model.weight.detach(), run.sparsifier.masks["weight"]
        assert not now[~active].any()
        if torch.equal(active, masks):
            moved = (now != before).any(dim=1)
            allowed = seen if optimizer == "sgd_momentum" else torch.zeros_like(seen).index_fill(0, rows, True)
            assert not moved[~allowed].any()
            assert moved.any() or not active[rows].any()
        before, masks = now.clone(), active
    assert run.sparsifier.finalize()["sparsity"] == pytest.approx(0.8, abs=0.003)


@pytest.mark.parametrize("method", METHODS)
def test_sgd_by_rows_is_sgd(method: str) -> None:
    run, dense = Run(METHODS[method], "sgd"), Run(METHODS[method], "sgd", table(sparse=False))
    for _ in zip(run.steps(), dense.steps(), strict=True):
        assert torch.allclose(run.model.weight, dense.model.weight, atol=1e-6)
        assert torch.equal(run.sparsifier.masks["weight"], dense.sparsifier.masks["weight"])


def test_pruned_rows_are_zero_as_wholes() -> None:
    run = Run(METHODS["gradual_rows"])
    for _ in run.steps():
        pass
    alive = (run.model.weight != 0).sum(dim=1)
    assert set(alive.tolist()) == {0, WIDTH}
    assert int((alive > 0).sum()) == ROWS // 5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_the_optimiser_knows_of_a_pruned_weight_is_forgotten(optimizer: str) -> None:
    run = Run(METHODS["set"], optimizer)
    for _ in run.steps():
        pruned = run.sparsifier.state.layers[0].pruned
        for value in run.optimizer.state[run.model.weight].values():
            if isinstance(value, Tensor) and value.shape == pruned.shape:
                assert not (value.to_dense() if value.is_sparse else value)[pruned].any()


@pytest.mark.parametrize("optimizer", ["sparse_adam", "adagrad", "sgd"])
def test_a_training_resumes_bit_for_bit(optimizer: str) -> None:
    run = Run(METHODS["set"], optimizer)
    for _ in range(STEPS // 2):
        run.step()
    saved = copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict(), run.sparsifier.state_dict()))
    again = Run(METHODS["set"], optimizer)
    for part, state in zip((again.model, again.optimizer, again.sparsifier), saved, strict=True):
        part.load_state_dict(state)
    for _ in zip(run.steps(), again.steps(), strict=True):
        assert_same_bits(run.model.state_dict(), again.model.state_dict())


def test_batches_add_up_to_one_step() -> None:
    run, whole = Run(METHODS["static"], "sgd"), Run(METHODS["static"], "sgd")
    rows = looked_up(0)
    for part in rows.split(5):
        (run.model(part) - 1).square().sum().backward()
    run.optimizer.step()
    whole.step()
    assert torch.allclose(run.model.weight, whole.model.weight, atol=1e-6)
    assert not run.model.weight[~run.sparsifier.masks["weight"]].any()


def test_a_table_pruned_at_once_keeps_its_zeros() -> None:
    model = table()
    assert prune(model, OneShot(sparsity=0.5, pattern="row"), targets=["weight"]).sparsity == 0.5
    zeros = model.weight.detach() == 0
    run = Run(KeepZeros(), model=model)
    for _ in run.steps():
        assert torch.equal(run.model.weight == 0, zeros)


# -- what a step costs -------------------------------------------------------------------------------------------------


class Passes(TorchDispatchMode):
    """The operations that pass over a whole table, by what they take and make: dense tensors of `size` or more."""

    by_rows = frozenset({"embedding", "index_select", "index_copy_", "sparse_mask", "detach", "alias"})
    """They take a table and look at some of its rows."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.found: list[str] = []
        self.numbers = 0
        """How many numbers the others took and made."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        whole = [tensor for tensor in tensors if not tensor.is_sparse and tensor.numel() >= self.size]
        sparse_term = name == "add_" and isinstance(args[1], Tensor) and args[1].is_sparse
        if whole and name not in self.by_rows and not sparse_term:
            self.found.append(name)
        self.numbers += sum(
            (tensor._values() if tensor.is_sparse else tensor).numel()
            for tensor in tensors
            if not any(tensor is other for other in whole)
        )
        return result


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called when weights leave for numpy, where no dispatch mode looks."""
    called: list[str] = []
    before = SparseLayer.to_array

    def counted(layer: SparseLayer, tensor: Tensor) -> npt.NDArray[Any]:
        called.append(layer.name)
        return before(layer, tensor)

    monkeypatch.setattr(SparseLayer, "to_array", counted)
    return called


def counted(run: Run) -> Passes:
    """What the next step takes."""
    with Passes(run.model.weight.numel()) as passes:
        run.step()
    return passes


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_between_updates_no_operation_sees_the_whole_table(method: str, optimizer: str, arrays: list[str]) -> None:
    run = Run(METHODS[method], optimizer)
    run.step()  # the optimiser makes its state, as large as the table, at the first step
    arrays.clear()
    for step in range(1, 5):
        assert not counted(run).found, step
    assert not arrays
    at_update = counted(run)
    assert bool(at_update.found) == bool(arrays) == (method != "static")


@pytest.mark.parametrize("optimizer", ["sparse_adam", "sgd", "adagrad"])
def test_a_step_costs_the_same_whatever_the_size_of_the_table(optimizer: str) -> None:
    def numbers(rows: int) -> int:
        run = Run(Static(sparsity=0.5, allocation="uniform"), optimizer, table(rows))
        rows_of = torch.arange(BATCH)
        costs = []
        for _ in range(3):
            with Passes(run.model.weight.numel()) as passes:
                run.model(rows_of).square().sum().backward()
                run.optimizer.step()
                run.optimizer.zero_grad()
            costs.append(passes.numbers)
        return costs[-1]

    assert numbers(100) == numbers(3_000) > 0


def test_a_dense_table_is_passed_over_so_that_the_count_can_tell() -> None:
    run = Run(METHODS["static"], "sgd", table(sparse=False))
    run.step()
    assert "mul_" in counted(run).found


def test_a_table_that_no_batch_reached_costs_nothing() -> None:
    run = Run(METHODS["static"], "sgd")
    with Passes(run.model.weight.numel()) as passes:
        run.optimizer.step()
    assert not passes.found


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        RigL(sparsity=0.5), ACDC(sparsity=0.5), IMP(sparsity=0.5), Aware(sparsity=0.5), Regularized(), L2(0.1),
        TopKAST(sparsity=0.5), Trigger(sparsity=0.5),
    ],
)  # fmt: skip
def test_other_methods_are_refused_by_name_before_the_training(method: Any) -> None:
    name = "Regularized" if isinstance(method, L2) else type(method).__name__
    with pytest.raises(
        UnsupportedError, match=rf"^weight has sparse gradients, and {name} may .*; accepted are Gradual"
    ):
        Run(method)
    Run(method, "sgd", table(sparse=False))


def test_a_penalty_beside_a_method_is_refused() -> None:
    model = table()
    with pytest.raises(UnsupportedError, match="weight has sparse gradients, and a penalty may"):
        Sparsifier(
            model, METHODS["static"], penalty=L1(0.1), optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            total_steps=STEPS, targets="weight",
        )  # fmt: skip


def test_a_sparse_gradient_that_no_module_announces_is_refused_when_it_comes() -> None:
    model = nn.Linear(WIDTH, ROWS, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Sparsifier(model, Trigger(sparsity=0.5), optimizer=optimizer, total_steps=STEPS)
    with pytest.raises(UnsupportedError, match="weight has sparse gradients, and Trigger"):
        nn.functional.embedding(looked_up(0), model.weight, sparse=True).sum().backward()


def test_a_loop_that_drops_a_sparse_gradient_owes_its_penalty_anew() -> None:
    run = Run(METHODS["static"], "sgd")
    run.model(looked_up(0)).sum().backward()
    (gate,) = run.sparsifier._hooks.gates
    assert not gate.dropped
    run.optimizer.zero_grad(set_to_none=False)
    assert gate.dropped
