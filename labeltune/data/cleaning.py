"""Cleaning rows: normalisation, data checks, corrections, and the statistics that `prepare` writes."""

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
    "conflicts": "one text under two labels",
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
"""What the books call the rows of `prepare.corrections`, beside the splits or the table."""
UNCHECKED = ("rare_classes", "balance", "train_rows", "validation_rows")
SHOWN = 8
TOLD = 0.02
"""Share of texts from which their truncation is told."""
Frames = dict[str, pd.DataFrame]


class Lengths(Protocol):
    """Rows in tokens."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row before truncation."""

    @property
    def truncated(self) -> Sequence[bool]:
        """Whether a row's text lost tokens."""

    @property
    def lost(self) -> Sequence[int]:
        """Tokens that each row's text lost."""


@dataclass(kw_only=True)
class DataStatistics:
    """What was found and dropped, reason -> table or split -> rows; rows read = rows kept + rows dropped."""

    read: Counter[str] = field(default_factory=Counter)
    found: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    dropped: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    relabelled: int = 0
    """Training rows whose label a correction changed."""
    moved: int = 0
    """Rows that changed splits so that near copies of a text stand in one."""
    prevalence: Prevalence | None = None
    """Shares of the labels before and after balancing, once the rows are split."""
    rare: dict[str, int] = field(default_factory=dict)
    """Classes that were left out or merged for their few rows -> the rows."""

    def figures(
        self, frames: Frames, tokens: Mapping[str, Lengths], labels: LabelSet, *, template: int = 0
    ) -> dict[str, Any]:
        """Everything that metrics/data.json holds; `template` is the number of a prompt's tokens around its text.

        `found` counts what the gates saw, `dropped` what left the data, both by reason; a leak is a row that repeats
        a row of another split, and `leaks_left` counts those that the settings kept. `corrections` counts
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
    """Prompt lengths in tokens before truncation, the share of rows that lose text, and that of the texts' tokens."""
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
        terminal.say(f"  moved {figures['moved']:,}: near copies of a text stand in one split")
    if figures["relabelled"]:
        terminal.say(f"  relabelled {figures['relabelled']:,}: training rows that a correction gives another label")
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
    if cut["truncated"] >= TOLD:
        terminal.say(
            f"{cut['truncated']:.0%} of the training texts do not fit into prompt.max_length and lose their middle: "
            f"{cut['unread']:.0%} of all their tokens are not read, and the prompt itself takes "
            f"{figures['template_tokens']}; a larger prompt.max_length or a shorter prompt reads more"
        )
    if len(labels) > SHOWN:
        terminal.say(f"and {len(labels) - SHOWN} more classes: metrics/data.json has them all")


EXAMPLES = 5


