"""Perturbations of characters: misspellings, homophones, look-alikes, typography."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, cast

from opencc import OpenCC
from pypinyin import Style, lazy_pinyin

from labeltune.evaluation.robustness import editing
from labeltune.evaluation.robustness.editing import HAN, PLAIN, Draw, Span, quota, respell, splice, words

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
    book = characters(editing.fetch(editing.CHARACTERS))
    return [
        [other for other in book.sounding.get(sound, []) if other != one][:3] if one in book.strokes else []
        for one, sound in zip(text, read, strict=True)
    ]


def lookalikes(one: str) -> list[str]:
    """The three characters that look most like one, as 晴 and 睛 or 末 and 未: built and written alike."""
    return _lookalikes(editing.fetch(editing.CHARACTERS), one)


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


ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Of the keyboard, each shifted to the right by about half a key."""
TYPED = 3
"""Letters of the shortest English word that gets a slip: in a shorter one it is another word."""

_HAN = re.compile(f"[{HAN}]")


def neighbours(letter: str) -> str:
    """The keys around a small letter, none for other characters.

    >>> neighbours("s"), neighbours("1")
    ('adwezx', '')
    """
    for row, keys in enumerate(ROWS):
        if letter in keys:
            at = keys.index(letter)
            beside = [keys[place] for place in (at - 1, at + 1) if 0 <= place < len(keys)]
            above = ROWS[row - 1][at : at + 2] if row else ""
            below = ROWS[row + 1][max(0, at - 1) : at + 1] if row < len(ROWS) - 1 else ""
            return "".join(beside) + above + below
    return ""


def typos(text: str, draw: Draw) -> str:
    """Misspell the severity's share of English words with one slip each, or of Chinese characters.

    In Chinese a slip is a character typed with the same pinyin or one that looks alike.
    """
    if draw.language == "zh":
        return _swap_characters(text, draw, sound=None)
    places = [match.span() for match in PLAIN.finditer(text)]
    long = [(start, end) for start, end in places if end - start >= TYPED]
    return respell(text, draw, long, len(places), lambda span: _slip(text[slice(*span)], draw))


def _slip(word: str, draw: Draw) -> str:
    """One slip after the first letter: a key beside it, a letter twice, left out, or in the wrong order."""
    at = draw.rng.randrange(1, len(word))
    letter = word[at]
    near = draw.rng.choice(neighbours(letter.lower()))
    near = near.upper() if letter.isupper() else near
    pieces = [near, near + letter, letter + letter, ""]
    slips = [word[:at] + piece + word[at + 1 :] for piece in pieces]
    if at + 1 < len(word):
        slips.append(word[:at] + word[at + 1] + letter + word[at + 2 :])
    return draw.rng.choice([slip for slip in slips if slip != word])


def sound_alikes(text: str, draw: Draw) -> str:
    """Put characters typed with the same pinyin in the place of the severity's share of Chinese characters."""
    return _swap_characters(text, draw, sound=True)


def look_alikes(text: str, draw: Draw) -> str:
    """Put characters that look alike in the place of some: one in a word of English, or Chinese ones."""
    if draw.language == "zh":
        return _swap_characters(text, draw, sound=False)
    places = [match.span() for match in PLAIN.finditer(text)]

    def disguise(span: Span) -> str:
        word = text[slice(*span)]
        at = draw.order([at for at, letter in enumerate(word) if letter in LATIN])[:1]
        return word[: at[0]] + draw.rng.choice(LATIN[word[at[0]]]) + word[at[0] + 1 :] if at else word

    return respell(text, draw, places, len(places), disguise)


def _swap_characters(text: str, draw: Draw, *, sound: bool | None) -> str:
    """Put other characters in the place of Chinese ones: of the same sound, of a like shape, or of either."""
    places = [match.span() for match in _HAN.finditer(text)]
    sounding = homophones(text) if sound is not False else [[] for _ in text]

    def confuse(span: Span) -> str:
        heard = sounding[span[0]]
        seen = lookalikes(text[span[0]]) if sound is not True else []
        both = [others for others in (heard, seen) if others]
        return draw.rng.choice(draw.rng.choice(both)) if both else text[span[0]]

    return respell(text, draw, places, len(places), confuse)


