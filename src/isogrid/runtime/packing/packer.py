"""`pack`: a sparse ONNX model on the native kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from isogrid.errors import FormatError, IsogridError, UnsupportedError, UsageError, first_line
from isogrid.formats.numbers import Values, parse_values
from isogrid.runtime.packing.choosing import Decision, check_choices, decide, read_choices
from isogrid.runtime.packing.constants import Constants
from isogrid.runtime.packing.examples import (
    Examples,
    Feeds,
    measure_shapes,
    read_inputs,
    run_original,
    with_outputs,
)
from isogrid.runtime.packing.files import Draft, Source, load_external, read_model, set_metadata, to_proto
from isogrid.runtime.packing.finding import find_layers
from isogrid.runtime.packing.fusing import fuse
from isogrid.runtime.packing.layer import Layer, Left, Shape
from isogrid.runtime.packing.replacing import DOMAIN, Replacer, pack_weight
from isogrid.runtime.packing.report import NodeReport, PackReport
from isogrid.runtime.packing.running import difference, open_model, runner
from isogrid.runtime.packing.tidying import remove_unused, tidy
from isogrid.runtime.packing.tuning import tune as tune_choices
from isogrid.runtime.packing.unpacking import unpacked
from isogrid.versions import versions

TOLERANCE = 1e-4
"""By how much of its largest number an output may differ from the original's."""

_NOTHING = "No layer has enough zeros to gain from; the model is written as it was."
_NOTHING_PACKABLE = "No layer that can be packed has enough zeros to gain from; the model is written as it was."

_SAME_ANSWERS = (
    "The model answers the same on different random inputs, so that comparing them says little; "
    "give real ones (--inputs)."
)


def pack(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    values: Values = "fp32",
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: str | os.PathLike[str] | None = None,
    choices: Mapping[str, str] | str | os.PathLike[str] | None = None,
    tune: bool = False,
) -> PackReport:
    """Write an ONNX model with its sparse layers as operators that run on the native kernels.

    Batch norms, biases, residual additions and activations are fused with the products before them.  A layer that
    would not gain stays as it is.  The file is written once its outputs have been found equal to the original's; the
    same model and options give the same bytes.

    Args:
        source: an ``.onnx`` file, opset 13 or newer.
        target: the file to write; weights above 2 GB go to a second one, ``TARGET.data``.
        values: ``"fp32"`` keeps every weight exactly; ``"fp16"`` and ``"int8"`` (with a scale for each row) round those
            of packed layers.  Arithmetic is float32 in any case.
        batch: samples a call, for which speed is judged, where the model leaves that open: in the axes that are named
            after the batch, or else the first ones.
        shapes: whole shapes of inputs by name, where others than these sizes should be assumed: 1 for a batch, 224 for
            images, 128 for lengths.
        inputs: real inputs, an ``.npz`` file with an array for each input, which the results are also compared on.
        choices: decisions by layer, or a JSON file of them, which stand against the cost model.
        tune: decide by the clock instead: the whole model is timed with and without groups of layers.

    Raises:
        UsageError: no such file, unknown values or choices, or the model does not run on the assumed shapes.
        UnsupportedError: an operator set that is too old; a weight that cannot be rounded.
        FormatError: a damaged file, or results that differ from the original's; nothing is written.
        RunError: the file cannot be written.

    >>> import tempfile
    >>> import numpy as np
    >>> weight = onnx.numpy_helper.from_array(np.eye(512, dtype=np.float32), "weight")
    >>> x, y = (onnx.helper.make_tensor_value_info(name, 1, ["batch", 512]) for name in "xy")
    >>> node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])
    >>> graph = onnx.helper.make_graph([node], "g", [x], [y], [weight])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     onnx.save(onnx.helper.make_model(graph), folder + "/dense.onnx")
    ...     report = pack(folder + "/dense.onnx", folder + "/packed.onnx", batch=16)
    >>> report.nodes[0].choice, report.bytes_before // report.bytes_after
    ('sparse', 460)
    """
    if batch < 1:
        raise UsageError(f"batch got {batch}; accepted is 1 or more.")
    job = _Job(read_model(source), Path(target), parse_values(values))
    job.look(read_choices(choices))
    job.try_out(batch, shapes, inputs)
    chosen = job.choose(tune)
    return job.write(chosen, _command(values, batch, shapes, inputs, choices, tune))


@dataclass
class _Trial:
    """Inputs, and what the original answers."""

    feeds: Feeds
    expected: list[Any]


