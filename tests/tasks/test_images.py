"""The images task: its data, its net and its whole chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from conformance.chain import check_chain
from isogrid.errors import DataError
from isogrid.tasks import load_task
from isogrid.tasks.fashion_mnist import _folder
from isogrid.tasks.images import Augmented, Fields, Images, ResidualNet


def _absent() -> bool:
    try:
        _folder()
    except DataError:
        return True
    return False


needs_data = pytest.mark.skipif(_absent(), reason="no Fashion-MNIST here (apt-get install dataset-fashion-mnist)")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_moved_image_is_the_image_or_its_mirror_image_a_few_pixels_away() -> None:
    image = torch.zeros(1, 3, 12, 10)
    image[:, :, 5, 4] = torch.tensor([1.0, 2.0, 3.0])
    seen = set()
    for _ in range(300):
        ((moved, label),) = Augmented(image, torch.tensor([7]), batch_size=1)
        assert label.tolist() == [7]
        assert moved.shape == image.shape
        (row, column), *others = (moved[0, 0] == 1).nonzero().tolist()
        assert not others
        assert moved[0, :, row, column].tolist() == [1, 2, 3]
        seen.add((row, column))
    straight, mirrored = {3, 4, 5}, {4, 5, 6}
    assert seen == {(row, column) for row in (4, 5, 6) for column in straight | mirrored}


def test_what_moves_in_is_the_edge_itself() -> None:
    image = torch.arange(6.0)[:, None].expand(1, 1, 6, 6)
    for _ in range(20):
        ((moved, _label),) = Augmented(image, torch.tensor([0]), batch_size=1)
        rows = moved[0, 0, :, 0]
        assert (rows.diff() >= 0).all()
        assert set(rows.tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def test_torchs_generator_decides_every_pass() -> None:
    images, labels = torch.rand(20, 1, 28, 28), torch.arange(20)

    def one_pass(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([batch for batch, _ in Augmented(images, labels, batch_size=8)])

    assert torch.equal(one_pass(1), one_pass(1))
    assert not torch.equal(one_pass(1), one_pass(2))


@pytest.mark.parametrize("side", [8, 28, 33])
def test_the_net_takes_images_of_any_size(side: int) -> None:
    net = ResidualNet((4, 8, 12), hidden=6, colours=3, classes=4).eval()
    assert net(torch.zeros(2, 3, side, side)).shape == (2, 4)


def test_the_hidden_layer_sees_every_place_of_a_small_image_and_fields_of_a_large_one() -> None:
    assert torch.equal(Fields(4)(grid := torch.randn(2, 3, 4, 4)), grid)
    assert torch.equal(Fields(2)(grid), nn.functional.avg_pool2d(grid, 2))
    assert nn.Sequential(*list(ResidualNet())[:7])(torch.zeros(2, 1, 28, 28)).shape == (2, 160 * 4 * 4)


@needs_data
@pytest.mark.parametrize(("setting", "weights"), [("smoke", 105_818), ("fast", 261_810), ("full", 1_102_090)])
def test_each_setting_has_a_net_of_its_size(setting: str, weights: int) -> None:
    assert sum(weight.numel() for weight in Images().at(setting).model().parameters()) == weights


@needs_data
def test_a_setting_takes_the_first_images_of_each_split() -> None:
    whole, smoke = Images().at("full"), Images().at("smoke")
    for split, size in (("train", 1_500), ("validation", 500), ("test", 500)):
        images, labels = smoke.data(split)
        assert (len(images), len(labels)) == (size, size)
        assert torch.equal(images[-1], whole.data(split)[0][size - 1])
    assert [len(whole.data(split)[1]) for split in ("train", "validation", "test")] == [50_000, 10_000, 10_000]
    assert len(Images().data("train")[1]) == len(Images().at("fast").data("train")[1]) == 20_000


@needs_data
def test_from_the_data_to_a_packed_model_that_answers_as_pytorchs(tmp_path: Path) -> None:
    task = load_task("images").at("smoke")
    result = check_chain(task, task.data("test")[:1], tmp_path / "run")
    assert (result.report.dense.test_metric or 0) > 0.6
