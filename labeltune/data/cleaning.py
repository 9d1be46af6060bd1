"""Cleaning rows: normalization, data checks, corrections, and the statistics that `prepare` writes."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from labeltune.config.data import Prepare
from labeltune.console import terminal
from labeltune.data.deduplication import Progress, find_near_duplicates
from labeltune.data.labels import LabelSet
from labeltune.data.normalization import Normalization
from labeltune.data.prevalence import Prevalence
from labeltune.runtime.errors import UserError

SPLITS = ("train", "validation", "test")
REASONS = {
    "missing_text": "no text",
    "missing_label": "no label",
    "conflicts": "one text with two labels",
    "exact_inside": "the same text twice",
    "near_inside": "nearly the same text twice",
    "exact_across": "the same text in two splits",
    "near_across": "nearly the same text in two splits",
    "rare_classes": "a class with few rows",
    "balance": "balancing the classes",
    "train_rows": "prepare.train_rows",
    "validation_rows": "prepare.validation_rows",
}
CORRECTIONS = "corrections"
"""Name of the rows of `prepare.corrections` in the statistics, in addition to the splits or the table."""
UNCHECKED = ("rare_classes", "balance", "train_rows", "validation_rows")
SHOWN = 8
REPORTED_SHARE = 0.02
"""Share of truncated texts from which the truncation is reported."""
Frames = dict[str, pd.DataFrame]


class Lengths(Protocol):
    """Lengths of the rows in tokens, `[rows]` each."""

    @property
    def lengths(self) -> Sequence[int]:
        """Number of tokens of each row before truncation."""

    @property
    def truncated(self) -> Sequence[bool]:
        """Whether the text of each row is truncated."""

    @property
    def lost(self) -> Sequence[int]:
        """Number of tokens that truncation removes from each row's text."""


@dataclass(kw_only=True)
class DataStatistics:
    """Counts of rows found and dropped, reason -> table or split -> rows; rows read = rows kept + rows dropped."""

    read: Counter[str] = field(default_factory=Counter)
    found: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    dropped: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    relabelled: int = 0
    """Number of training rows whose label a correction changed."""
    moved: int = 0
    """Number of rows that were moved so that all near duplicates of a text are in one split."""
    prevalence: Prevalence | None = None
    """Shares of the labels before and after balancing, once the rows are split."""
    rare: dict[str, int] = field(default_factory=dict)
    """Class that was left out or merged because it has few rows -> number of its rows."""

    def figures(
        self, frames: Frames, tokens: Mapping[str, Lengths], labels: LabelSet, *, template: int = 0
    ) -> dict[str, Any]:
        """Return the content of metrics/data.json; `template` is the number of prompt tokens around a text.

        `found` counts the rows that the checks find, `dropped` those that they remove, both by reason. A leak is a row
        that repeats a row of another split; `leaks_left` counts the leaks that the settings kept. `corrections` counts
        the training rows that `prepare.corrections` added.
        """
        leaks = {
            kind: self._total(self.found[kind]) - self._total(self.dropped[kind])
            for kind in ("exact_across", "near_across")
        }
        return {
            "rows_read": dict(self.read),
            "rows": {
                split: {"total": len(frame)} | {name: int((frame["label"] == name).sum()) for name in labels.names}
                for split, frame in frames.items()
            },
            "found": {reason: self._total(self.found[reason]) for reason in REASONS if reason not in UNCHECKED},
            "dropped": {reason: self._total(self.dropped[reason]) for reason in REASONS},
            "leaks_left": leaks,
            "moved": self.moved,
            "prevalence": asdict(self.prevalence) if self.prevalence else None,
            "rare_classes": dict(self.rare),
            "relabelled": self.relabelled,
            "corrections": self.read[CORRECTIONS] - sum(counts[CORRECTIONS] for counts in self.dropped.values()),
            "tokens": {split: _lengths(encoded, template) for split, encoded in tokens.items()},
            "template_tokens": template,
        }

    @staticmethod
    def _total(counts: Counter[str]) -> int:
        return sum(counts.values())


