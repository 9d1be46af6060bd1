"""Kernels: a decoder's layer, and its pass back written out for layers whose own weights do not train.

Between two matrix products Transformers' layers leave much that a CPU then waits for: copies of the keys for every
head, a pass over all states for each small operation, adapters in fp32 beside weights in bf16. Here an adapter is a few
more inputs of the product itself, residuals are added by the products, and nothing is kept that the pass back does not
need. It is the same arithmetic, added up in another order; docs/log.md has what it gains.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from labeltune.products import Product, add_product, back, joined, total_rank

Extend = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From the keys and values of a batch to those of all that it sees."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A layer's weights."""

    norms: tuple[tuple[torch.Tensor, float], ...]
    """Weight and epsilon of the norm before attention and of the one before the MLP."""
    attention: tuple[Product, ...]
    """Queries, keys, values, output."""
    mlp: tuple[Product, ...]
    """Gate, up, down, without adapters."""
    size: int
    """Of a head."""
    scale: float
    """What scores are multiplied by."""


def layer_states(
    x: torch.Tensor,
    parts: Parts,
    mask: torch.Tensor | None,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    *,
    extend: Extend | None = None,
    kept: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """States behind a layer of the states before it, both `[batch, length, width]`; no gradient is noted.

    Args:
        mask: added to the scores, `[batch or 1, 1, length, keys]`.
        cosines, sines: of the positions, `[batch or 1, 1, length, size / 2]`.
        kept: filled with what the pass back needs.
    """
    batch, length, width = x.shape
    *reading, output = parts.attention
    x = x.reshape(-1, width)  # [tokens, width]
    h = x.new_empty(len(x), width + total_rank(reading))
    r1 = _normalise(x, *parts.norms[0], into=h[:, :width])
    if kept is None and h.shape[1] == width:
        wide = down = h
        q, k, v = (functional.linear(h, part.weight, part.bias) for part in reading)
    else:
        wide, down = joined(reading, h)
        biases = [part.bias for part in reading if part.bias is not None]
        together = functional.linear(h, wide, torch.cat(biases) if biases else None)
        q, k, v = torch.split(together, [len(part.weight) for part in reading], dim=1)
    q, k, v = (part.view(batch, length, -1, parts.size).transpose(1, 2) for part in (q, k, v))
    q, k = _rotated(q, cosines, sines).mul_(parts.scale), _rotated(k, cosines, sines)
    if extend is not None:
        k, v = extend(k, v)
    heads, keys = k.shape[1:3]
    q = q.view(batch * heads, -1, parts.size)  # [batch * heads, groups * length, size]
    k, v = (part.reshape(batch * heads, keys, parts.size) for part in (k, v))
    scores = torch.bmm(q, k.transpose(1, 2))  # [batch * heads, groups * length, keys]
    if mask is not None:
        scores.view(batch, -1, length, keys).add_(mask)
    # PyTorch's softmax of bf16 takes twice as long as one in fp32 and a conversion.
    shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(x.dtype)

    inputs = output.weight.shape[1]
    read = x.new_empty(len(x), inputs + output.rank)
    by_head = torch.bmm(shares, v).view(batch, -1, length, parts.size)
    read[:, :inputs].view(batch, length, -1, parts.size).copy_(by_head.transpose(1, 2))
    out, down_out = joined([output], read)
    middle = add_product(x, read, out, output.bias)

    gate, up, last = parts.mlp
    h2 = torch.empty_like(middle)
    r2 = _normalise(middle, *parts.norms[1], into=h2)
    opening, raised = (functional.linear(h2, part.weight, part.bias) for part in (gate, up))  # [tokens, inner]
    opened = functional.silu(opening)
    if kept is None:
        inner = opened.mul_(raised)
    else:
        kept += [x, r1, h, wide, down, q, k, v, shares, read, out, down_out, middle, r2, opening, raised, opened]
        inner = opened * raised
    return add_product(middle, inner, last.weight, last.bias).view(batch, length, width)


def adapted_layer(
    x: torch.Tensor, parts: Parts, mask: torch.Tensor | None, cosines: torch.Tensor, sines: torch.Tensor
) -> torch.Tensor:
    """What `layer_states` gives, with gradients for the states and the adapters, and for no other weight."""
    adapters = [weight for part in parts.attention for weight in (part.down, part.up)]
    states: torch.Tensor = _Adapted.apply(x, parts, mask, cosines, sines, *adapters)  # type: ignore[no-untyped-call]
    return states


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, parts: Parts, mask: Any, cosines: Any, sines: Any, *_: Any) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        states = layer_states(x, parts, mask, cosines, sines, kept=kept)
        ctx.save_for_backward(*kept, cosines, sines)
        ctx.parts, ctx.batch = parts, len(x)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        *kept, opening, raised, opened, cosines, sines = ctx.saved_tensors
        x, r1, h, wide, down, q, k, v, shares, read, out, down_out, middle, r2 = kept
        parts, batch, wanted = ctx.parts, ctx.batch, ctx.needs_input_grad[0]
        *reading, output = parts.attention
        gate, up, last = parts.mlp
        width, length, size = x.shape[1], len(x) // batch, parts.size
        dy = gradients[0].reshape(-1, width)

        d_inner = dy @ last.weight  # [tokens, inner]
        d_raised = d_inner * opened
        d_opening = torch.ops.aten.silu_backward(d_inner.mul_(raised), opening)
        d_h2 = torch.addmm(d_opening @ gate.weight, d_raised, up.weight)
        d_middle = _normalise_back(d_h2, middle, r2, parts.norms[1][0]).add_(dy)

        d_read, d_output = back(d_middle, read, out, down_out, [output])
        by_head = d_read.view(batch, length, -1, size).transpose(1, 2).reshape(q.shape)
        d_shares = torch.bmm(by_head, v.transpose(1, 2))
        d_scores = torch.ops.aten._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        d_q, d_k = torch.bmm(d_scores, k).mul_(parts.scale), torch.bmm(d_scores.transpose(1, 2), q)
        d_v = torch.bmm(shares.transpose(1, 2), by_head)

        d_qkv = x.new_empty(len(x), len(wide))
        heads = d_qkv.view(batch, length, -1, size).transpose(1, 2)  # [batch, heads, length, size]
        for_q, for_k, for_v = torch.split(heads, [len(part.weight) // size for part in reading], dim=1)
        _rotate(d_q.view(for_q.shape), cosines, -sines, into=for_q)
        _rotate(d_k.view(for_k.shape), cosines, -sines, into=for_k)
        for_v.copy_(d_v.view(for_v.shape))
        d_h, d_reading = back(d_qkv, h, wide, down, reading, inputs=wanted)
        d_x = None
        if wanted:
            d_x = _normalise_back(d_h, x, r1, parts.norms[0][0]).add_(d_middle).view(batch, length, width)
        return d_x, None, None, None, None, *d_reading, *d_output


def _normalise(x: torch.Tensor, weight: torch.Tensor, epsilon: float, *, into: torch.Tensor) -> torch.Tensor:
    """Divide by the root mean square (Zhang and Sennrich 2019); returns what was multiplied by, `[tokens, 1]`, fp32."""
    wide = x.float()
    squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    factor = squares.div_(x.shape[1]).add_(epsilon).rsqrt_()
    torch.mul((wide * factor).to(x.dtype), weight, out=into)
    return factor


def _normalise_back(dh: torch.Tensor, x: torch.Tensor, factor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient for what was normalised."""
    n = x.float().mul(factor)
    dn = (dh * weight).float()
    along = (dn * n).mean(dim=-1, keepdim=True)
    return dn.addcmul_(n, along, value=-1).mul_(factor).to(x.dtype)


def _rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotate pairs of features by their position (Su et al. 2021), `[batch, heads, length, size]`, contiguous."""
    return _rotate(x, cosines, sines, into=torch.empty_like(x, memory_format=torch.contiguous_format))


def _rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, *, into: torch.Tensor) -> torch.Tensor:
    """Likewise; a feature's pair is the one half a head further on."""
    (a, b), (first, second) = x.chunk(2, dim=-1), into.chunk(2, dim=-1)
    torch.mul(a, cosines, out=first)
    first.addcmul_(b, sines, value=-1)
    torch.mul(b, cosines, out=second)
    second.addcmul_(a, sines)
    return into
