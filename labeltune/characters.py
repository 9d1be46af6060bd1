"""Chinese characters that sound or look like others, and Latin letters that look like others."""

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

from pypinyin import Style, lazy_pinyin

from labeltune import lexicons

COMMON = 13.0
"""Least logarithm of a character's frequency: some 3,000 are as common, what a reader knows."""
ALIKE = 0.7
"""Least share of two characters' strokes, from the first on and from the last back, that are the same."""
CORNERS = 2
"""Least number of their four corners that are the same."""

LATIN = {
    "a": "а@", "c": "с", "e": "е3", "i": "і1", "j": "ј", "l": "1", "o": "о0", "p": "р", "s": "ѕ5", "x": "х", "y": "у",
    "A": "А", "B": "В8", "C": "С", "E": "Е3", "H": "Н", "I": "І1", "K": "К", "M": "М", "O": "О0", "P": "Р", "S": "Ѕ5",
    "T": "Т", "X": "Х",
}  # fmt: skip
"""Letter -> the Cyrillic one that most fonts draw the same (Unicode's confusables), and a digit or sign for some."""


@dataclass(frozen=True, kw_only=True)
class Characters:
    """The common Chinese characters."""

    frequency: dict[str, float]
    """Logarithm of how often a character was counted."""
    strokes: dict[str, str]
    """The kinds of its strokes, 1 to 5, in the order of writing."""
    corners: dict[str, str]
    """The kinds of its four corners, 0 to 9."""
    built: dict[tuple[str, int], list[str]]
    """Characters by structure (as left and right) and number of strokes."""
    structure: dict[str, str]
    """How its parts are put together."""
    sounding: dict[str, list[str]]
    """Characters by their pinyin without the tone, as it is typed; the most common one first."""


def homophones(text: str) -> list[list[str]]:
    """For every character of a text, the three most common others that are typed with the same pinyin.

    >>> homophones("ok")
    [[], []]
    """
    # A list for each run that isn't Chinese keeps the places; pypinyin's annotation knows only the other ways.
    read = lazy_pinyin(text, style=Style.NORMAL, errors=cast(Any, list))  # in context: 银行 is yin hang, 行走 xing zou
    if read == list(text):
        return [[] for _ in text]
    book = characters(lexicons.fetch(lexicons.CHARACTERS))
    return [
        [other for other in book.sounding.get(sound, []) if other != one][:3] if one in book.strokes else []
        for one, sound in zip(text, read, strict=True)
    ]


def lookalikes(one: str) -> list[str]:
    """The three characters that look most like one, as 晴 and 睛 or 末 and 未: built and written alike."""
    return _lookalikes(lexicons.fetch(lexicons.CHARACTERS), one)


@cache
def _lookalikes(folder: Path, one: str) -> list[str]:
    book = characters(folder)
    if one not in book.structure:
        return []
    strokes, found = book.strokes[one], []
    for count in range(len(strokes) - 2, len(strokes) + 3):
        for other in book.built.get((book.structure[one], count), []):
            alike = _alike(strokes, book.strokes[other])
            corners = sum(map(str.__eq__, book.corners[one], book.corners[other]))
            if other != one and alike >= ALIKE and corners >= CORNERS:
                found.append((-alike, -book.frequency[other], other))
    return [other for _, _, other in sorted(found)[:3]]


def _alike(first: str, second: str) -> float:
    """Share of the longer one's strokes that begin or end both."""
    front = _same(first, second)
    return (front + _same(first[front:][::-1], second[front:][::-1])) / max(len(first), len(second))


def _same(first: str, second: str) -> int:
    """How many characters two texts have in common before they differ."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


@cache
def characters(folder: Path) -> Characters:
    """Read the common characters."""
    given = {
        name: json.loads((folder / f"char_similar/data/char_{name}.dict").read_text(encoding="utf-8"))
        for name in ("frequency", "order", "fourangle", "struct")
    }
    known = [set(table) for table in given.values()]
    frequency = {one: given["frequency"][one] for one in sorted(set.intersection(*known))}
    common = sorted((one for one in frequency if frequency[one] >= COMMON), key=lambda one: (-frequency[one], one))
    built, sounding = defaultdict(list), defaultdict(list)
    for one in common:
        built[given["struct"][one], len(given["order"][one])].append(one)
        sounding[lazy_pinyin(one, style=Style.NORMAL)[0]].append(one)
    return Characters(
        frequency={one: frequency[one] for one in common},
        strokes={one: given["order"][one] for one in common},
        corners={one: given["fourangle"][one][:4] for one in common},
        structure={one: given["struct"][one] for one in common},
        built=dict(built),
        sounding=dict(sounding),
    )
