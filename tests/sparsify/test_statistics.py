"""Statistics on data: each against its definition, computed another way, and nothing of the model disturbed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from conformance.training import batch, small_model
from isogrid.errors import DataError, TrainingError, UnsupportedError, UsageError
from isogrid.masks import find_targets
from isogrid.scores import STATISTICS, Magnitude, Score
from isogrid.sparsify import Calibration, SparseLayer, SparseState
from isogrid.sparsify.statistics import score_layers

BATCHES = [batch(0, 6), batch(1, 4)]


def squared_error(answer: Tensor, pair: Any) -> Tensor:
    return functional.mse_loss(answer, pair[1])


@dataclass(frozen=True)
class Bare(Score):
    """A statistic itself."""

    statistic: str

    name: ClassVar[str] = "bare"

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({self.statistic})

    def rate(self, weight: Any, known: Mapping[str, NDArray[Any]], rng: Any) -> NDArray[Any]:
        return known[self.statistic]


def state_of(model: nn.Module, batches: Any = BATCHES, loss: Any = squared_error, **options: Any) -> SparseState:
    targets = find_targets(model, **options)
    layers = [SparseLayer(target, torch.ones_like(target.parameter, dtype=torch.bool)) for target in targets]
    return SparseState(layers, 1, 0, model=model, calibration=Calibration(batches, loss=loss))


def measured(state: SparseState, name: str, *, untrained: bool = False) -> list[Tensor]:
    """The statistic of each layer, as a tensor of the parameter's own shape."""
    found = score_layers(state, Bare(name), untrained=untrained)
    return [layer.from_array(found[layer.name]) for layer in state.layers]


def weights_of(state: SparseState) -> list[nn.Parameter]:
    return [layer.target.parameter for layer in state.layers]


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-6, check_dtype=False)


def test_the_gradient_is_that_of_the_mean_over_batches() -> None:
    state = state_of(model := small_model())
    loss = sum(squared_error(model(x), (x, y)) for x, y in BATCHES) / 2
    assert_close(measured(state, "gradient"), list(torch.autograd.grad(loss, weights_of(state))))


def test_the_squared_gradient_is_the_mean_of_the_squares_of_batches() -> None:
    state = state_of(model := small_model())
    by_batch = [torch.autograd.grad(squared_error(model(x), (x, y)), weights_of(state)) for x, y in BATCHES]
    wanted = [(one.square() + other.square()) / 2 for one, other in zip(*by_batch, strict=True)]
    assert_close(measured(state, "squared_gradient"), wanted)


def test_fisher_is_the_mean_of_the_squares_of_single_samples() -> None:
    state = state_of(model := small_model())
    wanted = [torch.zeros_like(weight) for weight in weights_of(state)]
    for x, y in BATCHES:
        for i in range(len(x)):
            loss = squared_error(model(x[i]), (x[i], y[i]))
            for total, gradient in zip(wanted, torch.autograd.grad(loss, weights_of(state)), strict=True):
                total.add_(gradient.square() / 10)
    assert_close(measured(state, "fisher"), wanted)


