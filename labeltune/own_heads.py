"""Own heads: what Transformers' classifier of an architecture makes of hidden states that are known."""

import copy
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

OWN = "own"
"""The pooling of such a head."""


def own_logits(network: Any, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
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
