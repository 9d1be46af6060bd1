"""The document model of the report, and quoting of untrusted text."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import ClassVar

from labeltune.runtime.markdown import code_point, is_hidden

LONGEST = 600
"""Maximum number of characters of a text to show."""
CONTEXT = 120
"""Characters that are shown before the first difference of two long texts."""
TOKENS = re.compile(r"[^\W\u2e80-\u9fff\uac00-\ud7af]+|\s+|.", re.DOTALL)
"""Matches a word, a single Chinese character, or white space."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a text."""

    text: str
    """The characters to show."""
    point: bool
    """Whether the text is the code point of a hidden character."""
    changed: bool
    """Whether the other version of the text differs here."""


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A text, or the part of it that is shown."""

    segments: tuple[Segment, ...]
    """The segments of the text, in order."""
    start: int
    """Position of the first character, from 0."""
    end: int
    """Position after the last character."""
    total: int
    """Number of characters in the whole text."""


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
        for hidden, run in groupby(part, is_hidden):
            letters = list(run)
            shown = [code_point(letter) for letter in letters] if hidden else ["".join(letters)]
            segments += [Segment(text=piece, point=hidden, changed=changed) for piece in shown]
    return Quote(segments=tuple(segments), start=start, end=min(len(text), start + LONGEST), total=len(text))


@dataclass(frozen=True)
class Name:
    """A word of the user's: a label, a data set. No page reads it as anything but text."""

    kind: ClassVar[str] = "name"
    text: str


@dataclass(frozen=True)
class Code:
    """A path, a command, a key or an id."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Aside:
    """Secondary information on the preceding figure, such as its interval."""

    kind: ClassVar[str] = "aside"
    text: str


Run = str | Name | Code | Aside
Line = tuple[Run, ...]
"""One or more sentences, or the content of a cell."""


def join(lines: Iterable[Line], separator: str) -> Line:
    """Put a separator between lines.

    >>> join([("a",), (Name("b"), "c")], ", ")
    ('a', ', ', Name(text='b'), 'c')
    """
    joined: Line = ()
    for place, line in enumerate(lines):
        joined += ((separator,) if place else ()) + line
    return joined


@dataclass(frozen=True)
class Paragraph:
    """Prose."""

    kind: ClassVar[str] = "paragraph"
    line: Line


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a header."""

    kind: ClassVar[str] = "table"
    title: Line
    """Caption of the table."""
    header: list[Line]
    """Headers of the columns, `[columns]`."""
    rows: list[list[Line]]
    """Cells, `[rows, columns]`; the first cell of each row is its name."""
    words: int = 1
    """Number of leading columns that hold text; the others hold numbers."""
    strong: int | None = None
    """Position of the row to emphasize."""
    notes: list[Line] = field(default_factory=list)
    """Notes below the table."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with the sentence that interprets it."""

    file: Path
    """A PNG file."""
    alt: str
    """Alternative text."""
    reading: Line
    """Sentence that interprets the figure."""
    dpi: int
    """Resolution in dots per inch."""


@dataclass(frozen=True)
class Gallery:
    """Figures shown side by side."""

    kind: ClassVar[str] = "gallery"
    pictures: list[Picture]


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """The texts of a row and its predictions."""

    heading: Line
    """Line with the predictions."""
    quotes: list[tuple[Line, Quote]]
    """Texts with their captions."""


@dataclass(frozen=True, kw_only=True)
class Exhibits:
    """Rows with their texts."""

    kind: ClassVar[str] = "exhibits"
    title: Line
    """Line that tells how the rows were selected."""
    items: list[Exhibit]
    """The rows, in order of severity."""


@dataclass(frozen=True)
class Facts:
    """Terms with their values."""

    kind: ClassVar[str] = "facts"
    items: list[tuple[Line, Line]]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The content of a file, collapsed by default."""

    kind: ClassVar[str] = "listing"
    title: Line
    """Caption."""
    text: str
    """Content of the file."""
    language: str
    """Format of the content: yaml or json."""


Block = Paragraph | Table | Gallery | Exhibits | Facts | Listing


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report under a heading."""

    anchor: str
    """Fragment identifier of the section."""
    title: str
    """Heading."""
    blocks: list[Block]
    """Content of the section."""


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """A key figure."""

    label: str
    """Name of the figure."""
    value: str
    """Value, formatted."""
    detail: Line
    """Interval or explanation of the value."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report."""

    language: str
    """Language tag, as in the `lang` attribute of HTML."""
    title: Line
    """Heading."""
    subtitle: Line
    """Line with the model, the method and the data."""
    verdict: list[tuple[str, Line]]
    """Questions with their answers, in order of importance."""
    tiles: list[KeyFigure]
    """The key figures."""
    chapters: list[Section]
    """Sections of the report."""
    contents: str
    """Heading of the table of contents."""
    colophon: Line
    """The last line."""
