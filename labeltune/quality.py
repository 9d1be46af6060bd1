"""The report's chapter on how good the classifier is."""

from labeltune.blocks import Block, Chapter, Line, Name, Paragraph, Table
from labeltune.evidence import Evidence, Figures
from labeltune.galleries import gallery
from labeltune.wording import Wording

OVERALL = ("accuracy", "macro_f1", "roc_auc")
MOST_CONFUSED = 3
"""Confusions that the sentence under the matrix names."""


def chapter(evidence: Evidence, wording: Wording) -> Chapter:
    """Overall figures, confusions, classes and curves."""
    figures = evidence.metrics
    blocks: list[Block] = [
        Paragraph(
            wording.line("quality.scope", rows=wording.count("rows", figures["n"]), step=_step(figures, wording))
        ),
        _overall(figures, wording),
        *gallery(
            evidence,
            wording,
            {
                "confusion_matrix": confusions(figures, wording),
                "roc": ranking(figures, wording),
                "precision_recall": finding(figures, wording),
            },
        ),
        _per_class(figures, wording),
    ]
    return Chapter(anchor="quality", title=wording.text("quality.title"), blocks=blocks)


def _step(figures: Figures, wording: Wording) -> str:
    return wording.text("word.gap", value=f"{100 / figures['n']:.2g}")


def why_undefined(figures: Figures, wording: Wording) -> Line:
    """The reason for which the area under the ROC curve has no value."""
    (only,) = (name for name, row in figures["per_class"].items() if row["support"])
    return wording.line("quality.one_class", label=Name(only))


def _overall(figures: Figures, wording: Wording) -> Table:
    units = {"accuracy": "percent", "macro_f1": "figure", "roc_auc": "figure"}
    rows: list[list[Line]] = [
        [
            (wording.text(f"figure.{key}"),),
            (getattr(wording, units[key])(figures[key]),),
            (wording.span(figures["intervals"][key], units[key]),),
        ]
        for key in OVERALL
    ]
    rows.append([(wording.text("figure.log_loss"),), (wording.figure(figures["log_loss"]),), ("–",)])
    notes = [wording.line("quality.interval")]
    if figures["roc_auc"] is None:
        notes.append(why_undefined(figures, wording))
    if any(figures[key] is not None and figures["intervals"][key] is None for key in OVERALL):
        notes.append(wording.line("quality.no_interval"))
    return Table(
        title=wording.line("quality.overall"),
        header=[wording.line(f"column.{key}") for key in ("figure", "value", "interval")],
        rows=rows,
        notes=notes,
    )


def confusions(figures: Figures, wording: Wording) -> Line:
    """Read the confusion matrix: which labels are taken for which."""
    pairs = [
        (count, label, guess)
        for label, row in figures["confusion_matrix"].items()
        for guess, count in row.items()
        if label != guess and count
    ]
    errors = sum(count for count, _, _ in pairs)
    if not errors:
        return wording.line("quality.no_errors", rows=wording.count("rows", figures["n"]))
    most = sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSED]
    named = [
        wording.line("quality.confusion", count=f"{count:,}", label=Name(label), guess=Name(guess))
        for count, label, guess in most
    ]
    key = "quality.confusions_all" if len(pairs) == len(most) else "quality.confusions"
    return wording.line(key, errors=wording.count("errors", errors), named=wording.listed(named))


def ranking(figures: Figures, wording: Wording) -> Line:
    """Read the ROC curve: how well probabilities order the rows."""
    if figures["roc_auc"] is None:
        return why_undefined(figures, wording)
    names = list(figures["per_class"])
    if len(names) == 2:
        share = wording.percent(figures["roc_auc"])
        return wording.line("quality.ranking", first=Name(names[1]), second=Name(names[0]), share=share)
    areas = {name: row["roc_auc"] for name, row in figures["per_class"].items() if row["roc_auc"] is not None}
    worst = min(areas, key=lambda name: areas[name])
    return wording.line(
        "quality.rankings",
        mean=wording.figure(figures["roc_auc"]),
        label=Name(worst),
        area=wording.figure(areas[worst]),
    )


def finding(figures: Figures, wording: Wording) -> Line:
    """Read precision and recall: of two labels the last one's, of several the lowest."""
    classes = figures["per_class"]
    names = list(classes)
    if len(names) == 2:
        row = classes[names[1]]
        return wording.line(
            "quality.finding",
            label=Name(names[1]),
            precision=wording.percent(row["precision"]),
            recall=wording.percent(row["recall"]),
        )
    lowest = {}
    for key in ("precision", "recall"):
        known = {name: row[key] for name, row in classes.items() if row[key] is not None}
        lowest[key] = min(known, key=lambda name: known[name])
    return wording.line(
        "quality.findings",
        imprecise=Name(lowest["precision"]),
        precision=wording.percent(classes[lowest["precision"]]["precision"]),
        missed=Name(lowest["recall"]),
        recall=wording.percent(classes[lowest["recall"]]["recall"]),
    )


def _per_class(figures: Figures, wording: Wording) -> Table:
    shares, areas = ("precision", "recall"), ("f1", "roc_auc")
    rows: list[list[Line]] = [
        [
            (Name(name),),
            *((wording.percent(row[key]),) for key in shares),
            *((wording.figure(row[key]),) for key in areas),
            (f"{row['support']:,}",),
        ]
        for name, row in figures["per_class"].items()
    ]
    notes = []
    for key in (*shares, *areas):
        undefined: list[Line] = [(Name(name),) for name, row in figures["per_class"].items() if row[key] is None]
        if undefined:
            notes.append(wording.line(f"undefined.{key}", labels=wording.listed(undefined)))
    return Table(
        title=wording.line("quality.per_class"),
        header=[wording.line(f"column.{key}") for key in ("label", *shares, *areas, "rows")],
        rows=rows,
        notes=notes,
    )
