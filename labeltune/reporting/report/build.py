"""Building the report from its templates, one per section and language."""

from pathlib import Path
from typing import Any

from labeltune.config.evaluation import Report
from labeltune.console.terminal import say
from labeltune.reporting.report import comparison_sections, data_sections, model_sections
from labeltune.reporting.report.i18n import LANGUAGES
from labeltune.reporting.report.render import Document, Templates, answers, html, markdown
from labeltune.reporting.report.results import RunResults
from labeltune.runtime.files import write_text

CHAPTERS = (
    "accuracy", "confidence", "robustness", "comparison", "mistakes", "data", "training", "configuration",
    "environment", "costs",
)  # fmt: skip
"""The chapters in their order: templates, and fragment identifiers of the page."""


def compose(results: RunResults, settings: Report) -> Document:
    """Put a report together in the language that the settings ask for."""
    language = LANGUAGES[settings.language]
    templates = Templates(settings.language, everywhere(results))
    facts: dict[str, dict[str, Any]] = {
        "accuracy": model_sections.accuracy(results),
        "confidence": model_sections.confidence(results),
        "robustness": comparison_sections.robustness(results, settings.mistakes),
        "comparison": comparison_sections.comparison(results),
        "mistakes": data_sections.mistakes(results, settings.mistakes),
        "data": data_sections.data(results),
        "environment": data_sections.environment(results),
        "costs": data_sections.costs(results),
    }
    return Document(
        language=language.tag,
        title=templates.fill("title"),
        summary=templates.fill("summary"),
        figures=templates.fill("figures"),
        chapters={name: templates.fill(name, facts.get(name, {})) for name in CHAPTERS},
        colophon=templates.fill("colophon"),
        plots=results.plots,
        dpi=results.settings["plot"]["dpi"],
    )


def everywhere(results: RunResults) -> dict[str, Any]:
    """Return what every template may name: the recorded figures, and what several sections state."""
    found = results.comparison
    return {
        "metrics": results.metrics,
        "data": results.data,
        "train": results.train,
        "confidence": results.confidence,
        "robustness": results.robustness,
        "comparison": found,
        "worklist": results.worklist,
        "costs": results.costs,
        "settings": results.settings,
        "configuration": results.configuration,
        "labels": results.names,
        "record": results.record,
        "pictures": [path.stem for path in sorted(results.plots.glob("*.png"))],
        "only_label": model_sections.only_label(results.metrics),
        "in_use": model_sections.shares_in_use(results.metrics),
        "abstention": model_sections.abstention(results),
        "calibration_error": model_sections.calibration_error(results),
        "worst": results.robustness and comparison_sections.worst(results.robustness),
        "best_baseline": next(iter(comparison_sections.ranked(found)), None) if found else None,
        "relation": comparison_sections.relation,
    }


def save(document: Document, folder: Path) -> None:
    """Write report.html and report.md into the folder of the pictures."""
    write_text(folder / "report.html", html(document))
    write_text(folder / "report.md", markdown(document))


def show(document: Document, folder: Path) -> None:
    """Print the verdict and where the report lies."""
    for question, answer in answers(document):
        say(f"{question} {answer}")
    say(f"the report: {folder / 'report.html'}, as Markdown {folder / 'report.md'}")
