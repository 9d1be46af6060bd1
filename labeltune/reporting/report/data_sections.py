"""Report sections on the data, the training, the settings, the machine and the costs."""

import platform
from typing import Any

from labeltune.modeling.device import Machine
from labeltune.reporting.report.document import (
    Block,
    Code,
    Exhibit,
    Exhibits,
    Facts,
    Line,
    Listing,
    Name,
    Paragraph,
    Section,
    Table,
    quote,
)
from labeltune.reporting.report.i18n import Wording
from labeltune.reporting.report.results import PREDICTIONS, Figures, RunResults, gallery
from labeltune.runtime.environment import versions


def training(evidence: RunResults, wording: Wording) -> Section:
    """Return the section on the training of the kept model."""
    figures, settings, model = evidence.train, evidence.settings["train"], evidence.settings["model"]
    parameters, batch = figures["parameters"], figures["batch"]
    kept = wording.line(
        "training.last" if figures["best_step"] == figures["steps"] else "training.earlier",
        step=f"{figures['best_step']:,}",
        steps=f"{figures['steps']:,}",
        by=wording.text(f"keep_best.{settings['keep_best']}"),
    )
    facts: list[tuple[str, Line]] = [
        ("base", (Name(model["hub"] or model["name"]),)),
        ("license", (Name(model["license"] or wording.text("word.unknown")),)),
        ("method", (Code(settings["method"]), " · ", Code(settings["head"]))),
        ("parameters", wording.line("training.parameters", trainable=f"{parameters['trainable']:,}",
                                    total=f"{parameters['total']:,}")),
        ("batch", (f"{batch['size'] * batch['accumulation']:,}",)),
        ("seed", (str(settings["seed"]),)),
    ]  # fmt: skip
    losses = wording.line(
        "training.losses",
        train=wording.figure(figures["train"]["loss"]),
        validation=wording.figure(figures["validation"]["loss"]),
    )
    accuracies = wording.line(
        "training.accuracies",
        validation=wording.percent(figures["validation"]["accuracy"]),
        rows=wording.count("validation_rows", evidence.record["data"]["rows"]["validation"]),
    )
    blocks: list[Block] = [
        Paragraph(kept),
        *_blended(figures.get("blend"), wording),
        *gallery(evidence, wording, {"accuracy": accuracies, "loss": losses}),
        Facts([(wording.line(f"fact.{key}"), line) for key, line in facts]),
    ]
    return Section(anchor="training", title=wording.text("training.title"), blocks=blocks)


def _blended(blend: Figures | None, wording: Wording) -> list[Block]:
    """Whether an n-gram model answers beside the network, where that was tried."""
    if blend is None or "log_loss" not in blend:
        return []
    losses = {
        "blend": wording.figure(blend["log_loss"]["blend"]),
        "alone": wording.figure(blend["log_loss"]["network"]),
    }
    if not blend["kept"]:
        return [Paragraph(wording.line("training.alone", **losses))]
    weights = {name: wording.figure(blend["weights"][name]) for name in ("network", "ngrams")}
    return [Paragraph(wording.line("training.blended", **losses, **weights))]


def mistakes(evidence: RunResults, wording: Wording, shown: int) -> Section:
    """Return the section with at most `shown` misclassified rows, those of highest confidence, and their texts."""
    wrong = evidence.mistakes
    title = wording.text("mistakes.title")
    if wrong.empty:
        return Section(anchor="mistakes", title=title, blocks=[Paragraph(wording.line("mistakes.none"))])
    items = [
        Exhibit(
            heading=wording.line(
                "mistakes.mistake",
                id=Code(row["id"]),
                label=Name(row["label"]),
                prediction=Name(row["prediction"]),
                confidence=wording.percent(row["confidence"]),
                abstained=wording.text("mistakes.abstained") if row["abstained"] == "True" else "",
                truncated=wording.text("mistakes.truncated") if row["truncated"] == "True" else "",
            ),
            quotes=[((), quote(row["text"]))],
        )
        for row in wrong.head(shown).to_dict("records")
    ]
    count = wording.count("mistakes", len(wrong))
    where = wording.line("mistakes.shown", shown=f"{len(items):,}", mistakes=count, file=Code(str(PREDICTIONS)))
    blocks: list[Block] = [Exhibits(title=where, items=items)] if items else [Paragraph(where)]
    return Section(anchor="mistakes", title=title, blocks=blocks)


def configuration(evidence: RunResults, wording: Wording) -> Section:
    """Return the section with every setting."""
    content = Listing(title=wording.line("configuration.file"), text=evidence.configuration, language="yaml")
    return Section(anchor="configuration", title=wording.text("configuration.title"), blocks=[content])


def environment(evidence: RunResults, wording: Wording) -> Section:
    """Return the section on the versions and the machine."""
    machine = Machine(**evidence.record["machine"])
    facts: list[tuple[Line, Line]] = [
        (("labeltune",), (evidence.record["labeltune"],)),
        (("Python",), (platform.python_version(),)),
        *(((name,), (version or wording.text("word.absent"),)) for name, version in versions().items()),
        (wording.line("fact.system"), (Name(f"{platform.system()} {platform.release()}, {platform.machine()}"),)),
        (wording.line("fact.machine"), (Name(str(machine)),)),
    ]  # fmt: skip
    blocks: list[Block] = [Paragraph(wording.line("environment.scope")), Facts(facts)]
    return Section(anchor="environment", title=wording.text("environment.title"), blocks=blocks)


