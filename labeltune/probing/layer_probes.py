"""Regressions on the hidden states of each layer of a base model."""

import hashlib
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from labeltune.config.model import Effort, Train, auto_probe_rows
from labeltune.console.terminal import bar
from labeltune.data.labels import Indices
from labeltune.data.sampling import sample
from labeltune.modeling.architectures import architecture_of
from labeltune.probing.feature_cache import (
    Entry,
    WritePart,
    cache_key,
    cached,
)
from labeltune.probing.hidden_states import (
    POOLINGS,
    KeepStates,
    ProbedModel,
    layer_by_layer,
    read_hidden_states,
    recorded_layers,
)
from labeltune.probing.regression import Regression, States, row_losses, single_threaded, standard_errors_above
from labeltune.runtime.errors import UserError
from labeltune.runtime.limits import available_memory

FIRST = 0.01
"""C with which layers and poolings are compared."""
STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)
"""Values of C that a probe of the chosen layer may have."""
LEAST = 3
"""At least one layer in so many is read, whatever the first ones tell."""
PATIENCE = 5
"""Reading ends when one layer in so many, and at least `FEWEST`, brought no regression that is better."""
FEWEST = 4
WORSE = 2
"""It also ends when so many layers in a row are each worse than the best by as many standard errors of the mean."""
MEMORY_SHARE = 0.5
BETWEEN = 1 << 30
"""Most bytes of the states between two layers; where they take more, no layer waits for all rows to pass the last."""
GIB = 1 << 30

SEED = 0
"""Of the sample: not the training's, so that all its seeds have the same depth."""

Tokens = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a split."""

    input_ids: Tokens
    """Token ids per row, not padded."""
    labels: Indices
    """`[rows]`."""


@dataclass(frozen=True, kw_only=True)
class LayerProbes:
    """Pooled states of rows behind the layers of the untuned model that were read, and what each layer is worth."""

    layers: tuple[int, ...]
    """Numbers of the layers, from 1; 0 are the embeddings."""
    states: dict[str, States]
    """`train` and `validation` -> `[layers, rows, poolings, size]`, in the order of `POOLINGS`."""
    losses: NDArray[np.float64]
    """Of the validation rows, by regressions on the training rows, `[layers, poolings, rows]`."""
    right: NDArray[np.bool_]
    """Whether those regressions were right, likewise."""
    seconds: float
    """What the pass took, also where another run made it."""

    def best(self) -> tuple[int, int]:
        """Places of the layer and the pooling with the lowest mean loss."""
        means = self.losses.mean(axis=2)  # [layers, poolings]
        place, pooling = np.unravel_index(means.argmin(), means.shape)
        return int(place), int(pooling)


def probe_layers(
    model: ProbedModel,
    train: Part,
    validation: Part,
    num_labels: int,
    *,
    key: str,
    budget: int,
    least: int = 1,
    wanted: Collection[int] = (),
    keep: KeepStates | None = None,
) -> LayerProbes:
    """Read rows layer by layer until no regression gets better, or take from the feature cache what that gave.

    Args:
        key: the setting that says how many rows these are.
        budget: MiB that the feature cache may take.
        least: a layer that is read at any rate.
        wanted, keep: as in `layer_by_layer`; `keep` is not called where the layers are not read.

    Raises:
        UserError: states of so many rows do not fit in memory.
    """
    network, rows = model.network, train.input_ids + validation.input_ids
    layers = recorded_layers(network)
    _require_memory(model, len(rows), len(layers), key)
    least = max(least, fewest_layers(layers[-1]))
    wait = patience(layers[-1])
    labels = np.concatenate([[len(train.labels)], train.labels, validation.labels]).astype("<i8")
    entry = Entry(
        kind="layer-probes",
        key=cache_key(network, model.files, rows, model.prefix)
        | {"labels": hashlib.sha256(labels.tobytes()).hexdigest(), "layers": layers, "poolings": POOLINGS}
        # How many layers are filled depends on the rule and on the library whose regressions it compares.
        | {"least": least, "patience": wait, "worse": WORSE, "strength": FIRST}
        | {"regression": {name: metadata.version(name) for name in ("scikit-learn", "scipy")}},
        shape=(len(layers), len(rows), len(POOLINGS), network.config.hidden_size),
        dtype=torch.float32,
    )

    found: list[_Layer] = []
    seconds = 0.0
    with bar("reading the base model, layer by layer", len(layers), unit="layers") as shown, single_threaded():

        def judge(states: Iterable[States]) -> Iterator[_Layer]:
            """Layers from the cache are judged like those that are read now."""
            for layer, one in zip(layers, states, strict=False):
                found.append(_judged(one, train.labels, validation.labels, num_labels))
                shown.advance(1)
                yield found[-1]
                if layer >= least and _stalled(found, wait):
                    return

        def fill(put: WritePart) -> None:
            nonlocal seconds
            started = time.perf_counter()
            for place, one in enumerate(judge(_states(model, rows, least, wanted, keep))):
                put(place, torch.from_numpy(one.states).unsqueeze(0))
            seconds = time.perf_counter() - started

        kept = cached(entry, fill, budget=budget)
        if kept is not None:
            seconds = kept.seconds
        if not found:
            if kept is None:
                fill(lambda *_: None)
            else:
                list(judge(kept.array[: kept.filled].numpy()))
    states = np.stack([one.states for one in found])
    return LayerProbes(
        layers=layers[: len(found)],
        states={"train": states[:, : len(train.labels)], "validation": states[:, len(train.labels) :]},
        losses=np.stack([one.losses for one in found]),
        right=np.stack([one.right for one in found]),
        seconds=seconds,
    )


def probe_sample(settings: Train, num_labels: int, labels: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of the rows on which layers are compared, for each part of the data; ascending.

    They depend on the data and on `train.probe_rows` alone. Training runs the frozen layers on these rows apart from
    the others, whether the depth was chosen or given, so that the last bits of the states do not depend on that.

    Args:
        labels: index of each row's label, for each part.
    """
    rows = compared_rows(settings.probe_rows, settings.effort, num_labels)
    return [sample(part, rows, SEED) for part in labels]


