"""What a check found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Grade = Literal["good", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: its name.
        grade: ``good``, ``note`` (worth knowing) or ``problem`` (results would mislead).
        text: what was found, in a sentence.
        numbers: what it rests on, by name.
        examples: positions of a few samples, by split, in the order of ``Task.samples``.

    >>> Finding("inputs", "good", "All inputs are finite.").grade
    'good'
    """

    check: str
    grade: Grade
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    examples: Mapping[str, Sequence[int]] = field(default_factory=dict)
