"""Where the words of a text begin and end, in English and in Chinese."""

import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from labeltune import lexicons
from labeltune.edits import Span
from labeltune.languages import HAN, Language

WORD = re.compile(r"\w+(?:['’\-]\w+)*")
PLAIN = re.compile(r"(?<![\w@#./\\'’\-])[A-Za-z]+(?![\w@/\\'’\-]|\.\w|:/)")
"""A word of letters alone that is no part of a number, a code, an address or a contraction."""
LONGEST = 8
"""Characters of the longest Chinese word that is looked for."""

_RUN = re.compile(f"[{HAN}]+|[^\\W{HAN}]+(?:['’\\-][^\\W{HAN}]+)*")
_HAN = re.compile(f"[{HAN}]")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Chinese words."""

    frequency: dict[str, int]
    """How often each was counted."""
    part: dict[str, str]
    """Part of speech, in the tags of the People's Daily corpus."""
    total: int
    """Of all frequencies."""


def words(text: str, language: Language) -> list[Span]:
    """Spans of the words, without punctuation."""
    if language != "zh":
        return [match.span() for match in WORD.finditer(text)]
    spans: list[Span] = []
    for run in _RUN.finditer(text):
        start = run.start()
        parts = cut(run.group()) if _HAN.match(run.group()) else [run.group()]
        for part in parts:
            spans.append((start, start + len(part)))
            start += len(part)
    return spans


def cut(run: str) -> list[str]:
    """Cut a run of Chinese characters into the most probable sequence of words, each drawn for itself.

    The best way from each character to the end is found from the back (Viterbi 1967); a character that is no
    known word counts as a word seen once.
    """
    book = vocabulary(lexicons.fetch(lexicons.JIEBA))
    total = math.log(book.total)
    best: list[tuple[float, int]] = [(0.0, 0)] * (len(run) + 1)  # from here to the end: log-probability, next cut
    for start in range(len(run) - 1, -1, -1):
        ways = []
        for end in range(start + 1, min(len(run), start + LONGEST) + 1):
            count = book.frequency.get(run[start:end], int(end == start + 1))
            if count:
                ways.append((math.log(count) - total + best[end][0], end))
        best[start] = max(ways)
    cuts, start = [], 0
    while start < len(run):
        end = best[start][1]
        cuts.append(run[start:end])
        start = end
    return cuts


@cache
def vocabulary(folder: Path) -> Vocabulary:
    """Read the words of jieba's dictionary; what was never counted is left out."""
    frequency: dict[str, int] = {}
    part: dict[str, str] = {}
    for line in (folder / "jieba/dict.txt").read_text(encoding="utf-8").splitlines():
        word, count, tag = line.split(" ")
        if count != "0":
            frequency[word], part[word] = int(count), tag
    return Vocabulary(frequency=frequency, part=part, total=sum(frequency.values()))
