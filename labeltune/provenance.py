"""The report's chapter on the rows: where they come from, what was kept of them, what is worth a second look."""

from typing import Any

from labeltune.blocks import Block, Chapter, Code, Facts, Line, Name, Paragraph, Table
from labeltune.evidence import Evidence
from labeltune.wording import Wording

SPLITS = ("train", "validation", "test")
WORKLIST = "data/worklist/worklist.csv"


def chapter(evidence: Evidence, wording: Wording) -> Chapter:
    """The data card."""
    blocks: list[Block] = [
        Facts(_source(evidence, wording)),
        _rows(evidence, wording),
        _gates(evidence, wording),
        Paragraph(_leaks(evidence, wording)),
        _lengths(evidence, wording),
        *_worklist(evidence, wording),
    ]
    return Chapter(anchor="data", title=wording.text("data.title"), blocks=blocks)


def _source(evidence: Evidence, wording: Wording) -> list[tuple[Line, Line]]:
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


def _rows(evidence: Evidence, wording: Wording) -> Table:
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


def _gates(evidence: Evidence, wording: Wording) -> Table | Paragraph:
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


def _leaks(evidence: Evidence, wording: Wording) -> Line:
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


def _lengths(evidence: Evidence, wording: Wording) -> Table:
    tokens = evidence.data["tokens"]
    rows: list[list[Line]] = [
        [
            (wording.text(f"split.{split}"),),
            *((f"{tokens[split][key]:,.0f}",) for key in ("p50", "p95", "max")),
            (wording.percent(tokens[split]["truncated"]),),
        ]
        for split in SPLITS
    ]
    limit = f"{evidence.settings['prompt']['max_length']:,}"
    return Table(
        title=wording.line("data.lengths"),
        header=[wording.line(f"column.{key}") for key in ("split", "p50", "p95", "longest", "truncated")],
        rows=rows,
        notes=[wording.line("data.limit", limit=limit)],
    )


def _worklist(evidence: Evidence, wording: Wording) -> list[Block]:
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
