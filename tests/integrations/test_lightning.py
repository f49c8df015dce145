"""The callback in Lightning's Trainer."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from conformance.training import OPTIMIZERS, assert_same_bits, batch, small_model
from integrations.tiny import COLLAPSE, bits, training_methods
from isogrid.errors import SparsifierError, UnsupportedError, UsageError
from isogrid.integrations.lightning import SparsifierCallback
from isogrid.masks import count_zeros
from isogrid.penalties import L1, L2
from isogrid.sparsify import (
    Aware,
    Gradual,
    KeepZeros,
    Method,
    OneShot,
    Regularized,
    SparseState,
    Sparsifier,
    Static,
    Trigger,
    prune,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*checkpoint directory .* exists and is not empty:UserWarning",
    "ignore:.*resuming from a checkpoint that ended before the epoch ended:UserWarning",
    "ignore:.*smaller than the logging interval:UserWarning",
    COLLAPSE,
)
STEPS = 12
METHODS = training_methods()


class Numbers(Dataset[Tensor]):
    """Sixteen samples, which are no more than the numbers 0 to 15."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(float(index))


class Module(pl.LightningModule):
    """The small model; what it learns depends on the step alone, so that resumed trainings see the same."""

    def __init__(self, optimizer: str = "sgd_momentum", seed: int = 0) -> None:
        super().__init__()
        self.body = small_model(seed)
        self.optimizer = optimizer

    def loss(self, number: int) -> Tensor:
        x, y = batch(number)
        return nn.functional.mse_loss(self.body(x).float(), y)

    def training_step(self, _: Tensor, index: int) -> Tensor:
        return self.loss(8 * self.current_epoch + index)

    def validation_step(self, _: Tensor, index: int) -> None:
        self.log("score", 1 / (1 + self.current_epoch))

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer](self.parameters())


