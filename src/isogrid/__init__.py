"""Isogrid: small, fast neural networks that hold an accuracy you name.

Names are loaded when they are first used: ``import isogrid`` needs neither torch nor keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isogrid.activations import (
        SparseReLU as SparseReLU,
        SparseTanh as SparseTanh,
        TopK as TopK,
        sparse_relu as sparse_relu,
        sparse_tanh as sparse_tanh,
        top_k as top_k,
    )
    from isogrid.activity import measure as measure
    from isogrid.distillation import Distiller as Distiller
    from isogrid.flops import count_flops as count_flops
    from isogrid.formats.model import load as load, save as save
    from isogrid.runtime.exporting import export as export
    from isogrid.frontier import optimize as optimize
    from isogrid.frontier.fit import fit as fit
    from isogrid.inspection import inspect as inspect
    from isogrid.metrics import Metric as Metric, Outcomes as Outcomes
    from isogrid.penalties import L1 as L1, L2 as L2, ElasticNet as ElasticNet, GroupLasso as GroupLasso
    from isogrid.precision import quantize as quantize
    from isogrid.runtime.compiler import compile as compile  # noqa: A004
    from isogrid.sparsify import (
        ALPS as ALPS,
        ACDC as ACDC,
        IMP as IMP,
        SET as SET,
        Aware as Aware,
        Gradual as Gradual,
        HardConcrete as HardConcrete,
        Movement as Movement,
        KeepZeros as KeepZeros,
        OneShot as OneShot,
        Regularized as Regularized,
        RigL as RigL,
        SoftMovement as SoftMovement,
        SoftThreshold as SoftThreshold,
        SparseGPT as SparseGPT,
        Sparsifier as Sparsifier,
        Static as Static,
        TopKAST as TopKAST,
        Trigger as Trigger,
        Wanda as Wanda,
        prune as prune,
        reestimate_batch_norm as reestimate_batch_norm,
    )
    from isogrid.structure import shrink as shrink
    from isogrid.sparsify.sensitivity import sensitivity as sensitivity
    from isogrid.tasks import ClassificationTask as ClassificationTask, Recipe as Recipe, Task as Task

__version__ = "0.1.0"

_PLACES = {
    "Sparsifier": "sparsify",
    "prune": "sparsify",
    "sensitivity": "sparsify.sensitivity",
    "Gradual": "sparsify",
    "KeepZeros": "sparsify",
    "Static": "sparsify",
    "Trigger": "sparsify",
    "Aware": "sparsify",
    "Regularized": "sparsify",
    "SET": "sparsify",
    "RigL": "sparsify",
    "ACDC": "sparsify",
    "IMP": "sparsify",
    "TopKAST": "sparsify",
    "Movement": "sparsify",
    "SoftMovement": "sparsify",
    "SoftThreshold": "sparsify",
    "HardConcrete": "sparsify",
    "OneShot": "sparsify",
    "Wanda": "sparsify",
    "SparseGPT": "sparsify",
    "ALPS": "sparsify",
    "reestimate_batch_norm": "sparsify",
    "shrink": "structure",
    "L1": "penalties",
    "L2": "penalties",
    "ElasticNet": "penalties",
    "GroupLasso": "penalties",
    "SparseReLU": "activations",
    "SparseTanh": "activations",
    "TopK": "activations",
    "sparse_relu": "activations",
    "sparse_tanh": "activations",
    "top_k": "activations",
    "measure": "activity",
    "count_flops": "flops",
    "Distiller": "distillation",
    "quantize": "precision",
    "save": "formats.model",
    "load": "formats.model",
    "export": "runtime.exporting",
    "inspect": "inspection",
    "compile": "runtime.compiler",
    "fit": "frontier.fit",
    "optimize": "frontier",
    "Recipe": "tasks",
    "Task": "tasks",
    "ClassificationTask": "tasks",
    "Metric": "metrics",
    "Outcomes": "metrics",
}
"""Where each public name lives."""

_NEEDS = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "matplotlib": "report",
    "jinja2": "report",
    "sklearn": "tasks",
}
"""The extra that brings an optional library."""


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'isogrid' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"isogrid.{place}"), name)
    except ModuleNotFoundError as problem:
        library = (problem.name or "").partition(".")[0]
        if library not in _NEEDS:
            raise
        from isogrid.errors import MissingDependencyError

        raise MissingDependencyError(
            f"isogrid.{name} needs {library}, which is not installed; "
            f"install it with: pip install 'isogrid[{_NEEDS[library]}]'."
        ) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
