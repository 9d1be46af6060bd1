"""The frozen trunk: layers below the first one that trains always give the same states, so compute them once."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import psutil
import torch

from labeltune import fused
from labeltune.blueprint import Blueprint
from labeltune.front import Front, shared_front
from labeltune.inference import evaluating, length_multiple, pad, row_batches, spread
from labeltune.passes import Passed, pass_key
from labeltune.shelf import Entry, Pieces, Put, keep
from labeltune.terminal import bar, say

MEMORY_SHARE = 0.25
GIB = 1 << 30


def known(
    plan: Blueprint, network: Any, input_ids: Sequence[list[int]], passed: Passed | None = None
) -> Sequence[torch.Tensor] | None:
    """The trunk's states of every row, `[length + extra_tokens, size]`, each computed once.

    They are kept on the shelf, or in memory where there is no room there; None where there is no room anywhere.

    Args:
        network: the one that the plan builds, not adapted or with adapters above the trunk.
        input_ids: token ids per row, not padded.
        passed: those that went through these layers already.
    """
    below, pad_id = network.trunk_layers, plan.encoder.tokenizer.pad_token_id
    lengths = [len(ids) + network.extra_tokens for ids in input_ids]
    with evaluating(network):
        front = shared_front(network, plan.encoder, stop=below)

    def depends(ids: Sequence[list[int]]) -> dict[str, Any]:
        return pass_key(network, plan.base.files, ids, front)

    apart = []
    if passed is not None and passed.key == depends([input_ids[row] for row in passed.rows]):
        apart = passed.rows
    rest = sorted({*range(len(input_ids))} - {*apart})
    entry = Entry(
        kind="trunk",
        key=depends(input_ids)
        | {"layers": below, "pad": pad_id, "apart": hashlib.sha256(np.array(apart, dtype="<i8").tobytes()).hexdigest()},
        shape=(sum(lengths), network.config.hidden_size),
        dtype=network.dtype,
    )

    def fill(put: Put) -> None:
        with bar(f"layers 1 to {below}, once", len(input_ids)) as shown:
            left = [group for group in (apart, rest) if group]
            if passed is not None and apart and below in passed.states:
                left.remove(apart)
                positions = _positions(input_ids, network.extra_tokens)
                for row, states in zip(apart, passed.states[below], strict=True):
                    _put(positions[row], states, put, front if len(states) < len(input_ids[row]) else None)
                shown.advance(len(apart))
            for rows in left:
                climb(network, input_ids, put, rows=rows, pad_id=pad_id, front=front, progress=shown.advance)

    kept = keep(entry, fill, budget=plan.train.trunk_budget)
    if kept is not None:
        return Pieces(kept, torch.split(kept.array, lengths))
    what = f"the states of layers 1 to {below} take {entry.size / GIB:.2f} GiB"
    how = f"give them room by train.trunk_budget, {plan.train.trunk_budget:,} MiB now"
    if entry.size > MEMORY_SHARE * psutil.virtual_memory().available:
        say(f"{what}, too much for the disk and for memory: these layers run in every step; {how}")
        return None
    say(f"{what} and stay in memory, for this run alone; {how}")
    array = torch.empty(entry.shape, dtype=entry.dtype)
    fill(lambda position, rows: array[position : position + len(rows)].copy_(rows))
    return torch.split(array, lengths)


def climb(
    network: Any,
    input_ids: Sequence[Sequence[int]],
    put: Put,
    *,
    rows: Sequence[int],
    pad_id: int,
    front: Front | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Run the trunk over rows and hand over its states; those of one row lie behind those of the row before.

    Args:
        rows: which of all.
        front: what the prompts begin with, as far as the trunk goes.
        progress: called with the number of rows done since the last call.
    """
    extra, multiple = network.extra_tokens, length_multiple(network)
    own, tokens = [input_ids[row] for row in rows], fused.batch_tokens(network)
    batches, skipped = row_batches(own, front, extra, tokens, multiple)
    positions = _positions(input_ids, extra)

    def climbed(places: list[int]) -> torch.Tensor:
        skip = skipped[places[0]]
        batch = pad([input_ids[rows[place]][skip:] for place in places], pad_id, multiple)
        tensors = {name: tensor.to(network.device) for name, tensor in batch.items()}
        hidden: torch.Tensor = network.trunk(**tensors, front=front if skip else None).cpu()
        return hidden

    with evaluating(network):
        for places, hidden in zip(batches, spread(climbed, batches, network.device, sharing=False), strict=True):
            for place, state in zip(places, hidden, strict=True):
                row, skip = rows[place], skipped[place]
                _put(positions[row], state[: len(input_ids[row]) - skip + extra], put, front if skip else None)
            if progress:
                progress(len(places))


def _put(position: int, states: torch.Tensor, put: Put, front: Front | None) -> None:
    """Hand over a row's states, those of the front first."""
    if front is not None:
        put(position, front.hidden.cpu().to(states.dtype))
        position += len(front.hidden)
    put(position, states)


def _positions(input_ids: Sequence[Sequence[int]], extra: int) -> list[int]:
    """Where each row's states begin among those of all rows."""
    return [0, *accumulate(len(ids) + extra for ids in input_ids)]


def states(network: Any, input_ids: Sequence[Sequence[int]], *, pad_id: int) -> list[torch.Tensor]:
    """Run the trunk over every row; returns a CPU tensor `[length + extra_tokens, size]` per row."""
    lengths = [len(ids) + network.extra_tokens for ids in input_ids]
    array = torch.empty(sum(lengths), network.config.hidden_size, dtype=network.dtype)

    def put(position: int, found: torch.Tensor) -> None:
        array[position : position + len(found)] = found

    climb(network, input_ids, put, rows=range(len(input_ids)), pad_id=pad_id)
    return list(torch.split(array, lengths))
