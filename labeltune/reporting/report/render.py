"""Rendering the report as one HTML file and as Markdown."""

import base64
import struct
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from labeltune.reporting.report.document import (
    Aside,
    Block,
    Document,
    Exhibit,
    Exhibits,
    Facts,
    Gallery,
    Line,
    Listing,
    Paragraph,
    Quote,
    Run,
    Table,
)
from labeltune.runtime.markdown import code, escape, longest_backticks, visible


def markdown(document: Document) -> str:
    """Write a document as GitHub-flavoured Markdown."""
    parts = [f"# {line(document.title)}", line(document.subtitle)]
    parts.append("\n".join(f"- **{escape(question)}** {line(answer)}" for question, answer in document.verdict))
    parts.append(
        "\n".join(f"- {escape(tile.label)}: **{escape(tile.value)}** · {line(tile.detail)}" for tile in document.tiles)
    )
    for chapter in document.chapters:
        parts += [f"## {escape(chapter.title)}", *(_block(block) for block in chapter.blocks)]
    return "\n\n".join([*parts, line(document.colophon)]) + "\n"


def line(runs: Line) -> str:
    """Write sentences; a user's word is code, in which nothing is read as anything else."""
    return "".join(_run(run) for run in runs).strip()


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return line(block.line)
        case Table():
            return _table(block)
        case Gallery():
            return "\n\n".join(
                f"![{escape(picture.alt)}]({picture.file.name})\n\n{line(picture.reading)}"
                for picture in block.pictures
            )
        case Exhibits():
            return "\n".join([line(block.title), "", *(_exhibit(item) for item in block.items)])
        case Facts():
            return "\n".join(f"- {line(term)}: {line(value)}" for term, value in block.items)
        case Listing():
            return _listing(block)


def _table(table: Table) -> str:
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    if table.strong is not None:
        rows[table.strong] = [f"**{cell}**" for cell in rows[table.strong]]
    rules = [":--" if place < table.words else "--:" for place in range(len(table.header))]
    lines = [[_cell(cell) for cell in table.header], rules, *rows]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([f"**{line(table.title)}**", text, *(line(note) for note in table.notes)])


def _cell(runs: Line) -> str:
    # In a table a bar parts cells even within code.
    return "".join(_run(run) if isinstance(run, str | Aside) else _run(run).replace("|", "\\|") for run in runs)


def _run(run: Run) -> str:
    if isinstance(run, str):
        return escape(run)
    return f" ({escape(run.text)})" if isinstance(run, Aside) else code(run.text)


def _exhibit(item: Exhibit) -> str:
    quotes = [f"   {line(label)} {_quoted(quote)}" if label else f"   {_quoted(quote)}" for label, quote in item.quotes]
    return "\n".join([f"1. {line(item.heading)}", "", *(f"{text}\n" for text in quotes)])


def _quoted(quote: Quote) -> str:
    text = "".join(f"⟨{part.text}⟩" if part.point else part.text for part in quote.segments)
    cut = quote.end < quote.total
    shown = code(f"{'…' if quote.start else ''}{text}{'…' if cut else ''}")
    return f"{shown} {quote.end - quote.start} / {quote.total}" if cut else shown


def _listing(listing: Listing) -> str:
    shown = visible(listing.text, kept="\n").rstrip()
    fence = "`" * max(3, longest_backticks(shown) + 1)
    head = f"<details><summary>{line(listing.title)}</summary>"
    return f"{head}\n\n{fence}{listing.language}\n{shown}\n{fence}\n\n</details>"


TEMPLATES = Path(__file__).with_name("templates")
DOTS = 96
"""Dots per inch of a browser's pixel."""


def html(document: Document) -> str:
    """Write a document as HTML, pictures included."""
    # In this order: escaping sees what has become of a hidden character, never the character.
    environment = Environment(
        autoescape=True,
        finalize=lambda value: visible(value, kept="\n") if type(value) is str else value,
        loader=FileSystemLoader(TEMPLATES),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"data_uri": data_uri, "size": size}
    return environment.get_template("report.html").render(document=document)


def data_uri(file: Path) -> str:
    """A PNG file as an address that needs no file."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def size(file: Path, dpi: int) -> tuple[int, int]:
    """Width and height of a PNG file in a browser's pixels: its header has those of the file at byte 16."""
    width, height = struct.unpack(">II", file.read_bytes()[16:24])
    return round(width * DOTS / dpi), round(height * DOTS / dpi)
