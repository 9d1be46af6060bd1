"""The report's chapter on what a single answer's confidence is worth."""

from labeltune.blocks import Block, Chapter, Line, Paragraph, Table
from labeltune.evidence import Evidence, Figures
from labeltune.galleries import gallery
from labeltune.wording import Wording

NOTABLE = 0.005
"""Confidence that is less than this off the accuracy counts as neither too high nor too low."""


def chapter(evidence: Evidence, wording: Wording) -> Chapter:
    """Calibration, abstention and prediction sets."""
    found = evidence.confidence
    blocks: list[Block] = [Paragraph(wording.line("word.missing"))]
    if found is not None:
        accuracy = evidence.metrics["accuracy"]
        asked = evidence.settings["calibrate"]["temperature"] == "fit"
        blocks = [
            Paragraph((*_bias(found, accuracy, wording), *temperature(found, asked, wording))),
            _calibration(found, wording),
            *gallery(
                evidence,
                wording,
                {"reliability": _reliability(found, wording), "risk_coverage": _sorting(found, wording)},
            ),
            Paragraph(abstention(found, wording)),
            _answered(found, wording),
            Paragraph(_sets(found, wording)),
            _distribution(found, wording),
        ]
    return Chapter(anchor="confidence", title=wording.text("trust.title"), blocks=blocks)


def gap(value: float, wording: Wording) -> str:
    """A distance between shares, in percentage points."""
    return wording.text("word.gap", value=f"{100 * value:.1f}")


def temperature(found: Figures, asked: bool, wording: Wording) -> Line:
    """What dividing the logits did."""
    fitted = found["calibration"]
    if not fitted["fitted"]:
        return wording.line("trust.unidentified" if asked else "trust.not_asked")
    return wording.line("trust.temperature", temperature=wording.figure(fitted["temperature"], 2))


def _bias(found: Figures, accuracy: float, wording: Wording) -> Line:
    mean = found["avg_confidence"]
    key = "trust.fair" if abs(mean - accuracy) < NOTABLE else "trust.over" if mean > accuracy else "trust.under"
    return wording.line(key, confidence=wording.percent(mean), accuracy=wording.percent(accuracy))


def _calibration(found: Figures, wording: Wording) -> Table:
    before, after = found["calibration"]["before"], found["calibration"]["after"]
    return Table(
        title=wording.line("trust.calibration"),
        header=[wording.line(f"column.{key}") for key in ("figure", "before", "after")],
        rows=[
            [(wording.text(f"figure.{key}"),), (wording.figure(before[key]),), (wording.figure(after[key]),)]
            for key in ("ece", "brier", "log_loss")
        ],
        notes=[wording.line("trust.lower")],
    )


def _reliability(found: Figures, wording: Wording) -> Line:
    before, after = (found["calibration"][when]["ece"] for when in ("before", "after"))
    if not found["calibration"]["fitted"]:
        return wording.line("trust.gap", gap=gap(after, wording))
    same = round(before, 3) == round(after, 3)
    key = "trust.gap_same" if same else "trust.gap_smaller" if after < before else "trust.gap_larger"
    return wording.line(key, before=gap(before, wording), after=gap(after, wording))


def _sorting(found: Figures, wording: Wording) -> Line:
    areas = found["selective"]
    room = areas["random_aurc"] - areas["best_aurc"]
    if room <= 0:
        return wording.line("trust.nothing_to_sort")
    way = (areas["random_aurc"] - areas["aurc"]) / room
    return wording.line(
        "trust.sorting" if way > 0 else "trust.sorting_fails",
        way=f"{way:.0%}",
        area=wording.figure(areas["aurc"], 4),
        random=wording.figure(areas["random_aurc"], 4),
        best=wording.figure(areas["best_aurc"], 4),
    )


def abstention(found: Figures, wording: Wording) -> Line:
    """From which confidence it answers, and what the answers on test rows are worth."""
    rule = found["abstention"]
    test = rule["test"]
    if rule["rule"] == "never":
        return wording.line("trust.never")
    if not rule["threshold"]:
        return wording.line("trust.answers_all")
    threshold = wording.figure(rule["threshold"])
    if not test["answered"]:
        return wording.line("trust.answers_none", threshold=threshold)
    return wording.line(
        "trust.abstains",
        threshold=threshold,
        coverage=wording.percent(test["coverage"]),
        coverage_interval=wording.within(test["coverage_interval"]),
        accuracy=wording.percent(test["accuracy"]),
        accuracy_interval=wording.within(test["accuracy_interval"]),
    )


def _answered(found: Figures, wording: Wording) -> Table:
    rule = found["abstention"]
    rows: list[list[Line]] = []
    for split in ("validation", "test"):
        part = rule[split]
        shown = [
            # The threshold was chosen by the validation rows: how sure their figures are would mislead.
            wording.sure(part[key], part[f"{key}_interval"]) if split == "test" else (wording.percent(part[key]),)
            for key in ("coverage", "accuracy")
        ]
        rows.append([(wording.text(f"split.{split}"),), (f"{part['rows']:,}",), *shown])
    notes = []
    if rule["target"] is not None:
        notes = [wording.line(f"trust.rule_{rule['rule']}", target=wording.percent(rule["target"]))]
    if None in (rule["validation"]["accuracy"], rule["test"]["accuracy"]):
        notes.append(wording.line("undefined.answered"))
    columns = ("split", "rows", "answered", "right")
    return Table(
        title=wording.line("trust.answered"),
        header=[wording.line(f"column.{key}") for key in columns],
        rows=rows,
        notes=notes,
    )


def _sets(found: Figures, wording: Wording) -> Line:
    sets = found["prediction_sets"]
    if sets["target"] is None:
        return wording.line("trust.no_sets")
    sizes = [
        wording.line("trust.size", rows=wording.count("rows", rows), labels=wording.count("labels", int(size)))
        for size, rows in sorted(sets["sizes"].items(), key=lambda item: int(item[0]))
    ]
    return wording.line(
        "trust.sets",
        target=wording.percent(sets["target"]),
        coverage=wording.percent(sets["coverage"]),
        interval=wording.within(sets["interval"]),
        mean=wording.figure(sets["mean_size"], 2),
        sizes=wording.listed(sizes),
    )


def _distribution(found: Figures, wording: Wording) -> Table:
    counts = found["confidence_distribution"]
    total = sum(counts.values())
    return Table(
        title=wording.line("trust.distribution"),
        header=[wording.line(f"column.{key}") for key in ("confidence", "rows", "share")],
        rows=[
            [(bin_.replace("-", "–"),), (f"{rows:,}",), (wording.percent(rows / total),)]
            for bin_, rows in counts.items()
        ],
        notes=[
            wording.line(
                "trust.high_low",
                high=wording.percent(found["high_confidence_ratio"]),
                low=wording.count("rows", found["low_confidence_samples"]),
            )
        ],
    )
