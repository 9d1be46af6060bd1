"""Hidden states of the base model before fine-tuning, layer by layer, and a recorder for them."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from labeltune.config.model import Train
from labeltune.data.labels import LabelSet
from labeltune.modeling import classifiers
from labeltune.modeling.architectures import architecture_of, is_encoder, layer_list
from labeltune.modeling.base_models import Base, load_config
from labeltune.modeling.builder import load_network
from labeltune.modeling.classifiers import continue_prefix, shared_prefix
from labeltune.modeling.device import Machine, device
from labeltune.modeling.forward import PromptPrefix, length_multiple, pad, row_batches, run_in_threads
from labeltune.modeling.kernels import fused
from labeltune.modeling.network import Network
from labeltune.modeling.packing import UnpaddedBatch
from labeltune.modeling.prompts import Encoder
from labeltune.probing.regression import States
from labeltune.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ProbedModel:
    """A base model before fine-tuning, at its full depth."""

    network: Network
    """The network, on its device."""
    pad_id: int
    """Id of the padding token."""
    files: dict[str, str]
    """Name of each of the model's files -> sha256."""
    size: int
    """Size of the files in bytes."""
    prefix: PromptPrefix | None
    """Tokens with which every prompt begins, and their states; None if prompts share no prefix."""
    missing: str | None
    """Why the model can't score label words; None if it can."""


def load_probed_model(
    base: Base, labels: LabelSet, encoder: Encoder, machine: Machine, *, scoring: bool
) -> ProbedModel:
    """Load a base model at its full depth.

    Args:
        scoring: whether to score label words; a model that does not, or can't, gets a classifier head that is unused.

    Raises:
        UserError: the model can't read prompts of this length, or can't be made a classifier.
    """

    def loaded(head: str) -> Network:
        return load_network(
            base,
            labels,
            Train.model_validate({"seed": 0, "head": head}),
            dtype=machine.dtype,
            attention=machine.attention,
            kernels=machine.kernels,
            tokenizer=encoder.tokenizer,
            cue=encoder.template.suffix,
            max_length=encoder.max_length,
            all_states=True,
        )

    network: Network | None = None
    missing: str | None = "baselines.zero_shot is false"
    if scoring and is_encoder(load_config(base.folder)):
        missing = f"{base.name} is an encoder: it was never trained to say what follows a prompt"
    elif scoring:
        try:
            network, missing = loaded("label_scoring"), None
        except UserError as error:  # the labels or the model do not allow scoring; its states can still be read
            missing = str(error)
    network = (loaded("linear") if network is None else network).to(device()).eval()
    return ProbedModel(
        network=network,
        pad_id=encoder.tokenizer.pad_token_id,
        files=base.files,
        size=sum((base.folder / name).stat().st_size for name in base.files),
        prefix=shared_prefix(network, encoder),
        missing=missing,
    )


POOLINGS = ("mean", "last")
"""Poolings of the states of a row's tokens: their mean, or the state of the last token."""


class HiddenStateRecorder(threading.local):
    """Pooled states of the batch that this thread runs; those of single tokens are not kept."""

    def __init__(self, layers: Collection[int]) -> None:
        self.layers = layers
        self.seconds: dict[int, float] = {}
        """Layer -> seconds from the start of the batch until its states were computed."""

    def begin(self, mask: torch.Tensor) -> None:
        """Prepare for a batch with this attention mask, `[batch, length]`."""
        self.mask, self.states, self.seconds = mask, list[torch.Tensor](), {}
        self.started = time.perf_counter()

    def record(self, layer: int, hidden: torch.Tensor, unpadded: UnpaddedBatch | None) -> None:
        """Pool a layer's states, `[batch, length, size]`, or those of an unpadded batch.

        States of nodes of label words may follow those that the mask covers; they are left out.
        """
        if layer in self.layers:
            hidden = hidden if unpadded is None else unpadded.pad(hidden)
            inside = hidden[:, : self.mask.shape[1]]
            pooled = [classifiers.pool(inside, self.mask, how).float() for how in POOLINGS]
            self.states.append(torch.stack(pooled, dim=1).cpu())  # [batch, poolings, size]
            self.seconds[layer] = time.perf_counter() - self.started

    def pooled(self) -> States:
        """Return the pooled states of the batch, `[batch, layers, poolings, size]`."""
        assert len(self.states) == len(self.layers), "a layer did not run, or ran twice"
        return torch.stack(self.states, dim=1).numpy()


