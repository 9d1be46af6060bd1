"""Comparing a trained classifier with cheaper ones on the validation rows, and taking the better one.

The paired test is McNemar's, as in the comparison on test rows; with several cheaper models each has to pass a part of
the level (Bonferroni).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labeltune.console.terminal import say
from labeltune.data.labels import Indices
from labeltune.inference.calibration import Logits
from labeltune.probing.regression import mcnemar

SIGNIFICANT = 0.05
"""Level of the test, for all cheaper models together."""
NAMES = {"ngrams": "an n-gram model", "probe": "a probe"}
"""Method -> what messages call it."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Whether a cheaper classifier is better than the trained one."""

    better: str | None = None
    """Method of the most accurate one that is better by the paired test; None where there is none."""
    reason: str = ""
    """Why, with its figures."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What metrics/train.json holds of it; nothing where nothing was compared."""


def compare(trained: Logits, cheaper: Mapping[str, Logits], labels: Indices) -> Selection:
    """Compare a classifier with cheaper ones.

    Args:
        trained: its logits of the validation rows, `[rows, num_labels]`.
        cheaper: method -> those of a cheaper one, in whose choice a row took no part.
        labels: index of each row's label, `[rows]`.
    """
    if not cheaper:
        return Selection()
    ours = trained.argmax(axis=1) == labels  # [rows]
    found: dict[str, Any] = {}
    for name, logits in cheaper.items():
        theirs = logits.argmax(axis=1) == labels
        only_trained, only_cheaper = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        p_value = mcnemar(only_trained, only_cheaper)
        found[name] = {
            "accuracy": float(theirs.mean()),
            "only_trained": only_trained,
            "only_cheaper": only_cheaper,
            "p_value": p_value,
            "better": bool(only_cheaper > only_trained and p_value < SIGNIFICANT / len(cheaper)),
        }
    passed = [name for name in found if found[name]["better"]]
    best = max(passed, key=lambda name: found[name]["accuracy"], default=None)
    figures = {"trained": float(ours.mean()), "cheaper": found, "better": best}
    if best is None:
        return Selection(figures=figures)
    reason = (
        f"{NAMES[best]} labels {found[best]['accuracy']:.1%} of {len(labels):,} validation rows correctly, the trained "
        f"classifier {ours.mean():.1%} (p = {found[best]['p_value']:.2g})"
    )
    return Selection(better=best, reason=reason, figures=figures)


def judge(trained: Logits, cheaper: Mapping[str, Logits], labels: Indices, *, takes: bool) -> Selection:
    """Compare, as `compare` does, and say so where a cheaper classifier is better.

    Args:
        takes: whether the better one is taken, by `train.select: auto`.
    """
    found = compare(trained, cheaper, np.asarray(labels))
    if found.better and takes:
        say(f"train.select: auto takes a cheaper classifier: {found.reason}")
    elif found.better:
        say(f"a cheaper classifier is better: {found.reason}; train.select: auto would take it")
    return found
