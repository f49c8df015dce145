"""The processes of a data-parallel training, which must all hold the same masks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from isogrid.sparsify.state import SparseState


class Ranks:
    """The process group of the ``DistributedDataParallel`` around a model; one process alone where there is none."""

    def __init__(self, model: nn.Module) -> None:
        self._group: dist.ProcessGroup | None = None
        inner: object = model
        while isinstance(inner, nn.Module):
            if isinstance(inner, nn.parallel.DistributedDataParallel):
                self._group = inner.process_group
                break
            inner = getattr(inner, "_orig_mod", None)

    @property
    def alone(self) -> bool:
        """Whether there is nobody to agree with."""
        return self._group is None or dist.get_world_size(self._group) == 1

    def mean_(self, tensor: Tensor) -> Tensor:
        """The mean over ranks, in place."""
        if not self.alone:
            dist.all_reduce(tensor, group=self._group)
            tensor /= dist.get_world_size(self._group)
        return tensor

    def share_numbers(self, state: SparseState) -> None:
        """Rank 0's numbers for all ranks: what `observe` was told may differ, or only one rank may have been told."""
        if self.alone or not state.numbers:
            return
        names = sorted(state.numbers)
        values = torch.tensor([float(state.numbers[name]) for name in names], dtype=torch.float64)
        values = values.to(self._device(state))
        self._from_first(values)
        for name, value in zip(names, values.tolist(), strict=True):
            state.numbers[name] = type(state.numbers[name])(value)

    def share_masks(self, state: SparseState, *, changed: bool) -> None:
        """Rank 0's masks for all ranks: gradients that differ in the last bit must not make masks that differ.

        `changed` says whether this rank's masks may have moved since the last agreement.  Where masks do differ, all
        else that grew apart with them is rank 0's too: weights, the method's buffers and the optimiser's state.
        """
        if self.alone or not self._any(state, changed):
            return
        masks = {}
        for layer in state.layers:
            mask = layer.mask.to(torch.uint8)
            self._from_first(mask)
            masks[layer.name] = mask.bool()
        if not self._any(state, any(not torch.equal(masks[layer.name], layer.mask) for layer in state.layers)):
            return
        state.set_masks(masks)
        for layer in state.layers:
            for tensor in (layer.weight, *layer.buffers.values(), *state.optimizer_state(layer)):
                self._from_first(tensor)

    def _any(self, state: SparseState, flag: bool) -> bool:
        value = torch.tensor(float(flag), device=self._device(state))
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._group)
        return bool(value)

    def _device(self, state: SparseState) -> torch.device:
        return state.layers[0].weight.device

    def _from_first(self, tensor: Tensor) -> None:
        assert self._group is not None
        sent = tensor.contiguous()
        dist.broadcast(sent, src=dist.get_global_rank(self._group, 0), group=self._group)
        if sent is not tensor:
            tensor.copy_(sent)
