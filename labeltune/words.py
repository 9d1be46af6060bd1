"""Other words: synonyms in their place, words left out, words in another order."""

import re

from labeltune.edits import Draw, Span, quota, respell, splice
from labeltune.segmentation import PLAIN, words
from labeltune.synonyms import synonyms

VOWELS = "aeiou"

_SENTENCE_START = re.compile(r"(?:^|[.!?…]['\")\]]*\s)\s*$")
_ARTICLE = re.compile(r"\b(an?) $", re.IGNORECASE)
_SPACE = re.compile(r"[^\S\n]*")


def replace_synonyms(text: str, draw: Draw) -> str:
    """Put synonyms in the place of the severity's share of all words, as far as there are words that have one."""
    english = draw.language != "zh"
    spans = [match.span() for match in PLAIN.finditer(text)] if english else words(text, "zh")

    def reword(span: Span) -> str:
        word = text[slice(*span)]
        others = _fitting(text, span) if english else synonyms(word, "zh")
        return draw.rng.choice(others) if others else word

    return respell(text, draw, spans, len(spans), reword)


def _fitting(text: str, span: Span) -> list[str]:
    """English synonyms with the word's capitals: none of what may be a name, and none that needs another article."""
    word, before = text[slice(*span)], text[: span[0]]
    if not (word.islower() or word.isupper() or (word.istitle() and _SENTENCE_START.search(before))):
        return []
    others = synonyms(word.lower(), "en")
    article = _ARTICLE.search(before)
    if article:
        others = [other for other in others if (other[0] in VOWELS) == (article[1].lower() == "an")]
    return [other.upper() if word.isupper() else other.capitalize() if word.istitle() else other for other in others]


def delete_words(text: str, draw: Draw) -> str:
    """Leave out the severity's share of words, with the space after them; the last one left stays."""
    spans = words(text, draw.language)
    if len(spans) < 2:
        return text
    taken = draw.order(spans)[: min(quota(draw.severity, len(spans)), len(spans) - 1)]
    return splice(text, {(start, _space_end(text, end)): "" for start, end in taken})


def _space_end(text: str, end: int) -> int:
    match = _SPACE.match(text, end)
    return match.end() if match else end


def swap_words(text: str, draw: Draw) -> str:
    """Exchange neighbouring words, so many that the severity's share of the words stands elsewhere."""
    spans = words(text, draw.language)
    pairs: dict[int, int] = {}
    for first in draw.order(range(len(spans) - 1)):
        if 2 * len(pairs) >= quota(draw.severity, len(spans)):
            break
        taken = {place for pair in pairs.items() for place in pair}
        if not taken & {first, first + 1} and text[slice(*spans[first])] != text[slice(*spans[first + 1])]:
            pairs[first] = first + 1
    pieces: dict[Span, str] = {}
    for first, second in pairs.items():
        pieces[spans[first]], pieces[spans[second]] = text[slice(*spans[second])], text[slice(*spans[first])]
    return splice(text, pieces)
