"""The report's chapter on whether something cheaper is as good."""

import json

from labeltune.blocks import Block, Chapter, Line, Listing, Name, Paragraph, Table
from labeltune.evidence import Evidence, Figures
from labeltune.wording import Wording

SURE = 0.05
"""Below this p value a difference counts as one."""
COLUMNS = (
    "model", "accuracy", "macro_f1", "difference", "p_value", "only_one", "train_seconds", "rows_per_second",
    "peak_memory_mib", "size_mib",
)  # fmt: skip
SPENT = ("train_seconds", "rows_per_second", "peak_memory_mib", "size_mib")


def chapter(evidence: Evidence, wording: Wording) -> Chapter:
    """One table of all models, and what follows from it."""
    found = evidence.comparison
    blocks: list[Block] = [Paragraph(wording.line("word.missing"))]
    if found is not None:
        blocks = [Paragraph(verdict(found, wording)), Paragraph(_zero_shot(found, wording)), _table(evidence, wording)]
        if evidence.baselines is not None:
            chosen = json.dumps(evidence.baselines, ensure_ascii=False, indent=2, sort_keys=True)
            blocks.append(Listing(title=wording.line("rivals.chosen"), text=chosen, language="json"))
    return Chapter(anchor="cheaper", title=wording.text("rivals.title"), blocks=blocks)


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


def _table(evidence: Evidence, wording: Wording) -> Table:
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
        header=[wording.line(f"column.{key}") for key in COLUMNS],
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
