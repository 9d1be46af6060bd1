"""Report sections on robustness and on cheaper models."""

import json

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

SURE = 0.05
"""Below this p value a difference counts as one."""
COMPARISON_COLUMNS = (
    "model", "accuracy", "macro_f1", "difference", "p_value", "only_one", "train_seconds", "rows_per_second",
    "peak_memory_mib", "size_mib",
)  # fmt: skip
SPENT = ("train_seconds", "rows_per_second", "peak_memory_mib", "size_mib")


def comparison_section(evidence: RunResults, wording: Wording) -> Section:
    """One table of all models, and what follows from it."""
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
            blocks.append(Listing(title=wording.line("rivals.chosen"), text=chosen, language="json"))
    return Section(anchor="cheaper", title=wording.text("rivals.title"), blocks=blocks)


def better(found: Figures) -> list[str]:
    """The cheaper models that beat the fine-tuned one beyond chance, the best first."""
    return [
        name
        for name in _ranked(found)
        if found["models"][name]["paired"]["difference"] < 0 and found["models"][name]["paired"]["p_value"] < SURE
    ]


def verdict(found: Figures, wording: Wording) -> Line:
    """Whether something cheaper does as well."""
    if not found["models"]:
        return wording.line("rivals.unmeasured")
    ahead = better(found)
    equal = [name for name in found["as_good"] if name not in ahead]
    if ahead or equal:
        named = [_against(found, name, wording) for name in ahead or equal]
        return wording.line("rivals.better" if ahead else "rivals.as_good", named=wording.listed(named))
    best = _ranked(found)[0]
    return wording.line(
        "rivals.worse",
        models=wording.count("cheaper", len(found["models"])),
        best=_against(found, best, wording),
    )


def _ranked(found: Figures) -> list[str]:
    return sorted(found["models"], key=lambda name: (-found["models"][name]["accuracy"], name))


def _against(found: Figures, name: str, wording: Wording) -> Line:
    """A cheaper model and how far the fine-tuned one is ahead of it."""
    figures = found["models"][name]
    return wording.line(
        "rivals.against",
        name=wording.named("model", name),
        accuracy=wording.percent(figures["accuracy"]),
        difference=wording.points(figures["paired"]["difference"]),
        interval=wording.within(figures["paired"]["interval"], "points"),
        chance=wording.chance(figures["paired"]["p_value"]),
    )


def _zero_shot(found: Figures, wording: Wording) -> Line:
    base, gained = found["baseline_model"], found["improvement"]
    if base is None:
        return wording.line("rivals.no_base", why=Name(str(found.get("baseline_missing") or "–")))
    return wording.line(
        "rivals.base",
        accuracy=wording.percent(base["accuracy"]),
        interval=wording.within(base["accuracy_interval"]),
        gained=wording.points(gained["absolute"]),
        relative=wording.text("word.undefined") if gained["relative"] is None else f"{gained['relative']:+.1%}",
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
    notes = [wording.line("rivals.note"), wording.line("rivals.costs")]
    if evidence.settings["train"]["method"] != "full":
        notes.append(wording.line("rivals.adapter"))
    return Table(
        title=wording.line("rivals.table"),
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
                    "weaknesses.score",
                    before=wording.percent(found["original_accuracy"]),
                    after=wording.percent(found["perturbed_accuracy"]),
                    score=wording.figure(found["robustness_score"]),
                    rows=wording.count("rows", found["rows"]),
                    sample=wording.count("rows", found["sample"]),
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
    return Section(anchor="robustness", title=wording.text("weaknesses.title"), blocks=blocks)


def of_kind(found: Figures, kind: str) -> dict[str, Figures]:
    """The perturbations of a kind, the one that costs most accuracy first."""
    tests = {name: test for name, test in found["perturbation_tests"].items() if test["kind"] == kind}
    return dict(sorted(tests.items(), key=lambda item: (-fall(item[1]), -(item[1]["flip_rate"] or 0), item[0])))


def fall(test: Figures) -> float:
    """Accuracy that a perturbation costs, on the same rows; none where no row can be changed so."""
    return 0.0 if test["accuracy"] is None else float(test["original_accuracy"] - test["accuracy"])


def falls(found: Figures, wording: Wording) -> Line:
    """Which change that keeps the label costs most accuracy, and how many cost none."""
    tests = of_kind(found, KINDS[0])
    if not tests:
        return wording.line("weaknesses.none_tried")
    name, worst = next(iter(tests.items()))
    if fall(worst) <= 0:
        return wording.line("weaknesses.none_breaks", changes=wording.count("changes", len(tests)))
    return wording.line(
        "weaknesses.breaks",
        name=wording.named("perturbation", name),
        before=wording.percent(worst["original_accuracy"]),
        after=wording.percent(worst["accuracy"]),
        interval=wording.within(worst["accuracy_interval"]),
        flips=wording.percent(worst["flip_rate"]),
        rows=wording.count("rows", worst["rows"]),
    )


def _severities(found: Figures, wording: Wording) -> Line | None:
    curves = {name: curve for name, curve in found["severities"].items() if len(curve) > 1 and curve[0]["rows"]}
    if not curves:
        return None
    steepest = max(curves, key=lambda name: curves[name][0]["accuracy"] - curves[name][-1]["accuracy"])
    first, last = curves[steepest][0], curves[steepest][-1]
    return wording.line(
        "weaknesses.severity" if last["accuracy"] < first["accuracy"] else "weaknesses.severity_flat",
        name=wording.named("perturbation", steepest),
        low=wording.percent(first["severity"]),
        high=wording.percent(last["severity"]),
        before=wording.percent(first["accuracy"]),
        after=wording.percent(last["accuracy"]),
        interval=wording.within(last["accuracy_interval"]),
        rows=wording.count("rows", last["rows"]),
    )


def _robustness_table(found: Figures, kind: str, wording: Wording) -> Table:
    notes = [(*wording.line(f"weaknesses.{kind}_note"), *wording.line("weaknesses.note"))]
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
        title=wording.line(f"weaknesses.{kind}"),
        header=[wording.line(f"column.{key}") for key in ROBUSTNESS_COLUMNS],
        rows=rows,
        notes=notes,
    )


def _flips(evidence: RunResults, wording: Wording, shown: int) -> list[Block]:
    flips = evidence.flips
    if flips is None or flips.empty:
        return [Paragraph(wording.line("weaknesses.no_flips"))]
    items = [
        Exhibit(
            heading=wording.line(
                "weaknesses.flip",
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
                    (wording.line("weaknesses.text"), wording.line("weaknesses.changed_text")),
                    compare(row["text"], row["changed_text"]),
                    strict=True,
                )
            ),
        )
        for row in flips.head(shown).to_dict("records")
    ]
    count = wording.count("flips", len(flips))
    return (
        [Exhibits(title=wording.line("weaknesses.flips", shown=f"{len(items):,}", flips=count), items=items)]
        if items
        else []
    )