@contextmanager
def recording(network: Network, layers: Collection[int]) -> Iterator[HiddenStateRecorder]:
    """Record the hidden states of some layers by hooks; they are Transformers' `hidden_states`, pooled."""
    recorder = HiddenStateRecorder(layers)
    backbone, parts = network.backbone(), _layer_list(network)
    top = network.config.num_hidden_layers

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder.record(0, args[0] if args else kwargs["hidden_states"], kwargs.get("unpadded"))

    def after(layer: int, _: nn.Module, __: Any, kwargs: dict[str, Any], output: Any) -> None:
        recorder.record(layer, output[0] if isinstance(output, tuple) else output, kwargs.get("unpadded"))

    def after_norm(_: nn.Module, __: Any, kwargs: dict[str, Any], output: Any) -> None:
        recorder.record(top, output.last_hidden_state, kwargs.get("unpadded"))

    hooks = [backbone.register_forward_hook(after_norm, with_kwargs=True)]
    if parts is not None:
        hooks.append(parts[0].register_forward_pre_hook(before, with_kwargs=True))
        for layer, part in enumerate(parts[:-1], start=1):
            hooks.append(part.register_forward_hook(partial(after, layer), with_kwargs=True))
    try:
        yield recorder
    finally:
        for hook in hooks:
            hook.remove()


def recorded_layers(network: Network) -> tuple[int, ...]:
    """Return the layers whose states can be recorded.

    Layer 0 is the embeddings; the states of the last layer are those after the final norm.
    """
    count = network.config.num_hidden_layers
    return (count,) if _layer_list(network) is None else tuple(range(count + 1))


def _layer_list(network: Network) -> nn.ModuleList | None:
    """Return the layers of a network; in an unknown architecture, the module list that is as long as its depth."""
    backbone = network.backbone()
    if architecture_of(network.config):
        return layer_list(backbone)
    lists = [part for part in backbone.modules() if isinstance(part, nn.ModuleList)]
    return next((part for part in lists if len(part) == network.config.num_hidden_layers), None)


MEAN = POOLINGS.index("mean")
STRIDE = 4
"""Number of layers in one pass if the caller does not stop between them."""

KeepStates = Callable[[int, list[torch.Tensor]], object]
"""Called with the number of a layer and the states of each row after it, `[length, size]`."""


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """Results of a forward pass over rows."""

    states: States
    """Pooled states, `[rows, layers, poolings, size]`, in the order of `POOLINGS`."""
    scores: States | None
    """log p(label word | prompt), up to one constant a row, `[rows, num_labels]`; None unless asked for."""
    seconds: float
    """Seconds of the whole pass."""
    layer_seconds: dict[int, float]
    """Layer -> seconds until its states were computed: the time of a model that ends with this layer."""


def read_hidden_states(
    model: ProbedModel,
    input_ids: Sequence[list[int]],
    *,
    layers: Collection[int],
    scoring: bool = False,
    progress: Callable[[int], None] | None = None,
) -> HiddenStates:
    """Run every row through the model once, and keep one state per row, layer and pooling.

    Args:
        input_ids: token ids per row, not padded.
        layers: layers whose states are returned, ascending.
        scoring: score the label words in the same pass.
        progress: called with the number of rows done since the last call.
    """
    network, prefix = model.network, model.prefix
    extra = network.extra_tokens if scoring else 0
    multiple = length_multiple(network)
    batches, skipped = row_batches(input_ids, prefix, extra, fused.batch_tokens(network), multiple)
    states = np.empty((len(input_ids), len(layers), len(POOLINGS), network.config.hidden_size), dtype=np.float32)
    scores = np.empty((len(input_ids), network.config.num_labels), dtype=np.float32)
    spent = dict.fromkeys(layers, 0.0)
    total, started = 0.0, time.perf_counter()

    with recording(network, layers) as recorder:
        means = _prefix_means(network, prefix, recorder) if prefix else np.empty(0, dtype=np.float32)

        def run_batch(rows: list[int]) -> tuple[States, States | None, dict[int, float], float]:
            begun, skip = time.perf_counter(), skipped[rows[0]]
            padded = pad([input_ids[row][skip:] for row in rows], model.pad_id, multiple)
            batch = {name: tensor.to(network.device) for name, tensor in padded.items()}
            recorder.begin(batch["attention_mask"])
            logits = None
            if scoring or skip:
                logits = network(**batch, prefix=prefix if skip else None).logits.float().cpu().numpy()
            else:  # only the layers, without the product with the output embeddings
                network.run(batch["input_ids"], batch["attention_mask"], None)
            pooled = recorder.pooled()
            if skip:
                _include_prefix(means, skip, pooled, padded["attention_mask"])
            return pooled, logits, recorder.seconds, time.perf_counter() - begun

        for rows, result in zip(
            batches, run_in_threads(run_batch, batches, network.device, sharing=False), strict=True
        ):
            states[rows], logits, seconds, batch_seconds = result
            if scoring:
                scores[rows] = logits
            spent = {layer: spent[layer] + seconds[layer] for layer in layers}
            total += batch_seconds
            if progress:
                progress(len(rows))
    elapsed = time.perf_counter() - started
    return HiddenStates(
        states=states,
        scores=scores if scoring else None,
        seconds=elapsed,
        layer_seconds={layer: elapsed * spent[layer] / total for layer in layers},
    )


