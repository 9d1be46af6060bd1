"""The report as one HTML file: it loads nothing, runs nothing, and shows what users wrote as text only."""

import base64
import struct
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from labeltune.blocks import Document
from labeltune.quotations import visible

TEMPLATES = Path(__file__).with_name("pages")
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
