"""The voices that speak the digits, each in one split only."""

from __future__ import annotations

from collections.abc import Mapping

from isogrid.tasks.task import Split

ACCENTS: Mapping[Split, tuple[str, ...]] = {
    "train": ("en-us", "en-gb", "en-029", "en-gb-scotland"),
    "validation": ("en-us-nyc", "en-gb-x-gbclan"),
    "test": ("en-gb-x-rp", "en-gb-x-gbcwmd"),
}
"""espeak-ng's accents of English: America, Britain, the Caribbean and Scotland; New York City and Lancaster; Received
Pronunciation and the West Midlands."""

SPEAKERS: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "m1", "f2", "Annie", "klatt", "m3", "f4", "Alex", "linda", "edward", "whisper", "m7", "Alicia", "adam", "steph",
        "robosoft", "iven", "aunty", "boris", "Gene", "david", "klatt2", "steph2", "Andy", "antonio", "klatt3", "caleb",
        "robosoft2", "iven2", "Denis", "whisperf", "ed", "klatt4", "gustave", "steph3", "Henrique", "john", "iven3",
        "kaukovalta", "klatt5", "marcelo", "robosoft3", "max", "Michael", "Gene2", "michel", "Mike", "klatt6", "miguel",
        "edward2", "paul", "iven4", "quincy", "robosoft4", "rob", "AnxiousAndy", "robert", "robosoft5", "zac",
        "robosoft6", "grandpa", "robosoft7", "benjamin", "robosoft8",
    ),
    "validation": (
        "m2", "f1", "Andrea", "Hugo", "anika", "m6", "Jacky", "shelby", "Marco", "croak", "anikaRobot", "victor",
        "Diogo", "pablo", "Nguyen", "announcer",
    ),
    "test": (
        "m4", "f3", "belinda", "Lee", "f5", "m5", "Mario", "grandma", "RicishayMax", "pedro", "m8", "travis",
        "RicishayMax2", "sandro", "norbert", "RicishayMax3", "UniRobot",
    ),
}  # fmt: skip
"""espeak-ng's variants: whose mouth it is.  Those of one name (klatt, klatt2 ...) are in one split, and the order puts
different ones first, so that a setting with fewer of them still hears men, women and robots.  Left out are what no one
speaks like: ``fast``, ``Storm``, ``Demonic`` and ``Tweaky``."""


def voices(split: Split, accents: set[str], speakers: set[str], most: int | None = None) -> list[str]:
    """The voices of a split: every accent of it with every one of its speakers, of those that are installed.

    Args:
        split: whose voices.
        accents, speakers: what is installed; a release of espeak-ng may lack some.
        most: speakers to take, the first ones; None takes all.

    >>> voices("validation", {"en-us-nyc", "en-us"}, {"m1", "m2", "f1", "Hugo"}, most=2)
    ['en-us-nyc+m2', 'en-us-nyc+f1']
    """
    heard = [speaker for speaker in SPEAKERS[split] if speaker in speakers][:most]
    return [f"{accent}+{speaker}" for accent in ACCENTS[split] if accent in accents for speaker in heard]
