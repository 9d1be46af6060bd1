"""Report sections on accuracy and on confidence."""

from labeltune.reporting.report.document import Block, Line, Name, Paragraph, Section, Table
from labeltune.reporting.report.i18n import Wording
from labeltune.reporting.report.results import Figures, RunResults, gallery

OVERALL = ("accuracy", "macro_f1", "roc_auc")
MOST_CONFUSED = 3
"""Confusions that the sentence under the matrix names."""


def accuracy_section(evidence: RunResults, wording: Wording) -> Section:
    """Overall figures, confusions, classes and curves."""
    figures = evidence.metrics
    blocks: list[Block] = [
        Paragraph(
            wording.line("accuracy.scope", rows=wording.count("rows", figures["n"]), step=_step(figures, wording))
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
        *_prevalence(evidence, wording),
    ]
    return Section(anchor="quality", title=wording.text("accuracy.title"), blocks=blocks)


def _step(figures: Figures, wording: Wording) -> str:
    return wording.text("word.gap", value=f"{100 / figures['n']:.2g}")


def why_undefined(figures: Figures, wording: Wording) -> Line:
    """The reason for which the area under the ROC curve has no value."""
    (only,) = (name for name, row in figures["per_class"].items() if row["support"])
    return wording.line("accuracy.one_class", label=Name(only))


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
    notes = [wording.line("accuracy.interval")]
    if figures["roc_auc"] is None:
        notes.append(why_undefined(figures, wording))
    if any(figures[key] is not None and figures["intervals"][key] is None for key in OVERALL):
        notes.append(wording.line("accuracy.no_interval"))
    return Table(
        title=wording.line("accuracy.overall"),
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
        return wording.line("accuracy.no_errors", rows=wording.count("rows", figures["n"]))
    most = sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSED]
    named = [
        wording.line("accuracy.confusion", count=f"{count:,}", label=Name(label), guess=Name(guess))
        for count, label, guess in most
    ]
    key = "accuracy.confusions_all" if len(pairs) == len(most) else "accuracy.confusions"
    return wording.line(key, errors=wording.count("errors", errors), named=wording.listed(named))


def ranking(figures: Figures, wording: Wording) -> Line:
    """Read the ROC curve: how well probabilities order the rows."""
    if figures["roc_auc"] is None:
        return why_undefined(figures, wording)
    names = list(figures["per_class"])
    if len(names) == 2:
        share = wording.percent(figures["roc_auc"])
        return wording.line("accuracy.ranking", first=Name(names[1]), second=Name(names[0]), share=share)
    areas = {name: row["roc_auc"] for name, row in figures["per_class"].items() if row["roc_auc"] is not None}
    worst = min(areas, key=lambda name: areas[name])
    return wording.line(
        "accuracy.rankings",
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
            "accuracy.finding",
            label=Name(names[1]),
            precision=wording.percent(row["precision"]),
            recall=wording.percent(row["recall"]),
        )
    lowest = {}
    for key in ("precision", "recall"):
        known = {name: row[key] for name, row in classes.items() if row[key] is not None}
        lowest[key] = min(known, key=lambda name: known[name])
    return wording.line(
        "accuracy.findings",
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
        title=wording.line("accuracy.per_class"),
        header=[wording.line(f"column.{key}") for key in ("label", *shares, *areas, "rows")],
        rows=rows,
        notes=notes,
    )


def _prevalence(evidence: RunResults, wording: Wording) -> list[Block]:
    """The same figures where the labels are as frequent as in use; nothing where the test rows have those shares."""
    figures, found = evidence.metrics, evidence.confidence
    there = figures["prevalence"]
    if there is None:
        return []
    overall = [
        ("accuracy", wording.sure(figures["accuracy"], figures["intervals"]["accuracy"]),
         wording.sure(there["accuracy"], there["accuracy_interval"])),
        ("macro_f1", (wording.figure(figures["macro_f1"]),), (wording.figure(there["macro_f1"]),)),
        ("log_loss", (wording.figure(figures["log_loss"]),), (wording.figure(there["log_loss"]),)),
    ]  # fmt: skip
    if found is not None:
        here, beyond = found["calibration"]["after"], found["prevalence"]["calibration"]
        overall += [
            (key, (wording.figure(here[key]),), (wording.figure(beyond[key]),)) for key in ("ece", "classwise_ece")
        ]  # fmt: skip
    notes = [wording.line("prevalence.note")]
    if there["missing"]:
        missing: list[Line] = [(Name(name),) for name in there["missing"]]
        notes.append(wording.line("prevalence.missing", labels=wording.listed(missing)))
    classes: list[list[Line]] = [
        [
            (Name(name),),
            (wording.percent(figures["per_class"][name]["support"] / figures["n"]),),
            (wording.percent(row["share"]),),
            *((wording.percent(part[key]),) for key in ("precision", "recall")
              for part in (figures["per_class"][name], row)),
        ]
        for name, row in there["per_class"].items()
    ]  # fmt: skip
    header = ("label", "share_here", "share_there", "precision_here", "precision_there", "recall_here", "recall_there")
    return [
        Paragraph(wording.line("prevalence.scope", shares=shares(there["shares"], wording))),
        Table(
            title=wording.line("prevalence.overall"),
            header=[wording.line(f"column.{key}") for key in ("figure", "here", "there")],
            rows=[[(wording.text(f"figure.{key}"),), first, second] for key, first, second in overall],
            notes=notes,
        ),
        Table(
            title=wording.line("prevalence.per_class"),
            header=[wording.line(f"column.{key}") for key in header],
            rows=classes,
        ),
    ]


MOST_SHARES = 4
"""Labels whose shares a sentence names."""


def shares(found: dict[str, float], wording: Wording) -> Line:
    """The shares of the most frequent labels."""
    most = sorted(found, key=lambda name: -found[name])[:MOST_SHARES]
    return wording.listed(
        [wording.line("prevalence.share", label=Name(name), share=wording.percent(found[name])) for name in most]
    )


NOTABLE = 0.005
"""Confidence that is less than this off the accuracy counts as neither too high nor too low."""


def confidence_section(evidence: RunResults, wording: Wording) -> Section:
    """Calibration, abstention and prediction sets."""
    found = evidence.confidence
    blocks: list[Block] = [Paragraph(wording.line("word.missing"))]
    if found is not None:
        accuracy = evidence.metrics["accuracy"]
        blocks = [
            Paragraph((*_bias(found, accuracy, wording), *temperature(found, wording))),
            _calibration(found, wording),
            _per_label(found, wording),
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
    return Section(anchor="confidence", title=wording.text("confidence.title"), blocks=blocks)


def gap(value: float, wording: Wording) -> str:
    """A distance between shares, in percentage points."""
    return wording.text("word.gap", value=f"{100 * value:.1f}")


def temperature(found: Figures, wording: Wording) -> Line:
    """What dividing the logits did, and what answers after a training with class weights are."""
    fitted = found["calibration"]
    if not fitted["fitted"]:
        return wording.line("confidence.not_asked")
    line = wording.line("confidence.temperature", temperature=wording.figure(fitted["temperature"], 2))
    return line + wording.line("confidence.biased") if fitted["bias"] else line


def _bias(found: Figures, accuracy: float, wording: Wording) -> Line:
    mean = found["avg_confidence"]
    key = (
        "confidence.fair"
        if abs(mean - accuracy) < NOTABLE
        else "confidence.over"
        if mean > accuracy
        else "confidence.under"
    )
    return wording.line(key, confidence=wording.percent(mean), accuracy=wording.percent(accuracy))


def _calibration(found: Figures, wording: Wording) -> Table:
    before, after = found["calibration"]["before"], found["calibration"]["after"]
    return Table(
        title=wording.line("confidence.calibration"),
        header=[wording.line(f"column.{key}") for key in ("figure", "before", "after")],
        rows=[
            [(wording.text(f"figure.{key}"),), (wording.figure(before[key]),), (wording.figure(after[key]),)]
            for key in ("ece", "classwise_ece", "brier", "log_loss")
        ],
        notes=[wording.line("confidence.lower")],
    )


def _per_label(found: Figures, wording: Wording) -> Table:
    """How far the confidence of the answers with each label is from their accuracy."""
    labels = found["calibration"]["after"]["per_label"]
    rows: list[list[Line]] = [
        [
            (Name(name),),
            (f"{row['answered']:,}",),
            (wording.percent(row["confidence"]),),
            wording.sure(row["accuracy"], row["accuracy_interval"]),
            (wording.figure(row["classwise_ece"]),),
        ]
        for name, row in labels.items()
    ]
    notes = [wording.line("confidence.per_label_note")]
    never: list[Line] = [(Name(name),) for name, row in labels.items() if not row["answered"]]
    if never:
        notes.append(wording.line("undefined.confidence", labels=wording.listed(never)))
    return Table(
        title=wording.line("confidence.per_label"),
        header=[
            wording.line(f"column.{key}")
            for key in ("label", "answers", "mean_confidence", "accuracy", "classwise_ece")
        ],
        rows=rows,
        notes=notes,
    )


def _reliability(found: Figures, wording: Wording) -> Line:
    before, after = (found["calibration"][when]["ece"] for when in ("before", "after"))
    if not found["calibration"]["fitted"]:
        return wording.line("confidence.gap", gap=gap(after, wording))
    same = round(before, 3) == round(after, 3)
    key = "confidence.gap_same" if same else "confidence.gap_smaller" if after < before else "confidence.gap_larger"
    return wording.line(key, before=gap(before, wording), after=gap(after, wording))


def _sorting(found: Figures, wording: Wording) -> Line:
    areas = found["selective"]
    room = areas["random_aurc"] - areas["best_aurc"]
    if room <= 0:
        return wording.line("confidence.nothing_to_sort")
    way = (areas["random_aurc"] - areas["aurc"]) / room
    return wording.line(
        "confidence.sorting" if way > 0 else "confidence.sorting_fails",
        way=f"{way:.0%}",
        area=wording.figure(areas["aurc"], 4),
        random=wording.figure(areas["random_aurc"], 4),
        best=wording.figure(areas["best_aurc"], 4),
    )


def abstention(found: Figures, wording: Wording) -> Line:
    """From which confidence it answers, and what the answers are worth, at the shares of labels where it is used."""
    rule = (found["prevalence"] or found)["abstention"]
    test = rule["test"]
    if rule["rule"] == "never":
        return wording.line("confidence.never")
    if not rule["threshold"]:
        return wording.line("confidence.answers_all")
    threshold = wording.figure(rule["threshold"])
    if not test["answered"]:
        return wording.line("confidence.answers_none", threshold=threshold)
    line = wording.line(
        "confidence.abstains_there" if found["prevalence"] else "confidence.abstains",
        threshold=threshold,
        coverage=wording.percent(test["coverage"]),
        coverage_interval=wording.within(test["coverage_interval"]),
        accuracy=wording.percent(test["accuracy"]),
        accuracy_interval=wording.within(test["accuracy_interval"]),
    )
    if rule["met"] is False:
        line += wording.line("confidence.missed", target=wording.percent(rule["target"]))
    return line


def _answered(found: Figures, wording: Wording) -> Table:
    """What is answered at the shares where it is used; the validation rows chose the threshold."""
    rule = (found["prevalence"] or found)["abstention"]
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
        notes = [
            wording.line(
                f"confidence.rule_{rule['rule']}",
                target=wording.percent(rule["target"]),
                certainty=wording.percent(rule["certainty"]),
            ),
            wording.line("confidence.two_samples"),
        ]
    if None in (rule["validation"]["accuracy"], rule["test"]["accuracy"]):
        notes.append(wording.line("undefined.answered"))
    columns = ("split", "rows", "answered", "right")
    return Table(
        title=wording.line("confidence.answered"),
        header=[wording.line(f"column.{key}") for key in columns],
        rows=rows,
        notes=notes,
    )


def _sets(found: Figures, wording: Wording) -> Line:
    sets = (found["prevalence"] or found)["prediction_sets"]
    if sets["target"] is None:
        return wording.line("confidence.no_sets")
    sizes = [
        wording.line("confidence.size", rows=wording.count("rows", rows), labels=wording.count("labels", int(size)))
        for size, rows in sorted(sets["sizes"].items(), key=lambda item: int(item[0]))
    ]
    return wording.line(
        "confidence.sets",
        target=wording.percent(sets["target"]),
        certainty=wording.percent(sets["certainty"]),
        coverage=wording.percent(sets["coverage"]),
        interval=wording.within(sets["interval"]),
        mean=wording.figure(sets["mean_size"], 2),
        sizes=wording.listed(sizes),
    )


def _distribution(found: Figures, wording: Wording) -> Table:
    counts = found["confidence_distribution"]
    total = sum(counts.values())
    return Table(
        title=wording.line("confidence.distribution"),
        header=[wording.line(f"column.{key}") for key in ("confidence", "rows", "share")],
        rows=[
            [(bin_.replace("-", "–"),), (f"{rows:,}",), (wording.percent(rows / total),)]
            for bin_, rows in counts.items()
        ],
        notes=[
            wording.line(
                "confidence.high_low",
                high=wording.percent(found["high_confidence_ratio"]),
                low=wording.count("rows", found["low_confidence_samples"]),
            )
        ],
    )
