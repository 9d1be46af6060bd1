"""The encoded dataset, its collator, and the cached hidden states of the frozen layers."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import psutil
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from labeltune.console.terminal import bar, say
from labeltune.modeling.architectures import architecture_of
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.classifiers import NATIVE_HEADS, PooledClassification, shared_prefix
from labeltune.modeling.device import device
from labeltune.modeling.forward import (
    PromptPrefix,
    Tensors,
    evaluating,
    length_multiple,
    pad,
    pad_states,
    prefix_tokens,
    row_batches,
    run_in_threads,
)
from labeltune.modeling.kernels import fused
from labeltune.modeling.packing import BOTH_WAYS, KERNELS, SequencePacking, packable
from labeltune.modeling.prompts import EncodedRows
from labeltune.probing.feature_cache import Entry, Passed, Pieces, WritePart, cache_key, cached
from labeltune.runtime.errors import UserError


def choose_packing(plan: NetworkSpec, network: Any) -> SequencePacking | None:
    """How `train.packing` puts a network's rows side by side; None where they are padded.

    Raises:
        UserError: packing is asked for, and this network can't do it.
    """
    setting, config = plan.train.packing, network.config
    known = architecture_of(config)
    able = (
        isinstance(network, PooledClassification)
        and known is not None
        and (packable(config) or (config.model_type in BOTH_WAYS and network.pooling != NATIVE_HEADS))
        and config._attn_implementation in KERNELS
    )
    if setting is True and not able:
        raise UserError(
            "train.packing: true needs a decoder with a classifier head, or label words of one token, or BERT with "
            f"train.pooling first, last or mean; and train.attention {' or '.join(KERNELS)}; set it to auto"
        )
    if not able or known is None or setting is False or (setting == "auto" and device().type != "cpu"):
        return None
    front = () if known.encoder else tuple(prefix_tokens(plan.encoder))
    return SequencePacking(front=front, pooling=network.pooling, multiple=length_multiple(network))


MEMORY_SHARE = 0.25
GIB = 1 << 30


def frozen_states(
    plan: NetworkSpec, network: Any, input_ids: Sequence[list[int]], passed: Passed | None = None
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
        front = shared_prefix(network, plan.encoder, stop=below)

    def depends(ids: Sequence[list[int]]) -> dict[str, Any]:
        return cache_key(network, plan.base.files, ids, front)

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

    def fill(put: WritePart) -> None:
        with bar(f"layers 1 to {below}, once", len(input_ids)) as shown:
            left = [group for group in (apart, rest) if group]
            if passed is not None and apart and below in passed.states:
                left.remove(apart)
                positions = _positions(input_ids, network.extra_tokens)
                for row, states in zip(apart, passed.states[below], strict=True):
                    _put(positions[row], states, put, front if len(states) < len(input_ids[row]) else None)
                shown.advance(len(apart))
            for rows in left:
                compute_states(network, input_ids, put, rows=rows, pad_id=pad_id, front=front, progress=shown.advance)

    kept = cached(entry, fill, budget=plan.train.trunk_budget)
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


def compute_states(
    network: Any,
    input_ids: Sequence[Sequence[int]],
    put: WritePart,
    *,
    rows: Sequence[int],
    pad_id: int,
    front: PromptPrefix | None = None,
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
        for places, hidden in zip(
            batches, run_in_threads(climbed, batches, network.device, sharing=False), strict=True
        ):
            for place, state in zip(places, hidden, strict=True):
                row, skip = rows[place], skipped[place]
                _put(positions[row], state[: len(input_ids[row]) - skip + extra], put, front if skip else None)
            if progress:
                progress(len(places))


def _put(position: int, states: torch.Tensor, put: WritePart, front: PromptPrefix | None) -> None:
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

    compute_states(network, input_ids, put, rows=range(len(input_ids)), pad_id=pad_id)
    return list(torch.split(array, lengths))


class ByLength(LengthGroupedSampler):
    """Rows of like length beside each other, in an order that only the seed and the epoch decide.

    Transformers' own sampler draws from the global generator, whose state at an epoch's start a training that goes on
    within that epoch does not have: it would see some rows twice and others never.
    """

    def __init__(self, rows: EncodedRows, group: int, seed: int) -> None:
        super().__init__(group, lengths=[len(ids) for ids in rows.input_ids])
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


@dataclass(frozen=True, kw_only=True)
class Collator:
    """From rows to a batch."""

    pad_id: int
    """Token that fills a batch up."""
    multiple: int = 1
    """What the length of a padded batch is a multiple of."""
    binning: SequencePacking | None = None
    """Puts the rows side by side; None pads them."""

    def __call__(self, rows: list[dict[str, Any]]) -> Tensors:
        """Make a batch: tokens or trunk states with what tells them apart, `labels` and `rows`, `[batch]`.

        `rows` are positions in the split.
        """
        if self.binning:
            batch = self.binning.collate(rows, self.pad_id)
        else:
            batch = pad([row["input_ids"] for row in rows], self.pad_id, self.multiple)
            if "states" in rows[0]:
                mask = batch["attention_mask"]
                extra = len(rows[0]["states"]) - len(rows[0]["input_ids"])
                states = pad_states([row["states"] for row in rows], mask.shape[1] + extra)
                batch = {"states": states, "attention_mask": mask}
        return batch | {name + "s": torch.tensor([row[name] for row in rows]) for name in ("label", "row")}


def with_states(
    plan: NetworkSpec, network: Any, parts: list[EncodedRows], passed: Passed | None = None
) -> list[EncodedRows]:
    """The rows with the frozen trunk's states, where there is a trunk and room for them."""
    if network.trunk_layers == 0:
        return parts
    found = frozen_states(plan, network, [ids for part in parts for ids in part.input_ids], passed)
    if passed is not None:
        passed.states.clear()
    if found is None:
        return parts
    ends = list(accumulate(map(len, parts)))
    return [replace(part, states=found[end - len(part) : end]) for part, end in zip(parts, ends, strict=True)]
