"""Label scoring: log-probabilities of label words of any number of tokens, and contextual calibration of them."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from labeltune.data.labels import LabelSet
from labeltune.runtime.errors import UserError

STATES_AT_ONCE = 256
ADVICE = "set 'verbalizer' in the data set's file to other words, or train.head: linear"

Project = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the tree of label words: a proper prefix of a label's tokens, one token longer than its parent's."""

    token: int
    """Token id that the model reads at this node."""
    parent: int
    """Index of the node before it, -1 for the prompt."""
    depth: int
    """Tokens of the prefix, from 1."""


@dataclass(frozen=True, kw_only=True)
class LabelWords:
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
    def of(cls, tokens: Sequence[Sequence[int]], *, ended: bool = False) -> "LabelWords":
        """Build the tree.

        >>> words = LabelWords.of([[7, 8, 9], [7, 8, 4], [7, 5], [6]])
        >>> [(node.token, node.parent, node.depth) for node in words.nodes]
        [(7, -1, 1), (8, 0, 2)]
        >>> words.steps
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


def label_words(
    tokenizer: PreTrainedTokenizerBase, labels: LabelSet, cue: str, *, first_token: bool = False
) -> LabelWords:
    """Tokenize each label's word as it follows the cue.

    A word in a script that puts spaces between words gets a space in front, unless the cue ends in white space: after
    `Label:` comes ` spam`, after `答案：` comes `正面`. Where one word's tokens begin another's, as ` spam` begins
    ` spam link`, every word gets the end-of-text token: p(spam link) could never exceed p(spam) without it.

    Args:
        first_token: whether to score only the first token of each word.

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
    return LabelWords.of([[*ids, end] for ids in tokens] if begun else tokens, ended=bool(begun))


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


