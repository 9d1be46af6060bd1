"""Other people's texts on a page: what would hide, reorder or fake something is shown as its code point."""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

LONGEST = 600
"""Characters of a text that are shown."""
CONTEXT = 120
"""Characters that are shown before the first difference of two long texts."""
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that act and leave no ink: controls, bidi overrides, line separators."""
JOINERS = "\u200c\u200d"
"""They shape letters and emoji, and reorder nothing."""
TOKENS = re.compile(r"[^\W\u2e80-\u9fff\uac00-\ud7af]+|\s+|.", re.DOTALL)
"""Words, and Chinese characters one by one."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a text."""

    text: str
    """What is shown."""
    point: bool
    """Whether it stands for one hidden character."""
    changed: bool
    """Whether the text that it is compared with differs here."""


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A text, or the part of it that is shown."""

    segments: tuple[Segment, ...]
    """The part, in order."""
    start: int
    """Its first character's position, from 0."""
    end: int
    """The position after its last character."""
    total: int
    """Characters of the whole text."""


def visible(text: str, kept: str = "") -> str:
    r"""Show every hidden character but the kept ones as its code point.

    >>> visible("a\u202eb")
    'a⟨U+202E⟩b'
    """
    if text.isprintable():
        return text
    return "".join(f"⟨{_point(letter)}⟩" if _hidden(letter) and letter not in kept else letter for letter in text)


def quote(text: str) -> Quote:
    """Quote a text from its beginning."""
    return _quote([(text[:LONGEST], False)], 0, text)


def compare(text: str, changed: str) -> tuple[Quote, Quote]:
    """Quote two versions of a text and mark where they differ; of long ones, the part with the first difference."""
    start = 0
    if max(len(text), len(changed)) > LONGEST:
        same = next((i for i, (a, b) in enumerate(zip(text, changed, strict=False)) if a != b), None)
        difference = min(len(text), len(changed)) if same is None else same
        start = max(0, difference - CONTEXT)
    first, second = (TOKENS.findall(version[start : start + LONGEST]) for version in (text, changed))
    parts = difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    return (
        _quote((("".join(first[low:high]), kind != "equal") for kind, low, high, _, _ in parts), start, text),
        _quote((("".join(second[low:high]), kind != "equal") for kind, _, _, low, high in parts), start, changed),
    )


def _quote(parts: Iterable[tuple[str, bool]], start: int, text: str) -> Quote:
    segments: list[Segment] = []
    for part, changed in parts:
        for hidden, run in groupby(part, _hidden):
            letters = list(run)
            shown = [_point(letter) for letter in letters] if hidden else ["".join(letters)]
            segments += [Segment(text=piece, point=hidden, changed=changed) for piece in shown]
    return Quote(segments=tuple(segments), start=start, end=min(len(text), start + LONGEST), total=len(text))


def _hidden(letter: str) -> bool:
    return unicodedata.category(letter) in HIDDEN and letter not in JOINERS


def _point(letter: str) -> str:
    return "↵" if letter == "\n" else f"U+{ord(letter):04X}"