class Accumulating(Module):
    """Manual optimisation: two batches a step."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, _: Tensor, index: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        if index % 2 == 0:
            optimizer.zero_grad()
        self.manual_backward(self.loss(8 * self.current_epoch + index) / 2)
        if index % 2 == 1:
            optimizer.step()


def fit(
    folder: Path,
    module: pl.LightningModule,
    *callbacks: pl.Callback,
    ckpt_path: Any = None,
    train: Any = None,
    **options: Any,
) -> pl.Trainer:
    """Twelve batches: an epoch of eight, and half of the next."""
    settings: dict[str, Any] = {
        "max_steps": STEPS, "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder,
        "num_sanity_val_steps": 0, "limit_val_batches": 0, **options,
    }  # fmt: skip
    trainer = pl.Trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, train or DataLoader(Numbers(), 2), DataLoader(Numbers(), 8), ckpt_path=ckpt_path)
    return trainer


def module_for(method: Method, seed: int = 0, **options: Any) -> Module:
    module = Module(seed=seed, **options)
    if isinstance(method, KeepZeros):
        prune(module, OneShot(sparsity=0.6))
    return module


def options_for(method: Method) -> dict[str, Any]:
    data = [batch(100), batch(101)]
    if not method.needs_data:
        return {}
    return {
        "data": data, "forward": lambda module, pair: module.body(pair[0]),
        "loss": lambda answer, pair: nn.functional.mse_loss(answer, pair[1]),
    }  # fmt: skip


def by_hand(method: Any, module: Module, steps: int, **options: Any) -> Sparsifier:
    """The same training in a plain loop."""
    return Sparsifier(module, method, optimizer=module.configure_optimizers(), total_steps=steps, **options)


def test_the_module_gets_sparse_and_stays_a_plain_one(tmp_path: Path) -> None:
    callback = SparsifierCallback(Gradual(sparsity=0.7, delta_t=1))
    module = Module()
    names = set(module.state_dict())
    trainer = fit(tmp_path, module, callback)
    assert callback.report is not None
    assert callback.report == count_zeros(module)
    assert callback.report["sparsity"] == pytest.approx(0.7, abs=5e-3)
    assert set(module.state_dict()) == names
    assert not any(parameter._post_accumulate_grad_hooks for parameter in module.parameters())
    optimizer = trainer.optimizers[0]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("name", METHODS)
def test_it_is_the_training_that_a_plain_loop_gives(tmp_path: Path, name: str) -> None:
    method, options = METHODS[name], options_for(METHODS[name])
    callback = SparsifierCallback(method, **options)
    module = module_for(method)
    fit(tmp_path, module, callback)
    plain = module_for(method)
    sparsifier = by_hand(method, plain, STEPS, **options)
    for step in range(STEPS):
        plain.train()
        sparsifier.state.optimizer.zero_grad()  # type: ignore[union-attr]
        (plain.loss(step) + sparsifier.penalty()).backward()
        sparsifier.state.optimizer.step()  # type: ignore[union-attr]
    assert callback.report == sparsifier.finalize()
    for (key, value), wanted in zip(module.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, msg=key, rtol=1e-4, atol=1e-6)


# -- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_training_resumed_within_an_epoch_is_the_undisturbed_one(tmp_path: Path, name: str) -> None:
    method, options = METHODS[name], options_for(METHODS[name])
    kept = ModelCheckpoint(tmp_path, "at-{step}", save_top_k=-1, every_n_train_steps=5)
    undisturbed = SparsifierCallback(method, **options)
    one = module_for(method, optimizer="adam")
    fit(tmp_path, one, undisturbed, kept, enable_checkpointing=True)
    resumed = SparsifierCallback(method, **options)
    other = module_for(method, seed=9, optimizer="adam")
    again = ModelCheckpoint(tmp_path, "again-{step}", save_top_k=-1, every_n_train_steps=5)
    checkpoint = tmp_path / "at-step=5.ckpt"
    fit(tmp_path, other, resumed, again, ckpt_path=checkpoint, enable_checkpointing=True)
    assert_same_bits(bits(other, resumed.sparsifier), bits(one, undisturbed.sparsifier))
    assert resumed.report == undisturbed.report


class Resumable(DataLoader[Tensor]):
    """Saves its place, as torchdata's ``StatefulDataLoader`` does; its samples come in an order of its own."""

    def __init__(self) -> None:
        super().__init__(Numbers(), 2)
        self.place = 0

    def __iter__(self) -> Any:
        order = torch.randperm(16, generator=torch.Generator().manual_seed(3)).view(8, 2)
        while self.place < 8:
            self.place += 1
            yield order[self.place - 1].float()
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


class Reading(Module):
    """What it learns depends on what the loader gives."""

    def training_step(self, numbers: Tensor, _: int) -> Tensor:
        return self.loss(int(numbers[0]))


@pytest.mark.parametrize(
    ("loader", "step", "same"),
    [(Resumable, 5, True), (None, 8, True), (None, 5, False)],
    ids=["place", "end", "middle"],
)
def test_within_an_epoch_the_loader_must_save_its_place(tmp_path: Path, loader: Any, step: int, same: bool) -> None:
    results = []
    for checkpoint in (None, tmp_path / f"at-step={step}.ckpt"):
        callback, module = SparsifierCallback(Gradual(sparsity=0.7, delta_t=1)), Reading(optimizer="adam")
        kept = ModelCheckpoint(tmp_path, "at-{step}", save_top_k=-1, every_n_train_steps=step)
        train = DataLoader(Numbers(), 2) if loader is None else loader()
        fit(tmp_path, module, callback, kept, ckpt_path=checkpoint, enable_checkpointing=True, train=train)
        results.append(module.body[0].weight.detach())
    assert torch.equal(*results) == same


