"""Reading Debian's package lists, and splits that nothing leaks through."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from isogrid.errors import DataError
from isogrid.tasks import debian_packages
from isogrid.tasks.debian_packages import LARGEST, LEAST, VARIABLE, Package, parse_packages, split_packages
from tasks.debian_list import made_up, write

_LIST = """\
Package: libfoo2
Source: foo (2.0-1)
Version: 2.0-1
Depends: libc6 (>= 2.34),
 Section: this is no field
Description: does foo: quickly
 At length.
 .
 Section: games
Section: non-free/libs

Package: bar
section: utils
Description-en: bars things

Package: nosection
Description: has none

Package: nodescription
Section: utils
Description:
"""


def test_a_package_is_read_from_its_fields_and_nothing_else() -> None:
    assert list(parse_packages(_LIST)) == [
        Package("libfoo2", "foo", "libs", "does foo: quickly"),
        Package("bar", "bar", "utils", "bars things"),
    ]


def test_nothing_is_read_from_what_is_no_list() -> None:
    assert list(parse_packages("")) == []
    assert list(parse_packages("\n\nPackages: 3\n\n\n")) == []


def _packages(texts: int = 330) -> list[Package]:
    return list(parse_packages(made_up(texts)))


def test_every_text_is_in_one_split_with_its_section() -> None:
    packages = _packages()
    corpus = split_packages(packages)
    assert corpus.sections == ("games", "mail", "perl", "sound")
    found = [
        (text, corpus.sections[label])
        for split in corpus.splits.values()
        for text, label in zip(split.texts, split.labels, strict=True)
    ]
    assert len(found) == len(set(found))
    assert set(found) == {(package.text, package.section) for package in packages}
    shares = [len(corpus.splits[split].texts) / len(found) for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.05)


def test_no_source_and_no_wording_crosses_splits() -> None:
    packages = _packages()
    # The same words with another number, from another source.
    packages += [Package(f"x{i}", f"x{i}", p.section, f"{p.text} {i}!") for i, p in enumerate(packages[::3])]
    corpus = split_packages(packages)
    split_of = {text: name for name, split in corpus.splits.items() for text in split.texts}
    by_source: dict[str, set[str]] = {}
    by_words: dict[frozenset[str], set[str]] = {}
    for package in packages:
        by_source.setdefault(package.source, set()).add(split_of[package.text])
        words = frozenset(re.findall("[a-z]+", package.text))
        by_words.setdefault(words, set()).add(split_of[package.text])
    assert all(len(splits) == 1 for splits in by_source.values())
    assert all(len(splits) == 1 for splits in by_words.values())
    assert len(by_words) < len(split_of)


def test_a_large_family_is_for_training_only() -> None:
    large = [Package(f"p{i}", "huge", "perl", f"perl {'a' * (i + 2)}") for i in range(LARGEST + 1)]
    for source in ("huge", "vast", "giant", "big", "mighty", "titanic", "colossal"):
        family = [Package(package.name, source, "perl", package.text) for package in large]
        corpus = split_packages(_packages() + family)
        assert {package.text for package in family} <= set(corpus.splits["train"].texts)


def test_small_sections_are_left_out_and_the_order_of_the_list_does_not_matter() -> None:
    packages = _packages()
    rare = [Package(f"r{i}", f"r{i}", "rare", f"rare thing {'a' * (i + 2)}") for i in range(LEAST - 1)]
    one = split_packages(packages + rare)
    assert one.sections == ("games", "mail", "perl", "sound")
    other = split_packages([*rare, *packages[::-1]])
    assert (one.sections, one.splits) == (other.sections, other.splits)
    assert one.splits["train"].first(5).texts == one.splits["train"].texts[:5]


@pytest.mark.parametrize("packed", [False, True])
def test_a_saved_list_is_read_plain_or_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    path = write(tmp_path)
    if packed:
        path = tmp_path / "packages.gz"
        path.write_bytes(gzip.compress(made_up().encode()))
    monkeypatch.setenv(VARIABLE, str(path))
    assert debian_packages.corpus().splits == split_packages(_packages()).splits
    assert debian_packages.corpus() is debian_packages.corpus()


def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match=r"none\.txt.*cannot be read.*apt-cache dumpavail"):
        debian_packages.corpus()
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(made_up().encode())[:-20])
    monkeypatch.setenv(VARIABLE, str(broken))
    with pytest.raises(DataError, match="cannot be read"):
        debian_packages.corpus()
    monkeypatch.setenv(VARIABLE, str(write(tmp_path, packages=20)))
    with pytest.raises(DataError, match=r"too few.*0 sections.*apt-get update"):
        debian_packages.corpus()


def test_a_system_without_apt_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debian_packages._corpus.cache_clear()
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=f"apt-cache, which this system lacks.*{VARIABLE}"):
        debian_packages.corpus()
    program = tmp_path / "apt-cache"
    program.write_text("#!/bin/sh\necho no lists >&2\nexit 100\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(DataError, match=r"dumpavail failed \(no lists\)"):
        debian_packages.corpus()
    program.write_text(f"#!/bin/sh\n/bin/cat {write(tmp_path)}\n", encoding="utf-8")
    assert debian_packages.corpus().sections == ("games", "mail", "perl", "sound")
    debian_packages._corpus.cache_clear()
