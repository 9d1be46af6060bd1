"""Fitting a probe: a logistic regression on the base model's frozen hidden states, as the linear head of a network.

    text -> prompt -> frozen layers -> pooled state -> weights · state + bias -> logits

Nothing but this head differs from the base model, so that a probe is saved, asked and exported like a fine-tuned
network (linear probing, Alain and Bengio 2016, arXiv:1610.01644).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from labeltune.console.terminal import bar
from labeltune.data.labels import Indices
from labeltune.modeling.adapters import parameter_counts
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.classifiers import PooledClassification, shared_prefix
from labeltune.modeling.forward import compute_logits
from labeltune.modeling.kernels import fused
from labeltune.modeling.network import Network, PooledNetwork
from labeltune.modeling.ngrams import ABSENT, Logits
from labeltune.modeling.prompts import EncodedRows
from labeltune.probing import layer_probes
from labeltune.probing.feature_cache import Entry, WritePart, cache_key, cached
from labeltune.probing.layer_probes import STRENGTHS
from labeltune.probing.regression import Regression, States, single_threaded
from labeltune.training.cross_fitting import chosen_by_others, lowest_loss
from labeltune.training.finetune import without_head
from labeltune.training.tracking import History, OneStep, log


@dataclass(frozen=True, kw_only=True)
class Head:
    """Weights of a linear head, for states that are not scaled."""

    c: float
    """Inverse strength of the L2 penalty with which they were fitted."""
    weights: NDArray[np.float32]
    """`[num_labels, size]`."""
    bias: NDArray[np.float32]
    """`[num_labels]`."""

    @classmethod
    def of(cls, model: Regression, c: float) -> "Head":
        """The head that answers as a regression on standardized states does."""
        scaler, linear = (step for _, step in model.fitted.steps)
        weights = np.zeros((model.num_labels, len(scaler.mean_)))
        bias = np.full(model.num_labels, ABSENT)
        if len(linear.classes_) == 1:
            bias[linear.classes_] = 0.0
        else:
            # Of two labels scikit-learn gives the difference alone.
            two = len(linear.coef_) == 1
            fitted = np.stack([-linear.coef_[0], linear.coef_[0]]) / 2 if two else linear.coef_
            offset = np.append(-linear.intercept_, linear.intercept_) / 2 if two else linear.intercept_
            weights[linear.classes_] = fitted / scaler.scale_
            bias[linear.classes_] = offset - weights[linear.classes_] @ scaler.mean_
        return cls(c=c, weights=weights.astype(np.float32), bias=bias.astype(np.float32))

    def logits(self, states: States) -> Logits:
        """Logits, `[rows, num_labels]`, of pooled states, `[rows, size]`."""
        return np.asarray(states @ self.weights.T + self.bias, dtype=np.float32)


def fit_probe(
    plan: NetworkSpec, train: EncodedRows, validation: EncodedRows, *, callbacks: Sequence[TrainerCallback] = ()
) -> tuple[Network, History]:
    """Build the network of a probe and fit its head; the strength of the penalty has the lowest validation log-loss.

    There is one step, over all training rows. A probe that was interrupted finds its states in the feature cache.

    Args:
        plan: with `train.method: probe`, and the depth decided.
        callbacks: callbacks of Transformers' Trainer, which receive the figures.
    """
    started = time.perf_counter()
    network = plan.build()
    assert isinstance(network, PooledClassification), "a probe reads a pooled state"
    states = [pooled_states(plan, network, part) for part in (train, validation)]
    answers = [np.array(part.labels) for part in (train, validation)]
    with single_threaded():
        heads = fit_heads(states[0], answers[0], len(plan.labels))
        given = [head.logits(states[1]) for head in heads]
        best = lowest_loss(given, answers[1])
        fitted = OneStep(
            logits={"train": heads[best].logits(states[0]), "validation": given[best]},
            labels=dict(zip(("train", "validation"), answers, strict=True)),
            judged=chosen_by_others(given, answers[1]),
        )
    layer = getattr(network, network.head_name)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(heads[best].weights))
        layer.bias.copy_(torch.from_numpy(heads[best].bias))
    history = fitted.history(
        seconds=time.perf_counter() - started, parameters=parameter_counts(network), chosen={"C": heads[best].c}
    )
    log(callbacks, history)
    return network, history


def fit_heads(states: States, labels: Indices, num_labels: int) -> list[Head]:
    """Fit a regression with each of `STRENGTHS`.

    Args:
        states: pooled states of the training rows, `[rows, size]`.
        labels: index of each row's label, `[rows]`.
        num_labels: number of labels.
    """
    return [Head.of(layer_probes.fit(states, labels, num_labels, c=c), c) for c in STRENGTHS]


def pooled_states(plan: NetworkSpec, network: PooledNetwork, rows: EncodedRows) -> States:
    """Return the states that a network's head reads, `[rows, size]`, from the feature cache where they are there.

    Args:
        network: one that the plan builds; its head is not used.
    """
    pad_id, prefix = plan.encoder.tokenizer.pad_token_id, shared_prefix(network, plan.encoder)
    entry = Entry(
        kind="pooled-states",
        key=cache_key(network, plan.base.files, rows.input_ids, prefix)
        | {"depth": network.config.num_hidden_layers, "pooling": network.pooling, "pad": pad_id},
        shape=(len(rows), network.config.hidden_size),
        dtype=torch.float32,
    )

    def read() -> States:
        with without_head(network), bar("reading the base model's states", len(rows)) as shown:
            return compute_logits(
                network,
                rows.input_ids,
                pad_id=pad_id,
                batch_tokens=fused.batch_tokens(network),
                prefix=prefix,
                progress=shown.advance,
            )

    def fill(put: WritePart) -> None:
        put(0, torch.from_numpy(read()))

    kept = cached(entry, fill, budget=plan.train.feature_cache_budget)
    return read() if kept is None else kept.array.numpy().copy()
