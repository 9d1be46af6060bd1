"""The frozen trunk: layers below the first one that trains always give the same states, so compute them once."""

from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch

from labeltune.hardware import inference_tokens
from labeltune.inference import evaluating, pad, spread, token_batches

MEMORY_SHARE = 0.25


def fits(network: Any, rows: Sequence[Sequence[int]]) -> bool:
    """Whether the trunk's states of all rows fit in a quarter of the memory that is free."""
    tokens = sum(len(ids) + network.extra_tokens for ids in rows)
    needed = tokens * network.config.hidden_size * network.dtype.itemsize
    return bool(needed <= MEMORY_SHARE * psutil.virtual_memory().available)


def states(
    network: Any,
    input_ids: Sequence[Sequence[int]],
    *,
    pad_id: int,
    progress: Callable[[int], None] | None = None,
) -> list[torch.Tensor]:
    """Run the trunk over every row; returns a CPU tensor `[length + extra_tokens, size]` per row."""
    kept: list[torch.Tensor] = [torch.empty(0)] * len(input_ids)
    batches = token_batches([len(ids) + network.extra_tokens for ids in input_ids], inference_tokens())

    def climb(rows: list[int]) -> torch.Tensor:
        batch = pad([input_ids[row] for row in rows], pad_id)
        return network.trunk(**{name: tensor.to(network.device) for name, tensor in batch.items()}).cpu()

    with evaluating(network):
        for rows, hidden in zip(batches, spread(climb, batches, network.device), strict=True):
            for row, state in zip(rows, hidden, strict=True):
                kept[row] = state[: len(input_ids[row]) + network.extra_tokens].clone()
            if progress:
                progress(len(rows))
    return kept
