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
BOTH_WAYS = ("bert", "roberta", "xlm-roberta", "mpnet", "modernbert")
"""Encoders that support packed masks and positions that restart in every row. MPNet's relative positions are
differences of positions in the sequence, which do not change within a row."""
PREFIX, PADDING = -1, -2
"""Owners of tokens that belong to no row."""
KERNELS = ("eager", "sdpa")
"""Attention kernels that support packed masks."""


def packed_visibility(owners: torch.Tensor, *, encoder: bool = False) -> torch.Tensor:
    """Return which key (last axis) a query sees in packed sequences, `[sequences, total, total]`, bool.

    A token sees the earlier tokens of its own row and of the prefix, and itself; in an encoder it sees its whole row.

    Args:
        owners: the row that a token belongs to, `PREFIX` or `PADDING`, `[sequences, total]`; encoders have no prefix.

    >>> packed_visibility(torch.tensor([[PREFIX, 0, 0, 1, PADDING]]))[0].long().tolist()
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    >>> packed_visibility(torch.tensor([[0, 0, 1, PADDING]]), encoder=True)[0].long().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    """
    positions = torch.arange(owners.shape[1], device=owners.device)
    query, key = owners.unsqueeze(2), owners.unsqueeze(1)
    if encoder:  # padding sees itself, because a softmax needs at least one key
        return query == key
    causal = positions.unsqueeze(1) >= positions  # [query, key]
    related = (query == key) | ((key == PREFIX) & (query >= 0))
    real = (query != PADDING) | (positions.unsqueeze(1) == positions)
    return related & causal & real


def added_mask(
    visible: torch.Tensor,
    position_ids: torch.Tensor,
    dtype: torch.dtype,
    window: int | None = None,
    *,
    encoder: bool = False,
) -> torch.Tensor:
    """Return the mask to add to attention scores, `[batch, 1, queries, total]`: 0, or the least number of the dtype.

    Args:
        visible: which key (last axis) a query sees, `[batch, queries, total]`, bool.
        position_ids: `[batch, total]`; the queries are the last ones.
        window: a key is seen if it is less than this many positions back, as in Transformers' sliding window; in an
            encoder if it is at most this many positions away.
    """
    if window is not None:
        query_positions = position_ids[:, position_ids.shape[1] - visible.shape[1] :]
        distance = query_positions.unsqueeze(2) - position_ids.unsqueeze(1)  # [batch, query, key]
        visible = visible & (distance.abs() <= window if encoder else distance < window)
    added = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return added.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)


def packable(config: PretrainedConfig) -> bool:
    """Return whether the backbone is known to support packed masks."""
    return config.model_type in (*ONE_MASK, *MASK_PER_KIND_OF_LAYER)


def require_packable(config: PretrainedConfig) -> None:
    """Refuse a model whose backbone is not known to support packed masks.

    Raises:
        UserError: such an architecture.
    """
    if not packable(config):
        raise UserError(
            f"train.head: label_scoring can't score label words of several tokens with {config.model_type!r}; it can "
            f"with {', '.join(sorted((*ONE_MASK, *MASK_PER_KIND_OF_LAYER)))}"
        )


