"""The frozen trunk: layers below the first one that trains always give the same states, so compute them once."""

from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch

from labeltune.blueprint import Blueprint
from labeltune.front import Front, shared_front
from labeltune.hardware import inference_tokens
from labeltune.inference import evaluating, length_multiple, pad, row_batches, spread
from labeltune.passes import pass_key
from labeltune.shelf import Entry, Pieces, Put, keep
from labeltune.terminal import bar, say

MEMORY_SHARE = 0.25
GIB = 1 << 30


def known(plan: Blueprint, network: Any, input_ids: Sequence[list[int]]) -> Sequence[torch.Tensor] | None:
    """The trunk's states of every row, `[length + extra_tokens, size]`, each computed once.

    They are kept on the shelf, or in memory where there is no room there; None where there is no room anywhere.

    Args:
        network: the one that the plan builds, not adapted or with adapters above the trunk.
        input_ids: token ids per row, not padded.
    """
    below, pad_id = network.trunk_layers, plan.encoder.tokenizer.pad_token_id
    lengths = [len(ids) + network.extra_tokens for ids in input_ids]
    with evaluating(network):
        front = shared_front(network, plan.encoder, stop=below)
    entry = Entry(
        kind="trunk",
        key=pass_key(network, plan.base.files, input_ids, front) | {"layers": below, "pad": pad_id},
        shape=(sum(lengths), network.config.hidden_size),
        dtype=network.dtype,
    )

    def fill(put: Put) -> None:
        with bar(f"layers 1 to {below}, once", len(input_ids)) as shown:
            climb(network, input_ids, put, pad_id=pad_id, front=front, progress=shown.advance)

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
    pad_id: int,
    front: Front | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Run the trunk over every row and hand over its states, those of one row behind those of the row before.

    Args:
        front: what the prompts begin with, as far as the trunk goes.
        progress: called with the number of rows done since the last call.
    """
    extra, multiple = network.extra_tokens, length_multiple(network)
    batches, skipped = row_batches(input_ids, front, extra, inference_tokens(), multiple)
    positions = [0]
    for ids in input_ids:
        positions.append(positions[-1] + len(ids) + extra)

    def passed(rows: list[int]) -> torch.Tensor:
        skip = skipped[rows[0]]
        batch = pad([input_ids[row][skip:] for row in rows], pad_id, multiple)
        tensors = {name: tensor.to(network.device) for name, tensor in batch.items()}
        hidden: torch.Tensor = network.trunk(**tensors, front=front if skip else None).cpu()
        return hidden

    with evaluating(network):
        for rows, hidden in zip(batches, spread(passed, batches, network.device, sharing=False), strict=True):
            for row, state in zip(rows, hidden, strict=True):
                skip = skipped[row]
                if skip:
                    assert front is not None
                    put(positions[row], front.hidden.cpu().to(hidden.dtype))
                put(positions[row] + skip, state[: len(input_ids[row]) - skip + extra])
            if progress:
                progress(len(rows))


def states(network: Any, input_ids: Sequence[Sequence[int]], *, pad_id: int) -> list[torch.Tensor]:
    """Run the trunk over every row; returns a CPU tensor `[length + extra_tokens, size]` per row."""
    lengths = [len(ids) + network.extra_tokens for ids in input_ids]
    array = torch.empty(sum(lengths), network.config.hidden_size, dtype=network.dtype)
    climb(network, input_ids, lambda position, rows: array[position : position + len(rows)].copy_(rows), pad_id=pad_id)
    return list(torch.split(array, lengths))
