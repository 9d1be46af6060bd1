"""Rendering the report: templates to Markdown, and Markdown to one HTML file."""

import base64
import itertools
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup, escape

import labeltune
from labeltune.reporting.report.i18n import FILTERS, LANGUAGES
from labeltune.reporting.report.quotes import Segment, compare
from labeltune.runtime import markdown as text_of_others
from labeltune.runtime.templates import environment

TEMPLATES = Path(__file__).with_name("templates")
DOTS = 96
"""Dots per inch of a browser's pixel."""
WIDE_PICTURE = 700
"""Pixels of a browser from which on a picture has a row for itself: half of the page would make it unreadable."""
WIDE = "\u2e80"
"""First of the characters between which no space is written."""
POINT = re.compile(r"⟨(U\+[0-9A-F]{4,6}|↵)⟩")
"""A hidden character in a quoted text."""
QUOTED = re.compile(r"(…?)(.*?)( … \d+ / \d+)?", re.DOTALL)
"""A quoted text and what says that it is cut."""
DETAILS = re.compile(r"<details><summary>([^<>]+)</summary>")
INTERVAL = re.compile(r"(.+) \((.+)\)")
"""A cell with a figure and its interval."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report, in parts of Markdown."""

    language: str
    """Language tag, as in the `lang` attribute of HTML."""
    title: str
    """Heading, and a line with the model, the method and the data."""
    summary: str
    """Questions with their answers, in order of importance."""
    figures: str
    """The key figures."""
    chapters: dict[str, str]
    """Fragment identifier -> section of the report."""
    colophon: str
    """The last line."""
    plots: Path
    """The folder of the pictures."""
    dpi: int
    """Resolution of the pictures in dots per inch."""


class Templates:
    """The templates of a language, and what all of them may name."""

    def __init__(self, language: str, facts: dict[str, Any]) -> None:
        self.environment = template_environment(language)
        self.facts = facts | {"version": labeltune.__version__}

    def fill(self, name: str, facts: dict[str, Any] | None = None) -> str:
        """Return the Markdown of a template, one line to a paragraph."""
        return unwrapped(self.environment.get_template(f"{name}.md").render(self.facts | (facts or {})))


@cache
def template_environment(language: str) -> Environment:
    """Return the environment of the templates of a language, `en` or `zh`."""
    spoken = LANGUAGES[language]
    found = environment([TEMPLATES / language], spoken.locale)
    found.filters |= {name: getattr(spoken, name) for name in FILTERS}
    found.filters |= {"cell": _cell, "cells": _cells, "codes": _codes, "versions": _versions}
    return found


def _cell(text: object) -> Markup:
    """Write a code span in a table, where a bar parts cells even within code."""
    return Markup(text_of_others.code(str(text)).replace("|", "\\|"))


def _cells(texts: Sequence[object], comma: str) -> Markup:
    return Markup(comma).join(_cell(text) for text in texts)


def _codes(texts: Sequence[object], comma: str) -> Markup:
    return Markup(comma).join(Markup(text_of_others.code(str(text))) for text in texts)


def _versions(quotes: tuple[str, str], before: str, after: str) -> Markup:
    """Write two versions of a text as a block that GitHub colours; the page marks where they differ."""
    return Markup(text_of_others.code_block(f"- {quotes[0]}\n+ {quotes[1]}", f"diff {before} {after}"))


def reader() -> MarkdownIt:
    """Return a parser of the Markdown that templates make: no HTML and no links, whoever wrote them."""
    return (
        MarkdownIt("commonmark", {"html": False})
        .enable("table")
        .disable(["autolink", "html_block", "html_inline", "link"])
    )


def unwrapped(text: str) -> str:
    r"""Join the lines of each paragraph, and leave one empty line between blocks.

    >>> print(unwrapped("one\ntwo\n\n\n三，\n四"))
    one two
    <BLANKLINE>
    三，四
    """
    lines = text.rstrip().splitlines()
    tokens = reader().parse("\n".join(lines))
    for before, token in reversed(list(itertools.pairwise(tokens))):
        if before.type == "paragraph_open" and token.map:
            first, end = token.map
            lines[first:end] = _joined(lines[first:end])
    code = {place for token in reader().parse("\n".join(lines)) if token.type == "fence" and token.map
            for place in range(*token.map)}  # fmt: skip
    kept = [line for place, line in enumerate(lines) if line.strip() or place in code or lines[place - 1].strip()]
    return "\n".join(kept)


