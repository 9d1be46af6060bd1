"""The report of a run: its verdict first, then every figure with what it says, in HTML and in Markdown."""

from pathlib import Path

import labeltune
from labeltune import appendices, provenance, quality, rivals, trust, verdicts, weaknesses
from labeltune.blocks import Code, Document, Line, Name
from labeltune.evaluation import Report
from labeltune.evidence import Evidence
from labeltune.markdown import markdown
from labeltune.outputs import write_text
from labeltune.pages import html
from labeltune.quotations import visible
from labeltune.terminal import say
from labeltune.wording import LOCALES, Wording


def compose(evidence: Evidence, settings: Report) -> Document:
    """Put a report together in the language that the settings ask for."""
    wording = Wording(settings.language)
    model, train = evidence.settings["model"], evidence.settings["train"]
    return Document(
        language=LOCALES[settings.language],
        title=wording.line("page.title", dataset=Name(evidence.settings["dataset"]["name"])),
        subtitle=wording.line(
            "page.subtitle",
            model=Name(model["hub"] or model["name"]),
            method=Code(train["method"]),
            head=Code(train["head"]),
            labels=wording.count("labels", len(evidence.names)),
            rows=wording.count("train_rows", evidence.record["data"]["rows"]["train"]),
        ),
        verdict=verdicts.verdict(evidence, wording),
        tiles=verdicts.tiles(evidence, wording),
        chapters=[
            quality.chapter(evidence, wording),
            trust.chapter(evidence, wording),
            weaknesses.chapter(evidence, wording, settings.mistakes),
            rivals.chapter(evidence, wording),
            appendices.mistakes(evidence, wording, settings.mistakes),
            provenance.chapter(evidence, wording),
            appendices.training(evidence, wording),
            appendices.configuration(evidence, wording),
            appendices.environment(evidence, wording),
            appendices.costs(evidence, wording),
        ],
        contents=wording.text("page.contents"),
        colophon=wording.line("page.colophon", version=labeltune.__version__),
    )


def save(document: Document, folder: Path) -> None:
    """Write report.html and report.md into the folder of the pictures."""
    write_text(folder / "report.html", html(document))
    write_text(folder / "report.md", markdown(document))


def show(document: Document, folder: Path) -> None:
    """Print the verdict and where the report lies."""
    for question, answer in document.verdict:
        say(f"{question} {plain(answer)}")
    say(f"the report: {folder / 'report.html'}, as Markdown {folder / 'report.md'}")


def plain(line: Line) -> str:
    """A line for a terminal: a label's name can't steer it."""
    return "".join(visible(run if isinstance(run, str) else run.text) for run in line)
