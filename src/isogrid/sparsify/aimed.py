"""The base of methods that prune by what they learn, and that a sparsity may be asked of all the same."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from isogrid.errors import UsageError
from isogrid.patterns import Unstructured, active_count
from isogrid.schedules import Cubic, Schedule
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import select
from isogrid.sparsify.shadow import ShadowMethod, candidates
from isogrid.sparsify.state import SparseLayer, SparseState
from isogrid.updates import check_interval, update_due


@dataclass(frozen=True)
class Aimed(ShadowMethod, Selecting):
    """A method whose learned thresholds or gates decide what is pruned, with an aim where one is given.

    With ``sparsity=0``, the default, the method is the published one: at every step the masks are what the learned
    parameters say, and no sparsity is promised.

    A sparsity makes it an aim, by a rule that is this library's own: up to the end of `schedule` the masks are still
    what is learned, but

    * at least as sparse as `schedule` asks for: every `delta_t` steps what is worth least is held at zero in addition;
    * never sparser than the aim: learned parameters that would prune more are set back to where they just do not, and
      a penalty on them rests while the masks are at the aim;
    * at the end of `schedule` the masks are set to exactly the aim, learned factors are folded into the weights, which
      changes none of the effective ones that stay, and from there on the weights alone are trained.

    Adopted zeros stay zero.

    Attributes:
        schedule: the ramp towards an aim, in fractions of the training.
        delta_t: steps between two updates of what the ramp holds at zero; a hundredth of the training by default.
    """

    sparsity: float | None = 0.0
    schedule: Schedule = field(default_factory=lambda: Cubic(end=0.75))
    delta_t: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(type(self).__name__, self.delta_t)

    def _need_unstructured(self) -> None:
        if self.target_pattern != Unstructured():
            raise UsageError(
                f"{type(self).__name__} got pattern {self.target_pattern}; accepted is unstructured, for it judges "
                "single weights."
            )

    @property
    def final_sparsity(self) -> float | None:
        return self.sparsity or None

    @abstractmethod
    def kept(self, state: SparseState, layer: SparseLayer) -> Tensor:
        """Which weights the learned parameters keep, as a mask."""

    @abstractmethod
    def worth(self, state: SparseState, layer: SparseLayer) -> Tensor:
        """How far each weight is from being pruned, comparable over layers; the kept are worth more than the rest."""

    @abstractmethod
    def keep(self, state: SparseState, layer: SparseLayer, wanted: Tensor) -> None:
        """Set the learned parameters back as far as it takes to keep the weights `wanted` (a mask)."""

    def fold(self, state: SparseState, layer: SparseLayer) -> None:
        """Make the dense weights what the effective ones are, where active."""
        layer.buffers["dense"].copy_(self.effective(state, layer))

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        state.numbers["closed"] = False

    def closed(self, state: SparseState) -> bool:
        """Whether the aim was met and the weights alone are trained."""
        return bool(state.numbers.get("closed", False))

    def arrived(self, state: SparseState) -> bool:
        """Whether the masks are at the aim, so that nothing should press for more."""
        return bool(self.sparsity) and state.active <= active_count(state.size, self.goal(state)[1])

    def after_step(self, state: SparseState) -> None:
        if self.closed(state):
            return
        state.check_finite()
        if self.sparsity and state.progress >= self.schedule.end:
            self._close(state)
            return
        if self.sparsity and update_due(state.step, state.total_steps, self.delta_t, self.schedule):
            least = self.schedule.value(state.progress, *self.goal(state))
            for layer, mask in zip(state.layers, self._best(state, least), strict=True):
                layer.buffers["allowed"] = mask
        self.follow(state)
        if self.sparsity and state.active < active_count(state.size, self.goal(state)[1]):
            for layer, mask in zip(state.layers, self._best(state, self.goal(state)[1]), strict=True):
                layer.buffers["allowed"] = mask | layer.buffers.get("allowed", mask)
                self.keep(state, layer, mask)
            self.follow(state)

    def follow(self, state: SparseState) -> None:
        """Set the masks to what the learned parameters keep of what is allowed."""
        masks = {}
        for layer in state.layers:
            mask = self.kept(state, layer)
            for held in ("adopted", "allowed"):
                if held in layer.buffers:
                    mask = mask & layer.buffers[held]
            masks[layer.name] = mask
        if any(not masks[layer.name].equal(layer.mask) for layer in state.layers):
            state.set_masks(masks)

    def _best(self, state: SparseState, sparsity: float) -> list[Tensor]:
        """Masks of what is worth most at that sparsity, in the order of the layers."""
        scores = {layer.name: layer.to_array(self.worth(state, layer)) for layer in state.layers}
        chosen = select(candidates(state), scores, sparsity, self.target_pattern, self.target_allocation)
        return [chosen[layer.name] for layer in state.layers]

    def _close(self, state: SparseState) -> None:
        masks = self._best(state, self.goal(state)[1])
        for layer, mask in zip(state.layers, masks, strict=True):
            self.keep(state, layer, mask)
            layer.set_mask(mask)
            self.fold(state, layer)
            held = ("dense", "adopted")
            layer.buffers = {name: value for name, value in layer.buffers.items() if name in held}
        state.numbers["closed"] = True
        state.set_masks({layer.name: layer.mask.clone() for layer in state.layers})
