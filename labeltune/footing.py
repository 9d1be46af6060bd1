"""Footing: a linear head begins as a logistic regression on the states that it will read, instead of at random.

The first steps then tune what the layers say, and not a head that knows nothing: linear probing, then fine-tuning
(Kumar et al. 2022, arXiv:2202.10054).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn

from labeltune import fused
from labeltune.blueprint import Blueprint
from labeltune.errors import UserError
from labeltune.inference import compute_logits
from labeltune.methods import plain
from labeltune.metrics import Indices
from labeltune.own_heads import OWN
from labeltune.regression import ROUNDS, single_threaded
from labeltune.rows import Rows
from labeltune.strata import sample

ROWS, ROWS_PER_LABEL = 256, 32
"""Training rows that the regression is fitted to: at least so many, and so many for each label."""
SEED = 0
"""Of the sample: not the training's, so that all its seeds begin alike."""
STRENGTH = 0.003
"""C of the regression: unsure of itself, for what it says with certainty takes training long to take back."""
LEAST_SPREAD = 1e-3
"""A feature that varies less than this share of the mean one is not blown up to vary as much."""


def begin(plan: Blueprint, network: Any, train: Rows) -> None:
    """Put a regression's weights into the head, where `train.head_start` says so and the head is linear.

    Args:
        network: the one that trains, which nothing was trained of; adapters add nothing at first.
        train: the training rows, with the trunk's states where they are known.

    Raises:
        UserError: a regression is asked for, and the head reads what Transformers' own classifier makes of the states.
    """
    settings, inner = plan.train, plain(network)
    if settings.head != "linear" or settings.head_start == "random":
        return
    if inner.pooling == OWN:
        if settings.head_start == "regression":
            raise UserError("train.head_start: regression needs train.pooling first, last or mean with this model")
        return
    rows = sample(train.labels, max(ROWS, ROWS_PER_LABEL * len(plan.labels)), SEED)
    labels = np.array([train.labels[row] for row in rows])
    with headless(inner):
        states = compute_logits(
            network,
            [train.input_ids[row] for row in rows],
            pad_id=plan.encoder.tokenizer.pad_token_id,
            batch_tokens=fused.batch_tokens(network),
            states=None if train.states is None else [train.states[row] for row in rows],
        )
    (weight,) = (held for held in getattr(inner, inner.head_name).parameters() if held.requires_grad)
    with single_threaded():
        fitted = regression(states, labels, len(plan.labels))
    if fitted is not None:
        with torch.no_grad():
            weight.copy_(torch.from_numpy(fitted))


@contextmanager
def headless(network: Any) -> Iterator[None]:
    """A network whose logits are the pooled states that its head reads, `[batch, size]`."""
    head = getattr(network, network.head_name)
    setattr(network, network.head_name, nn.Identity())
    try:
        yield
    finally:
        setattr(network, network.head_name, head)


def regression(states: NDArray[np.float32], labels: Indices, num_labels: int) -> NDArray[np.float64] | None:
    """Weights of a logistic regression without an intercept, which the head has not either, `[num_labels, size]`.

    Features are scaled to vary alike, not centred; a label without a row has zeros.

    Args:
        states: `[rows, size]`.
        labels: of the rows, `[rows]`.

    Returns:
        None where all rows have one label.

    >>> regression(np.array([[1, 0], [0, 1]], dtype=np.float32), np.array([0, 2]), 3).round(3).tolist()
    [[0.003, -0.003], [0.0, 0.0], [-0.003, 0.003]]
    """
    if len(np.unique(labels)) == 1:
        return None
    spread = states.std(axis=0, dtype=np.float64)
    spread = np.maximum(spread, LEAST_SPREAD * spread.mean())
    model = LogisticRegression(C=STRENGTH, max_iter=ROUNDS, fit_intercept=False).fit(states / spread, labels)
    weights = np.zeros((num_labels, states.shape[1]))
    # Of two labels scikit-learn gives the difference alone.
    weights[model.classes_] = model.coef_ if len(model.coef_) > 1 else np.stack([-model.coef_[0], model.coef_[0]]) / 2
    return weights / spread