def log_probabilities(states: torch.Tensor, project: Project, words: LabelWords) -> torch.Tensor:
    """Return log p(label | prompt), `[batch, num_labels]` in fp32, of states `[batch, 1 + nodes, size]`.

    Args:
        project: from states `[..., size]` to logits `[..., vocabulary]`.
    """
    edges = {step: i for i, step in enumerate(dict.fromkeys(step for label in words.steps for step in label))}
    edge_states = torch.tensor([state for state, _ in edges], device=states.device)
    edge_tokens = torch.tensor([token for _, token in edges], device=states.device)
    longest = max(map(len, words.tokens))
    path = torch.tensor(  # [num_labels, longest]; the edge after the last counts nothing
        [[edges[step] for step in label] + [len(edges)] * (longest - len(label)) for label in words.steps],
        device=states.device,
    )

    def score(part: torch.Tensor) -> torch.Tensor:
        logits = project(part).float()  # [rows, 1 + nodes, vocabulary]
        return logits[:, edge_states, edge_tokens] - logits.logsumexp(2)[:, edge_states]  # [rows, edges]

    # An exported graph has no gradients, and must not depend on the batch size.
    whole = torch.compiler.is_exporting()
    parts = [states] if whole else states.chunk(-(-states.shape[0] * states.shape[1] // STATES_AT_ONCE))
    # Logits are the largest tensors by far: of 256 states and Gemma's vocabulary 268 MB, so keep none for the gradient.
    scored: list[Any] = (
        [score(parts[0])]
        if len(parts) == 1
        else [checkpoint(score, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    )
    return functional.pad(torch.cat(scored), (0, 1))[:, path].sum(2)


def normalise(scores: torch.Tensor, words: LabelWords, how: str) -> torch.Tensor:
    """Turn log probabilities `[batch, num_labels]` into scores: their `sum` as it is, or the `mean` of the tokens.

    The mean, which includes the end token, removes the disadvantage of long words, whose probability has more factors.

    >>> normalise(torch.tensor([[-6.0, -4.0]]), LabelWords.of([[7, 8, 9], [5]]), "mean").tolist()
    [[-2.0, -4.0]]
    """
    if how == "sum":
        return scores
    assert how == "mean", f"unknown normalisation {how!r}"
    return scores / torch.tensor([len(ids) for ids in words.tokens], device=scores.device)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedTree:
    """A batch of prompts, each followed by the nodes; `total` is the longest prompt and the nodes."""

    input_ids: torch.Tensor
    """`[batch, total]`, padded on the right."""
    position_ids: torch.Tensor
    """`[batch, total]`: a node's is that of its token in the text, 0 where there is padding."""
    state_positions: torch.Tensor
    """`[batch, 1 + nodes]`: where to read the prompt's last state and every node's."""
    visible: torch.Tensor
    """`[batch, total, total]`, bool: which key (last axis) a query sees, a padding query itself alone."""

    def states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Pick the states to score from, `[batch, 1 + nodes, size]`, of hidden states `[batch, total, size]`."""
        return hidden.gather(1, self.state_positions.unsqueeze(2).expand(-1, -1, hidden.shape[2]))


def pack_tree(input_ids: torch.Tensor, attention_mask: torch.Tensor, words: LabelWords, pad_id: int) -> PackedTree:
    """Append the nodes to each prompt; prompts and their mask are `[batch, length]`, padded on the right.

    A prompt `p q` with the labels `a b c`, `a b d` and `a d`, in a batch whose longest prompt has three tokens; the
    nodes are `a` and `a b`. Rows are queries, `x` is a key that is seen:

                   p q a b .    position
                 p x              0
          state  q x x            1         predicts a
          state  a x x x          2         predicts b, d
          state  b x x x x        3         predicts c, d
        padding  .         x      0

    >>> prompts = torch.tensor([[10, 11, 0], [20, 21, 22]])
    >>> packed = pack_tree(prompts, (prompts > 0).long(), LabelWords.of([[7, 8], [7, 9], [5, 6]]), pad_id=0)
    >>> packed.input_ids.tolist()
    [[10, 11, 7, 5, 0], [20, 21, 22, 7, 5]]
    >>> packed.position_ids.tolist()
    [[0, 1, 2, 2, 0], [0, 1, 2, 3, 3]]
    >>> packed.state_positions.tolist()
    [[1, 2, 3], [2, 3, 4]]
    >>> packed.visible[0].long().tolist()  # 5 does not see 7
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    """
    if not torch.compiler.is_exporting():  # an exported graph can't branch
        assert bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all()), "prompts must be padded on the right"
    device, nodes = input_ids.device, words.nodes
    count, total = len(nodes), input_ids.shape[1] + len(nodes)
    family = torch.zeros(count + 1, count + 1, dtype=torch.bool)  # [node, node or ancestor]; the last is no node
    for i, n in enumerate(nodes):
        if n.parent >= 0:
            family[i] = family[n.parent]
        family[i, i] = True
    tokens = torch.tensor([n.token for n in nodes] + [pad_id], device=device)
    depths = torch.tensor([n.depth for n in nodes] + [0], device=device)
    lengths = attention_mask.sum(1, keepdim=True)  # [batch, 1]
    places = torch.arange(total, device=device).unsqueeze(0)  # [1, total]
    node = torch.where((places >= lengths) & (places < lengths + count), places - lengths, count)  # [batch, total]
    in_prompt = places < lengths  # [batch, total]
    is_real = places < lengths + count
    padded = functional.pad(input_ids, (0, count), value=pad_id)
    node_positions = torch.where(is_real, lengths + depths[node] - 1, 0)
    causal = places.unsqueeze(2) >= places.unsqueeze(1)  # [1, query, key]
    return PackedTree(
        input_ids=torch.where(in_prompt, padded, tokens[node]),
        position_ids=torch.where(in_prompt, places, node_positions),
        state_positions=lengths - 1 + torch.arange(count + 1, device=device),
        visible=(causal & is_real.unsqueeze(2) & in_prompt.unsqueeze(1))
        | family.to(device)[node.unsqueeze(2), node.unsqueeze(1)]
        | torch.eye(total, dtype=torch.bool, device=device),
    )


CONTENT_FREE_TEXTS = ("N/A", "[MASK]", "")


def contextual_prior(scores: torch.Tensor) -> torch.Tensor:
    """Return the log of the labels' mean probability, `[num_labels]`, given content-free texts.

    Contextual calibration (Zhao et al. 2021, arXiv:2102.09690) with its three content-free inputs.

    Args:
        scores: of `CONTENT_FREE_TEXTS` in the full template, `[texts, num_labels]`.

    >>> contextual_prior(torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()).exp()
    tensor([0.7500, 0.2500])
    """
    return scores.log_softmax(1).logsumexp(0) - math.log(len(scores))


def pmi_prompt(back: str) -> str:
    """Return the prompt without text or instruction: the end of the template, which asks for the label.

    Raises:
        UserError: the template ends with the text.
    """
    if not back.strip():
        raise UserError(
            "prompt.template has nothing after {text}, and the 'pmi' prior is the labels' probability after those "
            "words alone; end the template with a cue such as '\\nLabel:', or choose another prior"
        )
    return back


def pmi_prior(scores: torch.Tensor) -> torch.Tensor:
    """Return log p(label | cue), `[num_labels]`.

    Domain-conditional pointwise mutual information (Holtzman et al. 2021, arXiv:2104.08315), a ratio of two
    probabilities of the same word, so that common words are not preferred.

    Args:
        scores: of `pmi_prompt` alone, `[1, num_labels]`.
    """
    return scores.squeeze(0)
