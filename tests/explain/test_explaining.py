"""What carries a model is told right where it is known, and a run's explanation is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isogrid.errors import FormatError, UnsupportedError, UsageError
from isogrid.explain import Explanation, explain
from isogrid.explain.confidence import confidence, confidence_change, probabilities
from isogrid.explain.inputs import input_importance, input_rows
from isogrid.explain.ranks import rank_correlation
from isogrid.explain.stability import stability
from isogrid.explain.units import unit_importance, unit_rows
from isogrid.frontier import optimize
from isogrid.masks import find_targets
from isogrid.tasks import ClassificationTask, Split, Task, load_task

TINY = Path(__file__).parents[1] / "frontier" / "tiny_task.py"


class Plain(Task):
    """A task whose loss is the sum of the answers: importance can be written down."""

    name, summary = "plain", "made up"

    def __init__(self, network: nn.Module, batches: list[Any]) -> None:
        self.network, self.given = network, batches

    def model(self) -> nn.Module:
        return self.network

    def batches(self) -> Any:
        return self.given

    def evaluate(self, model: nn.Module, split: Split) -> float:
        return 0.0

    def example(self) -> tuple[Tensor, ...]:
        return (self.given[0][0],)

    def loss(self, answer: Tensor, batch: Any) -> Tensor:
        return answer.flatten(1).sum(dim=1).mean()


def test_importance_of_units_is_output_times_slope() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        network[2].weight[0, 2] = 0
    x = torch.randn(10, 3)
    found = unit_importance(Plain(network, []), network, [(x[:4],), (x[4:],)])
    hidden = network[0](x)
    expected = (hidden * (hidden > 0) * network[2].weight[0]).abs().mean(dim=0)
    torch.testing.assert_close(torch.from_numpy(found["0"]), expected.double(), atol=1e-6, rtol=0)
    row = unit_rows(found, found)[0]
    assert row.idle >= 1
    assert found["0"][2] == 0
    assert row.strongest[0] == int(expected.argmax())
    assert row.like_dense == 1
    assert row.half == 1 + int((np.cumsum(np.sort(found["0"])[::-1]) < found["0"].sum() / 2).sum())


def test_importance_of_channels_sums_over_places() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randn(5, 1, 6, 6)
    found = unit_importance(Plain(network, []), network, [(x,)])["0"]
    expected = network[0](x).mean(dim=(2, 3)).abs().mean(dim=0)
    torch.testing.assert_close(torch.from_numpy(found), expected.double(), atol=1e-6, rtol=0)


def test_importance_of_inputs_is_value_times_slope_and_pruned_ones_have_none() -> None:
    torch.manual_seed(0)
    network = nn.Linear(6, 1, bias=False)
    with torch.no_grad():
        network.weight[0, 4] = 0
    x = torch.randn(8, 6)
    task = Plain(network, [])
    found = input_importance(task, network, [(x[:2],), (x[2:],)])
    expected = (x * network.weight[0]).abs().sum(dim=0)
    torch.testing.assert_close(torch.from_numpy(found["input"]), expected.detach().double(), atol=1e-5, rtol=0)
    row = input_rows(task, found, found)[0]
    assert (row.used, row.shape, row.name) == (5, (6,), "input")
    assert sum(row.importance) == pytest.approx(1)
    assert row.strongest[0][0] == str(int(expected.argmax()))


def test_importance_of_embedding_rows_and_their_names() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.words(ids).sum(dim=1)

    class Words(Plain):
        def input_names(self, group: str) -> list[str] | None:
            return ["a", "b", "c", "d", "e"] if group == "words" else None

    network = Bag()
    with torch.no_grad():
        network.words.weight.copy_(torch.tensor([[1.0, 1], [5, 0], [0, 0], [2, 0], [9, 9]]))
    task = Words(network, [])
    found = input_importance(task, network, [(torch.tensor([[0, 1], [1, 2]]),), (torch.tensor([[3, 3, 2]]),)])
    assert found["words"].tolist() == [2, 10, 0, 4, 0]
    row = input_rows(task, found, found)[0]
    assert [name for name, _ in row.strongest] == ["b", "d", "a"]


def test_axes_that_vary_are_summed() -> None:
    network = nn.Linear(3, 1)
    task = Plain(network, [])
    found = input_importance(task, network, [(torch.ones(2, 4, 3),), (torch.ones(2, 7, 3),)])
    assert found["input"].shape == (3,)


def test_the_model_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    network[0].bias.requires_grad_(False)
    network[0].weight.grad = torch.ones(2, 3)
    unit_importance(Plain(network, []), network, [(torch.ones(2, 3),)])
    assert network.training
    assert not network[0].bias.requires_grad
    assert network[0].weight.grad.eq(1).all()
    assert not network[0]._forward_hooks


def test_confidence_of_a_classifier() -> None:
    told = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.55, 0.45]])
    true = np.array([0, 1, 1, 0])
    found = confidence(told, true)
    assert (found.accuracy, found.mean) == (0.75, pytest.approx(0.6625))
    # Of the bins of one fifteenth: 0.8, 0.6, 0.7 and 0.55 have one each.
    assert found.error == pytest.approx((0.2 + 0.6 + 0.3 + 0.45) / 4)
    change = confidence_change(told, told[:, ::-1], true)
    assert change.turned == 1
    assert [index for index, _ in change.lost] == [0, 2, 3]
    assert change.lost[0][1] == pytest.approx(0.6)


def test_masks_that_are_alike_and_masks_by_chance() -> None:
    rng = np.random.default_rng(0)
    one, two = ({"w": rng.random((200, 100)) < 0.1} for _ in range(2))
    row = stability([one, two])[0]
    assert row.overlap == pytest.approx(row.chance, abs=0.01)
    row = stability([one, one])[0]
    assert (row.overlap, row.inputs) == (1, 1)
    with pytest.raises(UsageError, match="different layers"):
        stability([one, {"v": one["w"]}])


def test_rank_correlation_shares_ties() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 50), rng.integers(0, 5, 50)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(a, np.zeros(50)) is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isogrid.frontier.writing.measure_speed", lambda *_: None)
        return [optimize(str(TINY), out=folder / str(seed), max_drop="5pt", seed=seed).path for seed in (0, 1)]


def test_a_run_is_explained(runs: list[Path]) -> None:
    found = explain(runs[0], runs[1:], task=str(TINY))
    assert isinstance(found, Explanation)
    assert found.split == "validation"
    targets = find_targets(load_task(str(TINY)).model())
    assert [row.layer for row in found.units] == [target.name.removesuffix(".weight") for target in targets]
    assert found.confidence is not None
    assert found.confidence.samples > 0
    assert found.stability is not None
    assert all(0 <= row.overlap <= 1 for row in found.stability)
    assert json.loads(found.to_json())["task"] == found.task
    assert explain(runs[0], task=str(TINY)).stability is None


def test_what_cannot_be_explained_is_said_in_a_sentence(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no finished run"):
        explain(tmp_path)
    with pytest.raises(UsageError, match="which is not a ready one; name its file"):
        explain(runs[0])
    with pytest.raises(UsageError, match="batches=0; accepted is a whole number"):
        explain(runs[0], batches=0)
    (tmp_path / "report.json").write_bytes((runs[0] / "report.json").read_bytes())
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(FormatError, match="name the task"):
        explain(tmp_path)
    with pytest.raises(UsageError, match=r"dense\.safetensors is missing"):
        explain(tmp_path, task=str(TINY))
    silent = load_task(str(TINY))
    assert isinstance(silent, ClassificationTask)
    silent.samples = lambda _: None  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(UnsupportedError, match="gives no samples"):
        explain(runs[0], task=silent)


@pytest.mark.parametrize(
    ("answers", "labels"), [(1, [0, 1, 1]), (3, [0, 2, -100]), (3, [0, 3, 1])], ids=["one number", "none", "too many"]
)
def test_answers_that_are_no_classes_have_no_confidence(answers: int, labels: list[int]) -> None:
    network = nn.Linear(4, answers)
    batch = torch.randn(3, 4), torch.tensor(labels)
    assert probabilities(Plain(network, []), network, [batch]) is None
    assert probabilities(Plain(nn.Linear(4, 3), []), nn.Linear(4, 3), [(batch[0], torch.tensor([0, 1, 2]))]) is not None
