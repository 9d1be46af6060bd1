"""Classifiers: networks that map tokens, or hidden states of the frozen layers, to one logit per label."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from labeltune.modeling.architectures import (
    ARCHITECTURES,
    architecture_of,
    first_position,
    layer_list,
    unwrap,
    view,
    without_pooler,
)
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
from labeltune.modeling.network import Network
from labeltune.modeling.packing import model_masks, packed_visibility
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
    """Return the position of each row's last token, `[batch]`, from the mask `[batch, length]`."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask * positions).argmax(1)


def linear_head(size: int, num_labels: int, generator: torch.Generator, spread: float) -> nn.Linear:
    """Return a linear head as in Transformers: one matrix, normal with deviation `spread`, in fp32."""
    head = nn.Linear(size, num_labels, bias=False, dtype=torch.float32)
    nn.init.normal_(head.weight, std=spread, generator=generator)
    return head


def probe_head(size: int, num_labels: int) -> nn.Linear:
    """Return the head of a logistic regression with an intercept, zero until it is fitted, in fp32."""
    head = nn.Linear(size, num_labels, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def mlp_head(size: int, num_labels: int, dropout: float, generator: torch.Generator) -> nn.Sequential:
    """Return an MLP head, size -> 512 -> 256 -> num_labels, with ReLU and dropout; Xavier uniform, in fp32."""
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
    """Return a head that scores label words by their output embeddings, `[num_labels, size]`, in fp32."""
    head = nn.Linear(rows.shape[1], rows.shape[0], bias=False, dtype=torch.float32)
    head.weight.data.copy_(rows.float())
    return head


NATIVE_HEADS = "own"
"""Pooling of the heads of Transformers' classifiers, which depends on the architecture."""


def native_head_logits(network: Any, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return logits, `[batch, num_labels]`, from the hidden states of the backbone, `[batch, length, size]`."""
    pooler = getattr(network.backbone(), "pooler", None)
    twin = copy.copy(network)
    twin._modules = {**network._modules, network.base_model_prefix: _KnownBackbone(hidden, pooler)}
    logits: torch.Tensor = network.transformers_class.forward(
        twin, inputs_embeds=hidden, attention_mask=attention_mask
    ).logits
    return logits


class _KnownBackbone(nn.Module):
    """A backbone that returns given last hidden states."""

    def __init__(self, hidden: torch.Tensor, pooler: nn.Module | None) -> None:
        super().__init__()
        self.hidden = hidden
        self.pooler = pooler

    def forward(self, *unused: Any, **ignored: Any) -> BaseModelOutputWithPooling:
        pooled = self.pooler(self.hidden) if self.pooler else None
        return BaseModelOutputWithPooling(last_hidden_state=self.hidden, pooler_output=pooled)


class _Network:
    """Mixin over Transformers' models: the pass through the layers, from tokens or from the frozen layers' states.

    `network.Network` is the interface and describes the attributes.
    """

    extra_tokens: int = 0

    def __init__(
        self: Any,
        config: PretrainedConfig,
        *,
        trained_layers: int,
        truncated: bool,
        autocast: torch.dtype | None = None,
        all_states: bool = False,
    ) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.trained_layers = trained_layers
        self.truncated = truncated
        self.autocast = autocast
        self.all_states = all_states

    @property
    def frozen_layers(self: Any) -> int:
        """Number of layers below the first one that trains."""
        return int(self.config.num_hidden_layers - self.trained_layers)

    def backbone(self: Any) -> Any:
        """Return the model without its head."""
        return getattr(self, self.base_model_prefix)

    @property
    def dtype(self: Any) -> torch.dtype:
        """Type of the backbone's weights; some families register their head, which is in fp32, before it."""
        weights = self.backbone().parameters()
        return next((weight.dtype for weight in weights if weight.is_floating_point()), torch.float32)

    def train(self: Any, mode: bool = True) -> Any:
        """Switch dropout on or off; it stays off in the frozen layers, so that their states can be computed once."""
        if mode and self.training and not (self.frozen_layers and self.backbone().training):
            return self  # Trainer asks before every step, and there are hundreds of modules
        super().train(mode)  # type: ignore[misc]
        if mode and self.frozen_layers:
            backbone = self.backbone()
            trained = layer_list(backbone)[self.frozen_layers :]
            backbone.eval()
            trained.train()
        return self

    def compute_in_fp32(self: Any) -> Any:
        """Convert the weights to fp32 and do all arithmetic in it."""
        self.autocast = None
        return self.float()

    def run_frozen_layers(
        self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, prefix: PromptPrefix | None = None
    ) -> torch.Tensor:
        """Return the states after the frozen layers, `[batch, length + extra_tokens, size]`.

        Args:
            prefix: prefix that the tokens continue, with the keys and values of the frozen layers.
        """
        mask, past = continue_prefix(prefix, attention_mask)
        return self.run(input_ids, mask, None, stop=self.frozen_layers, **past)

    def run(
        self: Any,
        input_ids: torch.Tensor | None,
        attention_mask: Any,
        states: torch.Tensor | None,
        *,
        start: int | None = None,
        stop: int | None = None,
        positions: torch.Tensor | None = None,
        **inputs: Any,
    ) -> torch.Tensor:
        """Return hidden states of the layers before `stop`, or of all layers, from tokens or from states.

        Args:
            start: the layer that takes the states; None is the first one that trains.
            positions: the positions of the top layer to compute, `[batch, positions]`; None is all of them.
        """
        first = 0 if states is None else (self.frozen_layers if start is None else start)
        last = self.config.num_hidden_layers if stop is None else stop
        whole = last if positions is None else last - 1  # all positions are needed up to this layer
        if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2 and first < whole:
            cache = inputs.get("past_key_values")
            computed = fused.padded_states(self, range(first, whole), input_ids, attention_mask, states, cache)
            if computed is not None and positions is None:
                return computed
            if computed is not None:
                input_ids, states, first = None, computed, whole
        part = self.layers(states is None, first, last)
        if positions is not None:
            part = fused.last_token_layer(part, positions)
        with self.arithmetic():
            return part(input_ids, attention_mask=attention_mask, inputs_embeds=states, **inputs).last_hidden_state

    def layers(self: Any, from_tokens: bool, first: int, last: int) -> Any:
        """Return the backbone with the layers from `first` to before `last`, without a pooler: heads are in fp32."""
        part = without_pooler(self.backbone())
        if from_tokens and last == self.config.num_hidden_layers:
            return part
        return view(part, None if from_tokens else first, last)

    def reads_last_token_only(self: Any) -> bool:
        """Whether the top layer is computed only for the tokens that the head reads."""
        return fused.supports_last_token(self.config) and not self.all_states

    def arithmetic(self: Any) -> AbstractContextManager[Any]:
        """Return an autocast context if the weights are in fp32 and the arithmetic is done in another type."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


def continue_prefix(prefix: PromptPrefix | None, attention_mask: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the mask of prefix and rows, `[batch, prefix + length]`, and the options that pass on the prefix's cache.

    Args:
        attention_mask: mask of the rows without the prefix, `[batch, length]`.
    """
    if prefix is None:
        return attention_mask, {}
    mask = torch.cat([attention_mask.new_ones(len(attention_mask), len(prefix.tokens)), attention_mask], dim=1)
    return mask, {"past_key_values": prefix.cache(len(mask)), "use_cache": True}


def pad_right(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move each row's real tokens to its start, in their order, so that no position depends on the padding's side.

    >>> pad_right(torch.tensor([[0, 0, 7, 8]]), torch.tensor([[0, 0, 1, 1]]))[0].tolist()
    [[7, 8, 0, 0]]
    """
    # An exported graph can't branch on values; its inputs are padded on the right.
    if torch.compiler.is_exporting() or bool(attention_mask[:, 0].all()):
        return input_ids, attention_mask
    order = attention_mask.argsort(dim=1, descending=True, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


class PooledClassification(_Network):
    """Mixin over Transformers' classifiers that applies the head to one pooled state, never to every position.

    Args:
        pooling: `first`, `last`, `mean`, or `own` for what Transformers' classifier of this architecture does.
        head_name: attribute of the head; not used with the pooling `own`.
    """

    def __init__(self: Any, config: PretrainedConfig, *, pooling: str, head_name: str, **attributes: Any) -> None:
        super().__init__(config, **attributes)
        self.pooling = pooling
        self.head_name = head_name

    def forward(
        self: Any,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        prefix: PromptPrefix | None = None,
        owners: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        pooling_weights: torch.Tensor | None = None,
        **unused: Any,
    ) -> SequenceClassifierOutput:
        """Return logits `[batch, num_labels]` in fp32 for tokens `[batch, length]`, or for states.

        Args:
            states: states after the frozen layers, `[batch, length, size]`, instead of tokens.
            prefix: prefix that the tokens continue.
            owners, position_ids, pooling_weights: of packed rows, as `SequencePacking.collate` returns them.
        """
        if owners is not None and position_ids is not None and pooling_weights is not None:
            computed = fused.packed_states(self, input_ids, owners, position_ids, states)
            if computed is not None:
                hidden, unpadded = computed
                return self._classified(unpadded.pooling_weights(pooling_weights) @ hidden[0].float())
            visible = packed_visibility(owners, encoder=ARCHITECTURES[self.config.model_type].encoder)
            masks = model_masks(self.config, visible, position_ids, self.autocast or self.dtype)
            numbers = position_ids + first_position(self.config)
            hidden = self.run(input_ids if states is None else None, masks, states, position_ids=numbers).float()
            return self._classified(pooling_weights @ hidden.flatten(0, 1))
        assert attention_mask is not None, "padding can't be told from tokens without the mask"
        if input_ids is not None and states is None:
            input_ids, attention_mask = pad_right(input_ids, attention_mask)
        mask, past = continue_prefix(prefix, attention_mask)
        tokens = input_ids if states is None else None
        if self.pooling == "last" and self.reads_last_token_only():
            positions = last_position(attention_mask).unsqueeze(1)  # [batch, 1]
            return self._classified(self.run(tokens, mask, states, positions=positions, **past)[:, 0].float())
        hidden = self.run(tokens, mask, states, **past).float()
        if self.pooling == NATIVE_HEADS:
            return SequenceClassifierOutput(logits=native_head_logits(self, hidden, attention_mask))
        if prefix is not None:
            before = prefix.hidden.expand(len(mask), -1, -1)
            hidden = torch.cat([before, hidden], dim=1)  # [batch, prefix + length, size]
        return self._classified(pool(hidden, mask, self.pooling))

    def _classified(self: Any, pooled: torch.Tensor) -> SequenceClassifierOutput:
        """Apply the head to pooled states, `[batch, size]`."""
        return SequenceClassifierOutput(logits=getattr(self, self.head_name)(pooled))


class LabelScoring(_Network):
    """Mixin over Transformers' causal language models that gives each label word's score as its logit.

    Args:
        label_words: the label words as tokens.
        score_by: `sum` or `mean`, or the prior that the sum is corrected by.
        pad_id: id of the padding token.
        prior: subtracted from the scores of every row, `[num_labels]`; None subtracts nothing.
    """

    def __init__(
        self: Any,
        config: PretrainedConfig,
        *,
        label_words: LabelWords,
        score_by: str,
        pad_id: int,
        prior: list[float] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(config, **attributes)
        self.label_words = label_words
        self.score_by = score_by
        self.pad_id = pad_id
        self.prior = prior

    @property
    def extra_tokens(self: Any) -> int:  # type: ignore[override]
        """Number of nodes of the label words' tree, which follow each prompt in the layers."""
        return len(self.label_words.nodes)

    def subtract(self: Any, prior: list[float] | None) -> None:
        """Subtract a prior, `[num_labels]`, from all scores from now on: it is measured with the network itself."""
        self.prior = prior

    def run_frozen_layers(
        self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, prefix: PromptPrefix | None = None
    ) -> torch.Tensor:
        """Return the states after the frozen layers, `[batch, length + extra_tokens, size]`.

        Args:
            prefix: always None: trees of label words have no shared prefix.
        """
        packed = pack_tree(input_ids, attention_mask, self.label_words, self.pad_id)
        return self._run_packed(packed, attention_mask, None, stop=self.frozen_layers)

    def forward(
        self: Any,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        **unused: Any,
    ) -> SequenceClassifierOutput:
        """Return scores `[batch, num_labels]` in fp32 for prompts `[batch, length]`, or for states.

        Args:
            states: states after the frozen layers, `[batch, length + extra_tokens, size]`, instead of tokens.
        """
        assert attention_mask is not None, "padding can't be told from tokens without the mask"
        if states is not None or input_ids is None:
            input_ids = torch.zeros_like(attention_mask)  # not read, because the states are given
        else:
            input_ids, attention_mask = pad_right(input_ids, attention_mask)
        packed = pack_tree(input_ids, attention_mask, self.label_words, self.pad_id)
        positions = packed.state_positions if self.reads_last_token_only() else None
        hidden = self._run_packed(packed, attention_mask, states, positions=positions)
        scored = packed.states(hidden) if positions is None else hidden  # [batch, 1 + nodes, size]
        softcap = getattr(self.config, "final_logit_softcapping", None)
        project = vocabulary_logits(self.get_output_embeddings().weight, softcap)
        scores = log_probabilities(scored, project, self.label_words)
        logits = normalise(scores, self.label_words, "mean" if self.score_by == "mean" else "sum")
        return SequenceClassifierOutput(logits=logits if self.prior is None else logits - logits.new_tensor(self.prior))

    def _run_packed(
        self: Any, packed: PackedTree, attention_mask: torch.Tensor, states: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        # Without a tree the usual mask suffices, which every attention kernel supports.
        tree = bool(self.label_words.nodes)
        dtype = self.autocast or self.dtype
        masks = model_masks(self.config, packed.visible, packed.position_ids, dtype) if tree else attention_mask
        ids = packed.input_ids if states is None else None
        return self.run(ids, masks, states, position_ids=packed.position_ids, **options)


def head_parts(network: Network) -> list[str]:
    """Return the names of a classifier's parts that form its head: all but the backbone, and the backbone's pooler."""
    backbone = getattr(network, network.base_model_prefix)
    parts = [name for name, module in network.named_children() if module is not backbone and _has_weights(module)]
    if isinstance(getattr(backbone, "pooler", None), nn.Module):
        parts.append(f"{network.base_model_prefix}.pooler")
    return parts


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def shared_prefix(network: Network, encoder: Encoder, *, stop: int | None = None) -> PromptPrefix | None:
    """Run the layers once over the common prefix of all prompts, and keep its keys, values and states.

    Args:
        stop: the layer to stop before; None runs all of them.

    Returns:
        None if the prefix is short, and for encoders, whose states depend on the tokens that follow.
    """
    inner = unwrap(network)
    parts = architecture_of(inner.config)
    if not isinstance(inner, PooledClassification) or parts is None or parts.encoder or inner.pooling == NATIVE_HEADS:
        return None
    tokens = prefix_tokens(encoder)
    if not tokens:
        return None
    ids = torch.tensor([tokens], device=inner.device)

    def run(_: list[int]) -> PromptPrefix:
        cache = DynamicCache()
        hidden = inner.run(ids, torch.ones_like(ids), None, stop=stop, past_key_values=cache, use_cache=True)
        keys_and_values = [(layer.keys, layer.values) for layer in cache.layers]
        return PromptPrefix(tokens=tokens, keys_and_values=keys_and_values, hidden=hidden[0].float())

    (prefix,) = run_in_threads(run, [[0]], inner.device, sharing=False)
    return prefix
