"""Forward passes without gradients, with a cache of the prompt prefix's keys and values."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from labeltune.modeling.architectures import architecture_of, layer_list
from labeltune.modeling.network import Network
from labeltune.modeling.prompts import Encoder

Tensors = dict[str, torch.Tensor]
Result = TypeVar("Result")


LENGTH_MULTIPLE = 8
FIRST_USED = (torch.cos, torch.sin, torch.exp, torch.tanh, torch.erf)
"""Functions that are called once before several threads call them: when two threads computed the first cosine at the
same time, the last bits of one of them sometimes differed."""


def length_multiple(network: Network) -> int:
    """Return the number of tokens that the length of a network's batches is a multiple of.

    In bf16 on a CPU oneDNN compiles a kernel for every new shape and keeps a thousand of them, with their buffers; in
    fp32 nothing is compiled, and padding only costs.
    """
    compiled = network.device.type == "cpu" and (network.autocast or network.dtype) == torch.bfloat16
    return LENGTH_MULTIPLE if compiled else 1


def round_up(length: int, multiple: int) -> int:
    """Return the smallest multiple that is not below a length.

    >>> round_up(17, 8), round_up(16, 8)
    (24, 16)
    """
    return -(-length // multiple) * multiple


def pad(rows: Sequence[Sequence[int]], pad_id: int, multiple: int = 1) -> Tensors:
    """Right-pad token ids to the longest row; the attention mask, not the pad id, marks the padding.

    Args:
        multiple: the length is a multiple of this.

    Returns:
        `input_ids` and `attention_mask`, both `[batch, length]`.

    >>> pad([[5, 6], [7]], pad_id=0)["attention_mask"].tolist()
    [[1, 1], [1, 0]]
    """
    longest = round_up(max(len(row) for row in rows), multiple)
    input_ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)  # [batch, length]
    attention_mask = torch.zeros_like(input_ids)  # [batch, length]
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        attention_mask[i, : len(row)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def pad_states(states: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Right-pad the states of several rows, each `[at most length, size]`, with zeros to `[batch, length, size]`."""
    padded = states[0].new_zeros(len(states), length, states[0].shape[1])
    for i, row in enumerate(states):
        padded[i, : len(row)] = row
    return padded


