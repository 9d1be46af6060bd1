"""The report's chapters on what a run was made from: training, data, mistakes, settings, machine, costs."""

import platform

from labeltune.blocks import (
    Block,
    Chapter,
    Code,
    Exhibit,
    Exhibits,
    Facts,
    Line,
    Listing,
    Name,
    Paragraph,
    Table,
)
from labeltune.evidence import PREDICTIONS, Evidence
from labeltune.fingerprint import versions
from labeltune.galleries import gallery
from labeltune.hardware import Machine
from labeltune.quotations import quote
from labeltune.wording import Wording


def training(evidence: Evidence, wording: Wording) -> Chapter:
    """How the kept model came about."""
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
        *gallery(evidence, wording, {"accuracy": accuracies, "loss": losses}),
        Facts([(wording.line(f"fact.{key}"), line) for key, line in facts]),
    ]
    return Chapter(anchor="training", title=wording.text("training.title"), blocks=blocks)


def mistakes(evidence: Evidence, wording: Wording, shown: int) -> Chapter:
    """The most confident mistakes, at most `shown`, with their texts."""
    wrong = evidence.mistakes
    title = wording.text("mistakes.title")
    if wrong.empty:
        return Chapter(anchor="mistakes", title=title, blocks=[Paragraph(wording.line("mistakes.none"))])
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
    return Chapter(anchor="mistakes", title=title, blocks=blocks)


def configuration(evidence: Evidence, wording: Wording) -> Chapter:
    """Every setting."""
    content = Listing(title=wording.line("configuration.file"), text=evidence.configuration, language="yaml")
    return Chapter(anchor="configuration", title=wording.text("configuration.title"), blocks=[content])


def environment(evidence: Evidence, wording: Wording) -> Chapter:
    """Versions and machine."""
    machine = Machine(**evidence.record["machine"])
    facts: list[tuple[Line, Line]] = [
        (("labeltune",), (evidence.record["labeltune"],)),
        (("Python",), (platform.python_version(),)),
        *(((name,), (version or wording.text("word.absent"),)) for name, version in versions().items()),
        (wording.line("fact.system"), (Name(f"{platform.system()} {platform.release()}, {platform.machine()}"),)),
        (wording.line("fact.machine"), (Name(str(machine)),)),
    ]  # fmt: skip
    blocks: list[Block] = [Paragraph(wording.line("environment.scope")), Facts(facts)]
    return Chapter(anchor="environment", title=wording.text("environment.title"), blocks=blocks)


def costs(evidence: Evidence, wording: Wording) -> Chapter:
    """What each stage took."""
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
    return Chapter(anchor="costs", title=wording.text("costs.title"), blocks=[table if rows else empty])
