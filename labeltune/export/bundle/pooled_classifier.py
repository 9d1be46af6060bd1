"""A Transformers model with a head on pooled states, for classifiers that Transformers has no class for.

The file is in the folder of the weights: `AutoModelForSequenceClassification.from_pretrained(folder,
trust_remote_code=True)` loads it and needs only Transformers.
"""

import itertools
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class PooledConfig(PreTrainedConfig):
    """Configuration of a backbone, and of the head on it."""

    model_type = "pooled-classifier"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        pooling: str = "mean",
        widths: list[int] | None = None,
        bias: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.backbone = backbone or {}
        self.pooling = pooling
        self.widths = widths or []
        self.bias = bias


class PooledClassifier(PreTrainedModel):
    """A backbone whose states are pooled (`first`, `last` or `mean`), and a head of linear layers with ReLU between."""

    config_class = PooledConfig
    base_model_prefix = "backbone"

    def __init__(self, config: PooledConfig) -> None:
        super().__init__(config)
        inner = AutoConfig.for_model(**config.backbone)
        self.backbone = AutoModel.from_config(inner)
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None
        sizes = [inner.hidden_size, *config.widths, config.num_labels]
        self.head = nn.ModuleList(nn.Linear(a, b, bias=config.bias) for a, b in itertools.pairwise(sizes))
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **unused: Any
    ) -> SequenceClassifierOutput:
        """Return logits `[batch, num_labels]` for tokens `[batch, length]`, padded on the right."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.backbone(input_ids=input_ids, attention_mask=mask).last_hidden_state  # [batch, length, size]
        if self.config.pooling == "mean":
            weights = mask.unsqueeze(2).float()
            pooled = (hidden.float() * weights).sum(1) / weights.sum(1)
        else:
            last = mask.sum(1) - 1 if self.config.pooling == "last" else torch.zeros_like(mask[:, 0])
            pooled = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        pooled = pooled.to(self.head[0].weight.dtype)  # [batch, size]
        for layer in self.head[:-1]:
            pooled = layer(pooled).relu()
        return SequenceClassifierOutput(logits=self.head[-1](pooled))