def compared_rows(setting: int | Literal["all", "auto"], effort: Effort, num_labels: int) -> int | Literal["all"]:
    """How many training rows `train.probe_rows` takes.

    >>> compared_rows("auto", "fast", 77), compared_rows(64, "fast", 77)
    (1232, 64)
    """
    return auto_probe_rows(effort, num_labels) if setting == "auto" else setting


def fewest_layers(count: int) -> int:
    """How many of a model's layers are read at any rate.

    >>> fewest_layers(30)
    10
    """
    return -(-count // LEAST)


def least_read(effort: Effort, count: int) -> int:
    """How many of a model's `count` layers are read before reading may end: with `fast` a part, else every layer.

    >>> least_read("fast", 30), least_read("balanced", 30)
    (10, 30)
    """
    return fewest_layers(count) if effort == "fast" else count


def patience(count: int) -> int:
    """After how many layers without a better regression reading ends.

    >>> patience(30)
    6
    """
    return max(FEWEST, -(-count // PATIENCE))


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """What one layer gave."""

    states: States
    """`[rows, poolings, size]`."""
    losses: NDArray[np.float64]
    """`[poolings, rows]`."""
    right: NDArray[np.bool_]
    """`[poolings, rows]`."""


def _judged(states: States, train: Indices, validation: Indices, num_labels: int) -> _Layer:
    """Fit a regression to each pooling of a layer's states, the training rows' first, and judge the others by it."""
    losses, right = [], []
    for pooling in range(len(POOLINGS)):
        model = fit(states[: len(train), pooling], train, num_labels)
        given = model.probabilities(states[len(train) :, pooling].astype(np.float64))
        losses.append(row_losses(validation, given))
        right.append(given.argmax(axis=1) == validation)
    return _Layer(states=states, losses=np.stack(losses), right=np.stack(right))


def fit(states: States, labels: Indices, num_labels: int, *, c: float = FIRST) -> Regression:
    """Fit a regression to the states of one layer and pooling, `[rows, size]`, and labels `[rows]`."""
    return Regression.fit(states.astype(np.float64), labels, num_labels, c=c, standardise=True)


def _stalled(found: list[_Layer], wait: int) -> bool:
    """Whether the last layers brought nothing better, or the last few much worse, of each layer its better pooling."""
    losses = [min(layer.losses, key=np.mean) for layer in found]  # of [rows] each
    best = min(range(len(losses)), key=lambda place: losses[place].mean())
    later = losses[best + 1 :]
    worse = [standard_errors_above(one, losses[best]) > WORSE for one in later[-WORSE:]]
    return len(later) >= wait or (len(worse) == WORSE and all(worse))


def states_after_layer(model: ProbedModel, rows: Tokens, layer: int) -> States:
    """Pooled states behind one layer, `[rows, poolings, size]`; the layers above it do not run where that is known."""
    order = recorded_layers(model.network)
    with bar(f"reading the base model up to layer {layer}", order.index(layer) + 1, unit="layers") as shown:
        for one, states in zip(order, _states(model, rows, layer), strict=False):
            shown.advance(1)
            if one == layer:
                return states
    raise AssertionError("the layer is one of them")


def _states(
    model: ProbedModel,
    rows: Tokens,
    least: int,
    wanted: Collection[int] = (),
    keep: KeepStates | None = None,
) -> Iterator[States]:
    """The states of one layer after the other, `[rows, poolings, size]`; above `least` none is read before its turn."""
    config = model.network.config
    between = sum(map(len, rows)) * config.hidden_size * model.network.dtype.itemsize
    if architecture_of(config) is not None and between <= BETWEEN:
        yield from layer_by_layer(model, rows, least=least, wanted=wanted, keep=keep)
    else:
        yield from np.moveaxis(read_hidden_states(model, rows, layers=recorded_layers(model.network)).states, 1, 0)


def _require_memory(model: ProbedModel, rows: int, layers: int, key: str) -> None:
    """Refuse rows whose states, of every layer and pooling, would fill more than half of the memory that is free."""
    needed = rows * layers * len(POOLINGS) * model.network.config.hidden_size * np.float32().itemsize
    free = available_memory()
    if needed > MEMORY_SHARE * free:
        raise UserError(
            f"{key}: the states of {rows:,} rows take {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB "
            f"are free; set it to at most {int(rows * MEMORY_SHARE * free / needed / 2):,}"
        )
