"""The first lines of the report: how good, whether something cheaper is, when to trust it, what breaks it."""

from labeltune import quality, rivals, trust, weaknesses
from labeltune.blocks import Line, Tile
from labeltune.evidence import Evidence
from labeltune.wording import Wording


def verdict(evidence: Evidence, wording: Wording) -> list[tuple[str, Line]]:
    """Question and answer, the most important first."""
    unmeasured = wording.line("verdict.unmeasured")
    confidence, robustness, comparison = evidence.confidence, evidence.robustness, evidence.comparison
    answers = {
        "good": _good(evidence, wording),
        "cheaper": unmeasured if comparison is None else rivals.verdict(comparison, wording),
        "trust": unmeasured if confidence is None else _trust(evidence, wording),
        "breaks": unmeasured if robustness is None else weaknesses.falls(robustness, wording),
    }
    return [(wording.text(f"verdict.{name}"), line) for name, line in answers.items()]


def _good(evidence: Evidence, wording: Wording) -> Line:
    figures = evidence.metrics
    return wording.line(
        "verdict.accuracy",
        rows=wording.count("rows", figures["n"]),
        accuracy=wording.percent(figures["accuracy"]),
        interval=wording.within(figures["intervals"]["accuracy"]),
    )


def _trust(evidence: Evidence, wording: Wording) -> Line:
    found = evidence.confidence
    assert found is not None, "asked for where confidence was analysed"
    asked = evidence.settings["calibrate"]["temperature"] == "fit"
    stated = wording.line("verdict.gap", gap=trust.gap(found["calibration"]["after"]["ece"], wording))
    return (*trust.abstention(found, wording), *stated, *trust.temperature(found, asked, wording))


def tiles(evidence: Evidence, wording: Wording) -> list[Tile]:
    """The key figures."""
    return [*_quality(evidence, wording), *_confidence(evidence, wording), *_others(evidence, wording)]


def _quality(evidence: Evidence, wording: Wording) -> list[Tile]:
    figures = evidence.metrics
    units = {"accuracy": "percent", "macro_f1": "figure", "roc_auc": "figure"}
    found = []
    for key in quality.OVERALL:
        why = quality.why_undefined(figures, wording) if figures[key] is None else None
        found.append(
            Tile(
                label=wording.text(f"figure.{key}"),
                value=getattr(wording, units[key])(figures[key]),
                detail=why or (wording.within(figures["intervals"][key], units[key]),),
            )
        )
    return found


def _confidence(evidence: Evidence, wording: Wording) -> list[Tile]:
    found = evidence.confidence
    if found is None:
        return []
    calibration, test = found["calibration"], found["abstention"]["test"]
    tiles = [
        Tile(
            label=wording.text("figure.ece"),
            value=wording.figure(calibration["after"]["ece"]),
            detail=wording.line("tile.before", before=wording.figure(calibration["before"]["ece"])),
        )
    ]
    if found["abstention"]["threshold"]:
        tiles.append(
            Tile(
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


def _others(evidence: Evidence, wording: Wording) -> list[Tile]:
    robustness, comparison, costs = evidence.robustness, evidence.comparison, evidence.costs
    tiles = []
    if robustness is not None:
        tiles.append(
            Tile(
                label=wording.text("figure.robustness_score"),
                value=wording.figure(robustness["robustness_score"]),
                detail=wording.line("tile.perturbed", after=wording.percent(robustness["perturbed_accuracy"])),
            )
        )
    if comparison is not None and comparison["models"]:
        best = max(comparison["models"], key=lambda name: comparison["models"][name]["accuracy"])
        figures = comparison["models"][best]
        tiles.append(
            Tile(
                label=wording.text("tile.cheaper"),
                value=wording.percent(figures["accuracy"]),
                detail=(*wording.named("model", best), wording.text("word.comma"),
                        wording.within(figures["accuracy_interval"])),
            )
        )  # fmt: skip
    if "evaluate" in costs:
        tiles.append(
            Tile(
                label=wording.text("tile.speed"),
                value=wording.amount(costs["evaluate"]["rows_per_second"]),
                detail=wording.line("tile.trained", seconds=wording.amount(costs.get("train", {}).get("seconds"))),
            )
        )
    return tiles
