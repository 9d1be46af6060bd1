"""A made-up run, its report, and what a browser would make of it."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from labeltune.config.evaluation import Report
from labeltune.reporting.report import build
from labeltune.reporting.report.render import Document
from labeltune.reporting.report.results import RunResults
from tests.findings import rows_and_logits, write_run

INLINE = ("bdi", "code", "mark", "span")
HOSTILE = (
    "<script>document.title='run'</script>",
    "<img src=http://example.com/a.png onerror=alert(1)>",
    "![picture](http://example.com/b.png) [link](http://example.com) <http://example.com> www.example.com",
    "abc\u202efdp.exe\u202c \x1b[31m \x00 \u200b",
    "``` | a | `b` </code></pre> **bold** $x$ &lt; &#60; \\",
)


class Page(HTMLParser):
    """What a browser would make of a page: its tags, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.hidden = ""
        self.feed(page)
        self.text = "".join(self.parts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.parts.append("" if tag in INLINE else " ")
        self.hidden = tag if tag in ("style", "title", "script") else ""

    def handle_endtag(self, tag: str) -> None:
        self.hidden = ""

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("run")
    names = ("ham", "spam")
    write_run(folder, names, *rows_and_logits(names))
    return folder


@pytest.fixture(scope="module")
def evidence(run: Path) -> RunResults:
    """The results of the run."""
    return RunResults.read(run)


def compose(evidence: RunResults, language: Any = "en", mistakes: int = 20) -> Document:
    """The report of a run."""
    return build.compose(evidence, Report(language=language, mistakes=mistakes))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    """Labels, ids and texts that would like to be markup."""
    folder = tmp_path_factory.mktemp("hostile")
    names = ("<b>ham</b>|`x`", "spam\u202e![a](http://example.com/c.png)", "שלום *b*")
    rows, logits = rows_and_logits(names)
    rows["text"] = [HOSTILE[place % len(HOSTILE)] for place in range(len(rows))]
    rows["id"] = [f"{name}<i>|`{place}" for place, name in enumerate(rows["id"])]
    write_run(folder, names, rows, -logits)  # nearly every answer is wrong, and so shown
    return RunResults.read(folder)
