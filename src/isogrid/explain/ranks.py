"""How alike two orders are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rank_correlation(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None where one of the two has a single value.

    >>> import numpy as np
    >>> rank_correlation(np.array([1, 5, 9]), np.array([0.1, 0.2, 7.0]))
    1.0
    """
    a, b = _ranks(first.ravel()), _ranks(second.ravel())
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return round(float((a * b).sum()) / norm, 12) if norm > 0 else None


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]
