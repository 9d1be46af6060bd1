"""Misspelled texts: slips on the keyboard, characters that sound alike, characters that look alike."""

import re

from labeltune.characters import LATIN, homophones, lookalikes
from labeltune.edits import Draw, Span, respell
from labeltune.languages import HAN
from labeltune.segmentation import PLAIN

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
