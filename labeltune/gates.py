"""The hygiene gates: what is wrong with rows, and whether that drops them, stops the run, or is kept and counted."""

from collections import Counter

import pandas as pd

from labeltune.errors import UserError
from labeltune.hygiene import Progress, near_earlier
from labeltune.ledger import SPLITS, Frames, Ledger
from labeltune.params import Prepare

EXAMPLES = 5


def gate(
    frame: pd.DataFrame, mask: pd.Series, action: str, reason: str, split: str | None, ledger: Ledger
) -> pd.DataFrame:
    """Count the masked rows and do with them what the setting says; `split` None reads the column `split`."""
    hit = frame[mask]
    splits = Counter(hit["split"]) if split is None else Counter({split: len(hit)})
    ledger.found[reason].update(+splits)
    if hit.empty:
        return frame
    if action == "fail":
        where = ", ".join(hit["id"].iloc[:EXAMPLES])
        raise UserError(
            f"prepare.{reason} is set to fail, and {len(hit)} rows have it"
            f"{'' if split is None else f' in {split}'}, the first: {where}. Mend them, or set prepare.{reason} "
            f"to drop{'' if reason == 'missing_label' else ' or keep'}"
        )
    protected = split == "test" and not reason.startswith("missing_")
    if action == "keep" or protected:
        return frame
    ledger.dropped[reason].update(+splits)
    return frame[~mask].reset_index(drop=True)


def gate_inside(
    frame: pd.DataFrame, settings: Prepare, split: str, ledger: Ledger, progress: Progress | None
) -> pd.DataFrame:
    """Gate conflicts, exact and near duplicates of one split or table."""
    labels = frame.groupby("text")["label"].transform("nunique")
    frame = gate(frame, labels > 1, settings.conflicts, "conflicts", split, ledger)
    frame = gate(frame, frame["text"].duplicated(), settings.exact_inside, "exact_inside", split, ledger)
    matches = near_earlier(
        frame["text"].tolist(), [0] * len(frame), settings.near_threshold, inside=True, progress=progress
    )
    near = pd.Series(matches >= 0, index=frame.index) & ~frame["text"].duplicated()
    return gate(frame, near, settings.near_inside, "near_inside", split, ledger)


def gate_across(frames: Frames, settings: Prepare, ledger: Ledger, progress: Progress | None) -> Frames:
    """Gate rows that repeat a row of another split: the test row stays, then the validation row."""
    ranked = pd.concat([frames[split].assign(split=split) for split in reversed(SPLITS)], ignore_index=True)
    first = ranked.groupby("text")["split"].transform("first")
    ranked = gate(ranked, first != ranked["split"], settings.exact_across, "exact_across", None, ledger)
    first = ranked.groupby("text")["split"].transform("first")
    groups = [len(SPLITS) - 1 - SPLITS.index(split) for split in ranked["split"]]
    matches = near_earlier(ranked["text"].tolist(), groups, settings.near_threshold, inside=False, progress=progress)
    near = pd.Series(matches >= 0, index=ranked.index) & (first == ranked["split"])
    ranked = gate(ranked, near, settings.near_across, "near_across", None, ledger)
    return {split: ranked[ranked["split"] == split].drop(columns="split").reset_index(drop=True) for split in SPLITS}


def gate_added(frame: pd.DataFrame, added: pd.DataFrame, settings: Prepare, name: str, ledger: Ledger) -> pd.DataFrame:
    """Put rows under rows that were gated before, and gate what only they bring: conflicts and duplicates."""
    table = pd.concat([frame.assign(split="train"), added.assign(split=name)], ignore_index=True)
    before = frame.groupby("text")["label"].transform("nunique").reindex(table.index, fill_value=1)
    labels = table.groupby("text")["label"].transform("nunique")
    table = gate(table, (labels > 1) & (before == 1), settings.conflicts, "conflicts", None, ledger)
    again = table["text"].duplicated() & (table["split"] == name)
    table = gate(table, again, settings.exact_inside, "exact_inside", None, ledger)
    matches = near_earlier(table["text"].tolist(), [0] * len(table), settings.near_threshold, inside=True)
    near = pd.Series(matches >= 0, index=table.index) & (table["split"] == name) & ~table["text"].duplicated()
    return gate(table, near, settings.near_inside, "near_inside", None, ledger).drop(columns="split")
