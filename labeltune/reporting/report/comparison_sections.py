"""Report sections on robustness and on cheaper models."""

import json
import math

from labeltune.evaluation.metrics import LEVEL, Interval, paired_interval
from labeltune.reporting.report.document import (
    Block,
    Code,
    Exhibit,
    Exhibits,
    Line,
    Listing,
    Name,
    Paragraph,
    Section,
    Table,
    compare,
)
from labeltune.reporting.report.i18n import Wording
from labeltune.reporting.report.results import Figures, RunResults, gallery

COMPARISON_COLUMNS = (
    "model", "accuracy", "macro_f1", "training_rows", "difference", "p_value", "only_one", "train_seconds",
    "rows_per_second", "peak_memory_mib", "size_mib",
)  # fmt: skip
SPENT = ("train_seconds", "rows_per_second", "peak_memory_mib", "size_mib")


def comparison_section(evidence: RunResults, wording: Wording) -> Section:
    """One table of all models, after the verdict."""
    found = evidence.comparison
    blocks: list[Block] = [Paragraph(wording.line("word.missing"))]
    if found is not None:
        blocks = [
            Paragraph(verdict(found, wording)),
            Paragraph(_zero_shot(found, wording)),
            _comparison_table(evidence, wording),
        ]
        if evidence.baselines is not None:
            chosen = json.dumps(evidence.baselines, ensure_ascii=False, indent=2, sort_keys=True)
            blocks.append(Listing(title=wording.line("baselines.chosen"), text=chosen, language="json"))
    return Section(anchor="cheaper", title=wording.text("baselines.title"), blocks=blocks)


def verdict(found: Figures, wording: Wording) -> Line:
    """Put the verdict on cheaper models into words."""
    decided = found["verdict"]
    named = wording.listed([_against(found, name, wording) for name in decided["models"]])
    return wording.line(
        f"baselines.{decided['outcome']}",
        named=named,
        models=wording.count("cheaper", len(found["models"])),
        rows=wording.count("rows", found["fine_tuned_model"]["n"]),
        fewest=f"{decided['fewest_rows']:,}",
    )


def _ranked(found: Figures) -> list[str]:
    return sorted(found["models"], key=lambda name: (-found["models"][name]["accuracy"], name))


def _against(found: Figures, name: str, wording: Wording) -> Line:
    """A cheaper model, its accuracy, and how much more or less accurate the fine-tuned model is."""
    figures, every = found["models"][name], found["fine_tuned_model"]["training_rows"]
    paired, seen = figures["paired"], figures["training_rows"]
    line = wording.line(
        "baselines.against",
        name=wording.named("model", name),
        accuracy=wording.percent(figures["accuracy"]),
        difference=_difference(paired["difference"], wording),
        interval=wording.within(paired["interval"], "points"),
        chance=wording.chance(paired["p_value"]),
    )
    if seen and every and seen < every:
        line += wording.line("baselines.fewer_rows", seen=f"{seen:,}", every=f"{every:,}")
    return line


def _difference(value: float, wording: Wording) -> str:
    """The sign of the difference in words: a number of points is never negative here."""
    points = f"{abs(100 * value):.1f}"
    if float(points) == 0:
        return wording.text("baselines.level")
    return wording.text("baselines.ahead" if value > 0 else "baselines.trailing", points=points)


def _zero_shot(found: Figures, wording: Wording) -> Line:
    base, gained = found["baseline_model"], found["improvement"]
    if base is None:
        return wording.line("baselines.no_base", why=Name(str(found.get("baseline_missing") or "–")))
    return wording.line(
        "baselines.base_lower" if gained["absolute"] < 0 else "baselines.base",
        accuracy=wording.percent(base["accuracy"]),
        interval=wording.within(base["accuracy_interval"]),
        tuned=wording.percent(found["fine_tuned_model"]["accuracy"]),
        gained=f"{abs(100 * gained['absolute']):.1f}",
    )


