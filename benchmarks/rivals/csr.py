"""PyTorch's compressed rows, which MKL multiplies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.common.contest import CSR, UnavailableError
from benchmarks.rivals import Example, FeatureMajor, Rival, Setting
from benchmarks.rivals.cache import made


class Csr(Rival):
    """The product that suits the layout best."""

    name = CSR

    def settings(self, model: nn.Module, example: Example, thorough: bool) -> list[Setting]:
        """For linear layers only."""
        if isinstance(model, FeatureMajor):
            return [Setting("W @ X")]
        return [Setting("(W @ x.T).T")] if isinstance(model, nn.Linear) else []

    def prepare(
        self, model: nn.Module, example: Example, threads: int, values: str = "fp32", **_: Any
    ) -> Callable[[], Any]:
        """The product, without a bias."""
        if not torch.backends.mkl.is_available():
            raise UnavailableError("this PyTorch has no MKL")
        if not isinstance(model, (nn.Linear, FeatureMajor)) or getattr(model, "bias", None) is not None:
            raise UnavailableError(f"no {type(model).__name__} with a bias")
        (x,) = example
        weight = made(model.weight, ("csr",), lambda: model.weight.detach().to_sparse_csr())
        if isinstance(model, FeatureMajor):
            return lambda: weight @ x
        if x.shape[0] == 1:
            vector = x[0]
            return lambda: weight @ vector
        columns = x.t()
        return lambda: torch.t(weight @ columns)


RIVAL = Csr()
