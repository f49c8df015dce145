"""One training: a method, a sparsity, a seed, and a number of epochs that all count."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import isogrid as ig
from benchmarks.methods.plan import Setting
from isogrid.distillation import distillation_loss
from isogrid.frontier.training import calibration_batches, rate_at, seed_everything
from isogrid.masks import count_zeros, find_targets
from isogrid.schedules import Schedule, parse_schedule
from isogrid.sparsify import Method, Usage, parse_method
from isogrid.tasks import ClassificationTask, Split, Task


def train(
    task: Task, setting: Setting, sparsity: float, epochs: int, seed: int, splits: Sequence[Split]
) -> dict[str, float]:
    """The metric on each of `splits`, and the zeros; what is measured is what the last step has left."""
    model = trained(task, setting, sparsity, epochs, seed)
    with torch.no_grad():
        found = {split: task.evaluate(model, split) for split in splits}
    values = {str(name): one if isinstance(one, float) else one.value for name, one in found.items()}
    return {**values, "sparsity": count_zeros(model)["sparsity"]}


def trained(task: Task, setting: Setting, sparsity: float, epochs: int, seed: int) -> nn.Module:
    """The model after one training, in eval mode."""
    if isinstance(task, ClassificationTask):
        task.batch_size = setting.batch  # type: ignore[misc]
    seed_everything(seed, "model", 0)
    model = task.model()
    method = None
    if setting.method not in ("dense", "torch.prune"):
        method = parse_method(setting.method, sparsity=sparsity, **setting.options)
    teacher = None
    dense_epochs = round(setting.teacher * epochs)
    if dense_epochs:
        _loop(task, model, setting, dense_epochs, seed, "dense")
        teacher = copy.deepcopy(model).eval()
        if method is not None and method.usage is Usage.RESTART:
            seed_everything(seed, "model", 0)
            model = task.model()
    if setting.method == "torch.prune":
        _loop(task, model, setting, epochs, seed, "sparse", rival=sparsity)
    elif method is not None and method.usage is Usage.AFTER:
        model.load_state_dict(_dense(task, setting, epochs, seed))
        data = calibration_batches(task, seed) if method.needs_data else None
        ig.prune(model.eval(), method, data=data, forward=task.forward, loss=task.loss, seed=seed)
    else:
        _loop(task, model, setting, epochs - dense_epochs, seed, "sparse", method=method, teacher=teacher)
    return model.eval()


_AVERAGED = 0.15
"""Share of the training whose weights are averaged, where they are.

The masks of gradual methods and of AC/DC are final by then.
"""

_DENSE: dict[tuple[str, str, int, int], Mapping[str, torch.Tensor]] = {}


def _dense(task: Task, setting: Setting, epochs: int, seed: int) -> Mapping[str, torch.Tensor]:
    """The weights that all methods after training begin with: dense training knows neither them nor the sparsity."""
    setting = replace(setting, method="dense", options={})
    key = task.name, setting.key, epochs, seed
    if key not in _DENSE:
        seed_everything(seed, "model", 0)
        model = task.model()
        _loop(task, model, setting, epochs, seed, "dense")
        _DENSE[key] = model.state_dict()
    return _DENSE[key]


def _loop(
    task: Task,
    model: nn.Module,
    setting: Setting,
    epochs: int,
    seed: int,
    phase: str,
    *,
    method: Method | None = None,
    teacher: nn.Module | None = None,
    rival: float | None = None,
) -> None:
    optimizer = torch.optim.SGD(
        model.parameters(), lr=setting.lr, momentum=0.9, nesterov=True, weight_decay=setting.weight_decay
    )
    total = epochs * task.steps_per_epoch()
    sparsifier = None
    if method is not None:
        data = calibration_batches(task, seed) if method.needs_data else None
        sparsifier = ig.Sparsifier(
            model, method, optimizer=optimizer, total_steps=total, seed=seed, data=data, forward=task.forward,
            loss=task.loss,
        )  # fmt: skip
    other = None
    if rival is not None:
        ramp = parse_schedule(setting.options.get("schedule", "cubic:0..0.75"))
        other = _TorchPruning(model, rival, total, ramp)
    average = _Average(setting.average) if setting.average else None
    model.train()
    for step, batch in enumerate(_batches(task, epochs, seed, phase)):
        due = step if sparsifier is None else sparsifier.lr_step
        for group in optimizer.param_groups:
            group["lr"] = setting.lr * _rate(due, total, setting.rest)
        answer = task.forward(model, batch)
        loss = task.loss(answer, batch)
        if teacher is not None:
            with torch.no_grad():
                wanted = task.forward(teacher, batch)
            loss = (1 - setting.distill) * loss + setting.distill * distillation_loss(answer, wanted, 3.0)
        if sparsifier is not None:
            loss = loss + sparsifier.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if other is not None:
            other.after(step + 1)
        if average is not None and step + 1 > (1 - _AVERAGED) * total:
            average.after_step(model)
    if sparsifier is not None:
        sparsifier.finalize()
    if other is not None:
        other.finish()
    if average is not None:
        average.give(model)


def _rate(step: int, total: int, rest: float) -> float:
    """The learning rate as a share of its peak: the main job's warm-up and half a cosine, which here ends at `rest`."""
    share = rate_at(step, total)
    rising = step + 1 < total and share < rate_at(step + 1, total)
    return share if rising else rest + (1 - rest) * share


