"""Quoting the texts of rows: what is cut, which hidden characters are shown, and where two versions differ."""

import difflib
import re
from dataclasses import dataclass

from labeltune.runtime.markdown import visible

LONGEST = 600
"""Maximum number of characters of a text to show."""
CONTEXT = 120
"""Characters that are shown before the first difference of two long texts."""
TOKENS = re.compile(r"⟨[^⟨⟩]*⟩|[^\W\u2e80-\u9fff\uac00-\ud7af]+|\s+|.", re.DOTALL)
"""Matches a code point, a word, a single Chinese character, or white space."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a quoted text."""

    text: str
    """Its characters."""
    changed: bool
    """Whether the other version of the text differs here."""


def quote(text: str, start: int = 0) -> str:
    r"""Return at most `LONGEST` characters of a text on one line, in which hidden characters are code points.

    >>> quote("a\nb")
    'a⟨↵⟩b'
    """
    end = min(len(text), start + LONGEST)
    cut = f" … {end - start} / {len(text)}" if end < len(text) else ""
    return f"{'…' if start else ''}{visible(text[start:end])}{cut}"


def quote_both(text: str, changed: str) -> tuple[str, str]:
    """Quote two versions of a text; of long ones, the part with the first difference."""
    start = 0
    if max(len(text), len(changed)) > LONGEST:
        same = next((i for i, (a, b) in enumerate(zip(text, changed, strict=False)) if a != b), None)
        difference = min(len(text), len(changed)) if same is None else same
        start = max(0, difference - CONTEXT)
    return quote(text, start), quote(changed, start)


def compare(first: str, second: str) -> tuple[list[Segment], list[Segment]]:
    """Part two quoted versions of a text into segments, those that differ and those that do not."""
    left, right = (TOKENS.findall(version) for version in (first, second))
    parts = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    return (
        [
            Segment(text="".join(left[low:high]), changed=kind != "equal")
            for kind, low, high, _, _ in parts
            if low < high
        ],
        [
            Segment(text="".join(right[low:high]), changed=kind != "equal")
            for kind, _, _, low, high in parts
            if low < high
        ],
    )
