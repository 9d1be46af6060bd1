"""Building the report: the summary, key figures, and all sections."""

from pathlib import Path

import labeltune
from labeltune.config.evaluation import Report
from labeltune.console.terminal import say
from labeltune.reporting.report import comparison_sections, data_sections, model_sections
from labeltune.reporting.report.document import Code, Document, KeyFigure, Line, Name
from labeltune.reporting.report.i18n import LOCALES, Wording
from labeltune.reporting.report.render import html, markdown
from labeltune.reporting.report.results import RunResults
from labeltune.runtime.files import write_text
from labeltune.runtime.markdown import visible


def summary(evidence: RunResults, wording: Wording) -> list[tuple[str, Line]]:
    """Question and answer, the most important first."""
    unmeasured = wording.line("verdict.unmeasured")
    confidence, robustness, comparison = evidence.confidence, evidence.robustness, evidence.comparison
    answers = {
        "good": _good(evidence, wording),
        "cheaper": unmeasured if comparison is None else comparison_sections.verdict(comparison, wording),
        "trust": unmeasured if confidence is None else _trust(evidence, wording),
        "breaks": unmeasured if robustness is None else comparison_sections.falls(robustness, wording),
    }
    return [(wording.text(f"verdict.{name}"), line) for name, line in answers.items()]


def _good(evidence: RunResults, wording: Wording) -> Line:
    figures = evidence.metrics
    line = wording.line(
        "verdict.accuracy",
        rows=wording.count("rows", figures["n"]),
        accuracy=wording.percent(figures["accuracy"]),
        interval=wording.within(figures["intervals"]["accuracy"]),
    )
    there = figures["prevalence"]
    if there is None:
        return line
    return line + wording.line(
        "verdict.prevalence",
        shares=model_sections.shares(there["shares"], wording),
        accuracy=wording.percent(there["accuracy"]),
        interval=wording.within(there["accuracy_interval"]),
    )


def _trust(evidence: RunResults, wording: Wording) -> Line:
    found = evidence.confidence
    assert found is not None, "asked for where confidence was analysed"
    error = (found["prevalence"]["calibration"] if found["prevalence"] else found["calibration"]["after"])["ece"]
    stated = wording.line("verdict.gap", gap=model_sections.gap(error, wording))
    return (*model_sections.abstention(found, wording), *stated, *model_sections.temperature(found, wording))


def key_figures(evidence: RunResults, wording: Wording) -> list[KeyFigure]:
    """The key figures."""
    return [*_quality(evidence, wording), *_confidence(evidence, wording), *_others(evidence, wording)]


def _quality(evidence: RunResults, wording: Wording) -> list[KeyFigure]:
    figures = evidence.metrics
    units = {"accuracy": "percent", "macro_f1": "figure", "roc_auc": "figure"}
    found = []
    for key in model_sections.OVERALL:
        why = model_sections.why_undefined(figures, wording) if figures[key] is None else None
        found.append(
            KeyFigure(
                label=wording.text(f"figure.{key}"),
                value=getattr(wording, units[key])(figures[key]),
                detail=why or (wording.within(figures["intervals"][key], units[key]),),
            )
        )
    return found


def _confidence(evidence: RunResults, wording: Wording) -> list[KeyFigure]:
    found = evidence.confidence
    if found is None:
        return []
    calibration, abstention = found["calibration"], (found["prevalence"] or found)["abstention"]
    test = abstention["test"]
    tiles = [
        KeyFigure(
            label=wording.text("figure.ece"),
            value=wording.figure(calibration["after"]["ece"]),
            detail=wording.line("tile.before", before=wording.figure(calibration["before"]["ece"])),
        )
    ]
    if abstention["threshold"]:
        tiles.append(
            KeyFigure(
                label=wording.text("tile.answered"),
                value=wording.percent(test["accuracy"]),
                detail=wording.line(
                    "tile.coverage",
                    interval=wording.within(test["accuracy_interval"]),
                    coverage=wording.percent(test["coverage"]),
                ),
            )
        )
    return tiles


def _others(evidence: RunResults, wording: Wording) -> list[KeyFigure]:
    robustness, comparison, costs = evidence.robustness, evidence.comparison, evidence.costs
    tiles = []
    if robustness is not None:
        tiles.append(
            KeyFigure(
                label=wording.text("figure.robustness_score"),
                value=wording.figure(robustness["robustness_score"]),
                detail=wording.line("tile.perturbed", after=wording.percent(robustness["perturbed_accuracy"])),
            )
        )
    if comparison is not None and comparison["models"]:
        best = max(comparison["models"], key=lambda name: comparison["models"][name]["accuracy"])
        figures = comparison["models"][best]
        tiles.append(
            KeyFigure(
                label=wording.text("tile.cheaper"),
                value=wording.percent(figures["accuracy"]),
                detail=(*wording.named("model", best), wording.text("word.comma"),
                        wording.within(figures["accuracy_interval"])),
            )
        )  # fmt: skip
    if "evaluate" in costs:
        tiles.append(
            KeyFigure(
                label=wording.text("tile.speed"),
                value=wording.amount(costs["evaluate"]["rows_per_second"]),
                detail=wording.line("tile.trained", seconds=wording.amount(costs.get("train", {}).get("seconds"))),
            )
        )
    return tiles


def compose(evidence: RunResults, settings: Report) -> Document:
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
        verdict=summary(evidence, wording),
        tiles=key_figures(evidence, wording),
        chapters=[
            model_sections.accuracy_section(evidence, wording),
            model_sections.confidence_section(evidence, wording),
            comparison_sections.robustness_section(evidence, wording, settings.mistakes),
            comparison_sections.comparison_section(evidence, wording),
            data_sections.mistakes(evidence, wording, settings.mistakes),
            data_sections.data_section(evidence, wording),
            data_sections.training(evidence, wording),
            data_sections.configuration(evidence, wording),
            data_sections.environment(evidence, wording),
            data_sections.costs(evidence, wording),
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
