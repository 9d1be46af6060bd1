"""The frozen trunk: layers below the first adapted one give the same states in every epoch, so compute them once."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch
from torch import nn

from labeltune.hardware import inference_tokens
from labeltune.inference import pad, token_batches

MEMORY_SHARE = 0.25


def view(backbone: Any, start: int, stop: int) -> Any:
    """The backbone with the layers from `start` to before `stop`, sharing every weight.

    Called with `inputs_embeds` it goes on from the states that the layers before `start` gave; unless `stop` is the
    top, its last hidden state is that of layer `stop - 1`, before the final norm.
    """
    layers = backbone.layers
    part = copy.copy(backbone)
    part._modules = dict(backbone._modules)
    part._modules["layers"] = nn.ModuleList(layers[start:stop])
    part.config = copy.copy(backbone.config)
    part.config.num_hidden_layers = stop - start
    if getattr(part.config, "layer_types", None):
        part.config.layer_types = part.config.layer_types[start:stop]
    if stop < len(layers):
        part._modules["norm"] = nn.Identity()
    return part


def fits(rows: Sequence[Sequence[int]], size: int, dtype: torch.dtype) -> bool:
    """Whether the states of all rows, `size` numbers a token, fit in a quarter of the memory that is free."""
    needed = sum(map(len, rows)) * size * dtype.itemsize
    return needed <= MEMORY_SHARE * psutil.virtual_memory().available


def states(
    backbone: Any,
    stop: int,
    input_ids: Sequence[Sequence[int]],
    *,
    pad_id: int,
    progress: Callable[[int], None] | None = None,
) -> list[torch.Tensor]:
    """Run the layers before `stop` over every row; returns a CPU tensor `[length, size]` per row."""
    device = next(backbone.parameters()).device
    lower = view(backbone, 0, stop).eval()
    kept: list[torch.Tensor] = [torch.empty(0)] * len(input_ids)
    with torch.no_grad():
        for rows in token_batches([len(ids) for ids in input_ids], inference_tokens()):
            batch = pad([input_ids[row] for row in rows], pad_id)
            hidden = lower(**{name: tensor.to(device) for name, tensor in batch.items()}, use_cache=False)
            for row, state in zip(rows, hidden.last_hidden_state.cpu(), strict=True):
                kept[row] = state[: len(input_ids[row])].clone()
            if progress:
                progress(len(rows))
    return kept
