"""The layers that are measured, and who takes part in each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.contest import CSR, Contestant, Entry, Goal, Work
from benchmarks.common.masks import random_mask
from benchmarks.rivals import ALL, Example, FeatureMajor, rival
from benchmarks.rivals.cache import forget, made
from benchmarks.rivals.ours import RIVAL as ISOGRID
from benchmarks.rivals.ours import VALUES, stored_weight

_TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.1}
"""Of the rivals, whose int8 rounds activations too; ours is compared with the weights as they are stored."""
_VALUE_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
_INDEX_BYTES = 2
FEATURE, TOKEN = "isogrid feature-major", "isogrid token-major"


@dataclass(frozen=True)
class Plan:
    """What the command line asked for."""

    threads: tuple[int, ...]
    sparsities: tuple[float, ...]
    rivals: tuple[str, ...] = ALL
    thorough: bool = True


@dataclass(frozen=True)
class Case:
    """A layer: its contestants are made when it is its turn, for they need memory."""

    name: str
    entries: Callable[[Plan], list[Entry]]
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Form:
    """The same work for a library: a module and its input, in one of the layouts that they may have."""

    model: nn.Module
    example: Example
    settled: bool = False
    """Whether one setting of each library is enough: others have shown before that they change nothing."""


@lru_cache(maxsize=16)
def linear(rows: int, columns: int, sparsity: float) -> nn.Linear:
    """A layer whose outputs are of order one at any sparsity; without a bias, which `W @ X` would need a pass for."""
    torch.manual_seed(0)
    layer = nn.Linear(columns, rows, bias=False).eval()
    with torch.no_grad():
        layer.weight.normal_(std=(columns * (1 - sparsity)) ** -0.5).mul_(
            random_mask(layer.weight.shape, sparsity, seed=1)
        )
    return layer.requires_grad_(False)


@lru_cache(maxsize=16)
def convolution(inputs: int, outputs: int, kernel: int, sparsity: float) -> nn.Conv2d:
    """The same for a convolution that keeps the size of its images."""
    torch.manual_seed(0)
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2).eval()
    with torch.no_grad():
        layer.weight.normal_(std=(inputs * kernel**2 * (1 - sparsity)) ** -0.5)
        layer.weight.mul_(random_mask(layer.weight.shape, sparsity, seed=1))
    return layer.requires_grad_(False)


def clear() -> None:
    """Let go of the layers and of all that was made of them."""
    linear.cache_clear()
    convolution.cache_clear()
    forget()


def _activations(*shape: int, zeros: float = 0.0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    return x * random_mask(x.shape, zeros, seed=3) if zeros else x


def _needs(weight: Tensor, positions: int, values: str = "fp32", dense: bool = False) -> Work:
    """Each weight is read once and used at every position; beside a nonzero's value its place is read too."""
    count = weight.numel() if dense else int(torch.count_nonzero(weight))
    size = 4 if dense else _VALUE_BYTES[values] + _INDEX_BYTES
    return Work(count * positions, count * size, 0 if dense else count)


def _against(
    plan: Plan, forms: Sequence[Form], baseline: Sequence[str], positions: int, wanted: Tensor,
    values: Sequence[str] = ("fp32",),
) -> list[Entry]:  # fmt: skip
    """The dense rivals in each form, with the weights of the dense layer: to them zeros are numbers like others."""
    found: list[Entry] = []
    for name in plan.rivals:
        if name == "csr":
            continue
        one = rival(name)
        for form in forms:
            for setting in one.settings(form.model, form.example, plan.thorough and not form.settled):
                if setting.values not in values:
                    continue
                title = one.name if setting.values == "fp32" else f"{one.name} {setting.values}"
                who = Contestant(title, None, False, setting.values == "fp32" and name in baseline, setting.values)
                work = _needs(form.model.weight, positions, dense=True) if setting.values == "fp32" else Work()
                found += [
                    Entry(
                        who, setting.label, threads, _later(one, form, threads, setting.values, dict(setting.options)),
                        wanted, _TOLERANCES[setting.values], work,
                    )
                    for threads in plan.threads
                ]  # fmt: skip
    return found


def _later(one: Any, form: Form, threads: int, values: str = "fp32", options: dict[str, Any] | None = None) -> Any:
    return lambda: one.prepare(form.model, form.example, threads, values, **(options or {}))


