"""The books of `prepare`: what was read, found, dropped and kept, and how long it is in tokens."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labeltune import terminal
from labeltune.labels import LabelSet
from labeltune.prompts import Encoded

SPLITS = ("train", "validation", "test")
REASONS = {
    "missing_text": "no text",
    "missing_label": "no label",
    "conflicts": "one text under two labels",
    "exact_inside": "the same text twice",
    "near_inside": "nearly the same text twice",
    "exact_across": "the same text in two splits",
    "near_across": "nearly the same text in two splits",
    "balance": "balancing the classes",
    "train_rows": "prepare.train_rows",
}
CORRECTIONS = "corrections"
"""What the books call the rows of `prepare.corrections`, beside the splits or the table."""
UNGATED = ("balance", "train_rows")
SHOWN = 8
Frames = dict[str, pd.DataFrame]


@dataclass(kw_only=True)
class Ledger:
    """What was found and dropped, reason -> table or split -> rows; rows read = rows kept + rows dropped."""

    read: Counter[str] = field(default_factory=Counter)
    found: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    dropped: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    moved: int = 0
    """Rows that changed splits so that near copies of a text stand in one."""

    def figures(self, frames: Frames, tokens: dict[str, Encoded], labels: LabelSet) -> dict[str, Any]:
        """Everything that metrics/data.json holds.

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
            "found": {reason: self._total(self.found[reason]) for reason in REASONS if reason not in UNGATED},
            "dropped": {reason: self._total(self.dropped[reason]) for reason in REASONS},
            "leaks_left": leaks,
            "moved": self.moved,
            "corrections": self.read[CORRECTIONS] - sum(counts[CORRECTIONS] for counts in self.dropped.values()),
            "tokens": {split: _lengths(encoded) for split, encoded in tokens.items()},
        }

    @staticmethod
    def _total(counts: Counter[str]) -> int:
        return sum(counts.values())


def _lengths(encoded: Encoded) -> dict[str, float]:
    """Prompt lengths in tokens before truncation, and the share of rows that lose text."""
    lengths = np.array(encoded.lengths)
    return {
        "p50": float(np.percentile(lengths, 50)),
        "p95": float(np.percentile(lengths, 95)),
        "max": int(lengths.max()),
        "truncated": float(np.mean(encoded.truncated)),
    }


def show(figures: dict[str, Any], labels: LabelSet, folder: Path) -> None:
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
    if figures["moved"]:
        terminal.say(f"  moved {figures['moved']:,}: near copies of a text stand in one split")
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
        ]
        for split, counts in figures["rows"].items()
    ]
    terminal.table(
        f"prepared in {folder}/",
        ["split", "rows", *labels.names[:SHOWN], "tokens p50 / p95 / max", "truncated"],
        rows,
    )
    if len(labels) > SHOWN:
        terminal.say(f"and {len(labels) - SHOWN} more classes: metrics/data.json has them all")