def apply_check(
    frame: pd.DataFrame, mask: pd.Series, action: str, reason: str, split: str | None, ledger: DataStatistics
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


def check_within_splits(
    frame: pd.DataFrame, settings: Prepare, split: str, ledger: DataStatistics, progress: Progress | None
) -> pd.DataFrame:
    """Gate conflicts, exact and near duplicates of one split or table."""
    labels = frame.groupby("text")["label"].transform("nunique")
    frame = apply_check(frame, labels > 1, settings.conflicts, "conflicts", split, ledger)
    frame = apply_check(frame, frame["text"].duplicated(), settings.exact_inside, "exact_inside", split, ledger)
    matches = find_near_duplicates(
        frame["text"].tolist(), [0] * len(frame), settings.near_threshold, inside=True, progress=progress
    )
    near = pd.Series(matches >= 0, index=frame.index) & ~frame["text"].duplicated()
    return apply_check(frame, near, settings.near_inside, "near_inside", split, ledger)


def check_across_splits(frames: Frames, settings: Prepare, ledger: DataStatistics, progress: Progress | None) -> Frames:
    """Gate rows that repeat a row of another split: the test row stays, then the validation row."""
    ranked = pd.concat([frames[split].assign(split=split) for split in reversed(SPLITS)], ignore_index=True)
    first = ranked.groupby("text")["split"].transform("first")
    ranked = apply_check(ranked, first != ranked["split"], settings.exact_across, "exact_across", None, ledger)
    first = ranked.groupby("text")["split"].transform("first")
    groups = [len(SPLITS) - 1 - SPLITS.index(split) for split in ranked["split"]]
    matches = find_near_duplicates(
        ranked["text"].tolist(), groups, settings.near_threshold, inside=False, progress=progress
    )
    near = pd.Series(matches >= 0, index=ranked.index) & (first == ranked["split"])
    ranked = apply_check(ranked, near, settings.near_across, "near_across", None, ledger)
    return {split: ranked[ranked["split"] == split].drop(columns="split").reset_index(drop=True) for split in SPLITS}


def check_added_rows(
    frame: pd.DataFrame, added: pd.DataFrame, settings: Prepare, name: str, ledger: DataStatistics
) -> pd.DataFrame:
    """Put rows under rows that were gated before, and gate what only they bring: conflicts and duplicates."""
    table = pd.concat([frame.assign(split="train"), added.assign(split=name)], ignore_index=True)
    before = frame.groupby("text")["label"].transform("nunique").reindex(table.index, fill_value=1)
    labels = table.groupby("text")["label"].transform("nunique")
    table = apply_check(table, (labels > 1) & (before == 1), settings.conflicts, "conflicts", None, ledger)
    again = table["text"].duplicated() & (table["split"] == name)
    table = apply_check(table, again, settings.exact_inside, "exact_inside", None, ledger)
    matches = find_near_duplicates(table["text"].tolist(), [0] * len(table), settings.near_threshold, inside=True)
    near = pd.Series(matches >= 0, index=table.index) & (table["split"] == name) & ~table["text"].duplicated()
    return apply_check(table, near, settings.near_inside, "near_inside", None, ledger).drop(columns="split")


def clean(frames: Frames, settings: Prepare, labels: dict[str, str] | None, ledger: DataStatistics) -> Frames:
    """Normalise texts, settle missing values and turn raw labels into names.

    Args:
        frames: split -> rows with the columns id, text, label (raw, or None).
        labels: explicit map raw value -> name, or None to take the raw values.

    Raises:
        UserError: a missing value or a label that the settings or the map don't allow, with the rows' ids.
    """
    normalize = normalization(settings)
    cleaned = {}
    for split, frame in frames.items():
        ledger.read[split] = len(frame)
        # A missing text is None, which pandas turns into NaN.
        frame = frame.assign(text=[normalize(text) if isinstance(text, str) else "" for text in frame["text"]])
        blank = frame["label"].isna() | (frame["label"] == "")
        frame = apply_check(frame, blank, settings.missing_label, "missing_label", split, ledger)
        blank = frame["text"].str.strip() == ""
        frame = apply_check(frame, blank, settings.missing_text, "missing_text", split, ledger)
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
            raise UserError(f"no {split} row is left: all {ledger.read[split]} were dropped for missing values")
        cleaned[split] = frame.reset_index(drop=True)
    return cleaned


def normalization(settings: Prepare) -> Normalization:
    """The normalization that the settings ask for."""
    return Normalization(unicode=settings.unicode, whitespace=settings.whitespace)


def settle_rare_classes(frames: Frames, settings: Prepare, least: int, ledger: DataStatistics) -> Frames:
    """Refuse, leave out or merge the classes with few rows in the table, or among the training rows.

    Args:
        frames: split -> rows, or the one table.
        settings: what to do with them.
        least: rows that every class needs to be split.
        ledger: gets the classes and their rows.

    Raises:
        UserError: There are some and `prepare.rare_classes` is `fail`, or they are too few even together; or all rows
            have one class.
    """
    table = frames["all" if "all" in frames else "train"]
    least = max(least, settings.rare_rows)
    counts = {name: 0 for frame in frames.values() for name in frame["label"]} | table["label"].value_counts().to_dict()
    rare = {name: int(counts[name]) for name in sorted(counts) if counts[name] < least}
    if len(counts) == 1:
        raise UserError(f"a classifier needs at least two classes; the rows have {list(counts)}")
    if settings.rare_classes == "fail":
        rare = {name: count for name, count in rare.items() if count}  # the others are told with their rows
    if not rare:
        return frames
    listed = ", ".join(f"{name!r} ({count})" for name, count in list(rare.items())[:SHOWN])
    listed += f" and {len(rare) - SHOWN} more" if len(rare) > SHOWN else ""
    if settings.rare_classes == "fail":
        raise UserError(
            f"a class needs at least {least} rows to be split, and these have fewer: {listed}. Add rows, or set "
            "prepare.rare_classes to drop, which leaves them out, or to merge, which makes one class of them"
        )
    ledger.rare = rare
    if settings.rare_classes == "drop":
        for split, frame in frames.items():
            ledger.dropped["rare_classes"][split] = int(frame["label"].isin(list(rare)).sum())
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
    """The classes of all rows, in the order of the explicit map or sorted.

    Args:
        frames: split -> rows.
        labels: map raw value -> name, or None.
        verbalizer: name -> label word, or None.
        rare: classes that were left out or merged, whose names stand in the two maps all the same.
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
        path: the file that they are of, for ids and messages.

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
                    "mend or delete the line"
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
    raise UserError(f'{where}: expected {{"text": "...", "label": "..."}}; mend or delete the line')


def add_corrections(frames: Frames, rows: pd.DataFrame, settings: Prepare, ledger: DataStatistics) -> Frames:
    """Add corrections to the training rows; validation and test rows stay exactly as they are without them.

    A person's word counts: of several corrections of one text, the last one; against a training row of the same text,
    the correction, which gives that row its label. What repeats a validation or test row goes through the checks that
    all rows go through. They come on top of `balance` and `train_rows`, which choose among the data set's own rows.
    """
    rows = clean({CORRECTIONS: rows}, settings, None, ledger)[CORRECTIONS]
    rows = _without(rows, rows["text"].duplicated(keep="last"), ledger)  # texts that differ in white space alone
    own = DataStatistics()  # what these checks find between the other splits is counted already
    rows = check_across_splits(frames | {"train": rows}, settings, own, None)["train"]
    for counts, seen in ((ledger.found, own.found), (ledger.dropped, own.dropped)):
        for reason, splits in seen.items():
            counts[reason][CORRECTIONS] += splits["train"]
    train, said = frames["train"], dict(zip(rows["text"], rows["label"], strict=True))
    labels = [said.get(text, label) for text, label in zip(train["text"], train["label"], strict=True)]
    ledger.relabelled = int((train["label"] != labels).sum())
    rows = _without(rows, rows["text"].isin(set(train["text"])), ledger)
    train = train.assign(label=labels)
    return frames | {"train": check_added_rows(train, rows, settings, CORRECTIONS, ledger)}


def _without(rows: pd.DataFrame, known: pd.Series, ledger: DataStatistics) -> pd.DataFrame:
    """Corrections but for those whose text is there already, which are counted."""
    count = int(known.sum())
    ledger.found["exact_inside"][CORRECTIONS] += count
    ledger.dropped["exact_inside"][CORRECTIONS] += count
    return rows[~known].reset_index(drop=True)