def token_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group rows by length into batches of at most `batch_tokens` tokens with padding, longest first.

    >>> token_batches([2, 9, 3, 2], batch_tokens=9)
    [[1], [2, 0, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


SHORTEST = 4
"""Minimum number of tokens of a prefix for which a separate pass pays off."""
PREFIX_SAMPLE = ("a", "Z", "7", "中", "-")
"""Texts that begin differently, so that the common tokens of their prompts belong to the template."""


@dataclass(frozen=True, kw_only=True)
class PromptPrefix:
    """The first tokens of every prompt, with their keys and values in the layers."""

    tokens: list[int]
    """Token ids, `[prefix]`."""
    keys_and_values: list[tuple[torch.Tensor, torch.Tensor]]
    """Keys and values of each layer that was run, `[1, heads, prefix, size]` each."""
    hidden: torch.Tensor
    """States after the last one of these layers, in fp32, `[prefix, size]`: a mean over all tokens needs them."""

    def cache(self, rows: int) -> DynamicCache:
        """Return Transformers' cache of the keys and values for a batch of this many rows."""
        expanded = [[part.expand(rows, -1, -1, -1) for part in pair] for pair in self.keys_and_values]
        return DynamicCache([(keys, values) for keys, values in expanded])

    def begins(self, row: Sequence[int]) -> bool:
        """Whether a prompt begins with these tokens and has more."""
        return starts_with(self.tokens, row)


def starts_with(prefix: Sequence[int], row: Sequence[int]) -> bool:
    """Whether a prompt begins with a prefix's tokens and has more; one whose text merges with them does not."""
    return len(row) > len(prefix) and list(row[: len(prefix)]) == list(prefix)


def prefix_tokens(encoder: Encoder) -> list[int]:
    """Return the tokens that every prompt begins with; none if they are too few for a separate pass to pay off."""
    rows = encoder.encode(PREFIX_SAMPLE).input_ids
    length = next((i for i, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), 0)
    return rows[0][:length] if length >= SHORTEST else []


def row_batches(
    input_ids: Sequence[Sequence[int]], prefix: PromptPrefix | None, extra: int, batch_tokens: int, multiple: int
) -> tuple[list[list[int]], list[int]]:
    """Group rows of similar length into batches, those that begin with the prefix apart from the others.

    Args:
        prefix: the prefix of the prompts, or None.
        extra: tokens that each row has in the layers in addition to its prompt.
        batch_tokens: maximum number of tokens of a batch, padding included; a longer row is a batch of its own.
        multiple: the length of a batch is a multiple of this.

    Returns:
        The rows of each batch, and the number of tokens of each row that the prefix covers.
    """
    skipped = [len(prefix.tokens) if prefix and prefix.begins(ids) else 0 for ids in input_ids]
    batches: list[list[int]] = []
    for skip in sorted(set(skipped)):
        alike = [row for row, other in enumerate(skipped) if other == skip]
        lengths = [round_up(len(input_ids[row]) - skip, multiple) + extra for row in alike]
        batches += [[alike[place] for place in batch] for batch in token_batches(lengths, batch_tokens)]
    return batches, skipped


def compute_logits(
    network: Network,
    input_ids: Sequence[Sequence[int]],
    *,
    pad_id: int,
    batch_tokens: int,
    states: Sequence[torch.Tensor] | None = None,
    prefix: PromptPrefix | None = None,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return the logits of every row in the order given, `[rows, num_labels]`.

    Args:
        network: a classifier whose output has `logits`; its mode (train or eval) is restored afterwards.
        input_ids: token ids per row, not padded.
        batch_tokens: maximum number of tokens of a batch, padding included; a longer row is a batch of its own.
        states: states after the frozen layers per row, `[length, size]`, to start from instead of the tokens.
        prefix: the prefix of the prompts, whose keys and values the rows that begin with it continue.
        progress: called with the number of rows done since the last call.
    """
    device = next(network.parameters()).device
    extra = getattr(network, "extra_tokens", 0)  # a PEFT model passes it on
    multiple = length_multiple(network)
    batches, skipped = row_batches(input_ids, prefix, extra, batch_tokens, multiple)

    def forward(rows: list[int]) -> NDArray[np.float32]:
        skip = skipped[rows[0]]
        batch: dict[str, Any] = {**pad([input_ids[row][skip:] for row in rows], pad_id, multiple)}
        if states is not None:
            mask = batch["attention_mask"]
            known = pad_states([states[row] for row in rows], mask.shape[1] + extra)
            batch = {"states": known, "attention_mask": mask}
        batch = {name: tensor.to(device) for name, tensor in batch.items()} | ({"prefix": prefix} if skip else {})
        return network(**batch).logits.float().cpu().numpy()

    result: NDArray[np.float32] | None = None
    with evaluating(network):
        for rows, logits in zip(batches, run_in_threads(forward, batches, device), strict=True):
            if result is None:
                result = np.empty((len(input_ids), logits.shape[1]), dtype=np.float32)
            result[rows] = logits
            if progress:
                progress(len(rows))
    assert result is not None, "there is a row"
    return result


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """Context in which dropout is off and the weights are rounded once instead of in every pass."""
    was_training = network.training
    network.eval()
    held = round_weights(network)
    try:
        yield
    finally:
        for module, name, weight in held:
            setattr(module, name, weight)
        network.train(was_training)


def round_weights(network: Network) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Replace the layers' weights by what autocast would convert them to in every pass; no logit changes by a bit.

    Returns:
        The module, name and value of each weight that was replaced; none if the arithmetic has the type of the weights.
    """
    dtype, held = getattr(network, "autocast", None), []
    if dtype is None or architecture_of(network.config) is None:
        return []
    for module in layer_list(network.backbone()).modules():
        if isinstance(module, nn.Linear | Conv1D):
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.dtype != dtype:
                    held.append((module, name, weight))
                    setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
    return held


def run_in_threads(
    work: Callable[[list[int]], Result], batches: Sequence[list[int]], device: torch.device, *, sharing: bool = True
) -> Iterator[Result]:
    """Run several batches at once, one CPU thread each; yields the results in the order of the batches.

    Threads that share a batch wait for one another at every operation; with one batch per thread they do not, and the
    last bits do not depend on the number of threads. A GPU runs one batch after another.

    Args:
        sharing: whether several threads may share a lone batch, so that its last bits depend on how many there are.
    """
    threads = torch.get_num_threads()

    def infer(rows: list[int]) -> Result:
        with torch.inference_mode():  # the setting is per thread
            return work(rows)

    if device.type != "cpu" or threads == 1 or (len(batches) == 1 and sharing):
        yield from map(infer, batches)
        return
    one = torch.ones(1)
    for function in FIRST_USED:
        function(one)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(infer, batches)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # some of its state is shared by all threads
