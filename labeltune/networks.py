"""Networks: forward passes from tokens, or from the frozen trunk's states, to one logit per label."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from labeltune import fused, heads, tips
from labeltune.architectures import ARCHITECTURES, layer_list, view, without_pooler
from labeltune.candidates import Candidates, log_probabilities, normalise, vocabulary_logits
from labeltune.own_heads import OWN, own_logits
from labeltune.packing import Packed, model_masks, pack, seen_beside


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
            part = tips.tipped(part, places)
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
        return tips.able(self.config) and not self.every_state

    def arithmetic(self: Any) -> AbstractContextManager[Any]:
        """Autocast, where the weights are kept in fp32 and the arithmetic is done in another type."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


def behind(front: Any, attention_mask: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """The mask with the front's tokens before the row's, `[batch, front + length]`, and their keys and values."""
    if front is None:
        return attention_mask, {}
    mask = torch.cat([attention_mask.new_ones(len(attention_mask), len(front.tokens)), attention_mask], dim=1)
    return mask, {"past_key_values": front.cache(len(mask)), "use_cache": True}


def right_padded(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move each row's real tokens to the front, in their order, so that no position depends on the padding's side.

    >>> right_padded(torch.tensor([[0, 0, 7, 8]]), torch.tensor([[0, 0, 1, 1]]))[0].tolist()
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
            input_ids, attention_mask = right_padded(input_ids, attention_mask)
        mask, past = behind(front, attention_mask)
        tokens = input_ids if states is None else None
        if self.pooling == "last" and self.reads_tips():
            places = heads.last_position(attention_mask).unsqueeze(1)  # [batch, 1]
            tip = self.run(tokens, mask, states, places=places, **past)[:, 0].float()
            return SequenceClassifierOutput(logits=getattr(self, self.head_name)(tip))
        hidden = self.run(tokens, mask, states, **past).float()
        if self.pooling == OWN:
            return SequenceClassifierOutput(logits=own_logits(self, hidden, attention_mask))
        if front is not None:
            hidden = torch.cat([front.hidden.expand(len(mask), -1, -1), hidden], dim=1)  # [batch, front + length, size]
        pooled = heads.pool(hidden, mask, self.pooling)
        return SequenceClassifierOutput(logits=getattr(self, self.head_name)(pooled))


class LabelScoring(_Network):
    """Mixin over Transformers' causal language models that gives each label word's score as its logit.

    Attributes that `models.load_network` and `priors` set:
        candidates: the label words as tokens.
        score_by: `sum` or `mean`, or what prior the sum is corrected by.
        prior: to be taken off every row's scores, `[num_labels]`, or None.
        pad_id: token that fills up batches.
    """

    candidates: Candidates
    score_by: str
    prior: list[float] | None = None
    pad_id: int

    @property
    def extra_tokens(self) -> int:  # type: ignore[override]
        """Tokens that each row has in the layers beyond its prompt: the nodes of the label words' tree."""
        return len(self.candidates.nodes)

    def trunk(self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, front: None = None) -> torch.Tensor:
        """States behind the trunk, `[batch, length + extra_tokens, size]`; trees of label words have no front."""
        packed = pack(input_ids, attention_mask, self.candidates, self.pad_id)
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
            input_ids, attention_mask = right_padded(input_ids, attention_mask)
        packed = pack(input_ids, attention_mask, self.candidates, self.pad_id)
        places = packed.state_positions if self.reads_tips() else None
        hidden = self._run_packed(packed, attention_mask, states, places=places)
        read = packed.states(hidden) if places is None else hidden  # [batch, 1 + nodes, size]
        softcap = getattr(self.config, "final_logit_softcapping", None)
        project = vocabulary_logits(self.get_output_embeddings().weight, softcap)
        scores = log_probabilities(read, project, self.candidates)
        logits = normalise(scores, self.candidates, "mean" if self.score_by == "mean" else "sum")
        return SequenceClassifierOutput(logits=logits if self.prior is None else logits - logits.new_tensor(self.prior))

    def _run_packed(
        self: Any, packed: Packed, attention_mask: torch.Tensor, states: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        # Without a tree the usual mask does, which every attention kernel takes.
        tree = bool(self.candidates.nodes)
        dtype = self.autocast or self.dtype
        masks = model_masks(self.config, packed.seen, packed.position_ids, dtype) if tree else attention_mask
        ids = packed.input_ids if states is None else None
        return self.run(ids, masks, states, position_ids=packed.position_ids, **options)