class _Average:
    """A moving average of the weights, which sees what the sparse model is after each step, and its zeros at the end.

    Weights that are zero in the last step's model are zero in what is given back (`Sparsifier.apply_to` does as much
    for a copy that a loop keeps itself).
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._values: dict[str, torch.Tensor] = {}

    def after_step(self, model: nn.Module) -> None:
        for name, value in _numbers(model):
            held = self._values.setdefault(name, value.clone())
            held.lerp_(value, 1 - self._decay)

    def give(self, model: nn.Module) -> None:
        """Put the average into `model`, whose zeros stay."""
        targets = {target.name for target in find_targets(model)}
        for name, value in _numbers(model):
            zeros = value == 0
            value.copy_(self._values[name])
            if name in targets:
                value.masked_fill_(zeros, 0)


def _numbers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and the statistics of norms; of a weight that the rival holds behind a mask, the one behind it."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point() and not name.endswith("_mask"):
            yield name.removesuffix("_orig"), value.detach()


def _batches(task: Task, epochs: int, seed: int, phase: str) -> Iterator[Any]:
    for epoch in range(epochs):
        seed_everything(seed, phase, epoch)
        yield from task.batches()


class _TorchPruning:
    """PyTorch's own global magnitude pruning on the ramp of Zhu and Gupta."""

    def __init__(self, model: nn.Module, sparsity: float, total: int, ramp: Schedule) -> None:
        names = {target.name.removesuffix(".weight") for target in find_targets(model)}
        self._layers = [(module, "weight") for name, module in model.named_modules() if name in names]
        for layer, _ in self._layers:  # it refuses weights in the order channels last
            layer.weight.data = layer.weight.data.contiguous()
        self._sparsity, self._total = sparsity, total
        self._ramp, self._every = ramp, max(1, total // 100)

    def after(self, step: int) -> None:
        progress = step / self._total
        if step % self._every and progress < 1:
            return
        if progress > self._ramp.end + self._every / self._total:
            return
        goal = self._ramp.value(min(progress, self._ramp.end), 0.0, self._sparsity)
        size = sum(layer.weight.numel() for layer, _ in self._layers)
        zero = sum(int((layer.weight == 0).sum()) for layer, _ in self._layers)
        more = round(goal * size) - zero
        if more > 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Masks are combined with those before: the amount is of what is not pruned yet.
                torch_prune.global_unstructured(self._layers, torch_prune.L1Unstructured, amount=more)

    def finish(self) -> None:
        for layer, name in self._layers:
            torch_prune.remove(layer, name)