def _lengths(encoded: Lengths, template: int) -> dict[str, float]:
    """Return prompt lengths before truncation, and the shares of truncated rows and of text tokens cut off."""
    lengths = np.array(encoded.lengths)
    texts = int(np.maximum(0, lengths - template).sum())
    return {
        "p50": float(np.percentile(lengths, 50)),
        "p95": float(np.percentile(lengths, 95)),
        "max": int(lengths.max()),
        "truncated": float(np.mean(encoded.truncated)),
        "unread": float(sum(encoded.lost) / texts) if texts else 0.0,
    }


def show_statistics(figures: dict[str, Any], labels: LabelSet, folder: Path) -> None:
    """Print the summary of `prepare`."""
    read = ", ".join(
        f"{count:,} of {split}" if split != "all" else f"{count:,}" for split, count in figures["rows_read"].items()
    )
    terminal.say(f"read {read} rows")
    for reason, count in figures["dropped"].items():
        if count:
            terminal.say(f"  dropped {count:,}: {REASONS[reason]}")
    for reason, count in figures["found"].items():
        kept = count - figures["dropped"][reason]
        if kept:
            terminal.say(f"  kept {kept:,}: {REASONS[reason]}")
    if figures["rare_classes"]:
        listed = ", ".join(f"{name!r} ({count})" for name, count in list(figures["rare_classes"].items())[:SHOWN])
        more = f" and {len(figures['rare_classes']) - SHOWN} more" if len(figures["rare_classes"]) > SHOWN else ""
        done = "left out" if figures["dropped"]["rare_classes"] else "merged"
        terminal.say(f"  classes with fewer rows than prepare.rare_rows, {done}: {listed}{more}")
    if figures["moved"]:
        terminal.say(f"  moved {figures['moved']:,}: near duplicates of a text are kept in one split")
    if figures["relabelled"]:
        terminal.say(f"  relabelled {figures['relabelled']:,}: training rows whose label a correction changes")
    if figures["corrections"]:
        terminal.say(f"  added {figures['corrections']:,}: corrections, to the training rows")
    rows = [
        [
            split,
            counts["total"],
            *(counts[name] for name in labels.names[:SHOWN]),
            f"{figures['tokens'][split]['p50']:.0f} / {figures['tokens'][split]['p95']:.0f} / "
            f"{figures['tokens'][split]['max']}",
            f"{figures['tokens'][split]['truncated']:.1%}",
            f"{figures['tokens'][split]['unread']:.1%}",
        ]
        for split, counts in figures["rows"].items()
    ]
    terminal.table(
        f"prepared in {folder}/",
        ["split", "rows", *labels.names[:SHOWN], "tokens p50 / p95 / max", "truncated", "tokens unread"],
        rows,
    )
    cut = figures["tokens"]["train"]
    if cut["truncated"] >= REPORTED_SHARE:
        terminal.say(
            f"{cut['truncated']:.0%} of the training texts do not fit into prompt.max_length and lose their middle: "
            f"{cut['unread']:.0%} of all their tokens are not read, and the prompt itself takes "
            f"{figures['template_tokens']}; a larger prompt.max_length or a shorter prompt reads more"
        )
    if len(labels) > SHOWN:
        terminal.say(f"and {len(labels) - SHOWN} more classes: metrics/data.json has them all")


EXAMPLES = 5