def _csr(plan: Plan, forms: Sequence[Form], sparsity: float, wanted: Tensor) -> list[Entry]:
    """MKL on the nonzeros; where nearly all are, nobody would ask for it and it takes long."""
    if "csr" not in plan.rivals or sparsity < 0.5:
        return []
    one = rival("csr")
    return [
        Entry(Contestant(CSR, sparsity), setting.label, threads, _later(one, form, threads), wanted)
        for form in forms
        for setting in one.settings(form.model, form.example, plan.thorough)
        for threads in plan.threads
    ]


def _ours(
    plan: Plan, name: str, form: Form, sparsity: float, positions: int, values: str = "fp32", **options: Any
) -> list[Entry]:
    """Compared with PyTorch on the weights as they are stored."""
    stored = form.model
    if values != "fp32":
        stored = copy.deepcopy(form.model)
        weight = torch.from_numpy(stored_weight(form.model.weight.flatten(1).numpy(), values))
        stored.weight.data = weight.reshape(form.model.weight.shape)
    with torch.no_grad():
        wanted = stored(*form.example)
    work = _needs(form.model.weight, positions, values)
    who = Contestant(name, sparsity, ours=True, values=values)
    return [
        Entry(who, "", threads, _later(ISOGRID, form, threads, values, options), wanted, work=work)
        for threads in plan.threads
    ]


def linear_case(
    rows: int,
    columns: int,
    samples: int,
    *,
    layouts: Sequence[str] = ("",),
    values: Sequence[str] = ("fp32",),
    settled: bool = False,
    goals: Sequence[Goal] = (),
) -> Case:
    """A linear layer: ours token-major, or in the layouts named; rivals in both, and their best counts.

    With `settled` rivals take part in float32 and in one setting each.
    """

    def forms(sparsity: float) -> list[Form]:
        layer = linear(rows, columns, sparsity)
        x = _activations(samples, columns)
        feature = made(layer, ("feature-major",), lambda: FeatureMajor(layer))
        return [Form(feature, (x.t().contiguous(),), settled), Form(layer, (x,), settled)]

    def entries(plan: Plan) -> list[Entry]:
        dense = forms(0.0)
        with torch.no_grad():
            wanted = dense[1].model(*dense[1].example)
        found = _against(plan, dense, ("eager",), samples, wanted, ("fp32",) if settled else VALUES)
        for sparsity in plan.sparsities:
            feature, token = forms(sparsity)
            with torch.no_grad():
                wanted = token.model(*token.example)
            found += _csr(plan, (feature, token), sparsity, wanted)
            for layout in layouts:
                form = feature if layout == FEATURE else token
                for stored in values:
                    name = layout or ISOGRID.name
                    found += _ours(
                        plan, name if stored == "fp32" else f"{name} {stored}", form, sparsity, samples, stored
                    )
        return found

    plural = "sample" if samples == 1 else "samples"
    return Case(f"linear {rows}x{columns}, {samples} {plural}", entries, tuple(goals))


def convolution_case(inputs: int, outputs: int, kernel: int, size: int, *, goals: Sequence[Goal] = ()) -> Case:
    """A convolution of one image; rivals also with channels last."""

    def forms(sparsity: float) -> list[Form]:
        layer = convolution(inputs, outputs, kernel, sparsity)
        x = _activations(1, inputs, size, size)
        last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
        return [Form(layer, (x,)), Form(last, (x.to(memory_format=torch.channels_last),), settled=True)]

    def entries(plan: Plan) -> list[Entry]:
        dense = forms(0.0)
        with torch.no_grad():
            wanted = dense[0].model(*dense[0].example)
        found = _against(plan, dense, plan.rivals, size * size, wanted)
        for sparsity in plan.sparsities:
            found += _ours(plan, ISOGRID.name, forms(sparsity)[0], sparsity, size * size)
        return found

    return Case(f"convolution {kernel}x{kernel}, {inputs} to {outputs}, {size}x{size}", entries, tuple(goals))


