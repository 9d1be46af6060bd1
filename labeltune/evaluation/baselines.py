"""Baselines: predictions, choices and costs of each cheaper model."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labeltune.console.terminal import say, table
from labeltune.data.labels import Indices, LabelSet, Probabilities
from labeltune.modeling import ngrams
from labeltune.probing import regression
from labeltune.probing.regression import figures
from labeltune.runtime.environment import KIB_PER_MIB, peak_memory

SHOWN = ("label", "ngrams", "layer", "pooling", "C", "label_score")
"""Settings of a baseline that are printed."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The rows of one split."""

    ids: list[str]
    """Id of each row."""
    texts: list[str]
    """Text of each row, without the prompt."""
    labels: Indices
    """Index of each row's label, `[rows]`."""

    @classmethod
    def of(cls, frame: pd.DataFrame, labels: LabelSet) -> "Split":
        """Return the rows of a prepared table."""
        names = frame["label"].tolist()
        return cls(ids=frame["id"].tolist(), texts=frame["text"].tolist(), labels=np.array(labels.index(names)))

    def __len__(self) -> int:
        return len(self.ids)


Splits = dict[str, Split]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Time and memory of a model, which vary from run to run."""

    train_seconds: float
    """Seconds of model selection and fitting, without loading; 0 if nothing is fitted."""
    rows_per_second: float
    """Test rows predicted per second."""
    peak_memory_mib: int
    """Largest resident memory of the process until the predictions were complete, libraries included. It can only grow,
    so the lightest model runs first."""
    size_mib: float
    """Size of the model on disk, including its base model."""

    @classmethod
    def of(cls, *, train_seconds: float, rows: int, seconds: float, size: int) -> "Costs":
        """Return the costs of a model of `size` bytes that has just predicted `rows` rows in `seconds`."""
        return cls(
            train_seconds=round(train_seconds, 3),
            rows_per_second=round(rows / max(seconds, 1e-9), 2),
            peak_memory_mib=peak_memory(),
            size_mib=round(size / KIB_PER_MIB**2, 3),
        )


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A baseline's predictions for the test rows."""

    name: str
    """`majority`, `tfidf`, `hidden_states` or `zero_shot`."""
    probabilities: Probabilities
    """Probabilities, `[rows, num_labels]`."""
    chosen: dict[str, Any]
    """Entry in metrics/baselines.json."""
    costs: Costs
    """Time and memory."""


def majority(splits: Splits, labels: LabelSet) -> Baseline:
    """Predict the most frequent training label, with the training shares of the labels as probabilities."""
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
    """Return a table with a row per model and test row: model, id, label, prediction and p_NAME."""
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
    """Return the content of metrics/baselines.json: choices made on the validation rows, and why a model is missing."""
    kept: dict[str, Any] = {baseline.name: baseline.chosen for baseline in found}
    return kept | {"zero_shot": {**kept.get("zero_shot", {}), "missing": missing}}


def costs(found: Sequence[Baseline]) -> dict[str, Any]:
    """Return the content of costs/baselines.json."""
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
    say(f"their predictions for the test rows are in {path}")


def tfidf(splits: Splits, labels: LabelSet) -> Baseline:
    """Fit n-grams to the training rows, as `train.blend` does."""
    train, validation, test = (splits[split] for split in ("train", "validation", "test"))
    started = time.perf_counter()
    model = ngrams.fit(train.texts, train.labels, validation.texts, validation.labels, len(labels))
    spent = time.perf_counter() - started
    started = time.perf_counter()
    given = model.probabilities(test.texts)
    seconds = time.perf_counter() - started
    return Baseline(
        name="tfidf",
        probabilities=given,
        chosen={
            "ngrams": model.kind,
            "features": len(model.idf),
            "C": model.c,
            "rows": len(train),
            "validation": figures(validation.labels, model.probabilities(validation.texts)),
        },
        costs=Costs.of(train_seconds=spent, rows=len(test), seconds=seconds, size=model.nbytes),
    )