def _joined(lines: Sequence[str]) -> list[str]:
    joined = [lines[0].rstrip()]
    for line in lines[1:]:
        last, text = joined[-1][-1], line.strip()
        if last == "\\":  # a line break that is meant
            joined.append(line.rstrip())
        else:
            joined[-1] += text if last >= WIDE or text[0] >= WIDE else f" {text}"
    return joined


def markdown(document: Document) -> str:
    """Write a document as GitHub-flavoured Markdown."""
    parts = [document.title, document.summary, document.figures, *document.chapters.values(), document.colophon]
    return "\n\n".join(parts) + "\n"


def answers(document: Document) -> list[tuple[str, str]]:
    """Return the questions of the summary with their answers, as a terminal shows them."""
    shown = [plain(token) for token in reader().parse(document.summary) if token.type == "inline"]
    return list(zip(shown[::2], shown[1::2], strict=True))


def plain(inline: Token) -> str:
    """The text of a paragraph, without marks."""
    return "".join(part.content or (" " if part.type.endswith("break") else "") for part in inline.children or [])


def heading(text: str) -> str:
    """The first heading of a Markdown text."""
    tokens = reader().parse(text)
    return next(plain(inline) for opening, inline in itertools.pairwise(tokens) if opening.type == "heading_open")


def html(document: Document) -> str:
    """Write a document as HTML, pictures included."""
    renderer = reader()
    renderer.core.ruler.push("report", _lay_out)
    renderer.add_render_rule("fence", _fence)
    renderer.add_render_rule("image", _image)
    given = {"plots": document.plots, "dpi": document.dpi}

    def written(text: str) -> Markup:
        return Markup(renderer.render(text, dict(given)))

    pages = Environment(autoescape=True, lstrip_blocks=True, trim_blocks=True)
    page = pages.from_string((TEMPLATES / "report.html").read_text(encoding="utf-8"))
    return page.render(
        language=document.language,
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        name=heading(document.title),
        title=written(document.title),
        summary=written(document.summary),
        figures=written(document.figures),
        chapters=[(anchor, heading(text), written(text)) for anchor, text in document.chapters.items()],
        colophon=written(document.colophon),
    )


def _lay_out(state: StateCore) -> None:
    """Make figures of pictures and tables, and what can be unfolded of listings."""
    state.tokens = list(_blocks(state.tokens, state.env))


def _blocks(tokens: list[Token], env: EnvType) -> Iterator[Token]:
    place = 0
    while place < len(tokens):
        if _is_picture(tokens, place):
            yield _tag("div", 1, "gallery")
            while _is_picture(tokens, place):
                yield from _picture(tokens[place + 1], env)
                place += 3
            yield _tag("div", -1)
        elif _is_caption(tokens, place):
            yield _tag("figure", 1, "table")
            yield from (_tag("figcaption", 1), tokens[place + 1], _tag("figcaption", -1))
            end = _end_of_table(tokens, place)
            yield from _table(tokens[place + 3 : end])
            if end < len(tokens) and tokens[end].type == "paragraph_open" and not _is_caption(tokens, end):
                yield from (_tag("p", 1, "note"), tokens[end + 1], _tag("p", -1))
                end += 3
            yield _tag("figure", -1)
            place = end
        elif tokens[place].type == "table_open":
            end = _end_of_table(tokens, place)
            yield from _table(tokens[place:end])
            place = end
        elif tokens[place].type == "paragraph_open" and (markup := _details(tokens[place + 1].content)):
            yield Token("html_block", "", 0, content=markup)
            place += 3
        else:
            yield tokens[place]
            place += 1


def _is_picture(tokens: list[Token], place: int) -> bool:
    if place >= len(tokens) or tokens[place].type != "paragraph_open":
        return False
    children = tokens[place + 1].children or []
    return bool(children) and children[0].type == "image"


def _is_caption(tokens: list[Token], place: int) -> bool:
    """Whether a paragraph in bold stands before a table."""
    if tokens[place].type != "paragraph_open" or [token.type for token in tokens[place + 3 : place + 4]] != [
        "table_open"
    ]:
        return False
    inner = [part.type for part in tokens[place + 1].children or [] if part.type != "text" or part.content]
    return (inner[0], inner[-1]) == ("strong_open", "strong_close")


def _end_of_table(tokens: list[Token], place: int) -> int:
    return next(i for i in range(place, len(tokens)) if tokens[i].type == "table_close") + 1