def structure_case(rows: int, columns: int, samples: int) -> Case:
    """Patterns whose structure must pay, beside as many zeros that have none; many samples feature-major."""
    plain, nofm = "isogrid unstructured", "isogrid NofM(2, of 8)"
    blocks = {4: "isogrid Block(4, 1)", 8: "isogrid Block(8, 1)"}

    def entries(plan: Plan) -> list[Entry]:
        from isogrid.patterns import Block, NofM

        found: list[Entry] = []

        def enter(name: str, layer: nn.Linear, sparsity: float, values: str = "fp32") -> None:
            x = _activations(columns, samples)
            form = Form(layer, (x.t().contiguous(),)) if samples == 1 else Form(FeatureMajor(layer), (x,))
            name = name if values == "fp32" else f"{name} {values}"
            found.extend(_ours(plan, name, form, sparsity, samples, values))

        stored = VALUES if samples == 1 else ("fp32",)
        for sparsity in (0.75, 0.8, 0.9, 0.95):
            for values in stored:
                enter(plain, linear(rows, columns, sparsity), sparsity, values)
        patterns = [
            *((name, Block(size, 1), s) for size, name in blocks.items() for s in (0.8, 0.9, 0.95)),
            (nofm, NofM(keep=2, of=8), 0.75),
        ]
        for name, pattern, sparsity in patterns:
            layer = copy.deepcopy(linear(rows, columns, 0.0))
            scores = layer.weight.abs().numpy()
            step = pattern.grid(scores.shape).step
            mask = pattern.mask(scores, round((1 - sparsity) * scores.size / step) * step)
            layer.weight.mul_(torch.from_numpy(mask) * (1 - sparsity) ** -0.5)
            for values in stored:
                enter(name, layer, sparsity, values)
        return found

    goals = (
        *(Goal(name, 0.9, 1.3, (plain,), 0.9) for name in blocks.values()),
        Goal(nofm, 0.75, 1.0, (plain,), 0.75),
    )
    plural = "sample" if samples == 1 else "samples"
    return Case(f"structure, linear {rows}x{columns}, {samples} {plural}", entries, goals)


def zero_inputs_case(rows: int, columns: int, sparsity: float, zeros: float) -> Case:
    """One sample most of whose activations are zero."""
    dense, plain, skipping = (
        f"isogrid, {what}" for what in ("dense input", f"{100 * zeros:g} % zero input", "the same, skip_zeros")
    )

    def entries(plan: Plan) -> list[Entry]:
        layer = linear(rows, columns, sparsity)
        full, empty = _activations(1, columns), _activations(1, columns, zeros=zeros)
        return [
            *_ours(plan, dense, Form(layer, (full,)), sparsity, 1),
            *_ours(plan, f"{dense}, skip_zeros", Form(layer, (full,)), sparsity, 1, skip_zeros=True),
            *_ours(plan, plain, Form(layer, (empty,)), sparsity, 1),
            *[
                Entry(e.contestant, e.setting, e.threads, e.prepare, e.wanted, e.tolerance)
                for e in _ours(plan, skipping, Form(layer, (empty,)), sparsity, 1, skip_zeros=True)
            ],
        ]

    goals = (Goal(skipping, sparsity, 2.0, (dense,), sparsity),)
    return Case(f"zero inputs, linear {rows}x{columns}, 1 sample", entries, goals)


def _at(name: str, least: dict[float, float]) -> tuple[Goal, ...]:
    return tuple(Goal(name, sparsity, times) for sparsity, times in least.items())


def _over_csr(name: str, least: float, sparsities: Sequence[float]) -> tuple[Goal, ...]:
    return tuple(Goal(name, sparsity, least, (CSR,), sparsity) for sparsity in sparsities)


def cases() -> list[Case]:
    """All of them; those that share weights follow one another."""
    middle = (0.8, 0.9, 0.95)
    return [
        linear_case(
            3072, 768, 128,
            layouts=(FEATURE, TOKEN),
            goals=(
                *_at(FEATURE, {0.8: 4, 0.9: 7, 0.95: 12, 0.99: 40}),
                *_over_csr(FEATURE, 3, middle),
                *(Goal(TOKEN, s, 0.85, (FEATURE,), s) for s in middle),
                *_at(TOKEN, {0.99: 25}),
            ),
        ),
        structure_case(3072, 768, 128),
        structure_case(4096, 4096, 1),
        convolution_case(256, 256, 3, 14, goals=_at(ISOGRID.name, {0.9: 5})),
        convolution_case(64, 256, 1, 56),
        convolution_case(512, 128, 1, 28),
        convolution_case(256, 1024, 1, 14),
        convolution_case(2048, 512, 1, 7),
        linear_case(
            4096, 4096, 1,
            values=("fp32", "fp16", "int8"),
            goals=(
                *_at("isogrid", {0.9: 10}),
                *_at("isogrid int8", {0.9: 13}),
                *_over_csr("isogrid", 3, (0.9,)),
            ),
        ),
        *(linear_case(4096, 4096, samples, settled=samples < 64) for samples in (2, 4, 8, 16, 64)),
        zero_inputs_case(4096, 4096, 0.9, 0.9),
    ]  # fmt: skip
