"""Candidates: label words of any number of tokens, all scored in one forward pass with their prompt.

log p(label | prompt) is the sum of log p(token | prompt, tokens before it). The states it needs are the prompt's last
and one for every proper prefix of a label; prefixes that labels share are one node of a tree, which `packing` puts
behind the prompt.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from labeltune.errors import UserError
from labeltune.labels import LabelSet

STATES_AT_ONCE = 256
ADVICE = "set 'verbalizer' in the data set's file to other words, or train.head: linear"

Project = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A proper prefix of a label's tokens, of which it adds the last token."""

    token: int
    """Token id that the model reads at this node."""
    parent: int
    """Index of the node before it, -1 for the prompt."""
    depth: int
    """Tokens of the prefix, from 1."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The label words as tokens, and the tree of their proper prefixes.

    State 0 is the prompt's last token, state i + 1 is node i.
    """

    tokens: tuple[tuple[int, ...], ...]
    """Token ids per label, in label order, with the end token where `ended`; none is a prefix of another."""
    nodes: tuple[Node, ...]
    """Every proper prefix once, parents first; none where all labels have one token."""
    steps: tuple[tuple[tuple[int, int], ...], ...]
    """Per label and token: (the state that predicts it, the token)."""
    ended: bool
    """Whether every label ends with the end-of-text token."""

    @classmethod
    def of(cls, tokens: Sequence[Sequence[int]], *, ended: bool = False) -> "Candidates":
        """Build the tree.

        >>> candidates = Candidates.of([[7, 8, 9], [7, 8, 4], [7, 5], [6]])
        >>> [(node.token, node.parent, node.depth) for node in candidates.nodes]
        [(7, -1, 1), (8, 0, 2)]
        >>> candidates.steps
        (((0, 7), (1, 8), (2, 9)), ((0, 7), (1, 8), (2, 4)), ((0, 7), (1, 5)), ((0, 6),))
        """
        found: dict[tuple[int, ...], int] = {(): -1}
        nodes: list[Node] = []
        steps = []
        for label in map(tuple, tokens):
            for depth in range(1, len(label)):
                if label[:depth] not in found:
                    found[label[:depth]] = len(nodes)
                    nodes.append(Node(token=label[depth - 1], parent=found[label[: depth - 1]], depth=depth))
            steps.append(tuple((found[label[:i]] + 1, token) for i, token in enumerate(label)))
        return cls(tokens=tuple(map(tuple, tokens)), nodes=tuple(nodes), steps=tuple(steps), ended=ended)


def label_candidates(
    tokenizer: PreTrainedTokenizerBase, labels: LabelSet, cue: str, *, first_token: bool = False
) -> Candidates:
    """Tokenize each label's word as it follows the cue.

    A word in a script that puts spaces between words gets a space in front, unless the cue ends in white space: after
    `Label:` comes ` spam`, after `答案：` comes `正面`. Where one word's tokens begin another's, as ` spam` begins
    ` spam link`, every word gets the end-of-text token: p(spam link) could never exceed p(spam) without it.

    Args:
        first_token: let the first token of each word stand for it.

    Raises:
        UserError: words without tokens, with the same tokens, or in need of an end token that the tokenizer lacks.
    """
    tokens = [_follow(tokenizer, word, cue)[: 1 if first_token else None] for word in labels.words]
    shown = [
        f"{name!r}: {tokenizer.convert_ids_to_tokens(ids)}" for name, ids in zip(labels.names, tokens, strict=True)
    ]
    problems = [f"no tokens: {text}" for text, ids in zip(shown, tokens, strict=True) if not ids]
    owners: dict[tuple[int, ...], list[str]] = {}
    for ids, text in zip(tokens, shown, strict=True):
        owners.setdefault(tuple(ids), []).append(text)
    problems += [f"the same tokens: {'; '.join(texts)}" for ids, texts in owners.items() if ids and len(texts) > 1]
    if problems:
        raise UserError(f"train.head: label_scoring can't use these label words: {'; '.join(problems)}; {ADVICE}")
    begun = [
        f"{owners[ids[:length]][0]} begins {texts[0]}"
        for ids, texts in owners.items()
        for length in range(1, len(ids))
        if ids[:length] in owners
    ]
    end = tokenizer.eos_token_id
    if begun and end is None:
        raise UserError(
            "train.head: label_scoring can't tell a label word from a longer one that begins with it, as this "
            f"model's tokenizer has no end-of-text token: {'; '.join(begun)}; {ADVICE}"
        )
    return Candidates.of([[*ids, end] for ids in tokens] if begun else tokens, ended=bool(begun))


