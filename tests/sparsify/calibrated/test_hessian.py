from __future__ import annotations

import pytest
import torch

from isogrid.sparsify.calibrated import hessian
from isogrid.sparsify.calibrated.hessian import damped, upper_factor


@pytest.mark.parametrize("groups", [1, 3])
def test_the_inverse_factor_is_the_cholesky_factor_of_the_inverse(groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(groups, 20, 7, generator=generator, dtype=torch.float64)
    moments = x.mT @ x
    factor = upper_factor(moments, 0.01)
    inverse = torch.linalg.inv(damped(moments, 0.01))
    torch.testing.assert_close(torch.linalg.inv(factor), torch.linalg.cholesky(inverse).mT)


def test_the_damping_is_a_share_of_each_groups_mean_diagonal() -> None:
    moments = torch.stack([torch.diag(torch.tensor([1.0, 3.0])), torch.zeros(2, 2)])
    assert damped(moments, 0.5).diagonal(dim1=1, dim2=2).tolist() == [[2.0, 4.0], [1.0, 1.0]]
    assert moments[0, 0, 0] == 1


def test_what_rounding_makes_indefinite_is_damped_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hessian, "WIDE_UP_TO", 0)
    x = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    moments = (x.mT @ x)[None]
    for damping in (1e-12, 1e-30):
        factor = upper_factor(moments, damping)
        assert factor.dtype == torch.float32
        torch.testing.assert_close(factor @ factor.mT, moments, rtol=1e-3, atol=1e-3)