def apply_check(
    frame: pd.DataFrame, mask: pd.Series, action: str, reason: str, split: str | None, statistics: DataStatistics
) -> pd.DataFrame:
    """Count the masked rows and handle them as the setting says; if `split` is None, read the column `split`."""
    hit = frame[mask]
    splits = Counter(hit["split"]) if split is None else Counter({split: len(hit)})
    statistics.found[reason].update(+splits)
    if hit.empty:
        return frame
    if action == "fail":
        where = ", ".join(hit["id"].iloc[:EXAMPLES])
        raise UserError(
            f"prepare.{reason} is set to fail, and {len(hit)} rows have it"
            f"{'' if split is None else f' in {split}'}, the first: {where}. Correct them, or set prepare.{reason} "
            f"to drop{'' if reason == 'missing_label' else ' or keep'}"
        )
    protected = split == "test" and not reason.startswith("missing_")
    if action == "keep" or protected:
        return frame
    statistics.dropped[reason].update(+splits)
    return frame[~mask].reset_index(drop=True)


def check_within_splits(
    frame: pd.DataFrame, settings: Prepare, split: str, statistics: DataStatistics, progress: Progress | None
) -> pd.DataFrame:
    """Check one split or table for conflicts, exact duplicates and near duplicates."""
    labels = frame.groupby("text")["label"].transform("nunique")
    frame = apply_check(frame, labels > 1, settings.conflicts, "conflicts", split, statistics)
    frame = apply_check(frame, frame["text"].duplicated(), settings.exact_inside, "exact_inside", split, statistics)
    matches = find_near_duplicates(
        frame["text"].tolist(), [0] * len(frame), settings.near_threshold, inside=True, progress=progress
    )
    near = pd.Series(matches >= 0, index=frame.index) & ~frame["text"].duplicated()
    return apply_check(frame, near, settings.near_inside, "near_inside", split, statistics)


def check_across_splits(
    frames: Frames, settings: Prepare, statistics: DataStatistics, progress: Progress | None
) -> Frames:
    """Check for rows that repeat a row of another split; test rows take precedence, then validation rows."""
    ranked = pd.concat([frames[split].assign(split=split) for split in reversed(SPLITS)], ignore_index=True)
    first = ranked.groupby("text")["split"].transform("first")
    ranked = apply_check(ranked, first != ranked["split"], settings.exact_across, "exact_across", None, statistics)
    first = ranked.groupby("text")["split"].transform("first")
    groups = [len(SPLITS) - 1 - SPLITS.index(split) for split in ranked["split"]]
    matches = find_near_duplicates(
        ranked["text"].tolist(), groups, settings.near_threshold, inside=False, progress=progress
    )
    near = pd.Series(matches >= 0, index=ranked.index) & (first == ranked["split"])
    ranked = apply_check(ranked, near, settings.near_across, "near_across", None, statistics)
    return {split: ranked[ranked["split"] == split].drop(columns="split").reset_index(drop=True) for split in SPLITS}


def check_added_rows(
    frame: pd.DataFrame, added: pd.DataFrame, settings: Prepare, name: str, statistics: DataStatistics
) -> pd.DataFrame:
    """Append rows to checked rows, and check the conflicts and duplicates that they add."""
    table = pd.concat([frame.assign(split="train"), added.assign(split=name)], ignore_index=True)
    before = frame.groupby("text")["label"].transform("nunique").reindex(table.index, fill_value=1)
    labels = table.groupby("text")["label"].transform("nunique")
    table = apply_check(table, (labels > 1) & (before == 1), settings.conflicts, "conflicts", None, statistics)
    again = table["text"].duplicated() & (table["split"] == name)
    table = apply_check(table, again, settings.exact_inside, "exact_inside", None, statistics)
    matches = find_near_duplicates(table["text"].tolist(), [0] * len(table), settings.near_threshold, inside=True)
    near = pd.Series(matches >= 0, index=table.index) & (table["split"] == name) & ~table["text"].duplicated()
    return apply_check(table, near, settings.near_inside, "near_inside", None, statistics).drop(columns="split")