def _comparison_table(evidence: RunResults, wording: Wording) -> Table:
    found, costs = evidence.comparison, evidence.costs
    assert found is not None, "asked for where there is a comparison"
    train, evaluate = costs.get("train", {}), costs.get("evaluate", {})
    peaks = [part["peak_memory_mib"] for part in (train, evaluate) if "peak_memory_mib" in part]
    own = {
        "train_seconds": train.get("seconds"),
        "rows_per_second": evaluate.get("rows_per_second"),
        "peak_memory_mib": max(peaks, default=None),
        "size_mib": evaluate.get("size_mib"),
    }
    rows = [_row((wording.text("model.fine_tuned"),), found["fine_tuned_model"], own, wording)]
    for name in _ranked(found):
        spent = costs.get("baselines", {}).get(name, {})
        rows.append(_row(wording.named("model", name), found["models"][name], spent, wording))
    notes = [
        wording.line("baselines.note", significance=f"{found['verdict']['significance']:g}"),
        wording.line("baselines.costs"),
    ]
    if evidence.settings["train"]["method"] != "full":
        notes.append(wording.line("baselines.adapter"))
    return Table(
        title=wording.line("baselines.table"),
        header=[wording.line(f"column.{key}") for key in COMPARISON_COLUMNS],
        rows=rows,
        strong=0,
        notes=notes,
    )


def _row(name: Line, figures: Figures, spent: Figures, wording: Wording) -> list[Line]:
    paired = figures.get("paired")
    against: list[Line] = [("–",)] * 3
    if paired is not None:
        against = [
            wording.sure(paired["difference"], paired["interval"], "points"),
            (wording.p_value(paired["p_value"]),),
            (f"{paired['only_first']:,} : {paired['only_second']:,}",),
        ]
    return [
        name,
        wording.sure(figures["accuracy"], figures["accuracy_interval"]),
        wording.sure(figures["macro_f1"], figures["macro_f1_interval"], "figure"),
        ("–" if figures["training_rows"] is None else f"{figures['training_rows']:,}",),
        *against,
        *((wording.amount(spent.get(key)),) for key in SPENT),
    ]


KINDS = ("label_preserving", "label_agnostic")
ROBUSTNESS_COLUMNS = (
    "perturbation", "severity", "rows", "changed", "accuracy_before", "accuracy_after", "flips", "confidence_drop",
)  # fmt: skip


def robustness_section(evidence: RunResults, wording: Wording, shown: int) -> Section:
    """Every perturbation, the severities, and the worst flips, at most `shown`."""
    found = evidence.robustness
    blocks: list[Block] = [Paragraph(wording.line("word.missing"))]
    if found is not None:
        blocks = [
            Paragraph(
                wording.line(
                    "robustness.score",
                    before=wording.percent(found["original_accuracy"]),
                    after=wording.percent(found["perturbed_accuracy"]),
                    score=wording.figure(found["robustness_score"]),
                    rows=wording.count("rows", found["rows"]),
                    sample=wording.count("rows", found["sample"]),
                    few=wording.count("rows", found["severity_sample"]),
                )
            ),
            *gallery(
                evidence,
                wording,
                {"robustness": falls(found, wording), "severity": _severities(found, wording)},
            ),
            *(_robustness_table(found, kind, wording) for kind in KINDS if of_kind(found, kind)),
            *_flips(evidence, wording, shown),
        ]
    return Section(anchor="robustness", title=wording.text("robustness.title"), blocks=blocks)


def of_kind(found: Figures, kind: str) -> dict[str, Figures]:
    """The perturbations of a kind, first the one that surely costs most accuracy; those that changed no row last."""
    tests = {name: test for name, test in found["perturbation_tests"].items() if test["kind"] == kind}
    return dict(sorted(tests.items(), key=lambda item: (-sure_fall(item[1]), -(item[1]["flip_rate"] or 0), item[0])))


def sure_fall(test: Figures) -> float:
    """Lower end of the interval of the accuracy lost; minus infinity where the perturbation changed no row."""
    return -math.inf if test["paired"] is None else float(test["paired"]["interval"]["low"])


def _together(test: Figures, count: int) -> Interval:
    """Interval of the accuracy lost that holds for several perturbations at once (Bonferroni).

    The worst of many is named by looking at all of them: at 95% each, one of fifteen that cost nothing would be named
    in every second run.
    """
    paired = test["paired"]
    level = 1 - (1 - LEVEL) / count
    return paired_interval(paired["only_first"], paired["only_second"], test["rows"], level)


