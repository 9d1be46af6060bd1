"""Frozen passes: the states behind each layer of the untuned model, and how likely it finds each label word."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from labeltune import fused
from labeltune.features import States
from labeltune.front import Front
from labeltune.inference import length_multiple, pad, row_batches, spread
from labeltune.networks import behind
from labeltune.passes import Passed
from labeltune.untuned import Untuned
from labeltune.watch import POOLINGS, Watch, watching

MEAN = POOLINGS.index("mean")
STRIDE = 4
"""Layers that rows pass at once where nobody stops between them."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a forward pass over rows gave."""

    states: States
    """Pooled states, `[rows, layers, poolings, size]`, in the order of `POOLINGS`."""
    scores: States | None
    """log p(label word | prompt), up to one constant a row, `[rows, num_labels]`, where it was asked for."""
    seconds: float
    """Time of the whole pass."""
    layer_seconds: dict[int, float]
    """Layer -> time until its states were known: that of a pass through a model which ends with it."""


def read(
    model: Untuned,
    input_ids: Sequence[list[int]],
    *,
    layers: Collection[int],
    scoring: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Reading:
    """Run every row through the model once, and keep one state per row, layer and pooling.

    Args:
        input_ids: token ids per row, not padded.
        layers: whose states are kept, ascending.
        scoring: score the label words in the same pass.
        progress: called with the number of rows done since the last call.
    """
    network, front = model.network, model.front
    extra = network.extra_tokens if scoring else 0
    multiple = length_multiple(network)
    batches, skipped = row_batches(input_ids, front, extra, fused.batch_tokens(network), multiple)
    states = np.empty((len(input_ids), len(layers), len(POOLINGS), network.config.hidden_size), dtype=np.float32)
    scores = np.empty((len(input_ids), network.config.num_labels), dtype=np.float32)
    spent = dict.fromkeys(layers, 0.0)
    total, started = 0.0, time.perf_counter()

    with watching(network, layers) as watch:
        means = _front_means(network, front, watch) if front else np.empty(0, dtype=np.float32)

        def passed(rows: list[int]) -> tuple[States, States | None, dict[int, float], float]:
            begun, skip = time.perf_counter(), skipped[rows[0]]
            padded = pad([input_ids[row][skip:] for row in rows], model.pad_id, multiple)
            batch = {name: tensor.to(network.device) for name, tensor in padded.items()}
            watch.begin(batch["attention_mask"])
            logits = None
            if scoring or skip:
                logits = network(**batch, front=front if skip else None).logits.float().cpu().numpy()
            else:  # the layers alone: no output row of the vocabulary is multiplied
                network.run(batch["input_ids"], batch["attention_mask"], None)
            pooled = watch.pooled()
            if skip:
                _count_in(means, skip, pooled, padded["attention_mask"])
            return pooled, logits, watch.seconds, time.perf_counter() - begun

        for rows, result in zip(batches, spread(passed, batches, network.device, sharing=False), strict=True):
            states[rows], logits, seconds, batch_seconds = result
            if scoring:
                scores[rows] = logits
            spent = {layer: spent[layer] + seconds[layer] for layer in layers}
            total += batch_seconds
            if progress:
                progress(len(rows))
    elapsed = time.perf_counter() - started
    return Reading(
        states=states,
        scores=scores if scoring else None,
        seconds=elapsed,
        layer_seconds={layer: elapsed * spent[layer] / total for layer in layers},
    )


def layer_by_layer(
    model: Untuned, input_ids: Sequence[list[int]], *, least: int = 1, passed: Passed | None = None
) -> Iterator[States]:
    """Run all rows through one layer after the other: who has seen enough stops, and the layers above never run.

    Args:
        least: the layer before which nobody stops: up to it, a pass goes through `STRIDE` layers.
        passed: takes the states behind the layers that it asks for.

    Yields:
        Pooled states, `[rows, poolings, size]`, those of the embeddings first.
    """
    network, front = model.network, model.front
    multiple = length_multiple(network)
    batches, skipped = row_batches(input_ids, front, 0, fused.batch_tokens(network), multiple)
    padded = [pad([input_ids[row][skipped[row] :] for row in rows], model.pad_id, multiple) for rows in batches]
    fronts = [front if skipped[rows[0]] else None for rows in batches]
    if front:  # a batch of its own, whose means belong to those of the rows behind it
        padded.append(pad([front.tokens], model.pad_id))
        fronts.append(None)
    between: list[torch.Tensor | None] = [None] * len(padded)
    start = None

    top = network.config.num_hidden_layers
    ends = () if passed is None else passed.ends
    for stop in sorted({*range(STRIDE, least, STRIDE), *range(max(1, least), top + 1), *ends}):
        layers = range(0 if start is None else start + 1, stop + 1)

        def climbed(numbers: list[int], start: int | None = start, layers: range = layers) -> States:
            (number,) = numbers
            mask = padded[number]["attention_mask"].to(network.device)
            seen, past = behind(fronts[number], mask)
            watch.begin(mask)
            tokens = padded[number]["input_ids"].to(network.device) if start is None else None
            hidden = network.run(tokens, seen, between[number], start=start, stop=layers[-1], **past)
            between[number] = hidden
            return watch.pooled()

        with watching(network, layers) as watch:
            found = list(spread(climbed, [[number] for number in range(len(padded))], network.device, sharing=False))
        states = np.empty((len(input_ids), len(layers), len(POOLINGS), network.config.hidden_size), dtype=np.float32)
        for number, rows in enumerate(batches):
            if skip := skipped[rows[0]]:
                _count_in(found[-1][0, :, MEAN], skip, found[number], padded[number]["attention_mask"])
            states[rows] = found[number]
        if passed is not None:
            passed.put(stop, _each_row(input_ids, batches, skipped, between))
        yield from np.moveaxis(states, 1, 0)
        start = stop


def _each_row(
    input_ids: Sequence[list[int]],
    batches: Sequence[list[int]],
    skipped: Sequence[int],
    between: Sequence[torch.Tensor | None],
) -> list[torch.Tensor]:
    """States of each row behind the front, `[length, size]`, from those of the batches."""
    found = {}
    for rows, hidden in zip(batches, between, strict=False):
        assert hidden is not None, "they all went through the layer"
        for row, states in zip(rows, hidden, strict=True):
            found[row] = states[: len(input_ids[row]) - skipped[row]]
    return [found[row] for row in range(len(input_ids))]


def _count_in(means: States, skip: int, pooled: States, mask: torch.Tensor) -> None:
    """Make a mean that of the front's tokens and those behind it, in place.

    Args:
        means: of the front's tokens, `[layers, size]`.
        skip: how many they are.
        pooled: of the tokens behind them, `[batch, layers, poolings, size]`.
        mask: of those, `[batch, length]`.
    """
    share = skip / (skip + mask.sum(1).numpy()[:, None, None])  # [batch, 1, 1]
    pooled[:, :, MEAN] = share * means + (1 - share) * pooled[:, :, MEAN]


def _front_means(network: Any, front: Front, watch: Watch) -> States:
    """Mean state of the front's tokens behind each layer, `[layers, size]`."""
    ids = torch.tensor([front.tokens], device=network.device)

    def passed(_: list[int]) -> States:
        watch.begin(torch.ones_like(ids))
        network.run(ids, torch.ones_like(ids), None)
        return watch.pooled()[0, :, MEAN]

    (means,) = spread(passed, [[0]], network.device, sharing=False)
    return means
