"""Rows as training sees them: tokens, labels, ids, and the frozen trunk's states where they are known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pandas as pd
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from labeltune import trunk
from labeltune.bins import Binning
from labeltune.blueprint import Blueprint
from labeltune.errors import UserError
from labeltune.inference import Tensors, pad, pad_states
from labeltune.labels import LabelSet
from labeltune.passes import Passed
from labeltune.prompts import Encoder


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Encoded rows with their labels."""

    ids: list[str]
    """What `prepare` calls each row."""
    input_ids: list[list[int]]
    """Token ids per row, not padded."""
    labels: list[int]
    """Index of each row's label."""
    states: Sequence[torch.Tensor] | None = None
    """Trunk states per row, `[length, size]`, where they were computed beforehand."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        states = {} if self.states is None else {"states": self.states[row]}
        return {"input_ids": self.input_ids[row], "label": self.labels[row], "row": row, **states}

    def take(self, rows: list[int]) -> "Rows":
        """Some of the rows, without states."""
        return Rows(
            ids=[self.ids[row] for row in rows],
            input_ids=[self.input_ids[row] for row in rows],
            labels=[self.labels[row] for row in rows],
        )


def encode(frame: pd.DataFrame, encoder: Encoder, labels: LabelSet) -> Rows:
    """Encode prepared rows.

    Raises:
        UserError: the rows were prepared with another prompt.
    """
    texts = frame["text"].tolist()
    if [encoder.template.render(text) for text in texts] != frame["prompt"].tolist():
        raise UserError("data/prepared was made with another prompt; run `dvc repro`")
    return Rows(
        ids=frame["id"].tolist(),
        input_ids=encoder.encode(texts).input_ids,
        labels=labels.index(frame["label"].tolist()),
    )


class ByLength(LengthGroupedSampler):
    """Rows of like length beside each other, in an order that only the seed and the epoch decide.

    Transformers' own sampler draws from the global generator, whose state at an epoch's start a training that goes on
    within that epoch does not have: it would see some rows twice and others never.
    """

    def __init__(self, rows: Rows, group: int, seed: int) -> None:
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
    binning: Binning | None = None
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


def with_states(plan: Blueprint, network: Any, parts: list[Rows], passed: Passed | None = None) -> list[Rows]:
    """The rows with the frozen trunk's states, where there is a trunk and room for them."""
    if network.trunk_layers == 0:
        return parts
    found = trunk.known(plan, network, [ids for part in parts for ids in part.input_ids], passed)
    if passed is not None:
        passed.states.clear()
    if found is None:
        return parts
    ends = list(accumulate(map(len, parts)))
    return [replace(part, states=found[end - len(part) : end]) for part, end in zip(parts, ends, strict=True)]
