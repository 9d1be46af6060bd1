"""Heads: from a pooled hidden state to one logit per label."""

import torch
from torch import nn

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