def test_a_checkpoint_without_a_state_is_refused(tmp_path: Path) -> None:
    kept = ModelCheckpoint(tmp_path, "at-{step}", save_top_k=-1, every_n_train_steps=5)
    fit(tmp_path, Module(), kept, enable_checkpointing=True)
    with pytest.raises(SparsifierError, match=r"at-step=5.ckpt holds no state of this callback"):
        fit(
            tmp_path, Module(), SparsifierCallback(Static(sparsity=0.5)), kept, enable_checkpointing=True,
            ckpt_path=tmp_path / "at-step=5.ckpt",
        )  # fmt: skip


def test_checkpoints_are_sparse_and_read_as_weights_only(tmp_path: Path) -> None:
    kept = ModelCheckpoint(tmp_path, "at-{step}", save_top_k=-1, every_n_train_steps=5)
    fit(tmp_path, Module(), SparsifierCallback(Static(sparsity=0.5)), kept, enable_checkpointing=True)
    saved = torch.load(tmp_path / "at-step=5.ckpt", weights_only=True)
    (state,) = [value for key, value in saved["callbacks"].items() if "SparsifierCallback" in key]
    for name, mask in state["masks"].items():
        assert torch.equal(saved["state_dict"][name] != 0, mask)


# -- the penalty and the step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "settings", "steps"),
    [
        (Module, {"accumulate_grad_batches": 2, "max_steps": 4}, 4),
        (Module, {"gradient_clip_val": 0.5}, STEPS),
        (Accumulating, {"max_steps": 4}, 4),
    ],
    ids=["accumulating", "clipping", "manual"],
)
def test_the_penalty_acts_as_one_in_the_loss_would(
    tmp_path: Path, module: type[Module], settings: dict[str, Any], steps: int
) -> None:
    method = Regularized(penalty=L1(0.02), proximal=False, sparsity=0.5)
    callback = SparsifierCallback(method, total_steps=steps)
    trained = module(optimizer="sgd")
    fit(tmp_path, trained, callback, **settings)
    plain = Module(optimizer="sgd")
    sparsifier = by_hand(method, plain, steps)
    each = STEPS // steps if steps == STEPS else 2
    for step in range(steps):
        sparsifier.state.optimizer.zero_grad()  # type: ignore[union-attr]
        for index in range(each):
            (plain.loss(each * step + index) / each + sparsifier.penalty()).backward()
        if "gradient_clip_val" in settings:
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        sparsifier.state.optimizer.step()  # type: ignore[union-attr]
    assert callback.sparsifier is not None
    assert callback.sparsifier.state.step == steps
    for (name, value), wanted in zip(trained.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, msg=name, rtol=1e-4, atol=1e-6)


def test_hidden_gradients_are_accumulated_beside_a_penalty(tmp_path: Path) -> None:
    """A method that looks at pruned places, with the penalty written first and two batches after it."""
    method = Trigger(sparsity=0.6, patience=1, delta_t=1, revive=0.5)
    callback = SparsifierCallback(method, penalty=L2(0.01))
    trained = Module(optimizer="sgd")
    fit(tmp_path, trained, callback, accumulate_grad_batches=2, max_steps=6)
    plain = Module(optimizer="sgd")
    sparsifier = by_hand(method, plain, 6, penalty=L2(0.01))
    for step, numbers in enumerate([(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)]):
        assert sparsifier.state.step == step
        sparsifier.state.optimizer.zero_grad()  # type: ignore[union-attr]
        for number in numbers:
            (plain.loss(number) / 2 + sparsifier.penalty()).backward()
        sparsifier.state.optimizer.step()  # type: ignore[union-attr]
    assert callback.sparsifier is not None
    assert_same_bits(callback.sparsifier.masks, sparsifier.masks)
    for layer, other in zip(callback.sparsifier.state.layers, sparsifier.state.layers, strict=True):
        torch.testing.assert_close(layer.buffers["average"], other.buffers["average"], rtol=1e-4, atol=1e-6)


