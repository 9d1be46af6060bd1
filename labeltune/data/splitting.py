"""From raw rows to clean, leak-free, balanced splits, with every dropped row counted."""

from fractions import Fraction

import numpy as np
import pandas as pd

from labeltune.config.data import Prepare
from labeltune.data.cleaning import (
    SPLITS,
    DataStatistics,
    Frames,
    check_across_splits,
    check_within_splits,
    settle_rare_classes,
)
from labeltune.data.deduplication import Progress, find_near_duplicates
from labeltune.data.prevalence import Prevalence
from labeltune.data.sampling import stratified
from labeltune.runtime.errors import UserError, bullet

VALIDATION_ROWS, TRAINING_PER_VALIDATION = 2_000, 10
"""With `prepare.validation_rows: auto`, most validation rows, or one for so many training rows where that is more."""


def split_rows(frames: Frames, settings: Prepare, ledger: DataStatistics, progress: Progress | None = None) -> Frames:
    """Pass the rows through the hygiene gate, balance and split them; returns train, validation and test.

    A given test split is never changed: its duplicates are counted, and rows that repeat it leave the other splits.

    Raises:
        UserError: a gate set to `fail` found something, or a class is too small to be split.
    """
    frames = {split: check_within_splits(frame, settings, split, ledger, progress) for split, frame in frames.items()}
    shares = settings.split
    parts = 3 if "all" in frames else 1 if "validation" in frames else 2
    frames = settle_rare_classes(frames, settings, parts, ledger)
    if "all" in frames:
        frame = _balance(frames["all"], settings, "all", ledger)
        drawn = stratified(frame, [shares.train, shares.validation], settings.seed)
        frames = dict(zip(SPLITS, drawn, strict=True))
        if settings.near_across != "keep":
            frames = _keep_copies_together(frames, settings, ledger)
    elif "validation" not in frames:
        validation, train = stratified(frames["train"], [shares.validation_of_train], settings.seed)
        frames |= {"train": train, "validation": validation}
    frames = check_across_splits({split: frames[split] for split in SPLITS}, settings, ledger, progress)
    if "all" not in ledger.read:
        frames["train"] = _balance(frames["train"], settings, "train", ledger)
    rows = len(frames["train"])
    if settings.train_rows and settings.train_rows < rows:
        frames["train"], _ = stratified(frames["train"], [Fraction(settings.train_rows, rows)], settings.seed)
        ledger.dropped["train_rows"]["train"] = rows - len(frames["train"])
    if "validation" not in ledger.read:
        frames["validation"] = _limit_validation(frames, settings, ledger)
    _require_learnable(frames)
    return frames


def _limit_validation(frames: Frames, settings: Prepare, ledger: DataStatistics) -> pd.DataFrame:
    """Return the validation rows, or a stratified sample where there are more than `prepare.validation_rows`."""
    frame, limit = frames["validation"], len(frames["validation"])
    if settings.validation_rows == "auto":
        limit = max(VALIDATION_ROWS, len(frames["train"]) // TRAINING_PER_VALIDATION)
    elif settings.validation_rows != "all":
        limit = settings.validation_rows
    if limit >= len(frame):
        return frame
    kept, _ = stratified(frame, [Fraction(limit, len(frame))], settings.seed)
    ledger.dropped["validation_rows"]["validation"] = len(frame) - len(kept)
    return kept


def _keep_copies_together(frames: Frames, settings: Prepare, ledger: DataStatistics) -> Frames:
    """Move rows between the splits of one table so that near copies of a text stand in one of them.

    A group of near copies goes to the split that holds most of it, the first one on a tie; each row that moves changes
    places with a row of its class that has no copies, so that no count changes. Nothing is lost, and nothing leaks.
    """
    table = pd.concat([frame.assign(split=split) for split, frame in frames.items()], ignore_index=True)
    matches = find_near_duplicates(table["text"].tolist(), [0] * len(table), settings.near_threshold, inside=True)
    group = np.where(matches < 0, np.arange(len(table)), matches)
    sizes = np.bincount(group, minlength=len(table))[group]
    split = table["split"].to_numpy(copy=True)
    label = table["label"].to_numpy()
    single = {
        (place, name): list(np.flatnonzero((sizes == 1) & (split == place) & (label == name)))
        for place in SPLITS
        for name in set(label)
    }
    for rows in (np.flatnonzero(group == leader) for leader in sorted(set(group[sizes > 1]))):
        home = max(SPLITS, key=lambda place: int((split[rows] == place).sum()))
        for row in rows[split[rows] != home]:
            if single[home, label[row]]:
                other = single[home, label[row]].pop()
                single[split[row], label[row]].insert(0, other)
                split[row], split[other] = split[other], split[row]
                ledger.moved += 1
    return {place: table[split == place].drop(columns="split").reset_index(drop=True) for place in SPLITS}


def _balance(frame: pd.DataFrame, settings: Prepare, split: str, ledger: DataStatistics) -> pd.DataFrame:
    """Down-sample every class to the smallest one, at random by the seed, and note the shares before and after."""
    balanced = frame if settings.balance == "none" else _down_sampled(frame, settings, split, ledger)
    ledger.prevalence = Prevalence.of(frame["label"], balanced["label"], table=split == "all")
    return balanced


def _down_sampled(frame: pd.DataFrame, settings: Prepare, split: str, ledger: DataStatistics) -> pd.DataFrame:
    smallest = int(frame["label"].value_counts().min())
    order = np.random.default_rng(settings.seed).permutation(len(frame))
    rank = frame.iloc[order].groupby("label").cumcount().reindex(frame.index)
    ledger.dropped["balance"][split] = int((rank >= smallest).sum())
    return frame[rank < smallest].reset_index(drop=True)


def _require_learnable(frames: Frames) -> None:
    """Refuse labels that only the validation or the test rows have, and empty splits."""
    empty = [split for split in SPLITS if frames[split].empty]
    if empty:
        raise UserError(f"no row is left for {' and '.join(empty)}: add rows, or change prepare.split")
    learnt = set(frames["train"]["label"])
    problems = []
    for split in SPLITS[1:]:
        unseen = frames[split][~frames[split]["label"].isin(learnt)]
        if len(unseen):
            problems.append(
                f"{len(unseen)} {split} rows have labels that no training row has: {sorted(set(unseen['label']))}, "
                f"first at {unseen['id'].iloc[0]}; add training rows for them, or set prepare.rare_classes to drop or "
                "merge"
            )
    if problems:
        raise UserError(bullet(problems))