def model_masks(
    config: PretrainedConfig, visible: torch.Tensor, position_ids: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the `attention_mask` of the backbone: one mask, or one per kind of layer.

    Args:
        visible: which key (last axis) a query sees, `[batch, queries, total]`, bool.
        position_ids: `[batch, total]`; the queries are the last ones.
        dtype: that of the queries, as PyTorch's attention takes no other.

    Raises:
        UserError: the architecture or the attention kernel does not support packed masks.
    """
    if config._attn_implementation not in KERNELS:
        raise UserError(
            f"train.attention: {config._attn_implementation} can't score label words of several tokens; set it to sdpa "
            "or eager"
        )
    encoder, kinds = config.model_type in BOTH_WAYS, getattr(config, "layer_types", None)
    if config.model_type in ONE_MASK or (encoder and not kinds):
        return added_mask(visible, position_ids, dtype, getattr(config, "sliding_window", None))
    if not encoder:
        require_packable(config)
    windows = {"full_attention": None, "sliding_attention": config.sliding_window}
    return {kind: added_mask(visible, position_ids, dtype, windows[kind], encoder=encoder) for kind in set(kinds or ())}


MULTIPLE = 16
"""Multiple to which the number of tokens of an unpadded batch is rounded up if kernels are compiled for every shape."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UnpaddedBatch:
    """Indices between a batch of sequences, `[sequences, length]`, and the same tokens without padding, `[tokens]`.

    A prompt prefix that several sequences begin with is stored once. At least one filler follows the real tokens; all
    positions of padding are mapped to it.
    """

    token_index: torch.Tensor
    """Position in the flattened sequences, `[tokens]`, of each token; of the fillers the first token's."""
    key_index: torch.Tensor
    """Token, `[sequences * length]`, at each position that is attended to."""
    sequences: int
    """Number of sequences."""
    real: int
    """Number of tokens that are no fillers."""
    prefix: tuple[int, int, int]
    """Index of the prefix's first token, its number of tokens, and the sequence that computes it: the sequences before
    it do not begin with the prefix, all after it do."""
    query_index: torch.Tensor
    """Query among `[tokens * groups]` at each position `[sequences * groups * length]`; the prefix's queries are in one
    sequence alone."""
    output_index: torch.Tensor
    """The inverse: position among `[sequences * groups * length]` of the output of each query."""

    @classmethod
    def of(cls, owners: torch.Tensor, multiple: int, groups: int) -> "UnpaddedBatch":
        """Index a batch.

        Args:
            owners: the row that a token belongs to, `PREFIX` or `PADDING`, `[sequences, length]`.
            multiple: the number of tokens is rounded up to a multiple of this.
            groups: query heads that share keys and values.

        >>> unpadded = UnpaddedBatch.of(torch.tensor([[PREFIX, 0, 0, PADDING], [PREFIX, 1, PADDING, PADDING]]), 1, 1)
        >>> unpadded.token_index.tolist(), unpadded.real
        ([0, 1, 2, 5, 0], 4)
        >>> unpadded.query_index.view(2, 4).tolist(), unpadded.key_index.view(2, 4).tolist()
        ([[0, 1, 2, 4], [4, 3, 4, 4]], [[0, 1, 2, 4], [0, 3, 4, 4]])
        """
        sequences, length = owners.shape
        is_prefix = owners == PREFIX
        first = int(is_prefix[:, 0].int().argmax())
        once = is_prefix.clone()
        once[first + 1 :] = False
        token_index = ((owners >= 0) | once).flatten().nonzero()[:, 0]  # [real]
        real, size = len(token_index), int(is_prefix[first].sum())
        queries = token_index.new_full((sequences * length,), real)
        queries[token_index] = torch.arange(real, device=token_index.device)
        begin = int(queries[first * length]) if size else 0
        assert size == 0 or bool(is_prefix[first:, :size].all()), "sequences with a prefix are the last ones"
        keys = queries.view(sequences, length).clone()
        keys[is_prefix] = (begin + torch.arange(length, device=token_index.device)).expand(sequences, -1)[is_prefix]
        token_index = torch.cat([token_index, token_index[:1].expand(round_up(real + 1, multiple) - real)])
        group = torch.arange(groups, device=token_index.device)
        query_index = queries.view(sequences, 1, length) * groups + group.unsqueeze(1)  # [sequences, groups, length]
        sequence, position = token_index.unsqueeze(1) // length, token_index.unsqueeze(1) % length
        return cls(
            token_index=token_index,
            key_index=keys.flatten(),
            sequences=sequences,
            real=real,
            prefix=(begin, size, first),
            query_index=query_index.flatten(),
            output_index=((sequence * groups + group) * length + position).flatten(),
        )

    @classmethod
    def of_rows(cls, attention_mask: torch.Tensor, multiple: int, groups: int) -> "UnpaddedBatch":
        """Index padded rows, each a sequence of its own, by their mask, `[rows, length]`."""
        rows = torch.arange(len(attention_mask), device=attention_mask.device).unsqueeze(1)
        return cls.of(torch.where(attention_mask.bool(), rows, PADDING), multiple, groups)

    def unpad(self, values: torch.Tensor) -> torch.Tensor:
        """Return the tokens' values, `[1, tokens, ...]`, of `[sequences, length, ...]`."""
        return values.flatten(0, 1).index_select(0, self.token_index).unsqueeze(0)

    def pad(self, values: torch.Tensor) -> torch.Tensor:
        """Return `[sequences, length, ...]` of the tokens' values, `[1, tokens, ...]`; padding gets a filler's."""
        padded = values[0].index_select(0, self.key_index)
        return padded.view(self.sequences, -1, *padded.shape[1:])

    def pooling_weights(self, weights: torch.Tensor) -> torch.Tensor:
        """Sum the weights of all positions, `[rows, sequences * length]`, to those of the tokens, `[rows, tokens]`."""
        summed = weights.new_zeros(len(weights), len(self.token_index))
        return summed.scatter_add_(1, self.key_index.expand(len(weights), -1), weights)


PACKED_LENGTH = 128
"""Tokens of a packed sequence without its prefix: attention costs their square, and every sequence costs a prefix."""


@dataclass(frozen=True, kw_only=True)
class SequencePacking:
    """How the rows of a batch are packed into sequences, several rows in each, without padding between them."""

    prefix: tuple[int, ...]
    """Token ids that the prompts begin with; none if the prefix is too short."""
    pooling: str
    """`first`, `last` or `mean`: the states of a row that its head reads."""
    multiple: int = 1
    """The length of the sequences is a multiple of this."""

    def collate(self, rows: Sequence[dict[str, Any]], pad_id: int) -> Tensors:
        """Pack rows; `total` is the longest sequence, rounded up to a multiple.

        Args:
            rows: `input_ids` each, and `states` after the frozen layers, `[length, size]`, if they are known.

        Returns:
            `input_ids` `[sequences, total]` or `states` `[sequences, total, size]`; `owners`, the row of the batch that
            a token belongs to, and `position_ids`, its position in that row, both `[sequences, total]`; and
            `pooling_weights`, the weight of each token's state in each row's pooled state, `[rows, sequences * total]`.
        """
        skipped = [len(self.prefix) if starts_with(self.prefix, row["input_ids"]) else 0 for row in rows]
        lengths = [len(row["input_ids"]) - skip for row, skip in zip(rows, skipped, strict=True)]
        sequences: list[tuple[int, list[int]]] = []
        for skip in sorted(set(skipped)):
            alike = [place for place, other in enumerate(skipped) if other == skip]
            packed = pack_sequences([lengths[place] for place in alike], PACKED_LENGTH)
            sequences += [(skip, [alike[place] for place in places]) for places in packed]
        longest = max(skip + sum(lengths[place] for place in places) for skip, places in sequences)
        total = round_up(longest, self.multiple)
        owners = torch.full((len(sequences), total), PADDING)
        positions = torch.zeros_like(owners)
        weights = torch.zeros(len(rows), len(sequences), total)
        ids, states = torch.full_like(owners, pad_id), []
        for number, (skip, places) in enumerate(sequences):
            owners[number, :skip] = PREFIX
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
                self._weight(weights[place, number], skip, begin, end)
                begin = end
            if parts:
                states.append(torch.cat(parts))
        given = {"states": pad_states(states, total)} if states else {"input_ids": ids}
        return given | {"owners": owners, "position_ids": positions, "pooling_weights": weights.flatten(1)}

    def _weight(self, weights: torch.Tensor, skip: int, begin: int, end: int) -> None:
        """Set the weights of a sequence's states for one row, `[total]`, which are zero before."""
        if self.pooling == "mean":
            share = 1 / (skip + end - begin)
            weights[:skip] = share
            weights[begin:end] = share
        elif self.pooling == "last":
            weights[end - 1] = 1
        else:
            weights[0 if skip else begin] = 1


def pack_sequences(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack rows into as many bins as their tokens need, the longest row first into the emptiest bin (Graham 1969).

    Equally full bins need the least padding. Their number follows from `capacity`, or from the longest row if that is
    longer; a bin may exceed it a little.

    >>> pack_sequences([30, 90, 60, 40, 110], capacity=120)
    [[4], [1, 0], [2, 3]]
    """
    bins: list[list[int]] = [[] for _ in range(-(-sum(lengths) // max(capacity, *lengths)))]
    filled = [0] * len(bins)
    for row in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        emptiest = filled.index(min(filled))
        bins[emptiest].append(row)
        filled[emptiest] += lengths[row]
    return [rows for rows in bins if rows]