ENGLISH_MARKS = {
    ".": ["", "..", ";"],
    ",": ["", ";", " -"],
    "!": ["", ".", "!!"],
    "?": ["", "??", "?!"],
    ":": ["", ";", " -"],
    ";": ["", ",", "."],
    "…": ["", ".", "..."],
}
CHINESE_MARKS = {
    "。": ["", ".", "；"],
    "，": [" ", ",", "、"],
    "！": ["", "。", "！！"],
    "？": ["", "?", "？？"],
    "：": [" ", ":", "，"],
    "；": [" ", ",", "。"],
    "、": [" ", "，", ","],
    "…": ["", "。", "……"],
    "～": ["", "~", "。"],
    ",": ["，", " ", "、"],
    ".": ["。", "", "．"],
    "．": ["。", "", "."],
    "!": ["！", "", "。"],
    "?": ["？", "", "??"],
    ":": ["：", " ", "，"],
    ";": ["；", " ", "，"],
    "~": ["～", "", "。"],
}
"""Mark -> what is put in its place; a run of them counts as its first."""
ENGLISH_GAP, CHINESE_GAP = [",", ";", " -"], ["，", " ", "、"]
"""What is put between two words without a mark."""
ENGLISH_BLANKS, CHINESE_BLANKS = ["  ", "\t", "\n", "   "], [" ", "  ", "\u3000"]
"""What is put between two words instead of a space, or of nothing."""
EMOJI = ["📎", "📄", "🕒", "🌍", "📍", "🔹"]
"""Signs without a mood."""

_ENGLISH_RUN = re.compile(r"(?<=\S)[.,!?:;…]+(?=\s|$)")
_CHINESE_RUN = re.compile(r"(?<![A-Za-z0-9])[。，！？：；、…～,.!?:;~]+")
_FULL = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_HALF = {full: code for code, full in _FULL.items()}
_PIECE, _WIDE = re.compile(r"\S+"), re.compile("[!-~\uff01-\uff5e]")


def change_punctuation(text: str, draw: Draw) -> str:
    """Leave out, double or exchange marks, and put some between words: as many as the severity's share of words.

    Marks are changed before gaps are. Numbers, addresses and words keep what is inside them.
    """
    chinese = draw.language == "zh"
    table, gap = (CHINESE_MARKS, CHINESE_GAP) if chinese else (ENGLISH_MARKS, ENGLISH_GAP)
    spans = words(text, draw.language)
    marks = [match.span() for match in (_CHINESE_RUN if chinese else _ENGLISH_RUN).finditer(text)]
    pieces: dict[Span, str] = {}
    for start, end in (draw.order(marks) + draw.order(_gaps(text, spans)))[: quota(draw.severity, len(spans))]:
        run = text[start:end].strip()
        others = table[run[0]] if run else gap
        pieces[start, end] = draw.rng.choice([other for other in others if other != run]) + (
            "" if run else text[start:end]
        )
    return splice(text, pieces)


def change_space(text: str, draw: Draw) -> str:
    """Widen or break the severity's share of spaces; in Chinese, put some between words."""
    blanks = CHINESE_BLANKS if draw.language == "zh" else ENGLISH_BLANKS
    gaps = _gaps(text, words(text, draw.language))
    return respell(text, draw, gaps, len(gaps), lambda span: draw.rng.choice(blanks))


def _gaps(text: str, spans: list[Span]) -> list[Span]:
    """What lies between two words, where it is only white space or nothing."""
    between = [(first[1], second[0]) for first, second in pairwise(spans)]
    return [(start, end) for start, end in between if not text[start:end].strip()]


def change_case(text: str, draw: Draw) -> str:
    """Write the whole text in capitals or in small letters."""
    others = [other for other in (text.upper(), text.lower()) if other != text]
    return draw.rng.choice(others) if others else text


def change_width(text: str, draw: Draw) -> str:
    """Write the severity's share of English words full-width; in Chinese, exchange widths of letters, digits, marks."""
    places = [match.span() for match in (_WIDE if draw.language == "zh" else _PIECE).finditer(text)]
    table = _FULL | _HALF if draw.language == "zh" else _FULL
    return respell(text, draw, places, len(places), lambda span: text[slice(*span)].translate(table))


def change_script(text: str, draw: Draw) -> str:
    """Write simplified Chinese in traditional characters, and the reverse, by OpenCC's dictionaries."""
    traditional, simplified = (converter(way).convert(text) for way in ("s2t", "t2s"))
    changes = [sum(map(str.__ne__, text, other)) for other in (traditional, simplified)]
    return simplified if changes[1] > changes[0] else traditional


@cache
def converter(way: str) -> OpenCC:
    """OpenCC's `s2t` or `t2s`."""
    return OpenCC(way)


def add_emoji(text: str, draw: Draw) -> str:
    """Put a sign without a mood before or after the text."""
    sign = draw.rng.choice(EMOJI)
    return draw.rng.choice([f"{sign} {text}", f"{text} {sign}"])
