"""The samples of a split as arrays that the checks can look at."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isogrid.errors import DataError
from isogrid.tasks import Split, Task


@dataclass(frozen=True, eq=False)
class Samples:
    """A split.

    Attributes:
        features: float32 ``[n, d]``, what ``Task.features`` makes of each sample; numbers that are not finite are 0.
        digests: ``[n]``, equal where all inputs of two samples are the same bits.
        labels: int64 ``[n]``, or None where the task has no classes.
        finite: bool ``[n]``, whether all inputs of a sample are.
        constant: bool ``[n]``, whether a sample's features are all one number.
    """

    features: NDArray[np.float32]
    digests: NDArray[np.str_]
    labels: NDArray[np.int64] | None
    finite: NDArray[np.bool_]
    constant: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.digests)


def collect(task: Task, split: Split) -> Samples | None:
    """All samples of a split; None where the task cannot give them.

    Raises:
        DataError: there is no sample, or features of another shape.
    """
    batches = task.samples(split)
    if batches is None:
        return None
    features, digests, labels, finite, constant = [], [], [], [], []
    for batch in batches:
        found = task.features(batch)
        if found.ndim != 2:
            raise DataError(
                f"features() of {task.name} gave shape {tuple(found.shape)}; accepted is one row of numbers a sample."
            )
        fine = torch.isfinite(found).all(dim=1)
        found = torch.nan_to_num(found.float(), nan=0.0, posinf=0.0, neginf=0.0)
        features.append(found.cpu().numpy())
        finite.append(fine.cpu().numpy())
        constant.append((found == found[:, :1]).all(dim=1).cpu().numpy())
        classes = task.classes(batch)
        if classes is not None and len(classes) != len(found):
            raise DataError(
                f"A batch of {task.name} has {len(classes)} labels for {len(found)} samples; accepted is one a sample."
            )
        digests += _digests(batch, len(found), classes)
        labels.append(classes)
    if not digests:
        raise DataError(f"The {split} split of {task.name} is empty; accepted is one sample or more.")
    known = [part.cpu().numpy().astype(np.int64) for part in labels if part is not None]
    return Samples(
        np.concatenate(features),
        np.asarray(digests),
        np.concatenate(known) if len(known) == len(labels) else None,
        np.concatenate(finite),
        np.concatenate(constant),
    )


def _digests(batch: Any, count: int, known: Tensor | None) -> list[str]:
    """A digest of the inputs of each sample: all tensors of the batch but the labels.

    These come last in a tuple of two or more, and in a mapping are what `known` holds.
    """
    listed = batch[:-1] if isinstance(batch, tuple | list) and len(batch) > 1 else batch
    inputs = [part for part in _tensors(listed) if len(part) == count and part is not known]
    rows = [part.detach().cpu().contiguous() for part in inputs]
    digests = []
    for index in range(count):
        sha = hashlib.blake2b(digest_size=16)
        for part in rows:
            # Padding says nothing of a sample; the length keeps what is left apart from the next part.
            content = part[index].reshape(-1).view(torch.uint8).numpy().tobytes().rstrip(b"\0")
            sha.update(len(content).to_bytes(8) + content)
        digests.append(sha.hexdigest())
    return digests


def _tensors(nested: Any) -> list[Tensor]:
    if isinstance(nested, Tensor):
        return [nested] if nested.ndim else []
    if isinstance(nested, dict):
        nested = list(nested.values())
    if isinstance(nested, tuple | list):
        return [tensor for part in nested for tensor in _tensors(part)]
    return []