class Scaling(pl.plugins.precision.MixedPrecision):
    """16-mixed precision for the CPU, without its autocast; the third batch overflows."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
        self.batches = 0

    def autocast_context_manager(self) -> Any:
        return torch.autocast("cpu", enabled=False)

    def pre_backward(self, tensor: Tensor, module: Any) -> Tensor:  # type: ignore[override]
        self.batches += 1
        return super().pre_backward(tensor * torch.inf if self.batches == 3 else tensor, module)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw_fused"])
def test_a_skipped_step_counts_for_nothing(tmp_path: Path, optimizer: str) -> None:
    method = Regularized(penalty=L1(0.02), proximal=False, sparsity=0.5)
    callback = SparsifierCallback(method, total_steps=STEPS - 1)
    trained = Module(optimizer=optimizer)
    fit(tmp_path, trained, callback, plugins=[Scaling()])
    assert callback.sparsifier is not None
    assert callback.sparsifier.state.step == STEPS - 1
    plain = Module(optimizer=optimizer)
    sparsifier = by_hand(method, plain, STEPS - 1)
    for number in (0, 1, *range(3, STEPS)):
        sparsifier.state.optimizer.zero_grad()  # type: ignore[union-attr]
        (plain.loss(number) + sparsifier.penalty()).backward()
        sparsifier.state.optimizer.step()  # type: ignore[union-attr]
    for (name, value), wanted in zip(trained.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, msg=name, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bf16_trains(tmp_path: Path, precision: Any) -> None:
    callback = SparsifierCallback(Gradual(sparsity=0.7, delta_t=1), penalty=L2(1e-3))

    class Casting(Module):
        def loss(self, number: int) -> Tensor:
            x, y = batch(number)
            return nn.functional.mse_loss(self.body(x.to(self.body[0].weight.dtype)).float(), y)

    fit(tmp_path, Casting(), callback, precision=precision)
    assert callback.report is not None
    assert callback.report["sparsity"] == pytest.approx(0.7, abs=5e-3)


def test_a_step_without_a_loss_still_has_its_penalty(tmp_path: Path) -> None:
    class Skipping(Module):
        def training_step(self, _: Tensor, index: int) -> Any:
            return None if index == 3 else super().training_step(_, index)

    callback = SparsifierCallback(Regularized(penalty=L1(0.02), proximal=False, sparsity=0.5))
    with pytest.warns(UserWarning, match="`training_step` returned `None`"):
        fit(tmp_path, Skipping(), callback)
    assert callback.report is not None


# -- several optimisers ----------------------------------------------------------------------------------------------


class Pair(pl.LightningModule):
    """Two models with an optimiser each, in manual optimisation; their gradients reach both."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.one, self.other = small_model(0), small_model(1)

    def training_step(self, _: Tensor, index: int) -> None:
        first, second = self.optimizers()  # type: ignore[misc]
        x, y = batch(8 * self.current_epoch + index)
        for optimizer in (first, second):
            optimizer.zero_grad()
            self.manual_backward(nn.functional.mse_loss(self.one(x) + self.other(x), y))
            optimizer.step()

    def validation_step(self, _: Tensor, index: int) -> None:
        """There is none to speak of."""

    def configure_optimizers(self) -> Any:
        return [OPTIMIZERS["sgd"](self.one.parameters()), OPTIMIZERS["adam"](self.other.parameters())]


