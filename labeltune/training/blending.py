"""Fitting the weights of a blend of a network and an n-gram model, and deciding whether it helps.

    blended = a · network + b · n-grams

The n-gram model was not fitted to the validation rows, and the kept checkpoint was chosen by a single figure of them,
so that their log-loss tells what each is worth (stacking, Wolpert 1992).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from labeltune.config.model import Train
from labeltune.console.terminal import say
from labeltune.data.labels import Indices, LabelSet
from labeltune.inference.calibration import Logits
from labeltune.modeling import ngrams
from labeltune.modeling.ngrams import Blend, Weights
from labeltune.probing.regression import row_losses, single_threaded
from labeltune.training.cross_fitting import folds, lowest_loss
from labeltune.training.ngrams import FittedNgrams, Labelled

FEWEST = 30
"""Validation rows below which no weights are fitted: a standard error of fewer losses says little."""
STANDARD_ERRORS = 1.0
"""A blend is kept where it is better by more standard errors of the mean difference than this."""
LEAST = 0.001
"""A blend must also lower the mean log-loss by so many nats: below it no probability changes visibly."""
BOUNDS = ((0.05, 20.0), (0.0, 20.0))
"""Of the network's weight and the n-grams'. The network's is never 0: exports divide by it."""
ALONE = Weights(network=1.0, ngrams=0.0)
"""What the weights are drawn towards, with the strength of one row: rows that are all right would have them grow."""


@dataclass(frozen=True, kw_only=True)
class BlendChoice:
    """Whether a network is blended with an n-gram model, and why."""

    blend: Blend | None = None
    """None where the network answers alone."""
    logits: Logits | None = None
    """The blend's logits of the validation rows, `[rows, num_labels]`."""
    labels: Indices | None = None
    """Index of each validation row's label, `[rows]`."""
    ngrams: FittedNgrams | None = None
    """The n-gram model by itself, where one was fitted."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What metrics/train.json holds of it; nothing where `train.blend: none`."""
    seconds: float = 0.0
    """What fitting and comparing took."""


def labelled(rows: Mapping[str, pd.DataFrame], labels: LabelSet) -> dict[str, Labelled]:
    """Return the texts and labels of prepared rows, of each split."""
    return {split: (part["text"].tolist(), labels.index(part["label"].tolist())) for split, part in rows.items()}


def choose_blend(network: Logits | None, settings: Train, train: Labelled, validation: Labelled) -> BlendChoice:
    """Fit an n-gram model, and blend it with the network where that lowers the cross-fitted validation log-loss.

    Either side is judged on rows that its weights were not fitted to, and the network alone has a weight as well, which
    is a temperature: a blend earns nothing by what calibration gives anyway.

    Args:
        network: logits of the validation rows, `[rows, num_labels]`; None where `train.blend: none`.
        settings: those that the network was trained with; class weights are in its logits, and a log-loss would undo
            them.
        train: the training rows.
        validation: the validation rows.
    """
    if network is None:
        return BlendChoice()
    started = time.perf_counter()
    texts, labels = validation[0], np.array(validation[1])
    why = None
    if settings.class_weights != "none":
        why = "train.class_weights moves its answers on purpose, and n-grams would move them back"
    elif len(labels) < FEWEST:
        why = f"{len(labels)} validation rows are too few to fit weights to; {FEWEST} are needed"
    if why:
        say(f"train.blend: auto leaves the network alone: {why}")
        return BlendChoice(figures={"kept": False, "reason": why})
    with single_threaded():
        found = ngrams.search(train[0], np.array(train[1]), texts, labels, network.shape[1])
        alone = FittedNgrams.of(found, texts, labels)
        model, given = alone.model, alone.logits
        losses = {
            "network": cross_fitted_losses(network, [], labels),
            "blend": cross_fitted_losses(network, found.logits, labels),
        }
        weights = fit_weights(network, given, labels)
    blended = weights(network, given)
    better = losses["network"] - losses["blend"]  # [rows]
    error = float(better.std(ddof=1) / np.sqrt(len(better)))
    kept = bool(better.mean() > max(STANDARD_ERRORS * error, LEAST))
    before, both = (float(losses[name].mean()) for name in ("network", "blend"))
    lower = f"{both:.4f} with n-grams, {before:.4f} alone; difference {better.mean():.4f}, standard error {error:.4f}"
    reason = f"cross-fitted validation log-loss {lower}"
    if kept:
        weighed = f"{weights.network:.2f} · network + {weights.ngrams:.2f} · n-grams"
        say(f"train.blend: auto adds n-grams to the network, {weighed}: {reason}")
    else:
        say(f"train.blend: auto leaves the network alone: {reason}")
    return BlendChoice(
        blend=Blend(weights=weights, model=model) if kept else None,
        logits=blended if kept else None,
        labels=labels,
        ngrams=alone,
        figures={
            "kept": kept,
            "reason": reason,
            "weights": asdict(weights),
            "log_loss": {"network": before, "blend": both, "difference": float(better.mean()), "standard_error": error},
            "accuracy": {
                "network": float((network.argmax(axis=1) == labels).mean()),
                "ngrams": float((given.argmax(axis=1) == labels).mean()),
                "blend": float((blended.argmax(axis=1) == labels).mean()),
            },
            "ngrams": alone.choices(),
        },
        seconds=time.perf_counter() - started,
    )


def fit_weights(network: Logits, given: Logits | None, labels: Indices) -> Weights:
    """Return the weights of the lowest log-loss, `given` being the n-gram model's logits; None gives these weight 0.

    The log-loss is convex in the weights, and the pull towards `ALONE` makes its minimum unique.
    """
    sides = [one.astype(np.float64) for one in (network, given) if one is not None]  # [rows, num_labels] each
    alone = np.array([ALONE.network, ALONE.ngrams][: len(sides)])
    true = np.array([side[np.arange(len(labels)), labels] for side in sides])  # [sides, rows]

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        blended = sum(weight * side for weight, side in zip(weights, sides, strict=True))
        expected = softmax(blended, axis=1)  # [rows, num_labels]
        value = -log_softmax(blended, axis=1)[np.arange(len(labels)), labels].sum()
        slope = np.array([(expected * side).sum() - mine.sum() for side, mine in zip(sides, true, strict=True)])
        apart = weights - alone
        return (value + apart @ apart / 2) / len(labels), (slope + apart) / len(labels)

    found = minimize(loss, alone, jac=True, method="L-BFGS-B", bounds=BOUNDS[: len(sides)], tol=1e-12).x
    return Weights(network=float(found[0]), ngrams=float(found[1]) if given is not None else 0.0)


def cross_fitted_losses(network: Logits, candidates: Sequence[Logits], labels: Indices) -> NDArray[np.float64]:
    """Return each row's log-loss by what was chosen and fitted on the other folds, `[rows]`.

    Args:
        network: the network's logits, `[rows, num_labels]`.
        candidates: those of the n-gram models to choose from; none leaves the network alone.
        labels: index of each row's label, `[rows]`.
    """
    losses = np.empty(len(labels))
    for fitted, judged in folds(labels):
        given = candidates[lowest_loss([one[fitted] for one in candidates], labels[fitted])] if candidates else None
        weights = fit_weights(network[fitted], None if given is None else given[fitted], labels[fitted])
        other = np.zeros_like(network[judged]) if given is None else given[judged]
        losses[judged] = row_losses(labels[judged], softmax(weights(network[judged], other).astype(np.float64), axis=1))
    return losses
