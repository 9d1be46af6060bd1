"""What a report is made of, in no language of a page: HTML and Markdown are written from the same blocks."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from labeltune.quotations import Quote


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
    """What belongs to the figure before it, and matters less."""

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
    """What the rows are."""
    header: list[Line]
    """`[columns]`."""
    rows: list[list[Line]]
    """`[rows, columns]`; the first cell names its row."""
    words: int = 1
    """So many columns from the left hold words, the others numbers."""
    strong: int | None = None
    """The row that stands out."""
    notes: list[Line] = field(default_factory=list)
    """What a reader has to know about the figures."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure and the sentence that reads it."""

    file: Path
    """A PNG file."""
    alt: str
    """What it shows."""
    reading: Line
    """What its numbers say."""
    dpi: int
    """Its resolution."""


@dataclass(frozen=True)
class Gallery:
    """Figures that belong side by side."""

    kind: ClassVar[str] = "gallery"
    pictures: list[Picture]


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """Texts of one row, and what was answered."""

    heading: Line
    """The answers."""
    quotes: list[tuple[Line, Quote]]
    """Each text with what it is."""


@dataclass(frozen=True, kw_only=True)
class Exhibits:
    """Rows with their texts."""

    kind: ClassVar[str] = "exhibits"
    title: Line
    """What they are an extract of."""
    items: list[Exhibit]
    """The rows, the worst first."""


@dataclass(frozen=True)
class Facts:
    """Terms and what they are."""

    kind: ClassVar[str] = "facts"
    items: list[tuple[Line, Line]]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A file's content, closed until it is asked for."""

    kind: ClassVar[str] = "listing"
    title: Line
    """What it is."""
    text: str
    """Its lines."""
    language: str
    """yaml or json."""


Block = Paragraph | Table | Gallery | Exhibits | Facts | Listing


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A part of the report under a heading."""

    anchor: str
    """Its name in addresses."""
    title: str
    """Its heading."""
    blocks: list[Block]
    """Its content."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A key figure."""

    label: str
    """What it is."""
    value: str
    """The figure."""
    detail: Line
    """How sure it is, or of what."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report."""

    language: str
    """Its language, as browsers name it."""
    title: Line
    """Its heading."""
    subtitle: Line
    """What was measured."""
    verdict: list[tuple[str, Line]]
    """Question and answer, the most important first."""
    tiles: list[Tile]
    """The key figures."""
    chapters: list[Chapter]
    """Everything else."""
    contents: str
    """The heading above the list of chapters."""
    colophon: Line
    """The last line."""