def test_each_of_several_optimisers_may_have_its_own(tmp_path: Path) -> None:
    penalised = Regularized(penalty=L1(0.02), proximal=False, sparsity=0.5)
    one = SparsifierCallback(penalised, targets="one", total_steps=8)
    other = SparsifierCallback(Static(sparsity=0.8), targets="other", total_steps=8, optimizer=1)
    module = Pair()
    fit(tmp_path, module, one, other, max_steps=16)
    assert count_zeros(module.one)["sparsity"] == pytest.approx(0.5, abs=5e-3)
    assert count_zeros(module.other)["sparsity"] == pytest.approx(0.8, abs=5e-3)
    assert one.state_key != other.state_key
    plain = Pair()
    optimizers = plain.configure_optimizers()
    pair = [
        Sparsifier(plain, penalised, optimizer=optimizers[0], targets="one", total_steps=8),
        Sparsifier(plain, Static(sparsity=0.8), optimizer=optimizers[1], targets="other", total_steps=8),
    ]
    for step in range(8):
        x, y = batch(step)
        for optimizer, sparsifier in zip(optimizers, pair, strict=True):
            optimizer.zero_grad()
            (nn.functional.mse_loss(plain.one(x) + plain.other(x), y) + sparsifier.penalty()).backward()
            optimizer.step()
    for (name, value), wanted in zip(module.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, msg=name, rtol=1e-4, atol=1e-6)


def test_an_optimiser_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"optimizer=2; accepted are 0 to 1, for configure_optimizers\(\) gave 2"):
        fit(tmp_path, Pair(), SparsifierCallback(Static(sparsity=0.5), optimizer=2, total_steps=4))


def test_the_number_of_steps_is_asked_for_where_it_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"this training does not step by itself; pass total_steps="):
        fit(tmp_path, Pair(), SparsifierCallback(Static(sparsity=0.5)))
    with pytest.raises(UsageError, match=r"this training limits neither steps nor epochs"):
        fit(tmp_path, Module(), SparsifierCallback(Static(sparsity=0.5)), max_steps=-1, max_epochs=-1)


# -- averaged weights ------------------------------------------------------------------------------------------------


def averaging(kind: str) -> Any:
    if kind == "swa":
        return StochasticWeightAveraging(0.01, swa_epoch_start=1)
    return EMAWeightAveraging() if kind == "ema" else WeightAveraging()


KINDS = pytest.mark.parametrize("kind", ["swa", "average", "ema"])
EPOCHS: dict[str, Any] = {"max_steps": 24, "max_epochs": 3}


