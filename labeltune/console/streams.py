"""Standard output of any encoding, and text that a terminal shows and does not obey."""

import io
import re
import sys

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and newline, line separators, bidirectional controls, and lone surrogates."""


def accept_any_encoding() -> None:
    """Write a question mark for what the standard output can't encode, instead of raising `UnicodeEncodeError`.

    An output in `cp1252` or `ascii` has no Chinese label, no bar of a progress, and no surrogate of a file's name.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def printable(text: str) -> str:
    r"""Escape what a terminal would obey or hide, as JSON does; newlines and tabs stay.

    Labels, texts and file names may come from strangers: an escape sequence in one could clear the screen, set the
    window's title, or reorder what is read.

    >>> printable("ham\x1b[2J")
    'ham\\u001b[2J'
    """
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