def costs(evidence: RunResults, wording: Wording) -> Section:
    """Return the section on the time and memory of each stage."""
    columns = ("seconds", "rows_per_second", "peak_memory_mib", "size_mib")
    flat = {stage: spent for stage, spent in evidence.costs.items() if "seconds" in spent}
    rows: list[list[Line]] = [
        [(Code(stage),), *((wording.amount(spent[key]) if key in spent else "–",) for key in columns)]
        for stage, spent in flat.items()
    ]
    table = Table(
        title=wording.line("costs.table"),
        header=[wording.line(f"column.{key}") for key in ("stage", *columns)],
        rows=rows,
        notes=[wording.line("costs.note")],
    )
    empty = Paragraph(wording.line("word.missing"))
    return Section(anchor="costs", title=wording.text("costs.title"), blocks=[table if rows else empty])


SPLITS = ("train", "validation", "test")
WORKLIST = "data/worklist/worklist.csv"


def data_section(evidence: RunResults, wording: Wording) -> Section:
    """Return the section on the data."""
    blocks: list[Block] = [
        Facts(_source(evidence, wording)),
        _rows(evidence, wording),
        _gates(evidence, wording),
        Paragraph(_leaks(evidence, wording)),
        _lengths(evidence, wording),
        *_worklist(evidence, wording),
    ]
    return Section(anchor="data", title=wording.text("data.title"), blocks=blocks)


def _source(evidence: RunResults, wording: Wording) -> list[tuple[Line, Line]]:
    dataset = evidence.settings["dataset"]
    places = {
        "files": [dataset["folder"]],
        "package": [archive["requirement"] for archive in dataset["archives"] or []],
        "hub": [dataset["hub"]],
    }[dataset["source"]]
    read = sum(evidence.data["rows_read"].values())
    facts: dict[str, Line] = {
        "dataset": (Name(dataset["name"]),),
        "source": (wording.text(f"source.{dataset['source']}"), *wording.listed([(Code(place),) for place in places])),
        "license": (Name(dataset["license"]),) if dataset["license"] else wording.line("data.no_license"),
        "read": (wording.count("plain_rows", read),),
    }
    if dataset["url"]:
        facts["url"] = (Name(dataset["url"]),)
    return [(wording.line(f"fact.{key}"), line) for key, line in facts.items()]


def _rows(evidence: RunResults, wording: Wording) -> Table:
    counts = evidence.data["rows"]
    rows: list[list[Line]] = [
        [(Name(name),), *((f"{counts[split][name]:,}",) for split in SPLITS)] for name in evidence.names
    ]
    total: list[Line] = [(wording.text("data.total"),), *((f"{counts[split]['total']:,}",) for split in SPLITS)]
    return Table(
        title=wording.line("data.rows"),
        header=[wording.line("column.label"), *(wording.line(f"split.{split}") for split in SPLITS)],
        rows=[*rows, total],
        strong=len(rows),
    )


def _gates(evidence: RunResults, wording: Wording) -> Table | Paragraph:
    found, dropped = evidence.data["found"], evidence.data["dropped"]
    rows: list[list[Line]] = [
        [
            wording.named("reason", reason),
            (f"{found[reason]:,}" if reason in found else "–",),
            (f"{count:,}",),
        ]
        for reason, count in sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
        if count or found.get(reason)
    ]
    if not rows:
        return Paragraph(wording.line("data.nothing_dropped"))
    header = [wording.line(f"column.{key}") for key in ("reason", "found", "dropped")]
    return Table(title=wording.line("data.dropped"), header=header, rows=rows)


def _leaks(evidence: RunResults, wording: Wording) -> Line:
    left, moved = evidence.data["leaks_left"], evidence.data["moved"]
    if any(left.values()):
        line = wording.line(
            "data.leaks",
            exact=wording.count("plain_rows", left["exact_across"]),
            near=wording.count("plain_rows", left["near_across"]),
        )
    else:
        line = wording.line("data.no_leaks", threshold=str(evidence.settings["prepare"]["near_threshold"]))
    return (*line, *wording.line("data.moved", rows=wording.count("plain_rows", moved))) if moved else line


def _lengths(evidence: RunResults, wording: Wording) -> Table:
    tokens = evidence.data["tokens"]
    rows: list[list[Line]] = [
        [
            (wording.text(f"split.{split}"),),
            *((f"{tokens[split][key]:,.0f}",) for key in ("p50", "p95", "max")),
            (wording.percent(tokens[split]["truncated"]),),
            (wording.percent(tokens[split]["unread"]) if "unread" in tokens[split] else "–",),
        ]
        for split in SPLITS
    ]
    limit = f"{evidence.settings['prompt']['max_length']:,}"
    return Table(
        title=wording.line("data.lengths"),
        header=[wording.line(f"column.{key}") for key in ("split", "p50", "p95", "longest", "truncated", "unread")],
        rows=rows,
        notes=[wording.line("data.limit", limit=limit)],
    )


def _worklist(evidence: RunResults, wording: Wording) -> list[Block]:
    found = evidence.worklist
    if found is None:
        return [Paragraph(wording.line("data.no_worklist"))]
    kinds = ("label_errors", "near_duplicates")
    places = list(dict.fromkeys([*SPLITS, *(key for kind in kinds for key in found[kind])]))
    rows: list[list[Line]] = [
        [wording.named("split", place), *((_counted(found[kind], place),) for kind in kinds)] for place in places
    ]
    return [
        Table(
            title=wording.line("data.worklist"),
            header=[wording.line(f"column.{key}") for key in ("split", *kinds)],
            rows=rows,
            notes=[
                wording.line(
                    "data.worklist_note",
                    mistakes=wording.count("confident_mistakes", found["confident_mistakes"]),
                    file=Code(WORKLIST),
                )
            ],
        )
    ]


def _counted(counts: dict[str, Any], place: str) -> str:
    return f"{counts[place]:,}" if counts.get(place) is not None else "–"
