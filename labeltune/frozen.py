"""The untuned base model: the states behind each of its layers, and how likely it finds each label word."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig

from labeltune import heads
from labeltune.architectures import architecture, layer_list
from labeltune.bases import Base
from labeltune.errors import UserError
from labeltune.hardware import Machine, device, inference_tokens
from labeltune.inference import pad, token_batches
from labeltune.labels import LabelSet
from labeltune.models import is_encoder, load_network
from labeltune.params import Train
from labeltune.prompts import Encoder

POOLINGS = ("mean", "last")
"""What stands for all states of a row: their mean, or that of its last token."""


@dataclass(frozen=True, kw_only=True)
class Untuned:
    """A base model that nothing was trained of."""

    network: Any
    """It, on its device."""
    pad_id: int
    """Token that fills up batches."""
    size: int
    """Bytes of its files."""
    missing: str | None
    """Why it can't score label words; None where it can."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers whose states can be read; 0 are the embeddings, the last comes with the final norm."""
        count = self.network.config.num_hidden_layers
        return tuple(range(count + 1)) if _layer_list(self.network) else (count,)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a forward pass over rows gave."""

    states: NDArray[np.float32]
    """Pooled states, `[rows, layers, poolings, size]`, in the order of `POOLINGS`."""
    scores: NDArray[np.float32] | None
    """log p(label word | prompt), up to one constant a row, `[rows, num_labels]`, where it was asked for."""
    seconds: float
    """Time of the whole pass."""
    layer_seconds: dict[int, float]
    """Layer -> time until its states were known: that of a pass through a model which ends with it."""


def load(base: Base, labels: LabelSet, encoder: Encoder, machine: Machine, *, scoring: bool) -> Untuned:
    """Load a base model at its full depth.

    Args:
        scoring: whether label words are to be scored; else, and where the model can't, it has a head that is not used.

    Raises:
        UserError: the model can't read prompts of this length, or is of no use as a classifier.
    """

    def loaded(head: str) -> Any:
        return load_network(
            base,
            labels,
            Train.model_validate({"seed": 0, "head": head}),
            dtype=machine.dtype,
            attention=machine.attention,
            tokenizer=encoder.tokenizer,
            cue=encoder.template.back,
            max_length=encoder.max_length,
        )

    network, missing = None, "baselines.zero_shot is false"
    if scoring and is_encoder(AutoConfig.from_pretrained(base.folder)):
        missing = f"{base.name} is an encoder: it was never trained to say what follows a prompt"
    elif scoring:
        try:
            network = loaded("label_scoring")
        except UserError as error:  # not for these labels or this model; its states can be read all the same
            missing = str(error)
    return Untuned(
        network=(loaded("linear") if network is None else network).to(device()).eval(),
        pad_id=encoder.tokenizer.pad_token_id,
        size=sum((base.folder / name).stat().st_size for name in base.files),
        missing=missing if network is None else None,
    )


def read(
    model: Untuned,
    input_ids: Sequence[Sequence[int]],
    *,
    layers: Collection[int],
    scoring: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Reading:
    """Run every row through the model once, and keep one state per row, layer and pooling.

    Args:
        input_ids: token ids per row, not padded.
        layers: whose states are kept, ascending.
        scoring: score the label words in the same pass.
        progress: called with the number of rows done since the last call.
    """
    network: Any = model.network
    extra = network.extra_tokens if scoring else 0
    states = np.empty((len(input_ids), len(layers), len(POOLINGS), network.config.hidden_size), dtype=np.float32)
    scores: NDArray[np.float32] | None = None
    started = time.perf_counter()
    with torch.inference_mode(), _watching(network, layers) as watch:
        for rows in token_batches([len(ids) + extra for ids in input_ids], inference_tokens()):
            padded = pad([input_ids[row] for row in rows], model.pad_id)
            batch = {name: tensor.to(network.device) for name, tensor in padded.items()}
            watch.begin(batch["attention_mask"])
            if scoring:
                given = network(**batch).logits.float().cpu().numpy()
                scores = np.empty((len(input_ids), given.shape[1]), dtype=np.float32) if scores is None else scores
                scores[rows] = given
            else:  # the layers alone: no output row of the vocabulary is multiplied
                network.run(batch["input_ids"], batch["attention_mask"], None)
            states[rows] = watch.pooled()
            if progress:
                progress(len(rows))
    seconds = time.perf_counter() - started
    return Reading(states=states, scores=scores, seconds=seconds, layer_seconds=watch.seconds)


@dataclass(kw_only=True)
class _Watch:
    """Pools the states of each layer when they are computed, so that those of every token are never kept."""

    layers: Collection[int]
    mask: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    kept: list[torch.Tensor] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)
    started: float = 0.0

    def begin(self, mask: torch.Tensor) -> None:
        """Expect a batch with this mask, `[batch, length]`."""
        self.mask, self.kept, self.started = mask, [], time.perf_counter()

    def see(self, layer: int, hidden: torch.Tensor) -> None:
        """Pool states `[batch, length or more, size]`; what is behind the mask are nodes of the label words."""
        if layer in self.layers:
            inside = hidden[:, : self.mask.shape[1]]
            pooled = [heads.pool(inside, self.mask, how).float() for how in POOLINGS]
            self.kept.append(torch.stack(pooled, dim=1).cpu())  # [batch, poolings, size]
            self.seconds[layer] = self.seconds.get(layer, 0.0) + time.perf_counter() - self.started

    def pooled(self) -> NDArray[np.float32]:
        """States of the batch, `[batch, layers, poolings, size]`."""
        assert len(self.kept) == len(self.layers), "a layer did not run, or ran twice"
        return torch.stack(self.kept, dim=1).numpy()


@contextmanager
def _watching(network: Any, layers: Collection[int]) -> Iterator[_Watch]:
    """Hook a watch to the layers of a network; states are those that Transformers calls `hidden_states`."""
    watch = _Watch(layers=layers)
    backbone, parts = network.backbone(), _layer_list(network)
    top = network.config.num_hidden_layers

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch.see(0, args[0] if args else kwargs["hidden_states"])

    def after(layer: int, _: nn.Module, __: Any, output: Any) -> None:
        watch.see(layer, output[0] if isinstance(output, tuple) else output)

    def behind(_: nn.Module, __: Any, output: Any) -> None:
        watch.see(top, output.last_hidden_state)

    hooks = [backbone.register_forward_hook(behind)]
    if parts:
        hooks.append(parts[0].register_forward_pre_hook(before, with_kwargs=True))
        hooks += [part.register_forward_hook(partial(after, i)) for i, part in enumerate(parts[:-1], start=1)]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def _layer_list(network: Any) -> nn.ModuleList | None:
    """The layers of a network; of a family that labeltune does not know, the list that is as long as its depth."""
    backbone = network.backbone()
    if architecture(network.config):
        return layer_list(backbone)
    lists = [part for part in backbone.modules() if isinstance(part, nn.ModuleList)]
    return next((part for part in lists if len(part) == network.config.num_hidden_layers), None)