class Named(nn.Module):
    """Takes a mapping, answers with a loss, and has an argument that is no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor, y: Tensor, scale: Tensor) -> Any:
        answer = type("Answer", (), {})()
        answer.loss = functional.mse_loss(scale * self.inner(x), y)
        return answer


def test_fisher_cuts_mappings_into_samples_and_leaves_what_is_no_batch() -> None:
    torch.manual_seed(0)
    data = {"x": torch.randn(5, 3), "y": torch.randn(5, 2), "scale": torch.tensor(2.0)}
    state = state_of(model := Named(), [data], loss=None)
    wanted = torch.zeros(2, 3)
    for i in range(5):
        loss = model(data["x"][i : i + 1], data["y"][i : i + 1], data["scale"]).loss
        wanted += torch.autograd.grad(loss, model.inner.weight)[0].square() / 5
    assert_close(measured(state, "fisher"), [wanted])


def explicit_hessian_gradient(state: SparseState, loss_of: Callable[[], Tensor], free: Tensor) -> Tensor:
    """``H g`` by the whole matrix, of all targets in a row, where only `free` weights count in g."""
    weights = weights_of(state)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(), weights, create_graph=True)])
    rows = [
        torch.cat([d.flatten() for d in torch.autograd.grad(entry, weights, retain_graph=True)]) for entry in gradient
    ]
    return torch.stack(rows) @ (gradient.detach() * free)


@pytest.mark.parametrize("pruned", [False, True])
def test_the_hessian_gradient_is_the_product_with_the_whole_hessian(pruned: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batches = [(torch.randn(n, 3).double(), torch.randn(n, 2).double()) for n in (5, 3)]
    state = state_of(model, batches)
    if pruned:
        masks = {"0.weight": torch.arange(12).reshape(4, 3) % 2 == 0, "2.weight": torch.arange(8).reshape(2, 4) % 3 > 0}
        state.set_masks(masks)
    free = torch.cat([layer.mask.flatten() for layer in state.layers])
    wanted = explicit_hessian_gradient(
        state, lambda: sum(squared_error(model(x), (x, y)) for x, y in batches) / 2, free
    )
    found = torch.cat([tensor.flatten() for tensor in measured(state, "hessian_gradient")])
    torch.testing.assert_close(found, wanted)


def test_the_hessian_gradient_of_a_loss_without_curvature_is_zero() -> None:
    state = state_of(nn.Linear(3, 2), [torch.ones(4, 3)], loss=lambda answer, _: answer.sum())
    assert not measured(state, "hessian_gradient")[0].any()


class Attending(nn.Module):
    """Self-attention, whose fused kernels have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


@pytest.mark.parametrize("kind", [Attending, Recurrent])
def test_attention_and_recurrent_layers_have_all_that_follows_from_gradients(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    state = state_of(model := kind(), [(x, y)])
    gradient = list(torch.autograd.grad(squared_error(model(x), (x, y)), weights_of(state)))
    assert_close(measured(state, "gradient"), gradient)
    # H g is how fast g changes along itself.
    ahead, step = copy.deepcopy(model), 1e-2
    state_ahead = state_of(ahead, [(x, y)])
    for weight, slope in zip(weights_of(state_ahead), gradient, strict=True):
        weight.data += step * slope
    changed = [(b - a) / step for a, b in zip(gradient, measured(state_ahead, "gradient"), strict=True)]
    for found, wanted in zip(measured(state, "hessian_gradient"), changed, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0.1, atol=float(wanted.abs().max()) * 0.05)


def test_gradients_are_taken_in_the_layers_canonical_view() -> None:
    torch.manual_seed(0)
    model = nn.ConvTranspose1d(2, 3, 2)
    state = state_of(model, [torch.randn(2, 2, 4)], loss=lambda answer, _: answer.square().mean())
    assert score_layers(state, Bare("gradient"))["weight"].shape == (3, 2, 2)


def noisy_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 4))
    model[1](torch.randn(8, 16) * 3 + 1)
    model[3].eval()
    return model


@pytest.mark.parametrize("untrained", [False, True])
@pytest.mark.parametrize("name", STATISTICS)
def test_the_model_is_left_as_it_was(name: str, untrained: bool) -> None:
    model = noisy_model()
    model[3].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones(16, 12)
    before = copy.deepcopy(model.state_dict())
    data = copy.deepcopy(BATCHES)
    random = torch.get_rng_state()
    with torch.no_grad():
        one = measured(state_of(model), name, untrained=untrained)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model] == [True, True, True, False]
    assert [parameter.requires_grad for parameter in model.parameters()] == [True] * 4 + [False, True]
    assert torch.equal(model[0].weight.grad, torch.ones(16, 12))
    assert all(parameter.grad is None for parameter in list(model.parameters())[1:])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(
        torch.equal(a, b) for pair, same in zip(BATCHES, data, strict=True) for a, b in zip(pair, same, strict=True)
    )
    for tensor, again in zip(one, measured(state_of(model), name, untrained=untrained), strict=True):
        assert torch.equal(tensor, again)
        assert tensor.any()


