"""One-line descriptions of Debian packages and the sections they are filed under, from what ``apt-cache`` lists."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from isogrid.errors import DataError
from isogrid.tasks.gzipped import read_plain_or_gzip
from isogrid.tasks.task import Split

VARIABLE = "ISOGRID_DEBIAN_PACKAGES"
"""Names a file with the output of ``apt-cache dumpavail`` (gzip-compressed or not), or a mirror's ``Packages``."""
LEAST = 300
"""Texts that a section must have; smaller sections are left out."""
LARGEST = 30
"""A family of more texts than this is for training only: in another split it would weigh too much."""

_FIELD = re.compile(
    r"^(?:(?P<field>Package|Source|Section|Description(?:-en)?):[ \t]*(?P<value>.*)|)$", re.MULTILINE | re.IGNORECASE
)
_WORDS = re.compile(r"[^\W\d_]{2,}")
_HOW = f"run: apt-get update, or name a file with the output of apt-cache dumpavail in {VARIABLE}"


@dataclass(frozen=True)
class Package:
    """What is read of a package: its source package, its section without the archive area, its first line of text."""

    name: str
    source: str
    section: str
    text: str


@dataclass(frozen=True)
class Texts:
    """A split: the texts, and of each the index of its section."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def first(self, count: int | None) -> Texts:
        """The first `count` of them: a random draw, as the order is random.  None takes all."""
        return Texts(self.texts[:count], self.labels[:count])


@dataclass(frozen=True, eq=False)
class Corpus:
    """The sections in alphabetical order, and the three splits."""

    sections: tuple[str, ...]
    splits: Mapping[Split, Texts]


def parse_packages(listed: str) -> Iterator[Package]:
    r"""The packages of a list in the form of Debian's control files that have a section and a description.

    Continuation lines, and so long descriptions, are left out.  A package without ``Source`` is its own source.

    >>> text = "Package: libfoo1\nSource: foo (1.2)\nSection: contrib/libs\nDescription: does foo\n at length"
    >>> list(parse_packages(text))
    [Package(name='libfoo1', source='foo', section='libs', text='does foo')]
    """
    fields: dict[str, str] = {}
    for match in _FIELD.finditer(f"{listed}\n\n"):
        if match["field"]:
            fields.setdefault(match["field"].lower().removesuffix("-en"), match["value"].strip())
            continue
        if all(fields.get(name) for name in ("package", "section", "description")):
            name = fields["package"]
            source = (fields.get("source") or name).split()[0]
            yield Package(name, source, fields["section"].rpartition("/")[2], fields["description"])
        fields = {}


def split_packages(packages: Iterable[Package]) -> Corpus:
    """Texts and sections in three splits, about 80 / 10 / 10 %, the same wherever the packages are the same.

    Each text is there once with each of its sections.  The packages of one source stay together, and so do sources
    with texts of the same words, digits and order aside ("GCC 11 for ARM", "GCC 12 for ARM"): such a *family* goes to
    the split that a digest of its first source says, and families of more than `LARGEST` texts are for training.

    Raises:
        DataError: fewer than two sections with `LEAST` texts, or a split without texts.
    """
    pairs: dict[tuple[str, str], str] = {}
    families = _Families()
    for package in packages:
        pairs.setdefault((package.text, package.section), package.source)
        families.join(f"source {package.source}", f"words {_words(package.text)}")
    counts = Counter(section for _, section in pairs)
    sections = tuple(sorted(section for section, count in counts.items() if count >= LEAST))
    if len(sections) < 2:
        raise DataError(
            f"The Debian packages known here are too few: {len(pairs)} descriptions, {len(sections)} sections with "
            f"{LEAST} of them, where two or more are needed; {_HOW}."
        )
    index = {section: label for label, section in enumerate(sections)}
    members: dict[str, list[tuple[str, str]]] = defaultdict(list)
    first: dict[str, str] = {}
    for pair, source in pairs.items():
        if pair[1] in index:
            family = families.of(f"source {source}")
            members[family].append(pair)
            first[family] = min(first.get(family, source), source)
    chosen: dict[Split, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for family, texts in members.items():
        chosen[_split_of(first[family], len(texts))] += texts
    splits: dict[Split, Texts] = {}
    for split, texts in chosen.items():
        if not texts:
            raise DataError(f"The Debian packages known here are too few: no text is left for {split}; {_HOW}.")
        texts.sort(key=lambda pair: (_digest("\n".join(pair)), pair))
        splits[split] = Texts(tuple(text for text, _ in texts), tuple(index[section] for _, section in texts))
    return Corpus(sections, splits)


def corpus() -> Corpus:
    """The descriptions of the packages that this system could install, or of those in the file that `VARIABLE` names.

    Nothing is fetched, and nothing is written; what was read is kept in memory.

    Raises:
        DataError: there is no such file, no ``apt-cache``, or too few packages.
    """
    return _corpus(os.environ.get(VARIABLE) or None)


@lru_cache(maxsize=2)
def _corpus(file: str | None) -> Corpus:
    return split_packages(parse_packages(_listed() if file is None else _read(Path(file))))


def _listed() -> str:
    program = shutil.which("apt-cache")
    if program is None:
        raise DataError(
            "The package descriptions come from apt-cache, which this system lacks; on a Debian system run: apt-cache "
            f"dumpavail > packages.txt, and name that file in the environment variable {VARIABLE}."
        )
    done = subprocess.run([program, "dumpavail"], capture_output=True, check=False)  # noqa: S603 - found on the path
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().replace("\n", " ") or f"exit code {done.returncode}"
        raise DataError(f"apt-cache dumpavail failed ({said}); {_HOW}.")
    return done.stdout.decode(errors="replace")


def _read(path: Path) -> str:
    raw = read_plain_or_gzip(path, "the output of apt-cache dumpavail", f", which {VARIABLE} names,")
    return raw.decode(errors="replace")


class _Families:
    """Names that belong together, because they were joined or because something joins them both (union-find)."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name that stands for all of its family."""
        above = self._above
        above.setdefault(name, name)
        while above[name] != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    def join(self, one: str, other: str) -> None:
        self._above[self.of(one)] = self.of(other)


def _words(text: str) -> str:
    """The words of a text, each once and in order; the text itself where it has none."""
    return " ".join(sorted(set(_WORDS.findall(text.lower())))) or text


def _split_of(source: str, texts: int) -> Split:
    tenth = _digest(source) % 10
    if texts > LARGEST or tenth < 8:
        return "train"
    return "validation" if tenth == 8 else "test"


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