def layer_by_layer(
    model: ProbedModel,
    input_ids: Sequence[list[int]],
    *,
    least: int = 1,
    wanted: Collection[int] = (),
    keep: KeepStates | None = None,
) -> Iterator[States]:
    """Run all rows through one layer after another, up to the layer at which the caller stops iterating.

    Args:
        least: first layer at which the caller may stop: up to it, each pass runs `STRIDE` layers.
        wanted: layers after which `keep` is called with the states of every row.
        keep: called with the number of a layer and each row's states after it, `[length, size]`, without those of the
            prefix.

    Yields:
        Pooled states of each layer, `[rows, poolings, size]`; the embeddings come first.
    """
    network, prefix = model.network, model.prefix
    multiple = length_multiple(network)
    batches, skipped = row_batches(input_ids, prefix, 0, fused.batch_tokens(network), multiple)
    padded = [pad([input_ids[row][skipped[row] :] for row in rows], model.pad_id, multiple) for rows in batches]
    prefixes = [prefix if skipped[rows[0]] else None for rows in batches]
    if prefix:  # a batch of its own: its means are part of those of the rows that continue it
        padded.append(pad([prefix.tokens], model.pad_id))
        prefixes.append(None)
    hidden_states: list[torch.Tensor | None] = [None] * len(padded)
    start = None

    top = network.config.num_hidden_layers
    for stop in sorted({*range(STRIDE, least, STRIDE), *range(max(1, least), top + 1), *wanted}):
        layers = range(0 if start is None else start + 1, stop + 1)

        def run_layers(numbers: list[int], start: int | None = start, layers: range = layers) -> States:
            (number,) = numbers
            mask = padded[number]["attention_mask"].to(network.device)
            seen, past = continue_prefix(prefixes[number], mask)
            recorder.begin(mask)
            tokens = padded[number]["input_ids"].to(network.device) if start is None else None
            hidden = network.run(tokens, seen, hidden_states[number], start=start, stop=layers[-1], **past)
            hidden_states[number] = hidden
            return recorder.pooled()

        with recording(network, layers) as recorder:
            found = list(
                run_in_threads(run_layers, [[number] for number in range(len(padded))], network.device, sharing=False)
            )
        states = np.empty((len(input_ids), len(layers), len(POOLINGS), network.config.hidden_size), dtype=np.float32)
        for number, rows in enumerate(batches):
            if skip := skipped[rows[0]]:
                _include_prefix(found[-1][0, :, MEAN], skip, found[number], padded[number]["attention_mask"])
            states[rows] = found[number]
        if keep is not None and stop in wanted:
            keep(stop, _states_by_row(input_ids, batches, skipped, hidden_states))
        yield from np.moveaxis(states, 1, 0)
        start = stop


def _states_by_row(
    input_ids: Sequence[list[int]],
    batches: Sequence[list[int]],
    skipped: Sequence[int],
    hidden_states: Sequence[torch.Tensor | None],
) -> list[torch.Tensor]:
    """Return the states of each row after the prefix, `[length, size]`, from those of the batches."""
    found = {}
    for rows, hidden in zip(batches, hidden_states, strict=False):
        assert hidden is not None, "they all went through the layer"
        for row, states in zip(rows, hidden, strict=True):
            found[row] = states[: len(input_ids[row]) - skipped[row]]
    return [found[row] for row in range(len(input_ids))]


def _include_prefix(means: States, skip: int, pooled: States, mask: torch.Tensor) -> None:
    """Turn means over the tokens after a prefix into means over all tokens, in place.

    Args:
        means: mean states of the prefix's tokens, `[layers, size]`.
        skip: number of the prefix's tokens.
        pooled: pooled states of the tokens after the prefix, `[batch, layers, poolings, size]`.
        mask: attention mask of those tokens, `[batch, length]`.
    """
    share = skip / (skip + mask.sum(1).numpy()[:, None, None])  # [batch, 1, 1]
    pooled[:, :, MEAN] = share * means + (1 - share) * pooled[:, :, MEAN]


def _prefix_means(network: Network, prefix: PromptPrefix, recorder: HiddenStateRecorder) -> States:
    """Return the mean state of the prefix's tokens after each layer, `[layers, size]`."""
    ids = torch.tensor([prefix.tokens], device=network.device)

    def run_prefix(_: list[int]) -> States:
        recorder.begin(torch.ones_like(ids))
        network.run(ids, torch.ones_like(ids), None)
        return recorder.pooled()[0, :, MEAN]

    (means,) = run_in_threads(run_prefix, [[0]], network.device, sharing=False)
    return means
