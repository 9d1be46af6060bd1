"""Baselines: what each cheaper model answered, what it was chosen by, and what it cost."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labeltune import regression
from labeltune.hardware import KIB_PER_MIB, peak_memory
from labeltune.labels import LabelSet
from labeltune.metrics import Indices, Probabilities
from labeltune.terminal import say, table

SHOWN = ("label", "ngrams", "layer", "pooling", "C", "label_score")
"""What of a choice fits on the terminal."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The rows of one split."""

    ids: list[str]
    """What `prepare` calls each row."""
    texts: list[str]
    """Their texts, without the prompt."""
    labels: Indices
    """Index of each row's label, `[rows]`."""

    @classmethod
    def of(cls, frame: pd.DataFrame, labels: LabelSet) -> "Split":
        """The rows of a prepared table."""
        names = frame["label"].tolist()
        return cls(ids=frame["id"].tolist(), texts=frame["text"].tolist(), labels=np.array(labels.index(names)))

    def __len__(self) -> int:
        return len(self.ids)


Splits = dict[str, Split]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a model took; unlike everything else it differs from run to run."""

    train_seconds: float
    """Choosing and fitting, without loading; 0 where nothing is fitted."""
    rows_per_second: float
    """Test rows answered in a second."""
    peak_memory_mib: int
    """Largest resident memory of the process until the model had answered, libraries included. It can only grow: the
    models run lightest first."""
    size_mib: float
    """What the model takes on disk, its base model included."""

    @classmethod
    def of(cls, *, train_seconds: float, rows: int, seconds: float, size: int) -> "Costs":
        """Costs of a model of `size` bytes that has just answered `rows` rows in `seconds`."""
        return cls(
            train_seconds=round(train_seconds, 3),
            rows_per_second=round(rows / max(seconds, 1e-9), 2),
            peak_memory_mib=peak_memory(),
            size_mib=round(size / KIB_PER_MIB**2, 3),
        )


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One model's answers to the test rows."""

    name: str
    """`majority`, `tfidf`, `hidden_states` or `zero_shot`."""
    probabilities: Probabilities
    """`[rows, num_labels]`."""
    chosen: dict[str, Any]
    """What metrics/baselines.json says of it."""
    costs: Costs
    """What it took."""


def majority(splits: Splits, labels: LabelSet) -> Baseline:
    """Answer the most frequent training label, with the labels' training shares as probabilities."""
    started = time.perf_counter()
    shares = np.bincount(splits["train"].labels, minlength=len(labels)) / len(splits["train"])
    fitted = time.perf_counter()
    given = np.tile(shares, (len(splits["test"]), 1))
    most = int(shares.argmax())
    return Baseline(
        name="majority",
        probabilities=given,
        chosen={
            "label": labels.names[most],
            "rows": len(splits["train"]),
            "validation": regression.figures(
                splits["validation"].labels, np.tile(shares, (len(splits["validation"]), 1))
            ),
        },
        costs=Costs.of(
            train_seconds=fitted - started,
            rows=len(given),
            seconds=time.perf_counter() - fitted,
            size=regression.size(shares),
        ),
    )


def answers(found: Sequence[Baseline], test: Split, labels: LabelSet) -> pd.DataFrame:
    """One row per model and test row: model, id, label, prediction and p_NAME."""
    parts = []
    for baseline in found:
        given = baseline.probabilities
        columns: dict[str, Any] = {
            "model": baseline.name,
            "id": test.ids,
            "label": [labels.names[label] for label in test.labels],
            "prediction": [labels.names[guess] for guess in given.argmax(axis=1)],
        }
        parts.append(pd.DataFrame(columns | {f"p_{name}": given[:, i] for i, name in enumerate(labels.names)}))
    return pd.concat(parts, ignore_index=True)


def chosen(found: Sequence[Baseline], missing: str | None) -> dict[str, Any]:
    """What metrics/baselines.json holds: what was chosen on the validation rows, and why a model is missing."""
    kept: dict[str, Any] = {baseline.name: baseline.chosen for baseline in found}
    return kept | {"zero_shot": {**kept.get("zero_shot", {}), "missing": missing}}


def costs(found: Sequence[Baseline]) -> dict[str, Any]:
    """What costs/baselines.json holds."""
    return {baseline.name: asdict(baseline.costs) for baseline in found}


def show(found: Sequence[Baseline], missing: str | None, path: Path) -> None:
    """Print the summary of `baselines`."""
    rows = []
    for baseline in found:
        validated = baseline.chosen.get("validation")
        picked = ", ".join(f"{key} {baseline.chosen[key]}" for key in SHOWN if key in baseline.chosen)
        shown = f"{validated['accuracy']:.4f}" if validated else ""
        rows.append([baseline.name, picked, shown, f"{baseline.costs.train_seconds:.1f}"])
    table("cheaper models", ["model", "chosen", "validation accuracy", "seconds"], rows)
    if missing:
        say(f"no zero_shot: {missing}")
    say(f"their answers to the test rows in {path}")
