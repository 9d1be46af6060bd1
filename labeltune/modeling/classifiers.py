"""Classifiers: networks that map tokens, or hidden states of the frozen layers, to one logit per label."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from labeltune.modeling.architectures import ARCHITECTURES, architecture_of, layer_list, unwrap, view, without_pooler
from labeltune.modeling.forward import PromptPrefix, prefix_tokens, run_in_threads
from labeltune.modeling.kernels import fused
from labeltune.modeling.label_scoring import (
    LabelWords,
    PackedTree,
    log_probabilities,
    normalise,
    pack_tree,
    vocabulary_logits,
)
from labeltune.modeling.packing import model_masks, seen_beside
from labeltune.modeling.prompts import Encoder

MLP_SIZES = (512, 256)


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Reduce hidden states `[batch, length, size]` to one per row, `[batch, size]`.

        tokens  a b c . .      first: a       last: c        mean: (a + b + c) / 3
        mask    1 1 1 0 0

    The mask decides what is padding, so that a real token equal to the pad token still counts, on either side.
    """
    if pooling == "mean":
        weights = attention_mask.unsqueeze(-1).float()  # [batch, length, 1]
        return (hidden.float() * weights).sum(1) / weights.sum(1)
    if pooling == "first":
        return hidden[:, 0]
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last_position(attention_mask)]


def last_position(attention_mask: torch.Tensor) -> torch.Tensor:
    """Where the last token of each row stands, `[batch]`, by the mask `[batch, length]`."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask * positions).argmax(1)


def linear_head(size: int, num_labels: int, generator: torch.Generator, spread: float) -> nn.Linear:
    """Transformers' own classification head: one matrix, normal with deviation `spread`, in fp32."""
    head = nn.Linear(size, num_labels, bias=False, dtype=torch.float32)
    nn.init.normal_(head.weight, std=spread, generator=generator)
    return head


def mlp_head(size: int, num_labels: int, dropout: float, generator: torch.Generator) -> nn.Sequential:
    """Three layers, size -> 512 -> 256 -> num_labels, with ReLU and dropout between; Xavier uniform, in fp32."""
    layers: list[nn.Module] = []
    for width in MLP_SIZES:
        layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)]
        size = width
    layers.append(nn.Linear(size, num_labels))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers).float()


def label_scoring_head(rows: torch.Tensor) -> nn.Linear:
    """Score label words with the language model's own output rows, `[num_labels, size]`, in fp32."""
    head = nn.Linear(rows.shape[1], rows.shape[0], bias=False, dtype=torch.float32)
    head.weight.data.copy_(rows.float())
    return head


NATIVE_HEADS = "own"
"""The pooling of such a head."""


