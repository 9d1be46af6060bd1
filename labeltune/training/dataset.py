"""The encoded dataset, its collator, and the cached hidden states of the frozen layers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, overload

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
from labeltune.modeling.network import Network
from labeltune.modeling.packing import BOTH_WAYS, KERNELS, SequencePacking, packable
from labeltune.modeling.prompts import EncodedRows
from labeltune.probing.feature_cache import (
    MIB,
    ComputeParts,
    Entry,
    Pieces,
    WritePart,
    cached,
    put_row,
    row_positions,
    states_entry,
)
from labeltune.probing.layer_probes import probe_sample
from labeltune.runtime.errors import UserError
from labeltune.runtime.limits import available_memory


def choose_packing(plan: NetworkSpec, network: Network) -> SequencePacking | None:
    """Return how `train.packing` packs a network's rows into sequences; None if they are padded.

    Raises:
        UserError: packing is set to true, and this network does not support it.
    """
    setting, config = plan.train.packing, network.config
    known = architecture_of(config)
    pooling = network.pooling if isinstance(network, PooledClassification) else None
    able = (
        pooling is not None
        and known is not None
        and (packable(config) or (config.model_type in BOTH_WAYS and pooling != NATIVE_HEADS))
        and config._attn_implementation in KERNELS
    )
    if setting is True and not able:
        raise UserError(
            "train.packing: true needs a decoder with a classifier head, or label words of one token, or an encoder "
            f"with train.pooling first, last or mean; and train.attention {' or '.join(KERNELS)}; set it to auto"
        )
    refused = setting is False or (setting == "auto" and device().type != "cpu")
    if not able or known is None or pooling is None or refused:
        return None
    prefix = () if known.encoder else tuple(prefix_tokens(plan.encoder))
    return SequencePacking(prefix=prefix, pooling=pooling, multiple=length_multiple(network))


MEMORY_SHARE = 0.25
GIB = 1 << 30


def frozen_states(
    plan: NetworkSpec, network: Network, parts: Sequence[EncodedRows]
) -> list[Sequence[torch.Tensor]] | None:
    """Return the frozen layers' states of every row, `[length + extra_tokens, size]`, one sequence for each part.

    The feature cache provides them, after computing what it does not hold; where the disk has no room for them they
    stay in memory; None where there is no room there either.

    Args:
        network: the one that the plan builds, not adapted or with adapters above the frozen layers.
        parts: the encoded splits.
    """
    below, pad_id, budget = network.frozen_layers, plan.encoder.tokenizer.pad_token_id, plan.train.feature_cache_budget
    with evaluating(network):
        prefix = shared_prefix(network, plan.encoder, stop=below)
    input_ids = [ids for part in parts for ids in part.input_ids]
    groups = [(rows, [input_ids[row] for row in rows]) for rows in _groups(plan, parts)]
    entries = [states_entry(network, plan.base.files, ids, prefix, layers=below, pad_id=pad_id) for _, ids in groups]
    size = sum(entry.size for entry in entries)
    on_disk = size <= budget * MIB  # all of them: else one group would make room for the other in every run
    in_memory = False
    found: dict[int, tuple[Sequence[torch.Tensor], int]] = {}
    for (rows, ids), entry in zip(groups, entries, strict=True):

        def compute(put: WritePart, ids: list[list[int]] = ids) -> None:
            with bar(f"layers 1 to {below}, once", len(ids)) as shown:
                compute_states(network, ids, put, pad_id=pad_id, prefix=prefix, progress=shown.advance)

        kept = cached(entry, compute, budget=budget) if on_disk else None
        lengths = [len(row) + network.extra_tokens for row in ids]
        states: Sequence[torch.Tensor]
        if kept is not None:
            states = Pieces(kept, torch.split(kept.array, lengths))
        else:
            if not in_memory and not _fits_in_memory(size, below, budget):
                return None
            in_memory = True
            states = torch.split(_computed(entry, compute), lengths)
        found |= {row: (states, place) for place, row in enumerate(rows)}
    ends = list(accumulate(map(len, parts)))
    return [
        RowStates([found[row] for row in range(end - len(part), end)]) for part, end in zip(parts, ends, strict=True)
    ]


def _groups(plan: NetworkSpec, parts: Sequence[EncodedRows]) -> list[list[int]]:
    """Rows that run through the frozen layers together: those on which layers are compared, and all others."""
    sampled = probe_sample(plan.train, len(plan.labels), [part.labels for part in parts])
    starts = [0, *accumulate(map(len, parts))]
    probed = [start + row for start, rows in zip(starts, sampled, strict=False) for row in rows]
    others = sorted({*range(starts[-1])} - {*probed})
    return [rows for rows in (probed, others) if rows]


def _fits_in_memory(size: int, layers: int, budget: int) -> bool:
    """Whether states that the disk has no room for fit in memory; says so either way."""
    what = f"the states of layers 1 to {layers} take {size / GIB:.2f} GiB"
    how = f"give them room by train.feature_cache_budget, {budget:,} MiB now"
    if size > MEMORY_SHARE * available_memory():
        say(f"{what}, too much for the disk and for memory: these layers run in every step; {how}")
        return False
    say(f"{what} and stay in memory, for this run alone; {how}")
    return True


def _computed(entry: Entry, compute: ComputeParts) -> torch.Tensor:
    """The array of an entry, computed in memory."""
    array = torch.empty(entry.shape, dtype=entry.dtype)
    compute(lambda position, rows: array[position : position + len(rows)].copy_(rows))
    return array


class RowStates(Sequence[torch.Tensor]):
    """States of the rows of one part, which lie in the arrays of several groups."""

    def __init__(self, places: Sequence[tuple[Sequence[torch.Tensor], int]]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, row: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, row: slice) -> "RowStates": ...
    def __getitem__(self, row: int | slice) -> "torch.Tensor | RowStates":
        if isinstance(row, slice):
            return RowStates(self.places[row])
        group, place = self.places[row]
        return group[place]


def compute_states(
    network: Network,
    input_ids: Sequence[Sequence[int]],
    put: WritePart,
    *,
    pad_id: int,
    prefix: PromptPrefix | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Run rows through the frozen layers and write their states, one row after another.

    Args:
        prefix: prefix of the prompts, with its states up to the last frozen layer.
        progress: called with the number of rows done since the last call.
    """
    extra, multiple = network.extra_tokens, length_multiple(network)
    batches, skipped = row_batches(input_ids, prefix, extra, fused.batch_tokens(network), multiple)
    positions = row_positions(input_ids, extra)

    def run(rows: list[int]) -> torch.Tensor:
        skip = skipped[rows[0]]
        batch = pad([input_ids[row][skip:] for row in rows], pad_id, multiple)
        tensors = {name: tensor.to(network.device) for name, tensor in batch.items()}
        hidden: torch.Tensor = network.run_frozen_layers(**tensors, prefix=prefix if skip else None).cpu()
        return hidden

    with evaluating(network):
        for rows, hidden in zip(batches, run_in_threads(run, batches, network.device, sharing=False), strict=True):
            for row, states in zip(rows, hidden, strict=True):
                skip = skipped[row]
                own = states[: len(input_ids[row]) - skip + extra]
                put_row(positions[row], own, put, prefix if skip else None)
            if progress:
                progress(len(rows))


