"""Bins: the rows of a training batch side by side in a few long ones, behind one copy of the prompt's constant front.

Nothing is padded between rows of unequal length, and the front, which no token behind it can change in a decoder, is
computed once a bin. The mask keeps the rows apart; a row's head reads a weighted sum of its own states. Packing without
cross-contamination is that of Krell et al. (2021, arXiv:2107.02027).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from labeltune.architectures import architecture
from labeltune.blueprint import Blueprint
from labeltune.errors import UserError
from labeltune.front import begins, front_tokens
from labeltune.hardware import device
from labeltune.inference import Tensors, length_multiple, pad_states, rounded
from labeltune.networks import PooledClassification
from labeltune.own_heads import OWN
from labeltune.packing import BOTH_WAYS, FRONT, KERNELS, PADDING, packable

CAPACITY = 128
"""Tokens of a bin, the front not counted: attention costs the square of them, and every bin a front."""


@dataclass(frozen=True, kw_only=True)
class Binning:
    """How the rows of a batch are put side by side."""

    front: tuple[int, ...]
    """Token ids that the prompts begin with; none where they share too few."""
    pooling: str
    """`first`, `last` or `mean`: which of a row's states its head reads."""
    multiple: int = 1
    """What the length of the bins is a multiple of."""

    def collate(self, rows: Sequence[dict[str, Any]], pad_id: int) -> Tensors:
        """Put rows into bins; `total` is the longest bin, rounded up to a multiple.

        Args:
            rows: `input_ids` each, and the trunk's `states`, `[length, size]`, where they are known.

        Returns:
            `input_ids` `[bins, total]` or `states` `[bins, total, size]`; `owners`, the row of the batch that a token
            belongs to, and `position_ids`, its place there, both `[bins, total]`; `reading`, what each token's state
            counts for each row's head, `[rows, bins * total]`.
        """
        skipped = [len(self.front) if begins(self.front, row["input_ids"]) else 0 for row in rows]
        lengths = [len(row["input_ids"]) - skip for row, skip in zip(rows, skipped, strict=True)]
        bins: list[tuple[int, list[int]]] = []
        for skip in sorted(set(skipped)):
            alike = [place for place, other in enumerate(skipped) if other == skip]
            bins += [(skip, [alike[i] for i in found]) for found in fill([lengths[i] for i in alike], CAPACITY)]
        total = rounded(max(skip + sum(lengths[place] for place in places) for skip, places in bins), self.multiple)
        owners = torch.full((len(bins), total), PADDING)
        positions = torch.zeros_like(owners)
        reading = torch.zeros(len(rows), len(bins), total)
        ids, states = torch.full_like(owners, pad_id), []
        for number, (skip, places) in enumerate(bins):
            owners[number, :skip] = FRONT
            positions[number, :skip] = torch.arange(skip)
            first = rows[places[0]]
            ids[number, :skip] = torch.tensor(first["input_ids"][:skip], dtype=torch.long)
            parts = [first["states"][:skip]] if "states" in first else []
            begin = skip
            for place in places:
                row, end = rows[place], begin + lengths[place]
                owners[number, begin:end] = place
                positions[number, begin:end] = torch.arange(skip, skip + lengths[place])
                ids[number, begin:end] = torch.tensor(row["input_ids"][skip:])
                if parts:
                    parts.append(row["states"][skip:])
                self._read(reading[place, number], skip, begin, end)
                begin = end
            if parts:
                states.append(torch.cat(parts))
        known = {"states": pad_states(states, total)} if states else {"input_ids": ids}
        return known | {"owners": owners, "position_ids": positions, "reading": reading.flatten(1)}

    def _read(self, reading: torch.Tensor, skip: int, begin: int, end: int) -> None:
        """Say what the states of a bin count for one row's head; `[total]`, zeros so far."""
        if self.pooling == "mean":
            share = 1 / (skip + end - begin)
            reading[:skip] = share
            reading[begin:end] = share
        elif self.pooling == "last":
            reading[end - 1] = 1
        else:
            reading[0 if skip else begin] = 1


def choose(plan: Blueprint, network: Any) -> Binning | None:
    """How `train.packing` puts a network's rows side by side; None where they are padded.

    Raises:
        UserError: packing is asked for, and this network can't do it.
    """
    setting, config = plan.train.packing, network.config
    known = architecture(config)
    able = (
        isinstance(network, PooledClassification)
        and known is not None
        and (packable(config) or (config.model_type in BOTH_WAYS and network.pooling != OWN))
        and config._attn_implementation in KERNELS
    )
    if setting is True and not able:
        raise UserError(
            "train.packing: true needs a decoder with a classifier head, or label words of one token, or BERT with "
            f"train.pooling first, last or mean; and train.attention {' or '.join(KERNELS)}; set it to auto"
        )
    if not able or known is None or setting is False or (setting == "auto" and device().type != "cpu"):
        return None
    front = () if known.encoder else tuple(front_tokens(plan.encoder))
    return Binning(front=front, pooling=network.pooling, multiple=length_multiple(network))


def fill(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put rows into as many bins as their tokens need, the longest first into the emptiest bin (Graham 1969).

    The bins come out alike, for what one has less than the fullest is padding. They are as many as if each held
    `capacity`, or the longest row where that is longer; one may come to hold a little more.

    >>> fill([30, 90, 60, 40, 110], capacity=120)
    [[4], [1, 0], [2, 3]]
    """
    bins: list[list[int]] = [[] for _ in range(-(-sum(lengths) // max(capacity, *lengths)))]
    held = [0] * len(bins)
    for row in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        emptiest = held.index(min(held))
        bins[emptiest].append(row)
        held[emptiest] += lengths[row]
    return [found for found in bins if found]
