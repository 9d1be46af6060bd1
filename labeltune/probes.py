"""Probes: logistic regression on one layer's frozen states, and the zero-shot answers that the same pass gives."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from labeltune import soundings
from labeltune.baselines import Baseline, Costs, Split, Splits
from labeltune.features import Features, States
from labeltune.frozen import Untuned, read
from labeltune.inference import probabilities
from labeltune.prompts import Encoder
from labeltune.regression import Regression, figures, lowest, size
from labeltune.strata import sample
from labeltune.watch import POOLINGS

STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A regression on one layer's states."""

    layer: int
    """The layer, from 1; 0 are the embeddings."""
    pooling: str
    """One of `POOLINGS`."""
    c: float
    """Inverse strength of its penalty."""
    model: Regression
    """It."""
    validation: dict[str, float]
    """Its figures on the validation rows."""
    losses: dict[str, list[float]]
    """Pooling -> validation log-loss of each layer, at the C with which they are compared."""


def sampled(splits: Splits, rows: int | str, seed: int) -> Splits:
    """The rows to be read: all test rows, and of the others at most so many each, a stratified sample."""
    return {split: part if split == "test" else _sample(part, rows, seed) for split, part in splits.items()}


def _sample(split: Split, rows: int | str, seed: int) -> Split:
    taken = sample(split.labels.tolist(), rows, seed)
    if len(taken) == len(split):
        return split
    return Split(
        ids=[split.ids[row] for row in taken],
        texts=[split.texts[row] for row in taken],
        labels=split.labels[taken],
    )


def choose(states: dict[str, States], splits: Splits, num_labels: int, *, layers: tuple[int, ...]) -> Probe:
    """Choose layer and pooling, then C, by the log-loss of the validation rows; fitted to the training rows alone.

    Args:
        states: of the training and the validation rows, `[rows, layers, poolings, size]`.
        layers: their numbers.
    """
    train, validation = splits["train"], splits["validation"]

    def fit(place: int, pooling: int, c: float) -> tuple[Regression, dict[str, float]]:
        model, given = soundings.fit(states, train.labels, num_labels, place=place, pooling=pooling, c=c)
        return model, figures(validation.labels, given)

    places = [(place, pooling) for place in range(len(layers)) for pooling in range(len(POOLINGS))]
    losses = {(place, pooling): fit(place, pooling, soundings.FIRST)[1]["log_loss"] for place, pooling in places}
    place, pooling = lowest(losses.items())
    tried = {c: fit(place, pooling, c) for c in STRENGTHS}
    c = lowest((c, found["log_loss"]) for c, (_, found) in tried.items())
    model, validated = tried[c]
    return Probe(
        layer=layers[place],
        pooling=POOLINGS[pooling],
        c=c,
        model=model,
        validation=validated,
        losses={name: [losses[place, i] for place in range(len(layers))] for i, name in enumerate(POOLINGS)},
    )


def answer(
    model: Untuned,
    splits: Splits,
    encoder: Encoder,
    num_labels: int,
    *,
    budget: int,
    progress: Progress | None = None,
) -> tuple[list[Baseline], dict[str, Features]]:
    """Answer the test rows by a probe, and by label scoring where the model can; the two share one pass.

    The probe's rate is that of a base model which ends with its layer; its size is that of the whole base model.

    Args:
        splits: of the training and the validation rows those that are read.
        budget: MiB that the shelf may take.
        progress: called with the number of rows read since the last call.

    Returns:
        The answers, and the features of every split's rows.

    Raises:
        UserError: states of so many rows do not fit in memory.
    """
    train, validation, test = (splits[split] for split in ("train", "validation", "test"))
    tokens = {split: encoder.encode(rows.texts).input_ids for split, rows in splits.items()}
    sounding = soundings.take(
        model, tokens["train"], tokens["validation"], key="baselines.probe_rows", budget=budget, progress=progress
    )
    layers, states = sounding.layers, sounding.states
    started = time.perf_counter()
    probe = choose(states, splits, num_labels, layers=layers)
    spent = sounding.seconds + time.perf_counter() - started

    reading = read(model, tokens["test"], layers=(probe.layer,), scoring=model.missing is None, progress=progress)
    place, pooling = layers.index(probe.layer), POOLINGS.index(probe.pooling)
    features = {
        "train": Features(ids=train.ids, states=states["train"][:, place, pooling]),
        "validation": Features(ids=validation.ids, states=states["validation"][:, place, pooling]),
        "test": Features(ids=test.ids, states=reading.states[:, 0, pooling]),
    }
    started = time.perf_counter()
    given = probe.model.probabilities(features["test"].states.astype(np.float64))
    seconds = reading.layer_seconds[probe.layer] + time.perf_counter() - started
    found = [
        Baseline(
            name="hidden_states",
            probabilities=given,
            chosen={
                "layer": probe.layer,
                "pooling": probe.pooling,
                "C": probe.c,
                "rows": len(train),
                "validation_rows": len(validation),
                "layers": list(layers),
                "losses": probe.losses,
                "validation": probe.validation,
            },
            costs=Costs.of(train_seconds=spent, rows=len(test), seconds=seconds, size=model.size + size(probe.model)),
        )
    ]
    if reading.scores is not None:
        found.append(
            Baseline(
                name="zero_shot",
                probabilities=probabilities(reading.scores),
                chosen={"label_score": "sum"},
                costs=Costs.of(train_seconds=0.0, rows=len(test), seconds=reading.seconds, size=model.size),
            )
        )
    return found, features
