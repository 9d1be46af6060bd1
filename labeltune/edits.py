"""Changing pieces of a text: which ones, how many, and into what, by a seeded draw."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from labeltune import lexicons

HAN = re.compile(r"[一-鿿]")
WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")
PIECE = re.compile(r"\S+")
LONGEST = 6
"""Characters of the longest Chinese word that is looked for."""
Span = tuple[int, int]
Piece = TypeVar("Piece")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A text to be changed."""

    text: str
    """The text."""
    severity: float
    """Share of its words or characters to change."""
    wrong: str
    """Word of a label that is not the text's."""
    rng: Random
    """Decides what is changed, and into what."""

    @property
    def language(self) -> str:
        """`zh` where a fifth or more of its letters are Chinese characters, else `en`."""
        letters = sum(character.isalpha() for character in self.text)
        return "zh" if letters and 5 * len(HAN.findall(self.text)) >= letters else "en"


def chinese_words(text: str, lexicon: lexicons.Table) -> list[Span]:
    """Cut a text into words of the lexicon, the longest first, and single characters; returns their places.

    >>> [text[a:b] for text in ["我喜欢奶牛。"] for a, b in chinese_words(text, {"喜欢": [], "奶牛": []})]
    ['我', '喜欢', '奶牛']
    """
    spans, place = [], 0
    while place < len(text):
        length = next((n for n in range(LONGEST, 1, -1) if text[place : place + n] in lexicon), 1)
        if HAN.match(text[place]):
            spans.append((place, place + length))
        place += length
    return spans


def words(request: Request) -> list[Span]:
    """Places of a text's words, in Chinese as far as the lexicon knows them."""
    if request.language == "zh":
        return chinese_words(request.text, lexicons.chinese_synonyms())
    return find(PIECE, request.text)


def find(pattern: re.Pattern[str], text: str) -> list[Span]:
    """Places of everything that a pattern matches."""
    return [match.span() for match in pattern.finditer(text)]


def piece_at(text: str, span: Span) -> str:
    """The piece of a text at a place."""
    return text[span[0] : span[1]]


def replace_some(
    request: Request, spans: list[Span], others: Callable[[str], Sequence[str]], most: int | None = None
) -> str:
    """Replace a share of the pieces by one of their alternatives, at least one piece where any has one."""
    able = [(span, choices) for span in spans if (choices := others(piece_at(request.text, span)))]
    text = request.text
    chosen = draw(request, able, len(spans))[:most]
    for (begin, end), choices in sorted(chosen, reverse=True):
        text = text[:begin] + request.rng.choice(choices) + text[end:]
    return text


def draw(request: Request, able: Sequence[Piece], pieces: int) -> list[Piece]:
    """Draw as many pieces as the severity asks for of all there are; a lower severity draws a part of them."""
    order = list(able)
    request.rng.shuffle(order)
    return order[: max(1, math.floor(request.severity * pieces + 0.5))]