class _Job:
    """One call of `pack`."""

    def __init__(self, source: Source, target: Path, values: Values) -> None:
        self.source, self.target, self.values = source, target, values
        self.notes: list[str] = []

    def look(self, told: Mapping[str, str]) -> None:
        """Find the layers."""
        if any(entry.domain == DOMAIN for entry in self.source.proto.opset_import):
            raise UnsupportedError(f"{self.source.path} is packed already; isogrid unpack gives back the original.")
        self.model = tidy(self.source.model())
        self.constants = Constants(self.model)
        self.defaults = Constants(self.model, defaults=True)
        self.found = find_layers(self.model, self.constants)
        self.told = told
        check_choices(told, self.found)
        self.layers = [layer for layer in self.found if isinstance(layer, Layer)]

    def try_out(
        self, batch: int, shapes: Mapping[str, Sequence[int]] | None, inputs: str | os.PathLike[str] | None
    ) -> None:
        """Run the original on inputs of two batch sizes, and see what shapes its values have."""
        examples = Examples(self.model, self.constants, batch, shapes)
        given = None if inputs is None else read_inputs(inputs, examples.inputs)
        if given is not None:
            examples = Examples(self.model, self.constants, batch, {name: given[name].shape for name in given})
        with Draft(self.source.copy(), self.target, self.source.path.parent) as draft:
            run = runner(draft.model)
            self.trials = []
            if given is not None:
                self.trials.append(_Trial(given, run_original(run, given, given=True)))
            for seed in (0, 1):
                feeds = examples.draw(seed, seed if examples.batches else 0)
                try:
                    self.trials.append(_Trial(feeds, run_original(run, feeds, given=False)))
                except UsageError:
                    # Where there are real inputs, drawn ones need not make sense to the model.
                    if given is None:
                        raise
            if given is None and difference(run(examples.draw(2)), self.trials[0].expected) < TOLERANCE:
                self.notes.append(_SAME_ANSWERS)
        self.shapes = self._shapes(self.trials[0].feeds)

    def _shapes(self, feeds: Feeds) -> dict[str, Shape]:
        wanted = {name: tuple(array.shape) for name, array in feeds.items()}
        asked = sorted(
            {
                value.name
                for layer in self.layers
                for value in (layer.x, layer.node.outputs[0])
                if value.name and value.name not in wanted and layer.kind != "embedding"
            }
        )
        if not asked:
            return wanted
        proto = with_outputs(to_proto(self.model), asked)
        with Draft(proto, self.target, self.source.path.parent) as draft:
            return wanted | measure_shapes(draft.model, asked, feeds)

    def choose(self, tune: bool) -> dict[str, Decision]:
        """Decide, and fuse what follows the chosen layers."""
        sizes = {}
        for layer in self.layers:
            if layer.kind == "embedding":
                before = sum(map(self.constants.stored_bytes, layer.weights))
                sizes[layer.name] = before, len(pack_weight(layer.load()[0], self.values, layer.name)[0])
        decisions = decide(self.layers, self.shapes, sizes, self.told)
        if tune:
            decisions, note = tune_choices(self.layers, decisions, self._timed, self.told)
            self.notes.append(note)
        return decisions

    def _timed(self, chosen: frozenset[str]) -> Callable[[], Any]:
        """A call of the model with these layers packed, on the first inputs."""
        proto = self.replaced(chosen, self.values)[0] if chosen else self.source.copy()
        with Draft(proto, self.target, self.source.path.parent) as draft:
            session = open_model(draft.model, packed=True, threads=0)
        feeds = self.trials[0].feeds
        return lambda: session.run(None, feeds)

    def write(self, decisions: Mapping[str, Decision], command: str) -> PackReport:
        """Pack the chosen layers, compare, and write the file."""
        chosen = {name for name, decision in decisions.items() if decision.sparse}
        worst = 0.0
        packed: dict[str, tuple[int, Values]] = {}
        if not chosen:
            self.notes.insert(0, _NOTHING if len(self.layers) == len(self.found) else _NOTHING_PACKABLE)
            proto = self.source.copy()
        else:
            proto, packed, worst = self._packed(chosen)
        set_metadata(proto, self._provenance(command))
        with Draft(proto, self.target, self.source.path.parent) as draft:
            size = draft.bytes
            if chosen:
                worst = max(worst, self._compare(draft.model, self.trials, "the original"))
            draft.publish()
        nodes = tuple(self._report(layer, decisions, packed) for layer in self.found)
        return PackReport(
            self.source.path, self.target, self.values, nodes, self.source.bytes, size, worst, tuple(self.notes)
        )

    def replaced(self, chosen: Iterable[str], values: Values) -> tuple[onnx.ModelProto, dict[str, tuple[int, Values]]]:
        """A model whose chosen layers are operators of ours, and the bytes and number formats of their weights."""
        model = tidy(self.source.model())
        constants = Constants(model)
        wanted = set(chosen)
        layers = [layer for layer in find_layers(model, constants) if isinstance(layer, Layer) and layer.name in wanted]
        taken: set[ir.Node] = {layer.node for layer in layers}
        for layer in layers:
            fuse(layer, constants, taken)
        self._fused = {layer.name: layer.fused for layer in layers}
        replacer = Replacer(model, values)
        packed = {layer.name: replacer.replace(layer) for layer in layers}
        remove_unused(model)
        proto = to_proto(model, self.source.sparse)
        load_external(proto, self.source.path.parent)
        return proto, packed

    def _packed(self, chosen: set[str]) -> tuple[onnx.ModelProto, dict[str, tuple[int, Values]], float]:
        """The packed model, after it was compared with the original as far as rounding does not stand between them."""
        proto, packed = self.replaced(chosen, "fp32")
        if self.values == "fp32":
            return proto, packed, 0.0
        with Draft(proto, self.target, self.source.path.parent) as draft:
            worst = self._compare(draft.model, self.trials, "the original")
        proto, packed = self.replaced(chosen, self.values)
        rounded = unpacked(proto)
        with Draft(rounded, self.target, self.source.path.parent) as draft:
            run = runner(draft.model)
            self.trials = [_Trial(trial.feeds, run(trial.feeds)) for trial in self.trials]
        return proto, packed, worst

    def _compare(self, model: bytes | str, trials: Sequence[_Trial], what: str) -> float:
        try:
            run = runner(model, packed=True)
            worst = max(difference(run(trial.feeds), trial.expected) for trial in trials)
        except IsogridError:
            raise
        except Exception as problem:
            raise FormatError(
                f"The packed model cannot be run, so nothing was written: {first_line(problem)}."
            ) from None
        if not worst <= TOLERANCE:
            raise FormatError(
                f"The packed model would differ from {what} by {worst:.2g} of the largest output, and at most "
                f"{TOLERANCE:g} is accepted, so nothing was written; please report this model."
            )
        return worst

    def _provenance(self, command: str) -> dict[str, str]:
        known = versions()
        libraries = ("numpy", "onnx", "onnxruntime", "onnxscript")
        return {
            "isogrid.version": known["isogrid"],
            "isogrid.packed.command": command,
            "isogrid.packed.source": f"sha256:{self.source.sha256}",
            "isogrid.packed.values": self.values,
            "isogrid.packed.versions": ", ".join(f"{name} {known[name]}" for name in libraries if name in known),
        }

    def _report(
        self, layer: Layer | Left, decisions: Mapping[str, Decision], packed: Mapping[str, tuple[int, Values]]
    ) -> NodeReport:
        before = sum(map(self.constants.stored_bytes, layer.weights))
        if isinstance(layer, Left):
            sparsity = _sparsity(layer, self.defaults)
            return NodeReport(
                layer.name, layer.kind, layer.shape, sparsity, 0, before, before, None, "dense", "", "", layer.reason
            )
        decision = decisions[layer.name]
        work = layer.work(self.shapes)
        after, values = packed.get(layer.name, (before, ""))
        return NodeReport(
            layer.name, layer.kind, layer.shape, 1 - layer.nonzeros / layer.parameters,
            0 if work is None else work.macs * layer.calls(self.shapes), before, after, decision.gain,
            "sparse" if decision.sparse else "dense", values, self._fused[layer.name] if decision.sparse else "",
            decision.reason,
        )  # fmt: skip


def _sparsity(layer: Left, constants: Constants) -> float:
    arrays = [array for array in map(constants.array, layer.weights) if array is not None]
    size = sum(array.size for array in arrays)
    return sum(int((array == 0).sum()) for array in arrays) / size if size else 0.0


def _command(
    values: str, batch: int, shapes: Mapping[str, Sequence[int]] | None, inputs: Any, choices: Any, tune: bool
) -> str:
    """The options of the command that would do the same; where files lie is nobody else's business."""
    parts = ["isogrid pack", f"--values {values}", f"--batch {batch}"]
    parts += [f"--shape {name}={'x'.join(map(str, shape))}" for name, shape in sorted((shapes or {}).items())]
    parts += ["--inputs"] * (inputs is not None) + ["--choices"] * (choices is not None) + ["--tune"] * tune
    return " ".join(parts)
