"""The recommender: its data, its metrics, and its smoke setting from a bare start to packed answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from conformance.chain import check_looking
from isogrid.floor import max_drop
from isogrid.formats.model import load
from isogrid.frontier import OptimizeResult, optimize
from isogrid.metrics import paired_drop
from isogrid.runtime import Session
from isogrid.tasks import load_task
from isogrid.tasks.movielens import load_movielens
from isogrid.tasks.recommendation import Recommendation, Recommender, ndcg, root_mean_square


@pytest.fixture(scope="module")
def task() -> Recommendation:
    return Recommendation().at("smoke")


def test_it_is_a_ready_task_in_three_settings() -> None:
    found = load_task("recommendation")
    assert isinstance(found, Recommendation)
    assert list(found.settings) == ["smoke", "fast", "full"]
    assert found.recipe == found.settings["fast"]
    assert [found.at(setting).width for setting in found.settings] == [16, 32, 64]


def test_the_data_are_those_of_the_ratings() -> None:
    ratings = load_movielens()
    for split in ("train", "validation", "test"):
        pairs, stars = Recommendation().data(split)
        here = ratings.of(split)
        assert (pairs.dtype, stars.dtype) == (torch.int64, torch.float32)
        assert pairs.shape == (len(here), 2)
        last = here[-1]
        assert pairs[-1].tolist() == [ratings.user[last], ratings.film[last]]
        assert stars[-1] == ratings.rating[last]


def test_a_model_takes_all_users_and_films(task: Recommendation) -> None:
    model = task.model().eval()
    assert model(task.example()[0]).shape == (4,)
    pairs, _ = task.data("train")
    assert int(pairs[:, 0].max()) < model.users.num_embeddings == 671
    assert int(pairs[:, 1].max()) < model.films.num_embeddings == 1500


def test_the_model_is_what_its_formula_says() -> None:
    model = Recommender(users=3, films=4, width=2, mean=3.0).eval()
    with torch.no_grad():
        model.user_bias.copy_(torch.tensor([0.5, 0.0, -0.5]))
        model.film_bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
        p, q = model.users.weight[2], model.films.weight[1]
        network = model.network[3](torch.relu(model.network[0](torch.cat([p, q]))))
        wanted = 3.0 - 0.5 + 0.2 + float(p @ q) + float(network)
        assert model(torch.tensor([[2, 1]])).item() == pytest.approx(wanted, abs=1e-6)


def test_its_starting_point_knows_no_stars_but_those_of_the_training(task: Recommendation) -> None:
    stars = task.data("train")[1]
    assert float(task.model().mean) == pytest.approx(float(stars.mean()), abs=1e-6)


# -- the metrics -------------------------------------------------------------------------------------------------------


def test_the_metric_is_the_root_mean_square_error_of_stars_within_their_range(task: Recommendation) -> None:
    class Constant(nn.Module):
        def forward(self, pairs: torch.Tensor) -> torch.Tensor:
            return torch.full((len(pairs),), 7.0)

    stars = task.data("test")[1].tolist()
    wanted = math.sqrt(math.fsum((5.0 - star) ** 2 for star in stars) / len(stars))
    found = task.evaluate(Constant(), "test")
    assert found.samples == len(stars)
    assert found.value == pytest.approx(wanted, rel=1e-9)
    assert not task.metric.higher_is_better
    assert max_drop("0.5%").limit(task.metric, baseline=0.9) == pytest.approx(0.9045)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
def test_the_scores_of_a_root_have_it_as_their_mean(errors: list[float]) -> None:
    wanted = math.sqrt(sum(error * error for error in errors) / len(errors))
    assert root_mean_square(errors).value == pytest.approx(wanted, abs=1e-9)


def test_the_interval_of_two_roots_is_that_of_the_bootstrap() -> None:
    random = np.random.default_rng(0)
    dense = random.normal(0, 0.9, 4000)
    sparse = dense + random.normal(0.02, 0.1, 4000)
    drop = paired_drop(Recommendation.metric, root_mean_square(dense), root_mean_square(sparse))
    root = lambda errors: math.sqrt(np.square(errors).mean())  # noqa: E731
    assert drop.value == pytest.approx(root(sparse) - root(dense), abs=1e-12)
    drawn = [random.integers(0, 4000, 4000) for _ in range(1000)]
    low, high = np.quantile([root(sparse[picked]) - root(dense[picked]) for picked in drawn], [0.025, 0.975])
    assert [drop.low, drop.high] == pytest.approx([low, high], abs=0.0006)


def plain_ndcg(scores: list[float], seen: set[int], wanted: set[int], at: int) -> float:
    """The textbook's sum over one user's list, in plain Python."""
    offered = sorted((film for film in range(len(scores)) if film not in seen), key=lambda film: -scores[film])
    gained = sum(1 / math.log2(place + 2) for place, film in enumerate(offered[:at]) if film in wanted)
    return gained / sum(1 / math.log2(place + 2) for place in range(min(at, len(wanted))))


def test_ndcg_is_the_textbooks() -> None:
    random = np.random.default_rng(1)
    scores = random.random((30, 50))
    kind = random.integers(0, 4, (30, 50))
    kind[3] = 0
    seen, wanted = kind == 1, kind == 2
    expected = [
        plain_ndcg(scores[user].tolist(), set(np.flatnonzero(seen[user])), set(np.flatnonzero(wanted[user])), 10)
        for user in range(30)
        if wanted[user].any()
    ]
    assert len(expected) == 29
    assert ndcg(scores, seen, wanted) == pytest.approx(expected, abs=1e-12)
    assert ndcg(wanted, seen, wanted) == pytest.approx(np.ones(29))


# -- from a bare start to the packed model -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory, task: Recommendation) -> OptimizeResult:
    return optimize(task, out=tmp_path_factory.mktemp("recommendation"), max_drop="1%")


def test_the_smoke_setting_reaches_a_report_within_the_floor(smoke: OptimizeResult) -> None:
    report = smoke.report
    assert (smoke.path / "report.html").stat().st_size > 10_000
    assert report.metric.name == "RMSE"
    assert report.floor.limit == pytest.approx(1.01 * report.floor.baseline)
    assert report.floor.baseline < report.balance.validation_metric <= report.floor.limit
    assert report.dense.test_metric is not None
    assert report.dense.test_metric < 0.93
    assert report.balance.sparsity >= 0.5


def test_lower_is_better_all_the_way(smoke: OptimizeResult) -> None:
    report = smoke.report
    for point in report.points:
        assert point.holds == (point.metric <= report.floor.limit) or point.rung == 0
        beaten = any(
            other.bytes <= point.bytes and other.metric <= point.metric
            and (other.bytes, other.metric) != (point.bytes, point.metric)
            for other in report.points
        )  # fmt: skip
        assert point.on_frontier != beaten
    assert report.balance.bytes <= min(point.bytes for point in report.points if point.holds)
    assert report.verdict.drop == pytest.approx(report.balance.test_metric - report.dense.test_metric)
    assert report.verdict.low < report.verdict.drop < report.verdict.high
    assert report.verdict.samples == 5354


def test_its_data_can_be_checked_and_its_run_explained(smoke: OptimizeResult, task: Recommendation) -> None:
    check_looking(task, smoke.path)


def test_embeddings_are_small_on_disk(smoke: OptimizeResult) -> None:
    tables = {row.name: row for row in smoke.report.layers if row.name in ("users.weight", "films.weight")}
    assert len(tables) == 2
    assert sum(row.parameters for row in tables.values()) > 0.9 * smoke.report.dense.parameters
    for name in ("model.safetensors", "model.packed.onnx"):
        assert (smoke.path / name).stat().st_size < smoke.report.dense.bytes / 4, name


def test_the_packed_model_answers_as_pytorch_does(smoke: OptimizeResult, task: Recommendation) -> None:
    import onnx

    pairs, _ = task.data("test")
    with torch.no_grad():
        wanted = smoke.model(pairs).numpy()
    plain = load(smoke.path / "model.safetensors", into=task.model()).eval()
    with torch.no_grad():
        assert np.array_equal(plain(pairs).numpy(), wanted)
    for name in ("model.onnx", "model.packed.onnx"):
        (found,) = Session(smoke.path / name, threads=1)(pairs.numpy())
        np.testing.assert_allclose(found, wanted, atol=3e-6, err_msg=name)
    (one,) = Session(smoke.path / "model.packed.onnx", threads=1)(pairs[:1].numpy())
    np.testing.assert_allclose(one, wanted[:1], atol=3e-6)
    nodes = [node for node in onnx.load(smoke.path / "model.packed.onnx").graph.node if node.domain]
    assert sum("Gather" in node.op_type or "Embedding" in node.op_type for node in nodes) >= 2