class Watched(Module):
    """Keeps how many pruned weights are not zero in validation and at the end; its bias is zero after the last step."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.alive: list[int] = []

    def count(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SparsifierCallback) and callback.sparsifier is not None:
                masks = callback.sparsifier.masks
                self.alive.append(sum(int(self.get_parameter(n)[~m].count_nonzero()) for n, m in masks.items()))

    def validation_step(self, _: Tensor, index: int) -> None:
        super().validation_step(_, index)
        self.count()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step == self.trainer.max_steps:
            self.body[0].bias.data.zero_()

    def on_train_end(self) -> None:
        self.count()


@pytest.mark.parametrize("method", [Gradual(sparsity=0.7, delta_t=1), Regularized(penalty=L1(0.02), sparsity=0.7)])
@KINDS
def test_averaged_weights_have_the_zeros_that_the_report_counts(tmp_path: Path, kind: str, method: Method) -> None:
    trained = Watched(seed=3)
    fit(tmp_path, trained, SparsifierCallback(method), **EPOCHS)
    callback, module = SparsifierCallback(method), Watched(seed=3)
    fit(tmp_path, module, callback, averaging(kind), **EPOCHS)
    assert callback.report == count_zeros(module)
    assert callback.report["sparsity"] == pytest.approx(0.7, abs=5e-3)
    assert module.alive == [0]
    assert not torch.equal(module.body[0].weight, trained.body[0].weight)
    assert module.body[0].bias.any()


@KINDS
def test_an_average_is_sparse_in_validation(tmp_path: Path, kind: str) -> None:
    callback, module = SparsifierCallback(Gradual(sparsity=0.7, delta_t=1)), Watched(seed=3)
    fit(tmp_path, module, callback, averaging(kind), **EPOCHS, limit_val_batches=1)
    assert module.alive == [0] * 4


@KINDS
def test_an_average_is_sparse_in_checkpoints(tmp_path: Path, kind: str) -> None:
    kept = ModelCheckpoint(tmp_path, "at-{step}", save_last=True, save_top_k=-1, every_n_train_steps=7)
    callback = SparsifierCallback(Gradual(sparsity=0.7, delta_t=1))
    fit(tmp_path, Module(), callback, averaging(kind), kept, enable_checkpointing=True, **EPOCHS)
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) == 4
    for file in files:
        saved = torch.load(file, weights_only=True)
        (state,) = [value for key, value in saved["callbacks"].items() if "SparsifierCallback" in key]
        for name, mask in state["masks"].items():
            assert not saved["state_dict"][name][~mask].any()


@KINDS
def test_an_average_that_comes_first_is_refused(tmp_path: Path, kind: str) -> None:
    callback = averaging(kind)
    message = rf"{type(callback).__name__} comes before SparsifierCallback .* accepted is the other order in callbacks="
    with pytest.raises(UsageError, match=message):
        fit(tmp_path, Module(), callback, SparsifierCallback(Static(sparsity=0.5)), max_epochs=2)


def test_an_average_with_batch_normalisation_is_refused_where_it_trains_on(tmp_path: Path) -> None:
    class Normalised(Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

    with pytest.raises(UnsupportedError, match=r"StochasticWeightAveraging runs a module with batch normalisation"):
        fit(tmp_path, Normalised(), SparsifierCallback(Static(sparsity=0.5)), averaging("swa"), max_epochs=3)
    callback = SparsifierCallback(Static(sparsity=0.5))
    fit(tmp_path, Normalised(), callback, averaging("ema"))
    assert callback.report is not None


# -- the rest --------------------------------------------------------------------------------------------------------


def test_exact_sparsity_is_logged(tmp_path: Path) -> None:
    callback = SparsifierCallback(Gradual(sparsity=0.7, delta_t=1), penalty=L2(1e-3))
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    module = Module()
    trainer = fit(tmp_path, module, callback, logger=logger, log_every_n_steps=3)
    with (Path(logger.log_dir) / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["sparsity"]]
    assert len(rows) == STEPS // 3
    assert [float(row["sparsity"]) for row in rows] == sorted(float(row["sparsity"]) for row in rows)
    assert float(rows[-1]["sparsity"]) == pytest.approx(count_zeros(module)["sparsity"])
    assert all(float(row["penalty"]) > 0 for row in rows)
    assert float(trainer.callback_metrics["sparsity"]) == pytest.approx(count_zeros(module)["sparsity"])


def test_the_metric_is_observed_after_each_validation(tmp_path: Path) -> None:
    told: list[float] = []

    class Listening(SparsifierCallback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_start(trainer, pl_module)
            assert self.sparsifier is not None
            observe = self.sparsifier.observe
            self.sparsifier.observe = lambda metric: (told.append(metric), observe(metric))[1]  # type: ignore[method-assign]

    callback = Listening(Aware(sparsity=0.6, floor=0.2, delta_t=2), metric="score")
    fit(tmp_path, Module(), callback, max_steps=24, limit_val_batches=1, num_sanity_val_steps=1)
    assert told == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_floor_needs_a_metric_that_is_logged(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Aware holds a floor and gets no metric to compare with it; name it with"):
        SparsifierCallback(Aware(sparsity=0.6, floor=0.5))
    callback = SparsifierCallback(Aware(sparsity=0.6, floor=0.5), metric="accuracy")
    with pytest.raises(UsageError, match=r"metric='accuracy', which validation does not log; accepted are score"):
        fit(tmp_path, Module(), callback, limit_val_batches=1)


def test_a_floor_needs_a_validation(tmp_path: Path) -> None:
    callback = SparsifierCallback(Aware(sparsity=0.6, floor=0.5), metric="score")
    with pytest.raises(
        SparsifierError, match=r"Aware holds a floor, and training ended before score was measured once"
    ):
        fit(tmp_path, Module(), callback)
    assert callback.report is not None
    assert callback.report["sparsity"] == pytest.approx(0.6, abs=5e-3)


def test_a_validation_before_the_checkpoint_counts(tmp_path: Path) -> None:
    kept = ModelCheckpoint(tmp_path, "at-{step}", save_top_k=-1, every_n_train_steps=5)
    method = Aware(sparsity=0.6, floor=0.1)
    settings = {"limit_val_batches": 1, "enable_checkpointing": True}
    fit(tmp_path, Module(), SparsifierCallback(method, metric="score"), kept, **settings)
    resumed = SparsifierCallback(method, metric="score")
    fit(tmp_path, Module(), resumed, kept, ckpt_path=tmp_path / "at-step=10.ckpt", **settings)
    assert resumed.report is not None


def test_an_option_that_nobody_knows_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"Unknown option of SparsifierCallback 'foo': accepted are .*optimizer, .*data"
    ):
        SparsifierCallback(Static(sparsity=0.5), foo=3)


def test_a_training_that_stops_early_says_so_unless_allowed(tmp_path: Path) -> None:
    method = Gradual(sparsity=0.7, delta_t=1)
    callback = SparsifierCallback(method, total_steps=STEPS)
    with pytest.raises(SparsifierError, match=r"finalize\(\) came after 4 of 12 steps"):
        fit(tmp_path, Module(), callback, max_steps=4)
    allowed = SparsifierCallback(method, total_steps=STEPS, allow_unfinished=True)
    fit(tmp_path, Module(), allowed, max_steps=4)
    assert allowed.report is not None


def test_an_exception_leaves_no_hooks(tmp_path: Path) -> None:
    class Breaking(Module):
        def training_step(self, _: Tensor, index: int) -> Tensor:
            if index == 3:
                raise RuntimeError("out of memory")
            return super().training_step(_, index)

    module = Breaking()
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, module, SparsifierCallback(Static(sparsity=0.5)))
    assert not any(parameter._post_accumulate_grad_hooks for parameter in module.parameters())


def test_a_rate_that_rewinds_is_followed(tmp_path: Path) -> None:
    class Rewinding(Static):
        def lr_step(self, state: SparseState) -> int:
            return state.step % 5

    rates: list[float] = []

    class Scheduled(Module):
        def configure_optimizers(self) -> Any:
            optimizer = OPTIMIZERS["sgd"](self.parameters())
            optimizer.register_step_post_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    fit(tmp_path, Scheduled(), SparsifierCallback(Rewinding(sparsity=0.5)))
    assert rates == pytest.approx([0.05 * (1 - step % 5 / STEPS) for step in range(STEPS)])

    class Halving(Module):
        def configure_optimizers(self) -> Any:
            optimizer = OPTIMIZERS["sgd"](self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    with pytest.raises(UnsupportedError, match=r"rewinds the learning rate, and a StepLR cannot"):
        fit(tmp_path, Halving(), SparsifierCallback(Rewinding(sparsity=0.5)))


def test_deepspeed_is_refused() -> None:
    class DeepSpeedStrategy:
        model = nn.Linear(2, 2)

    callback = SparsifierCallback(Static(sparsity=0.5))
    trainer: Any = SimpleNamespace(strategy=DeepSpeedStrategy())
    with pytest.raises(UnsupportedError, match=r"DeepSpeed moves copies of the weights"):
        callback.on_train_start(trainer, Module())


def test_a_second_fit_begins_anew(tmp_path: Path) -> None:
    callback = SparsifierCallback(Gradual(sparsity=0.7, delta_t=1))
    module = Module()
    fit(tmp_path, module, callback)
    first = callback.sparsifier
    fit(tmp_path, module, callback)
    assert callback.sparsifier is not first
    assert callback.report is not None
