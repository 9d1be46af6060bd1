"""Probe baselines: logistic regression on one layer's hidden states, and zero-shot predictions from the same pass."""

import time
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from labeltune.config.model import Train
from labeltune.console.terminal import progress
from labeltune.data.sampling import sample
from labeltune.evaluation.baselines import Baseline, Costs, Split, Splits
from labeltune.modeling.prompts import Encoder
from labeltune.probing import layer_probes
from labeltune.probing.hidden_states import POOLINGS, ProbedModel, read_hidden_states, recorded_layers
from labeltune.probing.layer_probes import SEED, STRENGTHS, LayerProbes, Part
from labeltune.probing.regression import Features, Regression, States, figures, lowest_loss, size


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A regression on one layer's states."""

    layer: int
    """Number of the layer, from 1; 0 is the embeddings."""
    pooling: str
    """One of `POOLINGS`."""
    c: float
    """Inverse strength of the L2 penalty."""
    model: Regression
    """The fitted regression."""
    validation: dict[str, float]
    """Accuracy and log-loss on the validation rows."""
    losses: dict[str, list[float]]
    """Pooling -> validation log-loss of each layer, at the C with which layers are compared."""


def sampled(splits: Splits, rows: int | str, seed: int) -> Splits:
    """Return all test rows, and of every other split a stratified sample of at most `rows` rows."""
    return {split: part if split == "test" else _sample(part, rows, seed) for split, part in splits.items()}


def compared(splits: Splits, settings: Train, num_labels: int) -> Splits:
    """Return the rows on which layers are compared, which are those of `train.depth: auto`."""
    return sampled(splits, layer_probes.compared_rows(settings.probe_rows, settings.effort, num_labels), SEED)


def _sample(split: Split, rows: int | str, seed: int) -> Split:
    taken = sample(split.labels.tolist(), rows, seed)
    if len(taken) == len(split):
        return split
    return Split(
        ids=[split.ids[row] for row in taken],
        texts=[split.texts[row] for row in taken],
        labels=split.labels[taken],
    )


def choose(probes: LayerProbes, states: dict[str, States], splits: Splits, num_labels: int) -> Probe:
    """Fit a regression to the training rows, with the C of the lowest validation log-loss.

    Args:
        probes: regressions of the layers that were compared.
        states: states of the rows of `splits` after the best layer, `[rows, poolings, size]`.
    """
    place, pooling = probes.best()
    train, validation = splits["train"], splits["validation"]
    train_states, validation_states = (states[split][:, pooling] for split in ("train", "validation"))

    def fit(c: float) -> tuple[Regression, dict[str, float]]:
        model = layer_probes.fit(train_states, train.labels, num_labels, c=c)
        return model, figures(validation.labels, model.probabilities(validation_states.astype(np.float64)))

    found = {c: fit(c) for c in STRENGTHS}
    c = lowest_loss((c, validated["log_loss"]) for c, (_, validated) in found.items())
    model, validated = found[c]
    losses = probes.losses.mean(axis=2)  # [layers, poolings]
    return Probe(
        layer=probes.layers[place],
        pooling=POOLINGS[pooling],
        c=c,
        model=model,
        validation=validated,
        losses={name: losses[:, i].tolist() for i, name in enumerate(POOLINGS)},
    )


def answer(
    model: ProbedModel, splits: Splits, compared_on: Splits, encoder: Encoder, num_labels: int, settings: Train
) -> tuple[list[Baseline], dict[str, Features]]:
    """Predict the test rows by a probe and, if the model supports it, by label scoring, in one pass.

    The probe's rows per second are those of a base model that ends with the probe's layer; its size is that of the
    whole base model.

    Args:
        splits: the test rows, and the training and validation rows to which the probe is fitted and by which its C is
            chosen.
        compared_on: training and validation rows on which layers are compared.
        settings: its effort decides how many layers are compared; its budget is that of the feature cache.

    Returns:
        The predictions, and the features of every split's rows.

    Raises:
        UserError: states of so many rows do not fit in memory.
    """
    train, validation, test = (splits[split] for split in ("train", "validation", "test"))
    first, judging = (
        Part(input_ids=encoder.encode(compared_on[split].texts).input_ids, labels=compared_on[split].labels)
        for split in ("train", "validation")
    )
    probes = layer_probes.probe_layers(
        model,
        first,
        judging,
        num_labels,
        key="train.probe_rows",
        budget=settings.feature_cache_budget,
        least=layer_probes.least_read(settings.effort, recorded_layers(model.network)[-1]),
    )
    tokens = {split: encoder.encode(rows.texts).input_ids for split, rows in splits.items()}
    started = time.perf_counter()
    states = _states_of_layer(model, probes, compared_on, splits, tokens)
    probe = choose(probes, states, splits, num_labels)
    spent = probes.seconds + time.perf_counter() - started

    with progress("reading the test rows with the base model", len(test)) as advance:
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
                "layers": list(probes.layers),
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


def _states_of_layer(
    model: ProbedModel, probes: LayerProbes, compared_on: Splits, splits: Splits, tokens: dict[str, list[list[int]]]
) -> dict[str, States]:
    """Return states of training and validation rows after the best layer; rows of the comparison are not run again."""
    place, _ = probes.best()
    known = {
        (split, row): state
        for split, read_before in probes.states.items()
        for row, state in zip(compared_on[split].ids, read_before[place], strict=True)
    }
    wanted = [(split, row) for split in probes.states for row in splits[split].ids]
    of_row = dict(zip(wanted, [ids for split in probes.states for ids in tokens[split]], strict=True))
    unread = [one for one in wanted if one not in known]
    if unread:
        now = layer_probes.states_after_layer(model, [of_row[one] for one in unread], probes.layers[place])
        known |= dict(zip(unread, now, strict=True))
    return {split: np.stack([known[split, row] for row in splits[split].ids]) for split in probes.states}