def test_batch_normalisation_is_by_the_batch_before_training_and_by_the_running_statistics_after() -> None:
    model = noisy_model()
    model[2].p = 0.0
    state = state_of(model, BATCHES[:1])
    x, y = BATCHES[0]
    for untrained in (False, True):
        twin = copy.deepcopy(model).train(untrained)
        loss = squared_error(twin(x), (x, y))
        wanted = list(torch.autograd.grad(loss, [twin[0].weight, twin[3].weight]))
        assert_close(measured(state, "gradient", untrained=untrained), wanted)


def test_a_target_that_has_no_part_in_the_loss_has_zeros() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)})
    data = Calibration([torch.ones(4, 3)], lambda model, batch: model["used"](batch), lambda out, _: out.square().sum())
    state = state_of(model)
    state.calibration = data
    for name in ("gradient", "squared_gradient", "fisher", "hessian_gradient"):
        used, idle = measured(state, name)
        assert used.any()
        assert not idle.any()


def test_sparse_gradients_of_embeddings_are_made_dense() -> None:
    model = nn.Sequential(nn.Embedding(6, 3, sparse=True), nn.Linear(3, 2))
    ids = torch.tensor([[0, 2], [2, 5]])
    state = state_of(model, [ids], loss=lambda out, _: out.square().mean(), embeddings=True)
    touched = measured(state, "gradient")[0].any(dim=1)
    assert touched.tolist() == [True, False, True, False, False, True]


@pytest.mark.parametrize(
    ("loss", "said"), [(lambda out, _: out, r"is of shape \(6, 4\)"), (lambda *_: torch.tensor(1.0), "is constant")]
)
def test_what_is_no_loss_is_refused(loss: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"The loss of a batch of data {said}"):
        measured(state_of(small_model(), loss=loss), "gradient")


def test_numbers_that_are_not_finite_name_the_layer() -> None:
    with pytest.raises(TrainingError, match=r"The gradient of 0\.weight on the data is not finite"):
        measured(state_of(small_model(), loss=lambda out, _: out.sum() * float("inf")), "gradient")


def test_batches_without_samples_are_refused() -> None:
    forward = lambda model, count: model(torch.ones(count, 12))  # noqa: E731
    state = state_of(small_model())
    state.calibration = Calibration([3], forward, lambda out, _: out.sum())
    assert measured(state, "gradient")[0].any()
    with pytest.raises(UsageError, match="of type int cannot be cut into samples"):
        measured(state, "fisher")
    with pytest.raises(DataError, match="no sample"):
        measured(state_of(small_model(), [(torch.ones(0, 12), torch.ones(0, 4))]), "fisher")


def test_scores_without_needs_take_no_data() -> None:
    state = state_of(small_model())
    state.calibration = state.model = None
    found = score_layers(state, Magnitude())
    assert all(np.array_equal(found[layer.name], layer.weight.abs().numpy()) for layer in state.layers)


CONVOLUTIONS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 7, 5)),
    (nn.Conv1d(4, 2, 2, dilation=2, padding="same", padding_mode="reflect"), (3, 4, 9)),
    (nn.ConvTranspose1d(4, 3, 3, stride=2), (2, 4, 5)),
    (nn.Linear(4, 3), (2, 5, 4)),
]


@pytest.mark.parametrize(("module", "shape"), CONVOLUTIONS, ids=lambda part: type(part).__name__)
def test_input_norms_are_those_of_what_each_weight_multiplies(module: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = copy.deepcopy(module)
    batches = [torch.randn(*shape), torch.randn(*shape)]
    # What a weight multiplies is what the summed output grows by: of squared inputs, the sum of squares.
    grown = sum(model(x.square()).sum() for x in batches)
    wanted = torch.autograd.grad(grown, model.weight)[0].sqrt()
    assert_close(measured(state_of(model, batches), "input_norm"), [wanted])


def test_input_norms_of_attention_are_those_of_its_projections() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8)
    inputs, _ = measured(state_of(Attending(), [x]), "input_norm")
    assert_close([inputs], [x.square().sum((0, 1)).sqrt().expand(24, 8)])


def test_a_target_that_meets_no_input_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"lstm\.weight_ih_l0, lstm\.weight_hh_l0 met no input"):
        measured(state_of(Recurrent(), [torch.randn(2, 3, 8)]), "input_norm")
