"""Probe baselines: logistic regression on one layer's hidden states, and zero-shot answers from the same pass."""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import softmax

from labeltune.console.terminal import progress
from labeltune.data.sampling import sample
from labeltune.evaluation.baselines import Baseline, Costs, Split, Splits
from labeltune.modeling.prompts import Encoder
from labeltune.probing import layer_selection
from labeltune.probing.hidden_states import POOLINGS, ProbedModel, read_hidden_states
from labeltune.probing.layer_selection import SEED, LayerProbes, Part
from labeltune.probing.regression import Features, Regression, States, figures, lowest_loss, size

STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)


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


def compared(splits: Splits, rows: int | Literal["all", "auto"], num_labels: int) -> Splits:
    """The rows on which layers are compared: those that `train.depth: auto` takes by `train.probe_rows`."""
    return sampled(splits, layer_selection.compared_rows(rows, num_labels), SEED)


def _sample(split: Split, rows: int | str, seed: int) -> Split:
    taken = sample(split.labels.tolist(), rows, seed)
    if len(taken) == len(split):
        return split
    return Split(
        ids=[split.ids[row] for row in taken],
        texts=[split.texts[row] for row in taken],
        labels=split.labels[taken],
    )


def choose(sounding: LayerProbes, states: dict[str, States], splits: Splits, num_labels: int) -> Probe:
    """Fit a regression to the training rows; its C, like its layer and pooling, has the lowest validation log-loss.

    Args:
        sounding: the layers compared.
        states: of the rows of `splits` behind `sounding.best()`, `[rows, poolings, size]`.
    """
    place, pooling = sounding.best()
    train, validation = splits["train"], splits["validation"]
    fitted, seen = (states[split][:, pooling] for split in ("train", "validation"))

    def tried(c: float) -> tuple[Regression, dict[str, float]]:
        model = layer_selection.fit(fitted, train.labels, num_labels, c=c)
        return model, figures(validation.labels, model.probabilities(seen.astype(np.float64)))

    found = {c: tried(c) for c in STRENGTHS}
    c = lowest_loss((c, validated["log_loss"]) for c, (_, validated) in found.items())
    model, validated = found[c]
    losses = sounding.losses.mean(axis=2)  # [layers, poolings]
    return Probe(
        layer=sounding.layers[place],
        pooling=POOLINGS[pooling],
        c=c,
        model=model,
        validation=validated,
        losses={name: losses[:, i].tolist() for i, name in enumerate(POOLINGS)},
    )


def answer(
    model: ProbedModel, splits: Splits, tried_on: Splits, encoder: Encoder, num_labels: int, *, budget: int
) -> tuple[list[Baseline], dict[str, Features]]:
    """Answer the test rows by a probe, and by label scoring where the model can; the two share one pass.

    The probe's rate is that of a base model which ends with its layer; its size is that of the whole base model.

    Args:
        splits: of the training and the validation rows those that the probe is fitted to and judged by.
        tried_on: those on which layers are compared.
        budget: MiB that the feature cache may take.

    Returns:
        The answers, and the features of every split's rows.

    Raises:
        UserError: states of so many rows do not fit in memory.
    """
    train, validation, test = (splits[split] for split in ("train", "validation", "test"))
    first, judging = (
        Part(input_ids=encoder.encode(tried_on[split].texts).input_ids, labels=tried_on[split].labels)
        for split in ("train", "validation")
    )
    sounding = layer_selection.probe_layers(model, first, judging, num_labels, key="train.probe_rows", budget=budget)
    tokens = {split: encoder.encode(rows.texts).input_ids for split, rows in splits.items()}
    started = time.perf_counter()
    states = _behind(model, sounding, tried_on, splits, tokens)
    probe = choose(sounding, states, splits, num_labels)
    spent = sounding.seconds + time.perf_counter() - started

    with progress("reading the test rows with the untuned model", len(test)) as advance:
        reading = read_hidden_states(
            model, tokens["test"], layers=(probe.layer,), scoring=model.missing is None, progress=advance
        )
    pooling = POOLINGS.index(probe.pooling)
    features = {
        "train": Features(ids=train.ids, states=states["train"][:, pooling]),
        "validation": Features(ids=validation.ids, states=states["validation"][:, pooling]),
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
                "layers": list(sounding.layers),
                "compared": [len(first.labels), len(judging.labels)],
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
                probabilities=softmax(reading.scores.astype(np.float64), axis=1),
                chosen={"label_score": "sum"},
                costs=Costs.of(train_seconds=0.0, rows=len(test), seconds=reading.seconds, size=model.size),
            )
        )
    return found, features


def _behind(
    model: ProbedModel, sounding: LayerProbes, tried_on: Splits, splits: Splits, tokens: dict[str, list[list[int]]]
) -> dict[str, States]:
    """States of training and validation rows behind the sounding's best layer; what it read is not read again."""
    place, _ = sounding.best()
    known = {
        (split, row): state
        for split, read_before in sounding.states.items()
        for row, state in zip(tried_on[split].ids, read_before[place], strict=True)
    }
    wanted = [(split, row) for split in sounding.states for row in splits[split].ids]
    of_row = dict(zip(wanted, [ids for split in sounding.states for ids in tokens[split]], strict=True))
    unread = [one for one in wanted if one not in known]
    if unread:
        now = layer_selection.states_after_layer(model, [of_row[one] for one in unread], sounding.layers[place])
        known |= dict(zip(unread, now, strict=True))
    return {split: np.stack([known[split, row] for row in splits[split].ids]) for split in sounding.states}