def falls(found: Figures, wording: Wording) -> Line:
    """Which label-preserving perturbation surely costs most accuracy, or how large a fall the rows exclude."""
    tests = {name: test for name, test in of_kind(found, KINDS[0]).items() if test["paired"] is not None}
    if not tests:
        return wording.line("robustness.none_tried")
    together = {name: _together(test, len(tests)) for name, test in tests.items()}
    name = max(together, key=lambda one: together[one].low)
    worst, interval = tests[name], together[name]
    changes = wording.count("changes", len(tests))
    if interval.low <= 0:
        least, most = (f"{100 * edge(one.high for one in together.values()):.1f}" for edge in (min, max))
        return wording.line("robustness.none_breaks", changes=changes, least=least, most=most)
    return wording.line(
        "robustness.breaks",
        name=wording.named("perturbation", name),
        before=wording.percent(worst["original_accuracy"]),
        after=wording.percent(worst["accuracy"]),
        fall=f"{100 * worst['paired']['difference']:.1f}",
        interval=wording.within(interval.record(), "points"),
        changes=changes,
        flips=wording.percent(worst["flip_rate"]),
        rows=wording.count("rows", worst["rows"]),
    )


def _severities(found: Figures, wording: Wording) -> Line | None:
    """How accuracy changes from the weakest to the strongest severity that changed a row."""
    measured = {
        name: [point for point in curve if point["accuracy"] is not None] for name, curve in found["severities"].items()
    }
    curves = {name: curve for name, curve in measured.items() if len(curve) > 1}
    if not curves:
        return None
    steepest = max(curves, key=lambda name: curves[name][0]["accuracy"] - curves[name][-1]["accuracy"])
    first, last = curves[steepest][0], curves[steepest][-1]
    return wording.line(
        "robustness.severity" if last["accuracy"] < first["accuracy"] else "robustness.severity_flat",
        name=wording.named("perturbation", steepest),
        low=wording.percent(first["severity"]),
        high=wording.percent(last["severity"]),
        before=wording.percent(first["accuracy"]),
        after=wording.percent(last["accuracy"]),
        interval=wording.within(last["accuracy_interval"]),
        rows=wording.count("rows", last["rows"]),
    )


def _robustness_table(found: Figures, kind: str, wording: Wording) -> Table:
    notes = [(*wording.line(f"robustness.{kind}_note"), *wording.line("robustness.note"))]
    if any(test["accuracy"] is None for test in of_kind(found, kind).values()):
        notes.append(wording.line("undefined.perturbation"))
    rows: list[list[Line]] = [
        [
            wording.named("perturbation", name),
            ("–" if test["severity"] is None else wording.percent(test["severity"]),),
            (f"{test['rows']:,}",),
            (f"{test['changed']:,}",),
            (wording.percent(test["original_accuracy"]),),
            wording.sure(test["accuracy"], test["accuracy_interval"]),
            wording.sure(test["flip_rate"], test["flip_rate_interval"]),
            wording.sure(test["confidence_drop"], test["confidence_drop_interval"], "points"),
        ]
        for name, test in of_kind(found, kind).items()
    ]
    return Table(
        title=wording.line(f"robustness.{kind}"),
        header=[wording.line(f"column.{key}") for key in ROBUSTNESS_COLUMNS],
        rows=rows,
        notes=notes,
    )


def _flips(evidence: RunResults, wording: Wording, shown: int) -> list[Block]:
    flips = evidence.flips
    if flips is None or flips.empty:
        return [Paragraph(wording.line("robustness.no_flips"))]
    items = [
        Exhibit(
            heading=wording.line(
                "robustness.flip",
                id=Code(row["id"]),
                name=wording.named("perturbation", row["perturbation"]),
                label=Name(row["label"]),
                prediction=Name(row["prediction"]),
                confidence=wording.percent(row["confidence"]),
                changed_prediction=Name(row["changed_prediction"]),
                changed_confidence=wording.percent(row["changed_confidence"]),
            ),
            quotes=list(
                zip(
                    (wording.line("robustness.text"), wording.line("robustness.changed_text")),
                    compare(row["text"], row["changed_text"]),
                    strict=True,
                )
            ),
        )
        for row in flips.head(shown).to_dict("records")
    ]
    count = wording.count("flips", len(flips))
    return (
        [Exhibits(title=wording.line("robustness.flips", shown=f"{len(items):,}", flips=count), items=items)]
        if items
        else []
    )
