"""Packing: label-word trees, sequence packing of training rows, and unpadded (varlen) batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from labeltune.modeling.forward import Tensors, pad_states, round_up, starts_with
from labeltune.runtime.errors import UserError

MASK_PER_KIND_OF_LAYER = ("gemma3_text", "qwen2", "qwen3")
ONE_MASK = ("gpt2", "llama", "mistral")
BOTH_WAYS = ("bert",)
"""Encoders that take one mask, and positions that start anew in every row."""
FRONT, PADDING = -1, -2
"""Owners of tokens that belong to no row."""
KERNELS = ("eager", "sdpa")
"""Attention that takes such masks."""


def seen_beside(owners: torch.Tensor, *, encoder: bool = False) -> torch.Tensor:
    """Which key (last axis) a query sees where several rows share a bin, `[bins, total, total]`, bool.

    Of its own row and of the front those before it, and itself; in an encoder all of its own row.

    Args:
        owners: the row that a token belongs to, `FRONT` or `PADDING`, `[bins, total]`; an encoder's has no front.

    >>> seen_beside(torch.tensor([[FRONT, 0, 0, 1, PADDING]]))[0].long().tolist()
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    >>> seen_beside(torch.tensor([[0, 0, 1, PADDING]]), encoder=True)[0].long().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    """
    places = torch.arange(owners.shape[1], device=owners.device)
    query, key = owners.unsqueeze(2), owners.unsqueeze(1)
    if encoder:  # padding sees padding: of who sees nothing there is no softmax
        return query == key
    behind = places.unsqueeze(1) >= places  # [query, key]
    alike = (query == key) | ((key == FRONT) & (query >= 0))
    real = (query != PADDING) | (places.unsqueeze(1) == places)
    return alike & behind & real


def added_mask(
    seen: torch.Tensor, position_ids: torch.Tensor, dtype: torch.dtype, window: int | None = None
) -> torch.Tensor:
    """Return the mask to add to attention scores, `[batch, 1, queries, total]`: 0, or the least number of the dtype.

    Args:
        seen: which key (last axis) a query sees, `[batch, queries, total]`, bool.
        position_ids: `[batch, total]`; the queries are the last ones.
        window: a key is seen if it is less than this many positions back, as in Transformers' sliding window.
    """
    if window is not None:
        asking = position_ids[:, position_ids.shape[1] - seen.shape[1] :]
        back = asking.unsqueeze(2) - position_ids.unsqueeze(1)  # [batch, query, key]
        seen = seen & (back < window)
    added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return added.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)


def packable(config: PretrainedConfig) -> bool:
    """Whether the backbone is known to take such masks."""
    return config.model_type in (*ONE_MASK, *MASK_PER_KIND_OF_LAYER)


def require_packable(config: PretrainedConfig) -> None:
    """Refuse a model whose backbone is not known to take such masks.

    Raises:
        UserError: such an architecture.
    """
    if not packable(config):
        raise UserError(
            f"train.head: label_scoring can't score label words of several tokens with {config.model_type!r}; it can "
            f"with {', '.join(sorted((*ONE_MASK, *MASK_PER_KIND_OF_LAYER)))}"
        )


def model_masks(
    config: PretrainedConfig, seen: torch.Tensor, position_ids: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return what the backbone takes as `attention_mask`: one mask, or one per kind of layer.

    Args:
        seen: which key (last axis) a query sees, `[batch, queries, total]`, bool.
        position_ids: `[batch, total]`; the queries are the last ones.
        dtype: that of the queries, as PyTorch's attention takes no other.

    Raises:
        UserError: an architecture or an attention kernel that can't take such masks.
    """
    if config._attn_implementation not in KERNELS:
        raise UserError(
            f"train.attention: {config._attn_implementation} can't score label words of several tokens; set it to sdpa "
            "or eager"
        )
    if config.model_type in (*ONE_MASK, *BOTH_WAYS):
        return added_mask(seen, position_ids, dtype, getattr(config, "sliding_window", None))
    require_packable(config)
    windows = {"full_attention": None, "sliding_attention": config.sliding_window}
    return {kind: added_mask(seen, position_ids, dtype, windows[kind]) for kind in set(config.layer_types)}


