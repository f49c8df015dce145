"""Spoken digits: held-out voices beside human recordings, and what a second of live sound costs a GRU.

    isogrid optimize speech-gru --setting full --max-drop 0.5pt --out runs/speech-gru
    python benchmarks/uses/speech.py runs/speech-gru [runs/speech ...] [--seconds 10] [--threads 1] [--accuracy-only]

The dense model and the balance point of each run are measured on the test split (voices that nobody trained on) and on
the ten recordings of Debian's asterisk-core-sounds-en-wav, where one digit is ten points.  A run of `speech-gru` is
then fed one frame (16 ms) at a time, as a live sound comes in, and the milliseconds that a second of sound takes are
printed: in PyTorch, in `isogrid.compile`, in ONNX Runtime, and packed.  Answers are compared before anything is timed,
and contestants take turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from benchmarks.common import equality, output
from benchmarks.uses.runs import task_of
from rich.table import Table
from torch import Tensor, nn

import isogrid as ig
from isogrid.runtime import Session
from isogrid.runtime.timing import Candidate, race, ratio
from isogrid.tasks.mel import BANDS, HOP, RATE, WINDOW, log_mel
from isogrid.tasks.speech import SpeechRecurrent, recognised
from isogrid.tasks.spoken_digits import human_digits

FRAMES = RATE // HOP
"""Whole frames in a second of sound."""


class Live(nn.Module):
    """One frame of a live sound: what is heard so far goes in and comes out again.

    Args:
        whole: a trained model.

    ``forward(frame [1, 1, 40], state [1, 1, hidden], total [1, hidden], heard [1])`` gives the scores so far, the state
    and the total after the frame; `heard` counts the frame itself.
    """

    def __init__(self, whole: SpeechRecurrent) -> None:
        super().__init__()
        self.gru, self.classifier = whole.gru, whole.classifier

    def forward(self, frame: Tensor, state: Tensor, total: Tensor, heard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, after = self.gru(frame, state)
        total = total + states[:, 0]
        return self.classifier(total / heard[:, None]), after, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="what isogrid optimize speech or speech-gru wrote")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the race")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accuracy-only", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    out = output.console()
    accuracy = Table("run", "model", "sparsity", "bytes", "held-out voices", "human recordings")
    pairs = {path: _models(path, accuracy) for path in given.runs}
    out.print(accuracy)
    for path, (dense, sparse) in pairs.items():
        if isinstance(dense, SpeechRecurrent) and not given.accuracy_only:
            assert isinstance(sparse, SpeechRecurrent)
            out.print(_latency(path.name, dense, sparse, given.threads, given.seconds))


def _models(path: Path, table: Table) -> tuple[nn.Module, nn.Module]:
    """A run's dense model and its balance point, and their rows of the table."""
    found = json.loads((path / "result.json").read_text(encoding="utf-8"))
    task: Any = task_of(path)
    voices, human = task.data("test"), human_digits()
    models = []
    for kind, file in (("dense", "dense.safetensors"), ("balance", "model.safetensors")):
        model = ig.load(path / file, into=task.model()).eval()
        with torch.no_grad():
            on_voices, on_human = recognised(model, voices).value, recognised(model, human).value
        about = f"{100 * found[kind]['sparsity']:.1f} %", f"{found[kind]['bytes']:,}"
        table.add_row(path.name, kind, *about, f"{100 * on_voices:.2f} %", f"{round(10 * on_human)} of 10")
        models.append(model)
    return models[0], models[1]


def _latency(name: str, dense: SpeechRecurrent, sparse: SpeechRecurrent, threads: int, seconds: float) -> Table:
    hidden = dense.gru.hidden_size
    frames = torch.randn(FRAMES, 1, 1, BANDS)
    start = torch.zeros(1, 1, hidden), torch.zeros(1, hidden)
    example = (frames[0], *start, torch.ones(1))
    calls: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for kind, whole in (("dense", dense), ("sparse", sparse)):
            live = Live(whole).eval()
            expected = _in_torch(live, frames, start)()
            calls[f"PyTorch, {kind}"] = _in_torch(live, frames, start)
            calls[f"isogrid.compile, {kind}"] = _in_torch(ig.compile(live, example), frames, start)
            for packed in (False, True):
                file = Path(folder, f"{kind}{packed}.onnx")
                ig.export(live, file, example, dynamic_batch=False, packed=packed)
                title = f"ONNX Runtime{', packed' * packed}, {kind}"
                calls[title] = _in_onnxruntime(file, frames, start, threads)
            for title, call in calls.items():
                if title.endswith(kind):
                    equality.check(torch.as_tensor(call()), expected)
        sound = np.random.default_rng(0).standard_normal(RATE + WINDOW - HOP).astype(np.float32)
        calls["log-mel features alone"] = lambda: log_mel(sound)
        samples = race({title: Candidate(call, threads) for title, call in calls.items()}, seconds=seconds)
    table = Table("contestant", "ms for a second of sound", "times faster", title=f"{name}, frame by frame")
    for title, sample in samples.items():
        faster = "" if title.startswith("log-mel") else str(ratio(samples["ONNX Runtime, dense"], sample))
        table.add_row(title, f"{1e3 * sample.median:.2f}", faster)
    return table


def _in_torch(live: Any, frames: Tensor, start: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
    counts = [torch.tensor([1.0 + at]) for at in range(len(frames))]

    def one_second() -> Tensor:
        state, total = start
        scores = total
        for frame, heard in zip(frames, counts, strict=True):
            scores, state, total = live(frame, state, total, heard)
        return scores

    return one_second


def _in_onnxruntime(file: Path, frames: Tensor, start: tuple[Tensor, Tensor], threads: int) -> Callable[[], Any]:
    session = Session(file, threads=threads)
    names = [port.name for port in session.inputs]
    arrays, begin = frames.numpy(), [part.numpy() for part in start]
    counts = [np.array([1.0 + at], np.float32) for at in range(len(arrays))]

    def feeds() -> Iterator[tuple[Any, Any]]:
        return zip(arrays, counts, strict=True)

    def one_second() -> Any:
        (state, total), scores = begin, None
        for frame, heard in feeds():
            given = dict(zip(names, (frame, state, total, heard), strict=True))
            scores, state, total = session.inner.run(None, given)
        return scores

    return one_second


if __name__ == "__main__":
    main()
