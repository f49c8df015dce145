"""What a run leaves behind: the frontier as it grows, the models, the report, and last of all the result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isogrid.errors import FormatError
from isogrid.floor import Floor
from isogrid.formats.files import write_atomically
from isogrid.formats.numbers import Values
from isogrid.frontier.answers import changes, class_rows
from isogrid.frontier.climb import Found
from isogrid.frontier.confirm import confirm
from isogrid.frontier.phases import Trained
from isogrid.frontier.points import FrontierPoint, Minimize, balance_point, to_csv, to_json, unbeaten
from isogrid.frontier.rundir import RunDirectory
from isogrid.frontier.speed import measure_speed, write_packed
from isogrid.frontier.workshop import Workshop
from isogrid.inspection import inspect
from isogrid.metrics import Outcomes, value_of
from isogrid.report import data as report_data
from isogrid.report.data import ModelSummary, ReportData
from isogrid.report.html import write_html


class Writer:
    """Writes one run's files."""

    def __init__(self, run: RunDirectory, workshop: Workshop, floor: Floor, minimize: Minimize) -> None:
        self._run, self._workshop = run, workshop
        self._metric = workshop.metric
        self._floor, self._minimize = floor, minimize

    def write_frontier(self, found: Found) -> None:
        """``frontier.json`` and ``frontier.csv`` of what is measured so far."""
        chosen = balance_point(found.points, self._minimize, self._metric)
        on = unbeaten(found.points, self._minimize, self._metric)
        self._run.write_json("frontier.json", to_json(found.points, chosen, on))
        write_atomically(self._run.path / "frontier.csv", to_csv(found.points, chosen, on))

    def finish(self, found: Found, about: Mapping[str, Any], started: float) -> tuple[ReportData, Any]:
        """Confirm the balance point, write the models, check the written files, write the report and the result."""
        chosen = balance_point(found.points, self._minimize, self._metric)
        balanced = found.trained[chosen.phase]
        dense = self._workshop.at_precision(found.dense, "fp32")
        sparse = self._workshop.at_precision(balanced, chosen.precision)
        dense_files = self._workshop.save_dense(dense, self._run.path)
        files = self._workshop.save_balance(sparse, chosen.precision, self._run.path)
        speed = self._pack_and_time(dense, chosen.precision, files)
        self._check_counts(chosen)
        on_test = self._measure(dense, "test"), self._measure(sparse, "test")
        verdict = confirm(self._metric, self._floor, *on_test)
        first, seen = found.points[0], self._workshop.findings(dense, sparse)
        report = ReportData(
            **about,
            seconds=round(self._workshop.earlier + time.monotonic() - started, 3),
            metric=self._metric,
            floor=report_data.Floor(text=self._floor.text, limit=found.limit, baseline=found.baseline),
            verdict=verdict,
            dense=self._summary(first, dense, on_test[0], dense_files),
            balance=self._summary(chosen, sparse, on_test[1], files),
            points=self._points(found, chosen),
            layers=seen.layers,
            activations=seen.activations,
            inputs=seen.inputs,
            **self._classes(*on_test),
            history=[report_data.TrainingPoint(**point) for point in self._workshop.history],
            speed=speed,
            training=self._training(found.dense, balanced),
        )
        write_atomically(self._run.path / "report.json", report.to_json().encode())
        write_html(report, self._run.path / "report.html")
        self._run.write_json("result.json", self._result(report, found.dense, balanced))
        return report, sparse

    # -- files -------------------------------------------------------------------------------------------------------

    def _pack_and_time(self, dense: Any, precision: Values, files: dict[str, int]) -> report_data.Speed | None:
        """Write the packed model, where it gains, and time what there is."""
        source, packed = self._run.path / "model.onnx", self._run.path / "model.packed.onnx"
        example = self._workshop.example()
        size = write_packed(source, packed, precision, example)
        timed = {"sparse": source}
        if size is not None:
            files[packed.name] = size
            timed["packed"] = packed
        return measure_speed(lambda path: self._workshop.export(dense, path), timed, example)

    def _check_counts(self, chosen: FrontierPoint) -> None:
        """The zeros in the written file must be those that the report states."""
        path: Path = self._run.path / "model.safetensors"
        counted = inspect(path)
        for name in ("sparsity", "sparsity_of_model", "nonzeros", "bytes"):
            if getattr(counted, name) != getattr(chosen, name):
                raise FormatError(
                    f"{path} holds {name} = {getattr(counted, name)}, and {getattr(chosen, name)} was measured in "
                    "memory; the file is not trusted."
                )

    # -- the report's parts ------------------------------------------------------------------------------------------

    def _measure(self, model: Any, split: str) -> Outcomes | float | None:
        """The metric on a split, None where the task has no such split."""
        return self._workshop.measure(model, split) if self._workshop.has(split) else None

    def _summary(
        self, point: FrontierPoint, model: Any, on_test: Outcomes | float | None, files: Mapping[str, int]
    ) -> ModelSummary:
        return ModelSummary(
            test_metric=_value(on_test),
            validation_metric=point.metric,
            train_metric=_value(self._measure(model, "train")),
            sparsity=point.sparsity,
            sparsity_of_model=point.sparsity_of_model,
            nonzeros=point.nonzeros,
            parameters=self._workshop.parameters(model),
            bytes=min(files.values()),
            precision=point.precision,
            files=dict(files),
        )

    def _points(self, found: Found, chosen: FrontierPoint) -> list[report_data.Point]:
        on = unbeaten(found.points, self._minimize, self._metric)
        points = []
        for point, flag in zip(found.points, on, strict=True):
            values = dataclasses.asdict(point)
            del values["phase"]
            points.append(report_data.Point(**values, chosen=point == chosen, on_frontier=flag))
        return points

    def _classes(self, dense: Outcomes | float | None, sparse: Outcomes | float | None) -> dict[str, Any]:
        if not isinstance(dense, Outcomes) or not isinstance(sparse, Outcomes):
            return {"classes": [], "changes": None}
        return {
            "classes": class_rows(self._workshop, dense, sparse),
            "changes": changes(self._workshop, dense, sparse),
        }

    def _training(self, dense: Trained, balanced: Trained) -> report_data.TrainingCost | None:
        run = self._workshop.flops
        if dense.flops is None or balanced.flops is None or run is None:
            return None
        return report_data.TrainingCost(dense=dense.flops, balance=balanced.flops, run=run)

    def _result(self, report: ReportData, dense: Trained, balanced: Trained) -> dict[str, Any]:
        """``result.json``: the same bytes for the same run, so nothing of when and how fast."""
        return {
            "task": self._workshop.name,
            "metric": report.metric.name,
            "floor": dataclasses.asdict(report.floor),
            "verdict": dataclasses.asdict(report.verdict),
            "minimize": self._minimize,
            "seed": report.seed,
            "dense": self._numbers(report.dense, dense),
            "balance": self._numbers(report.balance, balanced),
        }

    def _numbers(self, summary: ModelSummary, trained: Trained) -> dict[str, Any]:
        numbers = {
            "test_metric": summary.test_metric,
            "validation_metric": summary.validation_metric,
            "train_metric": summary.train_metric,
            "sparsity": summary.sparsity,
            "sparsity_of_model": summary.sparsity_of_model,
            "nonzeros": summary.nonzeros,
            "parameters": summary.parameters,
            "bytes": summary.bytes,
            "precision": summary.precision,
            "files": dict(summary.files),
            "steps_in_last_phase": trained.steps,
            "training_flops": trained.flops,
        }
        if self._metric.name == "accuracy":
            numbers = {"test_accuracy": summary.test_metric, **numbers}
        return numbers


def _value(measured: Outcomes | float | None) -> float | None:
    return None if measured is None else value_of(measured)
