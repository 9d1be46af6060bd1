"""The document model of the report, and quoting of untrusted text."""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import ClassVar

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
class Section:
    """A part of the report under a heading."""

    anchor: str
    """Its name in addresses."""
    title: str
    """Its heading."""
    blocks: list[Block]
    """Its content."""


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
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
    tiles: list[KeyFigure]
    """The key figures."""
    chapters: list[Section]
    """Everything else."""
    contents: str
    """The heading above the list of chapters."""
    colophon: Line
    """The last line."""