def clean(frames: Frames, settings: Prepare, labels: dict[str, str] | None, statistics: DataStatistics) -> Frames:
    """Normalize texts, handle missing values and map raw labels to names.

    Args:
        frames: split -> rows with the columns id, text, label (raw, or None).
        labels: explicit map raw value -> name, or None to take the raw values.

    Raises:
        UserError: a missing value or a label that the settings or the map don't allow, with the rows' ids.
    """
    normalize = normalization(settings)
    cleaned = {}
    for split, frame in frames.items():
        statistics.read[split] = len(frame)
        # A missing text is None, which pandas turns into NaN.
        frame = frame.assign(text=[normalize(text) if isinstance(text, str) else "" for text in frame["text"]])
        blank = frame["label"].isna() | (frame["label"] == "")
        frame = apply_check(frame, blank, settings.missing_label, "missing_label", split, statistics)
        blank = frame["text"].str.strip() == ""
        frame = apply_check(frame, blank, settings.missing_text, "missing_text", split, statistics)
        if labels:
            unknown = frame[~frame["label"].isin(list(labels))]
            if len(unknown):
                values = sorted(set(unknown["label"]))[:EXAMPLES]
                raise UserError(
                    f"labels: {len(unknown)} {split} rows have labels that the map does not name: {values}, first at "
                    f"{unknown['id'].iloc[0]}; the map names {list(labels)}. Add them to 'labels' in the data "
                    "set's file under conf/datasets"
                )
            frame = frame.assign(label=frame["label"].map(labels))
        if frame.empty:
            raise UserError(f"no {split} row is left: all {statistics.read[split]} were dropped for missing values")
        cleaned[split] = frame.reset_index(drop=True)
    return cleaned


def normalization(settings: Prepare) -> Normalization:
    """Return the normalization that the settings ask for."""
    return Normalization(unicode=settings.unicode, whitespace=settings.whitespace)


def resolve_rare_classes(frames: Frames, settings: Prepare, least: int, statistics: DataStatistics) -> Frames:
    """Refuse, leave out or merge the classes with few rows in the table, or among the training rows.

    Args:
        frames: split -> rows, or the one table.
        settings: how to handle these classes.
        least: minimum number of rows of a class in a split table.
        statistics: the classes and their numbers of rows are added to it.

    Raises:
        UserError: there are such classes and `prepare.rare_classes` is `fail`, or they have too few rows even together;
            or all rows have one class.
    """
    table = frames["all" if "all" in frames else "train"]
    least = max(least, settings.rare_rows)
    counts = {name: 0 for frame in frames.values() for name in frame["label"]} | table["label"].value_counts().to_dict()
    rare = {name: int(counts[name]) for name in sorted(counts) if counts[name] < least}
    if len(counts) == 1:
        raise UserError(f"a classifier needs at least two classes; the rows have {list(counts)}")
    if settings.rare_classes == "fail":
        rare = {name: count for name, count in rare.items() if count}  # the others are listed with their rows
    if not rare:
        return frames
    listed = ", ".join(f"{name!r} ({count})" for name, count in list(rare.items())[:SHOWN])
    listed += f" and {len(rare) - SHOWN} more" if len(rare) > SHOWN else ""
    if settings.rare_classes == "fail":
        raise UserError(
            f"a class needs at least {least} rows to be split, and these have fewer: {listed}. Add rows, or set "
            "prepare.rare_classes to drop, which leaves them out, or to merge, which makes one class of them"
        )
    statistics.rare = rare
    if settings.rare_classes == "drop":
        for split, frame in frames.items():
            statistics.dropped["rare_classes"][split] = int(frame["label"].isin(list(rare)).sum())
        return {
            split: frame[~frame["label"].isin(list(rare))].reset_index(drop=True) for split, frame in frames.items()
        }
    together = sum(rare.values()) + (0 if settings.rare_name in rare else int(counts.get(settings.rare_name, 0)))
    if together < least:
        raise UserError(
            f"prepare.rare_classes: merge: {listed} have {together} rows together, and a class needs at least {least}: "
            "add rows, or set it to drop"
        )
    names = dict.fromkeys(rare, settings.rare_name)
    return {split: frame.assign(label=frame["label"].replace(names)) for split, frame in frames.items()}


