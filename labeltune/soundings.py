"""Soundings: the untuned model read once, and regressions that tell what the states behind each layer are worth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from labeltune.errors import UserError
from labeltune.features import States
from labeltune.frozen import Reading, Untuned, read
from labeltune.metrics import Indices, Probabilities
from labeltune.passes import pass_key
from labeltune.regression import Regression
from labeltune.shelf import Entry, Put, keep
from labeltune.watch import POOLINGS, watched_layers

FIRST = 0.01
"""C with which layers and poolings are compared."""
MEMORY_SHARE = 0.5
GIB = 1 << 30

Tokens = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Sounding:
    """Pooled states of rows behind every layer of the untuned model."""

    layers: tuple[int, ...]
    """Numbers of the layers, from 1; 0 are the embeddings."""
    states: dict[str, States]
    """`train` and `validation` -> `[rows, layers, poolings, size]`, in the order of `POOLINGS`."""
    seconds: float
    """What the pass took, also where another run made it."""


def take(
    model: Untuned,
    train: Tokens,
    validation: Tokens,
    *,
    key: str,
    budget: int,
    progress: Callable[[int], None] | None = None,
) -> Sounding:
    """Read training and validation rows in one pass, or find on the shelf what that gave.

    Args:
        train: token ids per row, not padded.
        key: the setting that says how many rows these are.
        budget: MiB that the shelf may take.
        progress: called with the number of rows read since the last call.

    Raises:
        UserError: states of so many rows do not fit in memory.
    """
    layers = watched_layers(model.network)
    _require_memory(model, len(train) + len(validation), len(layers), key)
    rows = train + validation
    found: list[Reading] = []

    def fill(put: Put) -> None:
        found.append(read(model, rows, layers=layers, progress=progress))
        put(0, torch.from_numpy(found[0].states))

    entry = Entry(
        kind="sounding",
        key=pass_key(model.network, model.files, rows, model.front) | {"layers": layers, "poolings": POOLINGS},
        shape=(len(rows), len(layers), len(POOLINGS), model.network.config.hidden_size),
        dtype=torch.float32,
    )
    kept = keep(entry, fill, budget=budget)
    if kept is None and not found:
        fill(lambda *_: None)
    elif not found and progress:
        progress(len(rows))
    states: States = found[0].states if kept is None else kept.array.numpy()
    return Sounding(
        layers=layers,
        states={"train": states[: len(train)], "validation": states[len(train) :]},
        seconds=found[0].seconds if kept is None else kept.seconds,
    )


def fit(
    states: Mapping[str, States],
    labels: Indices,
    num_labels: int,
    *,
    place: int,
    pooling: int,
    c: float = FIRST,
) -> tuple[Regression, Probabilities]:
    """Fit a regression to the training rows' states of one layer and pooling.

    Args:
        states: of the training and the validation rows.
        labels: of the training rows, `[rows]`.
        place: of the layer among those read.
        pooling: place in `POOLINGS`.

    Returns:
        It, and what it gives the validation rows, `[rows, num_labels]`.
    """
    fitted, seen = (states[split][:, place, pooling].astype(np.float64) for split in ("train", "validation"))
    model = Regression.fit(fitted, labels, num_labels, c=c, standardise=True)
    return model, model.probabilities(seen)


def _require_memory(model: Untuned, rows: int, layers: int, key: str) -> None:
    """Refuse rows whose states, of every layer and pooling, would fill more than half of the memory that is free."""
    needed = rows * layers * len(POOLINGS) * model.network.config.hidden_size * np.float32().itemsize
    free = psutil.virtual_memory().available
    if needed > MEMORY_SHARE * free:
        raise UserError(
            f"{key}: the states of {rows:,} rows take {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB "
            f"are free; set it to at most {int(rows * MEMORY_SHARE * free / needed / 2):,}"
        )