MULTIPLE = 16
"""What the length of a line is a multiple of, where kernels are compiled for every shape."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UnpaddedBatch:
    """Where the tokens of a batch, `[blocks, length]`, stand in its line, `[tokens]`; behind them there is a stand-in.

    A line is at least one token longer than the batch's: whatever is padding in a block stands there, and so does
    nothing else.
    """

    picks: torch.Tensor
    """Place in the blocks, `[tokens]`, of each token of the line; of the stand-ins the first token's."""
    keys: torch.Tensor
    """Place in the line, `[blocks * length]`, of each token that is seen."""
    blocks: int
    """How many there are."""
    real: int
    """Tokens of the line that are no stand-ins."""
    front: tuple[int, int, int]
    """Where the front stands in the line, how many tokens it has, and the block in which it asks, before which no block
    begins with it, and behind which every one does."""
    asking: torch.Tensor
    """Place among the line's queries, `[tokens * groups]`, of each one that asks, `[blocks * groups * length]`: a
    front's in one block alone."""
    answered: torch.Tensor
    """The other way round: place among `[blocks * groups * length]` of each of the line's queries."""

    @classmethod
    def of(cls, owners: torch.Tensor, multiple: int, groups: int) -> "UnpaddedBatch":
        """Line up a batch.

        Args:
            owners: the row that a token belongs to, `packing.FRONT` or `PADDING`, `[blocks, length]`.
            multiple: what the length of the line is to be a multiple of.
            groups: query heads that share keys and values.

        >>> line = UnpaddedBatch.of(torch.tensor([[FRONT, 0, 0, PADDING], [FRONT, 1, PADDING, PADDING]]), 1, 1)
        >>> line.picks.tolist(), line.real
        ([0, 1, 2, 5, 0], 4)
        >>> line.asking.view(2, 4).tolist(), line.keys.view(2, 4).tolist()
        ([[0, 1, 2, 4], [4, 3, 4, 4]], [[0, 1, 2, 4], [0, 3, 4, 4]])
        """
        blocks, length = owners.shape
        is_front = owners == FRONT
        first = int(is_front[:, 0].int().argmax())
        once = is_front.clone()
        once[first + 1 :] = False
        picks = ((owners >= 0) | once).flatten().nonzero()[:, 0]  # [real]
        real, size = len(picks), int(is_front[first].sum())
        queries = picks.new_full((blocks * length,), real)
        queries[picks] = torch.arange(real, device=picks.device)
        begin = int(queries[first * length]) if size else 0
        assert size == 0 or bool(is_front[first:, :size].all()), "blocks with a front are the last ones"
        keys = queries.view(blocks, length).clone()
        keys[is_front] = (begin + torch.arange(length, device=picks.device)).expand(blocks, -1)[is_front]
        picks = torch.cat([picks, picks[:1].expand(round_up(real + 1, multiple) - real)])
        group = torch.arange(groups, device=picks.device)
        asking = queries.view(blocks, 1, length) * groups + group.unsqueeze(1)  # [blocks, groups, length]
        block, place = picks.unsqueeze(1) // length, picks.unsqueeze(1) % length
        return cls(
            picks=picks, keys=keys.flatten(), blocks=blocks, real=real, front=(begin, size, first),
            asking=asking.flatten(), answered=((block * groups + group) * length + place).flatten(),
        )  # fmt: skip

    @classmethod
    def of_rows(cls, attention_mask: torch.Tensor, multiple: int, groups: int) -> "UnpaddedBatch":
        """Line up rows that are a block each, by their mask, `[rows, length]`."""
        rows = torch.arange(len(attention_mask), device=attention_mask.device).unsqueeze(1)
        return cls.of(torch.where(attention_mask.bool(), rows, PADDING), multiple, groups)

    def pick(self, blocks: torch.Tensor) -> torch.Tensor:
        """The line, `[1, tokens, ...]`, of what is in blocks, `[blocks, length, ...]`."""
        return blocks.flatten(0, 1).index_select(0, self.picks).unsqueeze(0)

    def spread(self, line: torch.Tensor) -> torch.Tensor:
        """The blocks, `[blocks, length, ...]`, of what is in a line, `[1, tokens, ...]`; padding holds a stand-in's."""
        found = line[0].index_select(0, self.keys)
        return found.view(self.blocks, -1, *found.shape[1:])

    def weights(self, reading: torch.Tensor) -> torch.Tensor:
        """What each token of the line counts, `[rows, tokens]`, of what every place does, `[rows, blocks * length]`."""
        found = reading.new_zeros(len(reading), len(self.picks))
        return found.scatter_add_(1, self.keys.expand(len(reading), -1), reading)


PACKED_LENGTH = 128
"""Tokens of a bin, the front not counted: attention costs the square of them, and every bin a front."""


@dataclass(frozen=True, kw_only=True)
class SequencePacking:
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
        skipped = [len(self.front) if starts_with(self.front, row["input_ids"]) else 0 for row in rows]
        lengths = [len(row["input_ids"]) - skip for row, skip in zip(rows, skipped, strict=True)]
        bins: list[tuple[int, list[int]]] = []
        for skip in sorted(set(skipped)):
            alike = [place for place, other in enumerate(skipped) if other == skip]
            bins += [
                (skip, [alike[i] for i in found])
                for found in pack_sequences([lengths[i] for i in alike], PACKED_LENGTH)
            ]
        total = round_up(max(skip + sum(lengths[place] for place in places) for skip, places in bins), self.multiple)
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


def pack_sequences(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put rows into as many bins as their tokens need, the longest first into the emptiest bin (Graham 1969).

    The bins come out alike, for what one has less than the fullest is padding. They are as many as if each held
    `capacity`, or the longest row where that is longer; one may come to hold a little more.

    >>> pack_sequences([30, 90, 60, 40, 110], capacity=120)
    [[4], [1, 0], [2, 3]]
    """
    bins: list[list[int]] = [[] for _ in range(-(-sum(lengths) // max(capacity, *lengths)))]
    held = [0] * len(bins)
    for row in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        emptiest = held.index(min(held))
        bins[emptiest].append(row)
        held[emptiest] += lengths[row]
    return [found for found in bins if found]
