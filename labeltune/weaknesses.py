"""The report's chapter on what turns the classifier's answers."""

from labeltune.blocks import Block, Chapter, Code, Exhibit, Exhibits, Line, Name, Paragraph, Table
from labeltune.evidence import Evidence, Figures
from labeltune.galleries import gallery
from labeltune.quotations import compare
from labeltune.wording import Wording

KINDS = ("label_preserving", "label_agnostic")
COLUMNS = (
    "perturbation", "severity", "rows", "changed", "accuracy_before", "accuracy_after", "flips", "confidence_drop",
)  # fmt: skip


def chapter(evidence: Evidence, wording: Wording, shown: int) -> Chapter:
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
            *(_table(found, kind, wording) for kind in KINDS if of_kind(found, kind)),
            *_flips(evidence, wording, shown),
        ]
    return Chapter(anchor="robustness", title=wording.text("weaknesses.title"), blocks=blocks)


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


def _table(found: Figures, kind: str, wording: Wording) -> Table:
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
        header=[wording.line(f"column.{key}") for key in COLUMNS],
        rows=rows,
        notes=notes,
    )


def _flips(evidence: Evidence, wording: Wording, shown: int) -> list[Block]:
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
