"""Three synthetic runs: digits-like with pictures, a regression where lower is better, and a network of 80 layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from isogrid.metrics import Metric
from isogrid.report.data import (
    ActivationRow,
    ChangedExample,
    Changes,
    ClassRow,
    Floor,
    Histogram,
    InputUse,
    LayerRow,
    ModelSummary,
    Point,
    ReportData,
    Speed,
    SpeedRow,
    TrainingCost,
    TrainingPoint,
    Verdict,
)

LADDER = (0.0, 0.5, 0.7, 0.8, 0.875, 0.92, 0.95, 0.97, 0.98, 0.987, 0.992, 0.995)
BYTES_A_NONZERO = {"fp32": 5.3, "fp16": 3.3, "int8": 2.3}


def layer(name: str, shape: tuple[int, ...], sparsity: float, rng: np.random.Generator) -> LayerRow:
    """A layer with normal weights of which the largest survive."""
    size = int(np.prod(shape))
    weights = rng.normal(0.0, 1.0 / np.sqrt(shape[1]), size=min(size, 20_000))
    threshold = np.quantile(np.abs(weights), sparsity)
    left = weights[np.abs(weights) > threshold] * 1.3
    edges = np.linspace(-1.3, 1.3, 42) * np.abs(weights).max()
    before, after = np.histogram(weights, edges)[0], np.histogram(left, edges)[0]
    return LayerRow(
        name=name,
        shape=shape,
        parameters=size,
        nonzeros=round(size * (1 - sparsity)),
        sparsity=1 - round(size * (1 - sparsity)) / size,
        dead_units=int(shape[0] * max(0.0, sparsity - 0.9)),
        units=shape[0],
        dense_histogram=Histogram(edges, before),
        sparse_histogram=Histogram(edges, after),
    )


def points(ladder: Any, metric_at: Any, weights: int, limit: float, higher: bool) -> list[Point]:
    """Every rung at every precision; the smallest that holds is chosen."""
    sign = 1 if higher else -1
    found = []
    for rung, sparsity in enumerate(ladder):
        nonzeros = round(weights * (1 - sparsity))
        for precision, each in BYTES_A_NONZERO.items():
            metric = metric_at(sparsity, precision)
            size = round(900 + (4 * weights if sparsity == 0 and precision == "fp32" else each * nonzeros))
            model = sparsity * 0.99
            holds = sign * metric >= sign * limit
            found.append(
                Point(
                    rung,
                    sparsity,
                    model,
                    nonzeros,
                    precision,
                    metric,
                    size,
                    holds,
                    False,
                    False,
                )
            )
    frontier = [
        p
        for p in found
        if not any(
            q.bytes <= p.bytes
            and sign * (q.metric - p.metric) >= 0
            and q is not p
            and (q.bytes, q.metric) != (p.bytes, p.metric)
            for q in found
        )
    ]
    best = min((p for p in found if p.holds), key=lambda p: p.bytes)
    return [replace(p, chosen=p is best, on_frontier=p in frontier) for p in found]


def history(ladder: Any, metric_at: Any, steps: int) -> list[TrainingPoint]:
    """Dense training, then a rung after the other, each with a bump in the loss that heals."""
    records = []
    for phase, sparsity in enumerate((0.0, *ladder[1:])):
        name = "dense" if phase == 0 else f"rung {phase}"
        length = 4 * steps if phase == 0 else steps
        start = 0 if phase == 0 else 4 * steps + (phase - 1) * steps
        for step in range(0, length, 10):
            decay = np.exp(-5 * step / length)
            loss = 0.05 + (2.2 if phase == 0 else 0.15 + sparsity**8) * decay
            metric = metric_at(sparsity, "fp32") - 0.3 * decay * (1 if phase == 0 else 0.1)
            records.append(
                TrainingPoint(
                    start + step,
                    name,
                    loss,
                    metric if step % 50 == 0 else None,
                    sparsity,
                )
            )
    return records


def speed() -> Speed:
    """Dense, sparse and packed, with one sample and with 64."""
    rows = []
    for batch, times in ((1, {"dense": 0.02, "sparse": 0.021, "packed": 0.01}), (64, {"dense": 1.2, "packed": 0.25})):
        for model, ms in times.items():
            faster = times["dense"] / ms
            rows.append(SpeedRow(model, batch, ms, 0.98 * ms, 1.04 * ms, faster, 0.97 * faster, 1.03 * faster))
    return Speed(threads=1, rows=rows)


@pytest.fixture(scope="session")
def digits() -> ReportData:
    """A 64-100-10 network on 8 x 8 digits, at most one point below dense."""
    rng = np.random.default_rng(7)
    fall = {"fp32": 0.0, "fp16": 0.0, "int8": 0.0014}

    def accuracy(sparsity: float, precision: str) -> float:
        noise = 0.002 * np.sin(40 * sparsity + len(precision))
        return float(
            np.clip(
                0.9755 - 0.0042 * sparsity - (sparsity / 0.9905) ** 160 * 0.05 - fall[precision] + noise,
                0.1,
                1,
            )
        )

    weights, limit = 7400, 0.9639
    ladder = points(LADDER, accuracy, weights, limit, higher=True)
    chosen = next(point for point in ladder if point.chosen)
    radius = np.hypot(*np.meshgrid(np.arange(8) - 3.5, np.arange(8) - 3.5))
    counts = np.where(
        np.abs(np.arange(64) % 8 - 3.5) > 3,
        0,
        rng.poisson(np.clip(7 - radius.ravel(), 0, None)),
    )

    def example(index: int) -> ChangedExample:
        image = np.clip(rng.normal(0.1, 0.1, (8, 8)) + (np.abs(radius - 2.4) < 0.8) * 0.9, 0, 1)
        right = str(rng.integers(10))
        other = str((int(right) + 5) % 10)
        return ChangedExample(
            index * 31,
            right,
            *((right, other) if index % 2 else (other, right)),
            image.round(2).tolist(),
        )

    return ReportData(
        title="digits, an MLP with a hidden layer of 100",
        task="digits",
        command="isogrid optimize digits --max-drop 1pt --out run",
        created="2026-03-14T09:26:53+00:00",
        seed=0,
        versions={
            "isogrid": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "onnxruntime": "1.32.0",
        },
        seconds=71.4,
        metric=Metric("accuracy", higher_is_better=True, unit="pt", percent=True),
        floor=Floor("1pt", limit, 0.9739),
        verdict=Verdict("held", 0.00278, -0.00556, 0.00972, 0.01, 360),
        dense=ModelSummary(
            0.97222,
            0.9739,
            1.0,
            0.0,
            0.0,
            7510,
            7510,
            30_412,
            "fp32",
            {"model.onnx": 31_266, "model.safetensors": 30_412},
        ),
        balance=ModelSummary(
            0.96944,
            chosen.metric,
            0.9861,
            chosen.sparsity,
            chosen.sparsity_of_model,
            chosen.nonzeros + 110,
            7510,
            chosen.bytes,
            chosen.precision,
            {"model.onnx": 3 * chosen.bytes, "model.safetensors": chosen.bytes},
        ),
        points=ladder,
        layers=[
            layer("hidden.weight", (100, 64), chosen.sparsity + 0.003, rng),
            layer("output.weight", (10, 100), chosen.sparsity - 0.04, rng),
        ],
        speed=speed(),
        training=TrainingCost(dense=2e12, balance=3e12, run=9e12),
        activations=[ActivationRow("hidden", 0.44, 0.71)],
        inputs=InputUse(counts, (8, 8)),
        classes=[
            ClassRow(
                str(i),
                36,
                round(1 - (i % 4) / 36, 4),
                round(1 - (i % 5 + i // 8) / 36, 4),
            )
            for i in range(10)
        ],
        changes=Changes(344, 5, 5, 6, [example(index) for index in range(11)]),
        history=history(LADDER, accuracy, 150),
    )


@pytest.fixture(scope="session")
def regression() -> ReportData:
    """An LSTM that forecasts a load: RMSE, lower is better, no classes, no pictures, not to be resolved."""
    rng = np.random.default_rng(8)

    def rmse(sparsity: float, precision: str) -> float:
        return float(
            0.0421 + 0.0008 * sparsity + 0.09 * max(0.0, sparsity - 0.9) ** 1.5 + (0.0002 if precision == "int8" else 0)
        )

    weights = 21_504
    ladder = points(LADDER, rmse, weights, 0.0442, higher=False)
    chosen = next(point for point in ladder if point.chosen)
    shapes = {
        "lstm.weight_ih_l0": (256, 20),
        "lstm.weight_hh_l0": (256, 64),
        "head.weight": (1, 64),
    }
    return ReportData(
        title="Load forecast, LSTM 64",
        task="tasks/load.py",
        command="isogrid optimize tasks/load.py --max-drop 5% --out 'runs/load & <more>'",
        created="2026-03-14T09:26:53+00:00",
        seed=3,
        versions={"isogrid": "0.1.0"},
        seconds=4213.0,
        metric=Metric("RMSE", higher_is_better=False, unit="kWh", percent=False),
        floor=Floor("5%", 0.0442, 0.0421),
        verdict=Verdict("unresolved", 0.0012, -0.0004, 0.0031, 0.0021, 640),
        dense=ModelSummary(
            0.0433,
            0.0421,
            None,
            0.0,
            0.0,
            weights + 600,
            weights + 600,
            89_000,
            "fp32",
            {"model.onnx": 92_000, "model.safetensors": 89_000},
        ),
        balance=ModelSummary(
            0.0445,
            chosen.metric,
            None,
            chosen.sparsity,
            chosen.sparsity_of_model,
            chosen.nonzeros + 600,
            weights + 600,
            chosen.bytes,
            chosen.precision,
            {"model.onnx": 2 * chosen.bytes, "model.safetensors": chosen.bytes},
        ),
        points=ladder,
        layers=[layer(name, shape, chosen.sparsity, rng) for name, shape in shapes.items()],
        activations=[],
        inputs=InputUse(rng.poisson(3.0, 20), None),
        classes=[],
        changes=None,
        history=history(LADDER, rmse, 400),
    )


@pytest.fixture(scope="session")
def deep() -> ReportData:
    """A vision network of 80 layers and 200 rungs, with long names, 100 classes, large pictures and a broken floor."""
    rng = np.random.default_rng(9)
    ladder_of_200 = 1 - np.logspace(0, -4, 200)

    def accuracy(sparsity: float, precision: str) -> float:
        return float(
            np.clip(
                0.81 - 0.7 * (sparsity**400) - (0.004 if precision == "int8" else 0) + rng.normal(0, 0.0007),
                0.01,
                1,
            )
        )

    weights = 25_557_032
    found = points(ladder_of_200, accuracy, weights, 0.8, higher=True)
    chosen = next(point for point in found if point.chosen)
    layers = [
        layer(
            f"backbone.stages.{i // 20}.blocks.{i % 20}.conv_{i % 3}.parametrizations.weight.original",
            (64, 64, 3, 3),
            float(np.clip(0.9 + 0.09 * np.sin(i / 6), 0, 1)),
            rng,
        )
        for i in range(80)
    ]
    image = (np.hypot(*np.meshgrid(np.arange(200) - 100, np.arange(160) - 80)) / 120).tolist()
    return ReportData(
        title="Eighty layers",
        task="imagenet-100",
        command="isogrid optimize imagenet-100",
        created="2026-03-14T09:26:53+00:00",
        seed=1,
        versions={"isogrid": "0.1.0", "torch": "2.13.0"},
        seconds=86_400 * 3.2,
        metric=Metric("top-1 accuracy", higher_is_better=True, unit="pt", percent=True),
        floor=Floor("1pt", 0.8, 0.81),
        verdict=Verdict("broken", 0.021, 0.0152, 0.0268, 0.01, 10_000),
        dense=ModelSummary(
            0.804,
            0.81,
            0.93,
            0.0,
            0.0,
            weights,
            weights,
            4 * weights,
            "fp32",
            {"model.onnx": 4 * weights},
        ),
        balance=ModelSummary(
            0.783,
            chosen.metric,
            0.85,
            chosen.sparsity,
            chosen.sparsity_of_model,
            chosen.nonzeros,
            weights,
            chosen.bytes,
            chosen.precision,
            {"model.onnx": 2 * chosen.bytes},
        ),
        points=found,
        layers=layers,
        activations=[ActivationRow(row.name, 0.5, 0.5 + 0.3 * np.cos(i / 9) ** 2) for i, row in enumerate(layers)],
        inputs=InputUse(rng.poisson(np.linspace(0, 30, 224 * 224)), (224, 224)),
        classes=[ClassRow(f"class {i}, ein recht langer Name 名前", 100, 0.8, 0.8 - 0.001 * i) for i in range(100)],
        changes=Changes(
            7500,
            1700,
            290,
            510,
            [ChangedExample(i, "cat", "cat", "dog", image if i < 4 else None) for i in range(24)],
        ),
        history=[
            TrainingPoint(
                step,
                f"rung {step // 2000}" if step >= 8000 else "dense",
                1e3 * 0.999**step + 1e-3,
                None,
                min(0.99, step / 40_000),
            )
            for step in range(0, 40_000, 8)
        ],
    )


@pytest.fixture(params=["digits", "regression", "deep"])
def any_report(request: pytest.FixtureRequest) -> ReportData:
    """Each of the three in turn."""
    report: ReportData = request.getfixturevalue(request.param)
    return report