def label_set(
    frames: Frames,
    labels: dict[str, str] | None,
    verbalizer: dict[str, str] | None,
    rare: Mapping[str, int] | None = None,
) -> LabelSet:
    """Return the classes of all rows, in the order of the explicit map or sorted.

    Args:
        frames: split -> rows.
        labels: map raw value -> name, or None.
        verbalizer: name -> label word, or None.
        rare: classes that were left out or merged, whose names may still be in the two maps.
    """
    values = pd.concat(list(frames.values()))["label"]
    left = set(rare or {}) - set(values)
    if labels and rare:
        labels = {raw: name for raw, name in labels.items() if name not in left}
        labels |= {name: name for name in values.unique() if name not in labels.values()}
    words = {name: word for name, word in (verbalizer or {}).items() if name not in left}
    return LabelSet.of(values, labels, words)


def read_corrections(content: bytes, path: Path, labels: LabelSet) -> pd.DataFrame:
    """Read corrections as rows with the columns id, text, label; of several for one text the last one counts.

    Args:
        content: the lines.
        path: the file of the lines, for ids and messages.

    Raises:
        UserError: a line is no correction, or its label is not one of the classes.
    """
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            row = _parsed(line, f"{path}:{number}")
            if row["label"] not in labels.names:
                raise UserError(
                    f"{path}:{number}: {row['label']!r} is not one of the classes: {list(labels.names)[:EXAMPLES]}; "
                    "correct or delete the line"
                )
            rows.pop(row["text"], None)
            rows[row["text"]] = {"id": f"{path.name}:{number}", "text": row["text"], "label": row["label"]}
    if not rows:
        raise UserError(f"prepare.corrections: {path} holds no corrections; set the key to null to train without")
    return pd.DataFrame(list(rows.values()), dtype=object)


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("text"), str) and isinstance(row.get("label"), str):
            (row["text"] + row["label"]).encode()  # half of a surrogate pair can't be written to a file
            return row
    except (ValueError, RecursionError):
        pass
    raise UserError(f'{where}: expected {{"text": "...", "label": "..."}}; correct or delete the line')


def add_corrections(frames: Frames, rows: pd.DataFrame, settings: Prepare, statistics: DataStatistics) -> Frames:
    """Add corrections to the training rows; validation and test rows stay exactly as they are without them.

    Of several corrections of one text the last one counts. A training row with the same text gets the label of the
    correction. Corrections that repeat a validation or test row are subject to the same checks as all rows. They are
    added after `balance` and `train_rows`, which select among the data set's own rows.
    """
    rows = clean({CORRECTIONS: rows}, settings, None, statistics)[CORRECTIONS]
    rows = _without(rows, rows["text"].duplicated(keep="last"), statistics)  # texts that differ only in white space
    own = DataStatistics()  # findings between the other splits have been counted already
    rows = check_across_splits(frames | {"train": rows}, settings, own, None)["train"]
    for counts, seen in ((statistics.found, own.found), (statistics.dropped, own.dropped)):
        for reason, splits in seen.items():
            counts[reason][CORRECTIONS] += splits["train"]
    train, said = frames["train"], dict(zip(rows["text"], rows["label"], strict=True))
    labels = [said.get(text, label) for text, label in zip(train["text"], train["label"], strict=True)]
    statistics.relabelled = int((train["label"] != labels).sum())
    rows = _without(rows, rows["text"].isin(set(train["text"])), statistics)
    train = train.assign(label=labels)
    return frames | {"train": check_added_rows(train, rows, settings, CORRECTIONS, statistics)}


def _without(rows: pd.DataFrame, known: pd.Series, statistics: DataStatistics) -> pd.DataFrame:
    """Return the corrections without those whose text is known, and count the latter."""
    count = int(known.sum())
    statistics.found["exact_inside"][CORRECTIONS] += count
    statistics.dropped["exact_inside"][CORRECTIONS] += count
    return rows[~known].reset_index(drop=True)
