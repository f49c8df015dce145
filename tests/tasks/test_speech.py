"""The speech tasks: lengths, batches, listening frame by frame, and the whole chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conformance.chain import check_chain
from isogrid.runtime import Session
from isogrid.tasks import load_task
from isogrid.tasks.speech import BatchesByLength, SpeechConv, SpeechRecurrent, mean_over, recognised
from isogrid.tasks.spoken_digits import Spoken
from speech_needs import needs_espeak

MODELS = pytest.mark.parametrize("make", [SpeechConv, SpeechRecurrent])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the tasks here, which hear the same digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOGRID_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def used(model: nn.Module) -> nn.Module:
    """A model whose norms have seen something, so that silence does not stay silence."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(16, 40, 40) + 1, torch.full((16,), 40.0))
    return model.eval()


def some(count: int, seed: int = 0) -> Spoken:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 31, (count,), generator=random).float()
    features = torch.randn(count, 30, 40, generator=random)
    features[torch.arange(30)[None] >= lengths[:, None]] = 0
    return Spoken(features, lengths, torch.arange(count) % 10, ("someone",) * count)


@MODELS
def test_padding_changes_no_answer(make: Callable[[], nn.Module]) -> None:
    model, spoken = used(make()), some(12)
    with torch.no_grad():
        alone = torch.cat(
            [model(f[None, : int(n)], n[None]) for f, n in zip(spoken.features, spoken.lengths, strict=True)]
        )
        together = model(spoken.features, spoken.lengths)
        padded = nn.functional.pad(spoken.features, (0, 0, 0, 50))
        padded[torch.arange(80)[None] >= spoken.lengths[:, None]] = 1000.0
        noisy = model(padded, spoken.lengths)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(noisy, alone, atol=1e-5, rtol=1e-4)


@MODELS
def test_every_frame_of_an_utterance_counts(make: Callable[[], nn.Module]) -> None:
    model = used(make())
    features, lengths = torch.randn(1, 20, 40), torch.tensor([20.0])
    with torch.no_grad():
        before = model(features, lengths)
        for frame in range(20):
            changed = features.clone()
            changed[0, frame] += 2
            assert (model(changed, lengths) - before).abs().max() > 1e-6


def test_the_gru_hears_a_live_sound_as_it_hears_a_whole_one() -> None:
    model = SpeechRecurrent().eval()
    features = torch.randn(1, 25, 40)
    state, total = torch.zeros(1, 1, 128), torch.zeros(1, 128)
    with torch.no_grad():
        for frame in range(25):
            states, state = model.gru(features[:, frame : frame + 1], state)
            total += states[:, 0]
            so_far = model.classifier(total / (frame + 1))
            whole = model(features, torch.tensor([frame + 1.0]))
            torch.testing.assert_close(so_far, whole, atol=1e-5, rtol=1e-4)


def test_no_gradient_comes_from_behind_the_end() -> None:
    states = torch.randn(2, 6, 3, requires_grad=True)
    mean_over(states, torch.tensor([6.0, 2.0])).sum().backward()
    assert states.grad is not None
    torch.testing.assert_close(states.grad[0], torch.full((6, 3), 1 / 6))
    torch.testing.assert_close(states.grad[1, :2], torch.full((2, 3), 1 / 2))
    assert (states.grad[1, 2:] == 0).all()


def test_a_pass_hears_each_utterance_once_and_cuts_to_the_longest() -> None:
    spoken = some(100)
    batches = BatchesByLength(spoken, 8)
    heard = list(batches)
    assert len(heard) == len(batches) == 13
    everything = torch.cat([features.sum(dim=(1, 2)) for features, _, _ in heard])
    torch.testing.assert_close(everything.sort().values, spoken.features.sum(dim=(1, 2)).sort().values)
    assert torch.equal(torch.cat([labels for _, _, labels in heard]).sort().values, spoken.labels.sort().values)
    for features, lengths, _ in heard:
        assert features.shape[1] == lengths.max()
    computed = sum(features.shape[0] * features.shape[1] for features, _, _ in heard)
    assert computed < 1.15 * float(spoken.lengths.sum())


def test_torchs_generator_decides_the_order() -> None:
    spoken = some(50)

    def order(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return torch.cat([features.sum(dim=(1, 2)) for features, _, _ in BatchesByLength(spoken, 8)]).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_answers_are_counted_in_the_order_of_the_utterances() -> None:
    class Longest(nn.Module):
        def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
            assert features.shape[1] == lengths.max()
            return nn.functional.one_hot(lengths.long() % 10, 10).float()

    spoken = some(700)
    outcomes = recognised(Longest(), spoken)
    assert outcomes.predictions is not None
    assert outcomes.predictions.tolist() == (spoken.lengths.long() % 10).tolist()


@needs_espeak
@pytest.mark.parametrize("name", ["speech", pytest.param("speech-gru", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("kept")
def test_from_the_voices_to_a_packed_model_that_answers_as_pytorchs(name: str, tmp_path: Path) -> None:
    task = load_task(name).at("smoke")
    validation, test = task.data("validation"), task.data("test")  # type: ignore[attr-defined]
    frames = min(validation.features.shape[1], test.features.shape[1])
    short = test.lengths <= frames
    features = nn.functional.pad(test.features[short, :frames], (0, 0, 0, validation.features.shape[1] - frames))
    result = check_chain(task, (features, test.lengths[short]), tmp_path / "run")
    assert (result.report.dense.test_metric or 0) > 0.25
    assert Session(tmp_path / "run" / "model.onnx").inputs[0].shape[2] == 40
