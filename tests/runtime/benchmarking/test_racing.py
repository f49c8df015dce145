"""No clock decides here: who takes part, what is compared with what, and what is said."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from isogrid.errors import FormatError, UsageError
from isogrid.runtime.benchmarking import racing
from isogrid.runtime.benchmarking.racing import DENSE, INT8, OURS, benchmark
from isogrid.runtime.packing.packer import pack
from runtime.small_models import mlp


def _quick(models: list[Path], **options: object) -> racing.Benchmark:
    return benchmark(models, threads=1, seconds=0.01, **options)  # type: ignore[arg-type]


def test_a_dense_model_with_random_masks(tmp_path: Path) -> None:
    found = _quick([mlp(tmp_path / "dense.onnx")], at=[0.8, 0.95], batch=16)
    by_who = [(row.who, row.masked, row.sparsity) for row in found.rows]
    assert by_who[0] == (DENSE, False, 0.0)
    assert [entry[0] for entry in by_who[1:]].count(INT8) == 1
    assert by_who[-2:] == [(OURS, True, pytest.approx(at, abs=1e-4)) for at in (0.8, 0.95)]
    assert found.batch == 16
    assert any("gains nothing" in note for note in found.notes)
    for row in found.rows[-2:]:
        assert row.difference is not None
        assert row.difference <= 1e-4
        assert 0 < row.bytes < found.rows[0].bytes / 2
        assert len(row.sample.rounds) >= 7
        assert row.speedup is not None
        assert row.speedup.low <= row.speedup.median <= row.speedup.high
        assert row.memory is not None
        assert row.memory > 0


def test_random_masks_of_a_model_that_is_sparse_already_are_labelled_with_the_zeros_that_they_have(
    tmp_path: Path,
) -> None:
    found = _quick([mlp(tmp_path / "sparse.onnx", 0.95)], at=[0.9, 0.98], batch=16, rivals=False)
    rows = [row for row in found.rows if row.masked]
    assert [row.sparsity for row in rows] == [pytest.approx(at, abs=1e-4) for at in (0.9, 0.98)]
    assert rows[0].bytes > rows[1].bytes


def test_what_is_left_alone_counts_in_the_label_of_random_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "mask_randomly", lambda source, target, _: target.write_bytes(source.read_bytes()))
    found = _quick([mlp(tmp_path / "sparse.onnx", 0.95)], at=[0.5], batch=16, rivals=False)
    assert found.rows[-1].sparsity == pytest.approx(0.95, abs=1e-4)


def test_an_input_may_have_any_name(tmp_path: Path) -> None:
    model = onnx.load(mlp(tmp_path / "m.onnx"))
    model.graph.input[0].name = model.graph.node[0].input[0] = "file"
    onnx.save(model, tmp_path / "m.onnx")
    assert _quick([tmp_path / "m.onnx"], rivals=False).rows[0].memory


def test_a_sparse_model_stands_beside_its_packed_self_and_a_packed_one_beside_a_dense_one(tmp_path: Path) -> None:
    dense, sparse = mlp(tmp_path / "dense.onnx"), mlp(tmp_path / "sparse.onnx", 0.9)
    pack(sparse, tmp_path / "packed.onnx", batch=8)
    found = _quick([dense, sparse, tmp_path / "packed.onnx"], batch=8, rivals=False)
    assert [(row.who, row.file) for row in found.rows] == [
        (DENSE, "dense.onnx"),
        (DENSE, "sparse.onnx"),
        (OURS, "sparse.onnx"),
        (f"{DENSE} with isogrid", "packed.onnx"),
    ]
    assert found.rows[2].sparsity == pytest.approx(0.9, abs=1e-3)
    assert found.rows[3].sparsity == pytest.approx(0.9, abs=1e-3)
    assert found.rows[3].ours


def test_real_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((6, 64), np.float32))
    found = _quick([mlp(tmp_path / "dense.onnx")], inputs=tmp_path / "x.npz", rivals=False)
    assert found.batch == 6


def test_an_output_that_differs_is_an_error_and_nothing_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "difference", lambda *_: 0.5)
    monkeypatch.setattr(racing, "race", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(FormatError, match="differs from itself"):
        _quick([mlp(tmp_path / "sparse.onnx", 0.9)], rivals=False, batch=8)


def test_as_json_as_a_table_and_as_a_plot(tmp_path: Path) -> None:
    found = _quick([mlp(tmp_path / "dense.onnx")], at=[0.9], batch=4, rivals=False)
    plain = json.loads(json.dumps(found.to_json()))
    assert [row["who"] for row in plain["rows"]] == [DENSE, OURS]
    assert plain["rows"][1]["samples_per_second"] == pytest.approx(4e3 / plain["rows"][1]["ms"])
    assert plain["rows"][1]["ms_p50"] <= plain["rows"][1]["ms_p99"]
    assert plain["machine"]["targets"]
    console = Console(width=140, record=True, force_terminal=False, quiet=False, file=io.StringIO())
    found.show(console)
    text = console.export_text()
    assert "4 samples a call, 1 thread" in text
    assert "~90.0 %" in text
    assert "random zeros" in text
    assert "differs" in text
    found.plot(tmp_path / "plot.svg")
    with pytest.raises(UsageError, match=r"accepted are \.png, \.svg, \.pdf"):
        found.plot(tmp_path / "plot.jpg")
    assert "isogrid, 90.0 % zeros" in (tmp_path / "plot.svg").read_text()


@pytest.mark.parametrize(
    ("models", "options", "says"),
    [
        ([], {}, "got no model"),
        (["missing.onnx"], {}, "is not a file"),
        (["dense.onnx"], {"threads": 0}, "accepted are numbers above 0"),
        (["dense.onnx"], {"seconds": 0.0}, "accepted are numbers above 0"),
        (["dense.onnx"], {"seconds": float("nan")}, "accepted are numbers above 0"),
        (["dense.onnx"], {"seconds": float("inf")}, "accepted are numbers above 0"),
        (["dense.onnx"], {"batch": 0}, "batch got 0"),
        (["dense.onnx"], {"values": "int3"}, "int3"),
        (["dense.onnx"], {"at": [0.5, 1.5]}, "accepted is a number from 0"),
        (["dense.onnx"], {"at": [float("nan")]}, "accepted is a number from 0"),
        (["dense.onnx", "missing.onnx"], {}, r"missing\.onnx is not a file"),
        (["dense.onnx"], {"shapes": {"z": (1, 64)}}, "z"),
        (["dense.onnx"], {"inputs": "missing.npz"}, "missing.npz"),
    ],
)
def test_what_is_not_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: list[str], options: dict[str, object], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(racing, "in_onnxruntime", lambda *_: pytest.fail("work was done before"))
    mlp(tmp_path / "dense.onnx")
    with pytest.raises(UsageError, match=says):
        benchmark(models, **{"rivals": False, **options})  # type: ignore[arg-type]


def test_bytes_count_external_data_under_any_name(tmp_path: Path) -> None:
    model = onnx.load(mlp(tmp_path / "whole.onnx"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (row, *_) = _quick([tmp_path / "m.onnx"], rivals=False).rows
    assert row.bytes == sum((tmp_path / name).stat().st_size for name in ("m.onnx", "weights.bin"))