def states(network: Network, input_ids: Sequence[Sequence[int]], *, pad_id: int) -> list[torch.Tensor]:
    """Run every row through the frozen layers; returns a CPU tensor `[length + extra_tokens, size]` for each."""
    lengths = [len(ids) + network.extra_tokens for ids in input_ids]
    array = torch.empty(sum(lengths), network.config.hidden_size, dtype=network.dtype)

    def put(position: int, found: torch.Tensor) -> None:
        array[position : position + len(found)] = found

    compute_states(network, input_ids, put, pad_id=pad_id)
    return list(torch.split(array, lengths))


class ByLength(LengthGroupedSampler):
    """Groups rows of similar length, in an order that depends on the seed and the epoch only.

    Transformers' own sampler draws from the global generator, whose state at the start of an epoch is unknown
    to a training that is resumed within the epoch: some rows would be repeated and others skipped.
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
    """Collates rows into a batch."""

    pad_id: int
    """Id of the padding token."""
    multiple: int = 1
    """Padded lengths are rounded up to a multiple of this."""
    packing: SequencePacking | None = None
    """How rows are packed into sequences; None pads them."""

    def __call__(self, rows: list[dict[str, Any]]) -> Tensors:
        """Return a batch: token ids or states of the frozen layers, masks, `labels` and `rows`, `[batch]`.

        `rows` are the positions of the rows in the split.
        """
        if self.packing:
            batch = self.packing.collate(rows, self.pad_id)
        else:
            batch = pad([row["input_ids"] for row in rows], self.pad_id, self.multiple)
            if "states" in rows[0]:
                mask = batch["attention_mask"]
                extra = len(rows[0]["states"]) - len(rows[0]["input_ids"])
                states = pad_states([row["states"] for row in rows], mask.shape[1] + extra)
                batch = {"states": states, "attention_mask": mask}
        return batch | {name + "s": torch.tensor([row[name] for row in rows]) for name in ("label", "row")}


def with_states(plan: NetworkSpec, network: Network, parts: list[EncodedRows]) -> list[EncodedRows]:
    """Return the encoded splits with the states of the frozen layers, if there are any and there is room for them."""
    found = frozen_states(plan, network, parts) if network.frozen_layers else None
    if found is None:
        return parts
    return [replace(part, states=states) for part, states in zip(parts, found, strict=True)]
