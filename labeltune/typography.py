"""The same words set otherwise: punctuation, white space, capitals, width and script of the characters, emoji."""

import re
from functools import cache
from itertools import pairwise

from opencc import OpenCC

from labeltune.edits import Draw, Span, quota, respell, splice
from labeltune.segmentation import words

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
