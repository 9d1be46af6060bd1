"""Packing: the tree of label tokens behind its prompt in one row, and the masks that keep its branches apart.

Each node sees the prompt, its ancestors and itself: tree attention, as in SpecInfer (Miao et al. 2023,
arXiv:2305.09781). It takes one forward pass and no cache, so that gradients flow through the prompt as well.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PretrainedConfig

from labeltune.candidates import Candidates
from labeltune.errors import UserError

MASK_PER_KIND_OF_LAYER = ("gemma3_text", "qwen2", "qwen3")
ONE_MASK = ("gpt2", "llama", "mistral")
BOTH_WAYS = ("bert",)
"""Encoders that take one mask, and positions that start anew in every row."""
FRONT, PADDING = -1, -2
"""Owners of tokens that belong to no row."""
KERNELS = ("eager", "sdpa")
"""Attention that takes such masks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """A batch of prompts with the nodes behind each; `total` is the longest prompt and the nodes."""

    input_ids: torch.Tensor
    """`[batch, total]`, padded on the right."""
    position_ids: torch.Tensor
    """`[batch, total]`: a node's is that of its token in the text, 0 where there is padding."""
    state_positions: torch.Tensor
    """`[batch, 1 + nodes]`: where to read the prompt's last state and every node's."""
    seen: torch.Tensor
    """`[batch, total, total]`, bool: which key (last axis) a query sees, a padding query itself alone."""

    def states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Pick the states to score from, `[batch, 1 + nodes, size]`, of hidden states `[batch, total, size]`."""
        return hidden.gather(1, self.state_positions.unsqueeze(2).expand(-1, -1, hidden.shape[2]))


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor, candidates: Candidates, pad_id: int) -> Packed:
    """Put the nodes behind each prompt; prompts and their mask are `[batch, length]`, padded on the right.

    A prompt `p q` with the labels `a b c`, `a b d` and `a d`, in a batch whose longest prompt has three tokens; the
    nodes are `a` and `a b`. Rows are queries, `x` is a key that is seen:

                   p q a b .    position
                 p x              0
          state  q x x            1         predicts a
          state  a x x x          2         predicts b, d
          state  b x x x x        3         predicts c, d
        padding  .         x      0

    >>> prompts = torch.tensor([[10, 11, 0], [20, 21, 22]])
    >>> packed = pack(prompts, (prompts > 0).long(), Candidates.of([[7, 8], [7, 9], [5, 6]]), pad_id=0)
    >>> packed.input_ids.tolist()
    [[10, 11, 7, 5, 0], [20, 21, 22, 7, 5]]
    >>> packed.position_ids.tolist()
    [[0, 1, 2, 2, 0], [0, 1, 2, 3, 3]]
    >>> packed.state_positions.tolist()
    [[1, 2, 3], [2, 3, 4]]
    >>> packed.seen[0].long().tolist()  # 5 does not see 7
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    """
    if not torch.compiler.is_exporting():  # a graph can't ask
        assert bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all()), "prompts must be padded on the right"
    device, nodes = input_ids.device, candidates.nodes
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
    behind = places.unsqueeze(2) >= places.unsqueeze(1)  # [1, query, key]
    return Packed(
        input_ids=torch.where(in_prompt, padded, tokens[node]),
        position_ids=torch.where(in_prompt, places, node_positions),
        state_positions=lengths - 1 + torch.arange(count + 1, device=device),
        seen=(behind & is_real.unsqueeze(2) & in_prompt.unsqueeze(1))
        | family.to(device)[node.unsqueeze(2), node.unsqueeze(1)]
        | torch.eye(total, dtype=torch.bool, device=device),
    )


def seen_beside(owners: torch.Tensor, *, encoder: bool = False) -> torch.Tensor:
    """Which key (last axis) a query sees where several rows share a bin, `[bins, total, total]`, bool.

    Of its own row and of the front those before it, and itself; in an encoder all of its own row.

    Args:
        owners: the row that a token belongs to, `FRONT` or `PADDING`, `[bins, total]`; an encoder's has no front.

    >>> seen_beside(torch.tensor([[FRONT, 0, 0, 1, PADDING]]))[0].long().tolist()
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    >>> seen_beside(torch.tensor([[0, 0, 1, PADDING]]), encoder=True)[0].long().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    """
    places = torch.arange(owners.shape[1], device=owners.device)
    query, key = owners.unsqueeze(2), owners.unsqueeze(1)
    if encoder:  # padding sees padding: of who sees nothing there is no softmax
        return query == key
    behind = places.unsqueeze(1) >= places  # [query, key]
    alike = (query == key) | ((key == FRONT) & (query >= 0))
    real = (query != PADDING) | (places.unsqueeze(1) == places)
    return alike & behind & real


def added_mask(
    seen: torch.Tensor, position_ids: torch.Tensor, dtype: torch.dtype, window: int | None = None
) -> torch.Tensor:
    """Return the mask to add to attention scores, `[batch, 1, queries, total]`: 0, or the least number of the dtype.

    Args:
        seen: which key (last axis) a query sees, `[batch, queries, total]`, bool.
        position_ids: `[batch, total]`; the queries are the last ones.
        window: a key is seen if it is less than this many positions back, as in Transformers' sliding window.
    """
    if window is not None:
        asking = position_ids[:, position_ids.shape[1] - seen.shape[1] :]
        back = asking.unsqueeze(2) - position_ids.unsqueeze(1)  # [batch, query, key]
        seen = seen & (back < window)
    added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return added.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)


def packable(config: PretrainedConfig) -> bool:
    """Whether the backbone is known to take such masks."""
    return config.model_type in (*ONE_MASK, *MASK_PER_KIND_OF_LAYER)


def require_packable(config: PretrainedConfig) -> None:
    """Refuse a model whose backbone is not known to take such masks.

    Raises:
        UserError: such an architecture.
    """
    if not packable(config):
        raise UserError(
            f"train.head: label_scoring can't score label words of several tokens with {config.model_type!r}; it can "
            f"with {', '.join(sorted((*ONE_MASK, *MASK_PER_KIND_OF_LAYER)))}"
        )


def model_masks(
    config: PretrainedConfig, seen: torch.Tensor, position_ids: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return what the backbone takes as `attention_mask`: one mask, or one per kind of layer.

    Args:
        seen: which key (last axis) a query sees, `[batch, queries, total]`, bool.
        position_ids: `[batch, total]`; the queries are the last ones.
        dtype: that of the queries, as PyTorch's attention takes no other.

    Raises:
        UserError: an architecture or an attention kernel that can't take such masks.
    """
    if config._attn_implementation not in KERNELS:
        raise UserError(
            f"train.attention: {config._attn_implementation} can't score label words of several tokens; set it to sdpa "
            "or eager"
        )
    if config.model_type in (*ONE_MASK, *BOTH_WAYS):
        return added_mask(seen, position_ids, dtype, getattr(config, "sliding_window", None))
    require_packable(config)
    windows = {"full_attention": None, "sliding_attention": config.sliding_window}
    return {kind: added_mask(seen, position_ids, dtype, windows[kind]) for kind in set(config.layer_types)}
