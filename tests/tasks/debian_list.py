"""A list of made-up packages, as ``apt-cache dumpavail`` prints it: a section can be told by its words."""

from __future__ import annotations

import random
from pathlib import Path

_WORDS = {
    "games": ("arcade", "puzzle", "chess", "dungeon", "racing", "tetris", "levels", "player"),
    "perl": ("perl", "module", "cpan", "moose", "lexical", "scalar", "regexp", "closure"),
    "sound": ("audio", "synthesizer", "midi", "mixer", "codec", "playlist", "guitar", "sampler"),
    "mail": ("imap", "spam", "mailbox", "smtp", "newsletter", "spool", "postmaster", "delivery"),
}
_FILLING = ("for", "the", "simple", "with", "tool", "and", "modern", "library", "data", "small")


def made_up(packages: int = 330, seed: int = 0) -> str:
    """So many packages in each of four sections, two of one source each time."""
    draw = random.Random(seed)
    listed = []
    for section, own in _WORDS.items():
        for number in range(packages):
            words = draw.choices(own, k=draw.randint(2, 5)) + draw.choices(_FILLING, k=draw.randint(0, 9))
            draw.shuffle(words)
            listed.append(
                f"Package: {section}-{number}\nSource: {section}-source-{number // 2} (1.0-{number})\n"
                f"Section: {'contrib/' if number % 7 == 0 else ''}{section}\n"
                f"Description: {' '.join(words)}\nDescription-md5: 00\n"
            )
    return "\n".join(listed)


def write(folder: Path, packages: int = 330) -> Path:
    """The same in a file."""
    path = folder / "packages.txt"
    path.write_text(made_up(packages), encoding="utf-8")
    return path
