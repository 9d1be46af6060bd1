"""Splitting: cleaned rows become balanced splits without leaks, and every dropped row is counted."""

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
    resolve_rare_classes,
)
from labeltune.data.deduplication import Progress, find_near_duplicates
from labeltune.data.prevalence import Prevalence
from labeltune.data.sampling import stratified
from labeltune.runtime.errors import UserError, bullet

VALIDATION_ROWS, TRAINING_PER_VALIDATION = 2_000, 10
"""Maximum number of validation rows with `prepare.validation_rows: auto`, or one for this many training rows if that is
more."""


def split_rows(
    frames: Frames, settings: Prepare, statistics: DataStatistics, progress: Progress | None = None
) -> Frames:
    """Check, balance and split the rows; returns train, validation and test.

    A given test split is never changed: its duplicates are counted, and rows that repeat it leave the other splits.

    Raises:
        UserError: a check set to `fail` found rows, or a class is too small to be split.
    """
    frames = {
        split: check_within_splits(frame, settings, split, statistics, progress) for split, frame in frames.items()
    }
    shares = settings.split
    parts = 3 if "all" in frames else 1 if "validation" in frames else 2
    frames = resolve_rare_classes(frames, settings, parts, statistics)
    if "all" in frames:
        frame = _balance(frames["all"], settings, "all", statistics)
        drawn = stratified(frame, [shares.train, shares.validation], settings.seed)
        frames = dict(zip(SPLITS, drawn, strict=True))
        if settings.near_across != "keep":
            frames = _keep_copies_together(frames, settings, statistics)
    elif "validation" not in frames:
        validation, train = stratified(frames["train"], [shares.validation_of_train], settings.seed)
        frames |= {"train": train, "validation": validation}
    frames = check_across_splits({split: frames[split] for split in SPLITS}, settings, statistics, progress)
    if "all" not in statistics.read:
        frames["train"] = _balance(frames["train"], settings, "train", statistics)
    rows = len(frames["train"])
    if settings.train_rows and settings.train_rows < rows:
        frames["train"], _ = stratified(frames["train"], [Fraction(settings.train_rows, rows)], settings.seed)
        statistics.dropped["train_rows"]["train"] = rows - len(frames["train"])
    if "validation" not in statistics.read:
        frames["validation"] = _limit_validation(frames, settings, statistics)
    _require_learnable(frames)
    return frames


def _limit_validation(frames: Frames, settings: Prepare, statistics: DataStatistics) -> pd.DataFrame:
    """Return the validation rows, or a stratified sample where there are more than `prepare.validation_rows`."""
    frame, limit = frames["validation"], len(frames["validation"])
    if settings.validation_rows == "auto":
        limit = max(VALIDATION_ROWS, len(frames["train"]) // TRAINING_PER_VALIDATION)
    elif settings.validation_rows != "all":
        limit = settings.validation_rows
    if limit >= len(frame):
        return frame
    kept, _ = stratified(frame, [Fraction(limit, len(frame))], settings.seed)
    statistics.dropped["validation_rows"]["validation"] = len(frame) - len(kept)
    return kept


def _keep_copies_together(frames: Frames, settings: Prepare, statistics: DataStatistics) -> Frames:
    """Move rows between the splits of one table so that near duplicates of a text are in one of them.

    A group of near duplicates goes to the split with most of its rows, the first one on a tie. Each moved row is
    exchanged with a row of its class that has no duplicates, so that the counts stay the same.
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
                statistics.moved += 1
    return {place: table[split == place].drop(columns="split").reset_index(drop=True) for place in SPLITS}


def _balance(frame: pd.DataFrame, settings: Prepare, split: str, statistics: DataStatistics) -> pd.DataFrame:
    """Down-sample every class to the smallest one, at random by the seed, and note the shares before and after."""
    balanced = frame if settings.balance == "none" else _down_sampled(frame, settings, split, statistics)
    statistics.prevalence = Prevalence.of(frame["label"], balanced["label"], table=split == "all")
    return balanced


def _down_sampled(frame: pd.DataFrame, settings: Prepare, split: str, statistics: DataStatistics) -> pd.DataFrame:
    smallest = int(frame["label"].value_counts().min())
    order = np.random.default_rng(settings.seed).permutation(len(frame))
    rank = frame.iloc[order].groupby("label").cumcount().reindex(frame.index)
    statistics.dropped["balance"][split] = int((rank >= smallest).sum())
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