def _follow(tokenizer: PreTrainedTokenizerBase, word: str, cue: str) -> list[int]:
    """Tokens of a word after the cue; none for a blank word."""
    if not word.strip():
        return []
    spaced = word if cue[-1:].isspace() or _is_wide(word[0]) else f" {word}"

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    # Alone, SentencePiece's tokenizers (Llama 2, Mistral) put one more space in front of the first word.
    before, whole = ids(cue), ids(cue + spaced)
    return whole[len(before) :] if whole[: len(before)] == before else ids(spaced)


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in ("W", "F")


def vocabulary_logits(weight: torch.Tensor, softcap: float | None = None) -> Project:
    """Return the function from states to logits of the whole vocabulary, for output rows `[vocabulary, size]`.

    The rows' dtype is that of the product. `softcap` is `final_logit_softcapping` of Gemma's configuration.
    """

    def project(states: torch.Tensor) -> torch.Tensor:
        logits = functional.linear(states.to(weight.dtype), weight).float()
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    return project


def log_probabilities(states: torch.Tensor, project: Project, candidates: Candidates) -> torch.Tensor:
    """Return log p(label | prompt), `[batch, num_labels]` in fp32, of states `[batch, 1 + nodes, size]`.

    Args:
        project: from states `[..., size]` to logits `[..., vocabulary]`.
    """
    edges = {step: i for i, step in enumerate(dict.fromkeys(step for label in candidates.steps for step in label))}
    edge_states = torch.tensor([state for state, _ in edges], device=states.device)
    edge_tokens = torch.tensor([token for _, token in edges], device=states.device)
    longest = max(map(len, candidates.tokens))
    path = torch.tensor(  # [num_labels, longest]; the edge after the last counts nothing
        [[edges[step] for step in label] + [len(edges)] * (longest - len(label)) for label in candidates.steps],
        device=states.device,
    )

    def score(part: torch.Tensor) -> torch.Tensor:
        logits = project(part).float()  # [rows, 1 + nodes, vocabulary]
        return logits[:, edge_states, edge_tokens] - logits.logsumexp(2)[:, edge_states]  # [rows, edges]

    # A graph has no gradient to keep anything for, and must not depend on the batch's size.
    whole = torch.compiler.is_exporting()
    parts = [states] if whole else states.chunk(-(-states.shape[0] * states.shape[1] // STATES_AT_ONCE))
    # Logits are the largest tensors by far: of 256 states and Gemma's vocabulary 268 MB, so keep none for the gradient.
    scored: list[Any] = (
        [score(parts[0])]
        if len(parts) == 1
        else [checkpoint(score, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    )
    return functional.pad(torch.cat(scored), (0, 1))[:, path].sum(2)


def normalise(scores: torch.Tensor, candidates: Candidates, how: str) -> torch.Tensor:
    """Turn log probabilities `[batch, num_labels]` into scores: their `sum` as it is, or the `mean` of the tokens.

    The mean, which the end token counts in too, takes from long words the disadvantage of having more factors.

    >>> normalise(torch.tensor([[-6.0, -4.0]]), Candidates.of([[7, 8, 9], [5]]), "mean").tolist()
    [[-2.0, -4.0]]
    """
    if how == "sum":
        return scores
    assert how == "mean", f"unknown normalisation {how!r}"
    return scores / torch.tensor([len(ids) for ids in candidates.tokens], device=scores.device)
