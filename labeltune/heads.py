"""Heads: from a pooled hidden state to one logit per label."""

import unicodedata

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from labeltune.errors import UserError
from labeltune.labels import LabelSet

MLP_SIZES = (512, 256)


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Reduce hidden states `[batch, length, size]` to one per row, `[batch, size]`.

        tokens  a b c . .      last: c        mean: (a + b + c) / 3
        mask    1 1 1 0 0

    The mask decides what is padding, so that a real token equal to the pad token still counts, on either side.
    """
    if pooling == "mean":
        weights = attention_mask.unsqueeze(-1).float()  # [batch, length, 1]
        return (hidden.float() * weights).sum(1) / weights.sum(1)
    positions = torch.arange(attention_mask.shape[1], device=hidden.device)
    last = (attention_mask * positions).argmax(1)  # [batch]
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


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


def label_tokens(
    tokenizer: PreTrainedTokenizerBase, labels: LabelSet, cue: str, *, first_token_labels: bool = False
) -> list[int]:
    """Return the token that stands for each label's word right after the cue, `[num_labels]`.

    A word in a script that puts spaces between words is scored with a space in front, unless the cue ends in white
    space: after `Label:` comes ` spam`, after `答案：` comes `正面`.

    Raises:
        UserError: a word takes several tokens (unless `first_token_labels`), or two words share their token.
    """
    pieces = {}
    for name, word in zip(labels.names, labels.words, strict=True):
        spaced = word if cue[-1:].isspace() or _is_wide(word[0]) else f" {word}"
        pieces[name] = tokenizer(spaced, add_special_tokens=False)["input_ids"]
    shown = "; ".join(f"{name!r}: {tokenizer.convert_ids_to_tokens(ids)}" for name, ids in pieces.items())
    advice = (
        "set 'verbalizer' in the data set's file to words of one token each, train.first_token_labels: true where the "
        "first tokens differ, or train.head: linear"
    )
    if not first_token_labels and any(len(ids) != 1 for ids in pieces.values()):
        raise UserError(f"train.head: label_scoring needs label words of one token, and these are: {shown}; {advice}")
    tokens = [ids[0] for ids in pieces.values()]
    if len(set(tokens)) < len(tokens):
        raise UserError(
            f"train.head: label_scoring can't tell labels with the same first token apart: {shown}; {advice}"
        )
    return tokens


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in ("W", "F")