def _picture(inline: Token, env: EnvType) -> Iterator[Token]:
    image, *reading = inline.children or []
    wide = size(_file(image, env), env["dpi"])[0] > WIDE_PICTURE
    yield from (_tag("figure", 1, "wide" if wide else ""), _tag("div", 1, "card"), _inline([image]), _tag("div", -1))
    yield from (_tag("figcaption", 1), _inline(reading[1:]), _tag("figcaption", -1), _tag("figure", -1))


def _table(tokens: list[Token]) -> Iterator[Token]:
    """Name rows by their first cell, columns of numbers by a class, and set intervals in small print."""
    yield Token("html_block", "", 0, content='<div class="scroll" tabindex="0">\n')
    body = first = False
    for token in tokens:
        body = body or token.type == "tbody_open"
        first = first or token.type == "tr_open"
        if token.type in ("th_open", "td_open"):
            number = token.attrs.pop("style", None) == "text-align:right"
            if number:
                token.attrs["class"] = "number"
            if first:
                token.attrs["scope"] = "row" if body else "col"
                token.tag = "th"
            elif not body:
                token.attrs["scope"] = "col"
        if token.type == "td_close" and first:
            token.tag = "th"
        if token.type == "inline" and body and not first:
            token.children = [part for child in token.children or [] for part in _small(child)]
        yield token
        first = first and token.type not in ("td_close", "th_close")
    yield Token("html_block", "", 0, content="</div>\n")


def _small(part: Token) -> Sequence[Token]:
    found = INTERVAL.fullmatch(part.content) if part.type == "text" else None
    if not found:
        return [part]
    figure, interval = (Token("text", "", 0, content=content) for content in found.groups())
    return [figure, Token("text", "", 0, content=" "), Token("small_open", "small", 1), interval,
            Token("small_close", "small", -1)]  # fmt: skip


def _details(content: str) -> str:
    """The markup that unfolds what follows, of which nothing is left but the title; empty for any other paragraph."""
    found = DETAILS.fullmatch(content)
    if found:
        return f"<details>\n<summary>{escape(found[1])}</summary>\n"
    return "</details>\n" if content == "</details>" else ""


def _tag(name: str, nesting: int, kind: str = "") -> Token:
    attributes: dict[str, str | int | float] = {"class": kind} if kind else {}
    return Token(f"{name}_{'open' if nesting > 0 else 'close'}", name, nesting, attrs=attributes, block=True)  # type: ignore[arg-type]


def _inline(children: list[Token]) -> Token:
    return Token("inline", "", 0, children=children)


def _fence(renderer: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType) -> str:
    """Write a block of code: `text` is a quotation, `diff` two versions of a text, anything else a listing."""
    token = tokens[place]
    kind, *labels = token.info.split()
    if kind == "text":
        return _quotation([Segment(text=token.content.removesuffix("\n"), changed=False)])
    if kind == "diff":
        shown = (QUOTED.fullmatch(line[2:]) for line in token.content.splitlines())
        versions = [found.groups(default="") for found in shown if found]
        marked = compare(*(inner for _, inner, _ in versions))
        return "".join(
            f'<p class="label">{escape(label)}</p>\n{_quotation(segments, start, end)}'
            for label, (start, _, end), segments in zip(labels, versions, marked, strict=True)
        )
    return f'<pre tabindex="0"><code>{escape(token.content)}</code></pre>\n'


def _quotation(segments: Sequence[Segment], start: str = "", end: str = "") -> str:
    parts = [f"<mark>{_points(part.text)}</mark>" if part.changed else _points(part.text) for part in segments]
    cuts = [f'<span class="cut">{cut}</span>' if cut else "" for cut in (start, end)]
    return f'<blockquote><p dir="auto">{cuts[0]}{"".join(parts)}{cuts[1]}</p></blockquote>\n'


def _points(text: str) -> str:
    return POINT.sub(r'<span class="point">\1</span>', str(escape(text)))


def _image(renderer: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType) -> str:
    """Put a picture of the run into the page; any other is left out."""
    image = tokens[place]
    file = _file(image, env)
    width, height = size(file, env["dpi"])
    return f'<img src="{data_uri(file)}" width="{width}" height="{height}" alt="{escape(image.content)}">'


def _file(image: Token, env: EnvType) -> Path:
    return Path(env["plots"]) / Path(str(image.attrs["src"])).name


def data_uri(file: Path) -> str:
    """A PNG file as an address that needs no file."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def size(file: Path, dpi: int) -> tuple[int, int]:
    """Width and height of a PNG file in a browser's pixels: its header has those of the file at byte 16."""
    width, height = struct.unpack(">II", file.read_bytes()[16:24])
    return round(width * DOTS / dpi), round(height * DOTS / dpi)
