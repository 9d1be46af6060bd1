"""The constant front of a prompt, whose keys and values are the same in every row: computed once for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from labeltune.architectures import architecture
from labeltune.inference import spread
from labeltune.methods import plain
from labeltune.networks import PooledClassification
from labeltune.own_heads import OWN
from labeltune.prompts import Encoder

SHORTEST = 4
"""Tokens from which it pays."""
STARTS = ("a", "Z", "7", "中", "-")
"""Texts that begin differently: what their prompts have in common is the template's."""


@dataclass(frozen=True, kw_only=True)
class Front:
    """The first tokens of every prompt, and what the layers keep of them."""

    tokens: list[int]
    """Token ids, `[front]`."""
    states: list[tuple[torch.Tensor, torch.Tensor]]
    """Keys and values of each layer that was asked for, `[1, heads, front, size]`."""
    hidden: torch.Tensor
    """States behind the last one of these, in fp32, `[front, size]`: a mean over all tokens needs them."""

    def cache(self, rows: int) -> DynamicCache:
        """Keys and values for a batch, to go on from."""
        return DynamicCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in self.states])

    def begins(self, row: list[int]) -> bool:
        """Whether a prompt begins with these tokens and goes on."""
        return begins(self.tokens, row)


def begins(front: Sequence[int], row: Sequence[int]) -> bool:
    """Whether a prompt begins with a front's tokens and goes on; one whose text merges with them does not."""
    return len(row) > len(front) and list(row[: len(front)]) == list(front)


def front_tokens(encoder: Encoder) -> list[int]:
    """The first tokens of every prompt; none where they are too few to be worth a pass of their own."""
    rows = encoder.encode(STARTS).input_ids
    length = next((i for i, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), 0)
    return rows[0][:length] if length >= SHORTEST else []


def shared_front(network: Any, encoder: Encoder, *, stop: int | None = None) -> Front | None:
    """Compute the front of the prompts; None where it is short, or where a state depends on what comes after it.

    A decoder's states depend on the tokens before alone.

    Args:
        stop: the layer to stop before; None runs all of them.
    """
    inner: Any = plain(network)
    parts = architecture(inner.config)
    able = isinstance(inner, PooledClassification) and parts is not None and not parts.encoder
    if not able or inner.pooling == OWN:
        return None
    tokens = front_tokens(encoder)
    if not tokens:
        return None
    ids = torch.tensor([tokens], device=inner.device)

    def passed(_: list[int]) -> Front:
        cache = DynamicCache()
        hidden = inner.run(ids, torch.ones_like(ids), None, stop=stop, past_key_values=cache, use_cache=True)
        states = [(layer.keys, layer.values) for layer in cache.layers]
        return Front(tokens=tokens, states=states, hidden=hidden[0].float())

    (front,) = spread(passed, [[0]], inner.device, sharing=False)
    return front