def native_head_logits(network: Any, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Logits, `[batch, num_labels]`, of a classifier whose backbone gave hidden states, `[batch, length, size]`."""
    pooler = getattr(network.backbone(), "pooler", None)
    twin = copy.copy(network)
    twin._modules = {**network._modules, network.base_model_prefix: _Answer(hidden, pooler)}
    logits: torch.Tensor = network.kind.forward(twin, inputs_embeds=hidden, attention_mask=attention_mask).logits
    return logits


class _Answer(nn.Module):
    """Stands in for a backbone whose last hidden states are known."""

    def __init__(self, hidden: torch.Tensor, pooler: nn.Module | None) -> None:
        super().__init__()
        self.hidden = hidden
        self.pooler = pooler

    def forward(self, *unused: Any, **ignored: Any) -> BaseModelOutputWithPooling:
        pooled = self.pooler(self.hidden) if self.pooler else None
        return BaseModelOutputWithPooling(last_hidden_state=self.hidden, pooler_output=pooled)


class _Network:
    """Mixin over Transformers' models: the pass through the layers, with or without the frozen trunk's states.

    Attributes that `models.load_network` sets:
        adapted_layers: how many top layers train; those below are the trunk.
        shortened: whether the base model has layers above its depth.
        autocast: type of the arithmetic where it differs from that of the weights, else None.
    """

    adapted_layers: int
    shortened: bool
    autocast: torch.dtype | None = None
    extra_tokens: int = 0
    """Tokens that each row has in the layers beyond its prompt."""
    every_state: bool = False
    """Whether somebody looks at states of the top layer that the head does not read."""

    @property
    def trunk_layers(self: Any) -> int:
        """Layers below the first one that trains."""
        return int(self.config.num_hidden_layers - self.adapted_layers)

    def backbone(self: Any) -> Any:
        """The model without its head."""
        return getattr(self, self.base_model_prefix)

    def train(self: Any, mode: bool = True) -> Any:
        """Switch dropout on or off; the trunk never drops anything, so that its states can be computed once."""
        if mode and self.training and not (self.trunk_layers and self.backbone().training):
            return self  # Trainer asks before every step, and there are hundreds of modules
        super().train(mode)  # type: ignore[misc]
        if mode and self.trunk_layers:
            backbone = self.backbone()
            kept = layer_list(backbone)[self.trunk_layers :]
            backbone.eval()
            kept.train()
        return self

    def trunk(self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, front: Any = None) -> torch.Tensor:
        """States behind the trunk, `[batch, length + extra_tokens, size]`, of tokens that go on from `front`."""
        mask, past = behind(front, attention_mask)
        return self.run(input_ids, mask, None, stop=self.trunk_layers, **past)

    def run(
        self: Any,
        input_ids: torch.Tensor | None,
        attention_mask: Any,
        states: torch.Tensor | None,
        *,
        start: int | None = None,
        stop: int | None = None,
        places: torch.Tensor | None = None,
        **inputs: Any,
    ) -> torch.Tensor:
        """Hidden states of the layers before `stop`, or of all, from tokens or from states.

        Args:
            start: the layer that takes the states; None stands for the first one above the trunk.
            places: the positions that are read, `[batch, places]`; None stands for all of them.
        """
        first = 0 if states is None else (self.trunk_layers if start is None else start)
        last = self.config.num_hidden_layers if stop is None else stop
        whole = last if places is None else last - 1  # up to here every position is needed
        if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2 and first < whole:
            cache = inputs.get("past_key_values")
            known = fused.behind_rows(self, range(first, whole), input_ids, attention_mask, states, cache)
            if known is not None and places is None:
                return known
            if known is not None:
                input_ids, states, first = None, known, whole
        part = self.layers(states is None, first, last)
        if places is not None:
            part = fused.last_token_layer(part, places)
        with self.arithmetic():
            return part(input_ids, attention_mask=attention_mask, inputs_embeds=states, **inputs).last_hidden_state

    def layers(self: Any, from_tokens: bool, first: int, last: int) -> Any:
        """The backbone with some of its layers, without the part of the head that it may hold: heads are fp32."""
        part = without_pooler(self.backbone())
        if from_tokens and last == self.config.num_hidden_layers:
            return part
        return view(part, None if from_tokens else first, last)

    def reads_tips(self: Any) -> bool:
        """Whether the top layer is computed only where it is read."""
        return fused.supports_last_token(self.config) and not self.every_state

    def arithmetic(self: Any) -> AbstractContextManager[Any]:
        """Autocast, where the weights are kept in fp32 and the arithmetic is done in another type."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


def behind(front: Any, attention_mask: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """The mask with the front's tokens before the row's, `[batch, front + length]`, and their keys and values."""
    if front is None:
        return attention_mask, {}
    mask = torch.cat([attention_mask.new_ones(len(attention_mask), len(front.tokens)), attention_mask], dim=1)
    return mask, {"past_key_values": front.cache(len(mask)), "use_cache": True}


def pad_right(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move each row's real tokens to the front, in their order, so that no position depends on the padding's side.

    >>> pad_right(torch.tensor([[0, 0, 7, 8]]), torch.tensor([[0, 0, 1, 1]]))[0].tolist()
    [[7, 8, 0, 0]]
    """
    # A graph that is exported can't branch by values; it is fed rows padded on the right.
    if torch.compiler.is_exporting() or bool(attention_mask[:, 0].all()):
        return input_ids, attention_mask
    order = attention_mask.argsort(dim=1, descending=True, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


class PooledClassification(_Network):
    """Mixin over Transformers' classifiers that applies the head to one pooled state, never to every position."""

    head_name: str
    """Attribute of the head."""
    pooling: str
    """`first`, `last`, `mean`, or `own`: what Transformers' classifier of this architecture does."""

    def forward(
        self: Any,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        front: Any = None,
        owners: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        reading: torch.Tensor | None = None,
        **unused: Any,
    ) -> SequenceClassifierOutput:
        """Return logits `[batch, num_labels]` in fp32 for tokens `[batch, length]`, or for their trunk states.

        Args:
            states: what the trunk gave, `[batch, length, size]`, instead of tokens.
            front: the `front.Front` that the tokens go on from.
            owners, position_ids, reading: of rows side by side in bins, as `bins.Binning` gives them.
        """
        if owners is not None and position_ids is not None and reading is not None:
            beside = fused.behind_blocks(self, input_ids, owners, position_ids, states)
            if beside is not None:
                hidden, line = beside
                pooled = line.weights(reading) @ hidden[0].float()
                return SequenceClassifierOutput(logits=getattr(self, self.head_name)(pooled))
            seen = seen_beside(owners, encoder=ARCHITECTURES[self.config.model_type].encoder)
            masks = model_masks(self.config, seen, position_ids, self.autocast or self.dtype)
            hidden = self.run(input_ids if states is None else None, masks, states, position_ids=position_ids).float()
            return SequenceClassifierOutput(logits=getattr(self, self.head_name)(reading @ hidden.flatten(0, 1)))
        assert attention_mask is not None, "padding can't be told from tokens without the mask"
        if input_ids is not None and states is None:
            input_ids, attention_mask = pad_right(input_ids, attention_mask)
        mask, past = behind(front, attention_mask)
        tokens = input_ids if states is None else None
        if self.pooling == "last" and self.reads_tips():
            places = last_position(attention_mask).unsqueeze(1)  # [batch, 1]
            tip = self.run(tokens, mask, states, places=places, **past)[:, 0].float()
            return SequenceClassifierOutput(logits=getattr(self, self.head_name)(tip))
        hidden = self.run(tokens, mask, states, **past).float()
        if self.pooling == NATIVE_HEADS:
            return SequenceClassifierOutput(logits=native_head_logits(self, hidden, attention_mask))
        if front is not None:
            hidden = torch.cat([front.hidden.expand(len(mask), -1, -1), hidden], dim=1)  # [batch, front + length, size]
        pooled = pool(hidden, mask, self.pooling)
        return SequenceClassifierOutput(logits=getattr(self, self.head_name)(pooled))


class LabelScoring(_Network):
    """Mixin over Transformers' causal language models that gives each label word's score as its logit.

    Attributes that `models.load_network` and `priors` set:
        candidates: the label words as tokens.
        score_by: `sum` or `mean`, or what prior the sum is corrected by.
        prior: to be taken off every row's scores, `[num_labels]`, or None.
        pad_id: token that fills up batches.
    """

    candidates: LabelWords
    score_by: str
    prior: list[float] | None = None
    pad_id: int

    @property
    def extra_tokens(self) -> int:  # type: ignore[override]
        """Tokens that each row has in the layers beyond its prompt: the nodes of the label words' tree."""
        return len(self.candidates.nodes)

    def trunk(self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, front: None = None) -> torch.Tensor:
        """States behind the trunk, `[batch, length + extra_tokens, size]`; trees of label words have no front."""
        packed = pack_tree(input_ids, attention_mask, self.candidates, self.pad_id)
        return self._run_packed(packed, attention_mask, None, stop=self.trunk_layers)

    def forward(
        self: Any,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        **unused: Any,
    ) -> SequenceClassifierOutput:
        """Return scores `[batch, num_labels]` in fp32 for prompts `[batch, length]`, or for their trunk states.

        Args:
            states: what the trunk gave, `[batch, length + extra_tokens, size]`, instead of tokens.
        """
        assert attention_mask is not None, "padding can't be told from tokens without the mask"
        if states is not None or input_ids is None:
            input_ids = torch.zeros_like(attention_mask)  # the states stand for them
        else:
            input_ids, attention_mask = pad_right(input_ids, attention_mask)
        packed = pack_tree(input_ids, attention_mask, self.candidates, self.pad_id)
        places = packed.state_positions if self.reads_tips() else None
        hidden = self._run_packed(packed, attention_mask, states, places=places)
        read = packed.states(hidden) if places is None else hidden  # [batch, 1 + nodes, size]
        softcap = getattr(self.config, "final_logit_softcapping", None)
        project = vocabulary_logits(self.get_output_embeddings().weight, softcap)
        scores = log_probabilities(read, project, self.candidates)
        logits = normalise(scores, self.candidates, "mean" if self.score_by == "mean" else "sum")
        return SequenceClassifierOutput(logits=logits if self.prior is None else logits - logits.new_tensor(self.prior))

    def _run_packed(
        self: Any, packed: PackedTree, attention_mask: torch.Tensor, states: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        # Without a tree the usual mask does, which every attention kernel takes.
        tree = bool(self.candidates.nodes)
        dtype = self.autocast or self.dtype
        masks = model_masks(self.config, packed.seen, packed.position_ids, dtype) if tree else attention_mask
        ids = packed.input_ids if states is None else None
        return self.run(ids, masks, states, position_ids=packed.position_ids, **options)


def head_parts(network: Any) -> list[str]:
    """Names of the parts of a classifier that make its head: all beside the backbone, and the backbone's pooler."""
    backbone = getattr(network, network.base_model_prefix)
    parts = [name for name, module in network.named_children() if module is not backbone and _has_weights(module)]
    if isinstance(getattr(backbone, "pooler", None), nn.Module):
        parts.append(f"{network.base_model_prefix}.pooler")
    return parts


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def shared_prefix(network: Any, encoder: Encoder, *, stop: int | None = None) -> PromptPrefix | None:
    """Compute the front of the prompts; None where it is short, or where a state depends on what comes after it.

    A decoder's states depend on the tokens before alone.

    Args:
        stop: the layer to stop before; None runs all of them.
    """
    inner: Any = unwrap(network)
    parts = architecture_of(inner.config)
    able = isinstance(inner, PooledClassification) and parts is not None and not parts.encoder
    if not able or inner.pooling == NATIVE_HEADS:
        return None
    tokens = prefix_tokens(encoder)
    if not tokens:
        return None
    ids = torch.tensor([tokens], device=inner.device)

    def passed(_: list[int]) -> PromptPrefix:
        cache = DynamicCache()
        hidden = inner.run(ids, torch.ones_like(ids), None, stop=stop, past_key_values=cache, use_cache=True)
        states = [(layer.keys, layer.values) for layer in cache.layers]
        return PromptPrefix(tokens=tokens, states=states, hidden=hidden[0].float())

    (front,) = run_in_threads(passed, [[0]], inner.device, sharing=False)
    return front
