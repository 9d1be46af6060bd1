"""Changing a few places of a text, chosen by a seed."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from labeltune.languages import Language

Span = tuple[int, int]
"""Where a piece begins and ends in its text."""
Place = TypeVar("Place")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What a change of one text may depend on."""

    rng: random.Random
    """Seeded by the seed, the perturbation and the row's id, so that nothing else moves the change."""
    severity: float
    """Share of the words or characters to change."""
    language: Language
    """Of the text."""
    wrong: Sequence[str]
    """Words of the labels that are not the row's."""

    def order(self, places: Sequence[Place]) -> list[Place]:
        """The places in a random order."""
        return self.rng.sample(places, len(places))


def quota(severity: float, units: int) -> int:
    """How many of the units a severity changes: at least one.

    >>> quota(0.1, 24), quota(0.1, 3)
    (2, 1)
    """
    return max(1, round(severity * units))


def splice(text: str, pieces: Mapping[Span, str]) -> str:
    """Put other pieces in the place of some spans that don't overlap.

    >>> splice("see you", {(4, 7): "them", (0, 0): "I "})
    'I see them'
    """
    done, parts = 0, []
    for (start, end), piece in sorted(pieces.items()):
        parts += [text[done:start], piece]
        done = end
    return "".join([*parts, text[done:]])


def respell(text: str, draw: Draw, places: Sequence[Span], units: int, spell: Callable[[Span], str]) -> str:
    """Put what `spell` gives in the place of some spans, as many as the severity's share of `units`.

    A span that it leaves as it is doesn't count. What a higher severity changes holds what a lower one does.
    """
    pieces: dict[Span, str] = {}
    wanted = quota(draw.severity, units)
    for span in draw.order(places):
        if len(pieces) == wanted:
            break
        piece = spell(span)
        if piece != text[slice(*span)]:
            pieces[span] = piece
    return splice(text, pieces)
