"""Tips: the top layer only at the positions that are read, in most rows the last token's.

What a row's tip sees are the keys and values of every position. Queries, attention, its output and the MLP of the other
positions go nowhere: they are nine tenths of a layer.
"""

import copy
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from labeltune.architectures import layer_list, replaced

FAMILIES = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3")
"""Families whose layers call their parts alike."""
KERNELS = ("eager", "sdpa")


def able(config: Any) -> bool:
    """Whether the top layer of such a model can be computed at some positions alone; a graph is traced without."""
    known = config.model_type in FAMILIES and config._attn_implementation in KERNELS
    return known and not torch.compiler.is_exporting()


def tipped(backbone: Any, places: torch.Tensor) -> Any:
    """The backbone with a top layer that gives the states of `places` alone, `[batch, places, size]`.

    Args:
        places: positions in each row, `[batch, places]`.
    """
    layers = layer_list(backbone)
    return replaced(backbone, "layers", nn.ModuleList([*layers[:-1], _Tip(layers[-1], places)]))


class _Tip(nn.Module):
    """A layer at some positions."""

    def __init__(self, layer: Any, places: torch.Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.places = places

    def forward(self, hidden_states: torch.Tensor, **options: Any) -> Any:
        """States behind the layer, `[batch, places, size]`, of states `[batch, length, size]`."""
        layer = self.layer
        if layer.gradient_checkpointing and layer.training:
            # The layer would recompute itself, without the cache by which it is given keys and values.
            plain = copy.copy(layer)
            plain.gradient_checkpointing = False
            return layer._gradient_checkpointing_func(partial(self._states, plain, **options), hidden_states)
        return self._states(layer, hidden_states, **options)

    def _states(
        self,
        layer: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, ...] = (),
        past_key_values: Any = None,
        **options: Any,
    ) -> Any:
        places = self.places
        width = layer.self_attn.head_dim * layer.self_attn.config.num_attention_heads
        attention = replaced(layer.self_attn, "q_proj", _NoQueries(width))
        taken = _Taken(past_key_values)
        with suppress(_EnoughError):
            attention(
                hidden_states=layer.input_layernorm(hidden_states),
                attention_mask=None,
                position_embeddings=position_embeddings,
                past_key_values=taken,
            )
        if attention_mask is not None:  # without one no row is padded, and the tip is its last position: it sees all
            attention_mask = attention_mask.expand(len(places), -1, -1, -1)  # [batch, 1, length, keys]
            index = places[:, None, :, None].expand(-1, 1, -1, attention_mask.shape[3])
            attention_mask = attention_mask.gather(2, index)
        return layer(
            _at(hidden_states, places),
            attention_mask=attention_mask,
            position_embeddings=tuple(_at(part.expand(len(places), -1, -1), places) for part in position_embeddings),
            past_key_values=_Given(taken.pair),
            **options,
        )


def _at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Pick positions, `[batch, places, size]`, of `[batch, length, size]`."""
    return values.gather(1, places.unsqueeze(2).expand(-1, -1, values.shape[2]))


class _NoQueries(nn.Module):
    """Stands in for a projection whose result is not used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.new_zeros(*hidden.shape[:-1], self.width)


class _EnoughError(Exception):
    """Keys and values are there: attention need not go on."""


class _Taken:
    """Stands in for a cache: takes keys and values from attention, those of the front before them, and ends it."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.pair: tuple[torch.Tensor, ...] = ()
        """Keys and values with norm and position, `[batch, heads, keys, size]`."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *unused: Any) -> None:
        """Never returns."""
        self.pair = (keys, values) if self.cache is None else self.cache.update(keys, values, layer)
        raise _EnoughError


class _Given:
    """Stands in for a cache that knows all keys and values."""

    def __init__(self, pair: tuple[torch.Tensor, ...]) -> None:
        self.pair = pair

    def update(self, *unused: Any) -> tuple[torch.Tensor, ...]:
        """Give them instead of the tip's own, which are among them."""
        return self.pair
