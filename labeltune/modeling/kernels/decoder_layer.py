"""Decoder-layer kernels: forward and backward passes of a layer with LoRA whose own weights do not train."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from labeltune.modeling.packing import UnpaddedBatch


@dataclass(frozen=True, kw_only=True)
class LoraLinear:
    """A linear layer, and the adapter beside it."""

    weight: torch.Tensor
    """W, `[outputs, inputs]`."""
    bias: torch.Tensor | None
    """`[outputs]`."""
    down: torch.Tensor | None = None
    """The adapter's A, `[rank, inputs]`."""
    up: torch.Tensor | None = None
    """Its B, `[outputs, rank]`."""
    scaling: float = 1.0
    """Its s."""

    @property
    def rank(self) -> int:
        """Of the adapter, 0 without one."""
        return 0 if self.down is None else len(self.down)


def total_rank(products: Sequence[LoraLinear]) -> int:
    """Ranks of all adapters."""
    return sum(part.rank for part in products)


def fuse_linears(products: Sequence[LoraLinear], h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Products of the same inputs as one.

    Args:
        h: inputs, `[tokens, inputs + ranks]`; the last ones, what the adapters' first halves give, are filled in here.

    Returns:
        The weights, `[outputs, inputs + ranks]`, and the adapters' first halves, `[ranks, inputs]`, in the type of `h`.
    """
    first, inputs = products[0].weight, products[0].weight.shape[1]
    downs = [part.down.to(h.dtype) for part in products if part.down is not None]
    if not downs and len(products) == 1:
        return first, first[:0]
    weight = first.new_zeros(sum(len(part.weight) for part in products), h.shape[1])
    row, column = 0, inputs
    for part in products:
        end = row + len(part.weight)
        weight[row:end, :inputs] = part.weight
        if part.up is not None:
            weight[row:end, column : column + part.rank] = part.up * part.scaling
        row, column = end, column + part.rank
    down = torch.cat(downs) if downs else first[:0]
    h[:, inputs:] = h[:, :inputs] @ down.t()
    return weight, down


def backward(
    dy: torch.Tensor,
    h: torch.Tensor,
    weight: torch.Tensor,
    down: torch.Tensor,
    products: Sequence[LoraLinear],
    *,
    inputs: bool = True,
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Gradients of joined products for their inputs, `[tokens, inputs]`, and for each adapter's A and B.

    Args:
        dy: for the outputs, `[tokens, outputs]`.
        h, weight, down: as `fuse_linears` left and gave them.
        inputs: whether the first are wanted; else they are not computed.
    """
    size = down.shape[1]
    d_h = dy @ (weight if inputs else weight[:, size:])  # [tokens, inputs + ranks], or the ranks alone
    d_low = d_h[:, d_h.shape[1] - len(down) :]  # [tokens, ranks]
    d_down, d_up = d_low.t() @ h[:, :size], dy.t() @ h[:, size:]  # [ranks, inputs], [outputs, ranks]
    found: list[torch.Tensor | None] = []
    row = column = 0
    for part in products:
        end, last = row + len(part.weight), column + part.rank
        if part.down is None or part.up is None:
            found += [None, None]
        else:
            found.append(d_down[column:last].to(part.down.dtype))
            found.append(d_up[row:end, column:last].to(part.up.dtype).mul_(part.scaling))
        row, column = end, last
    return (torch.addmm(d_h[:, :size], d_low, down) if inputs else d_h), found


def add_product(x: torch.Tensor, h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`x + W·h + bias`, in one product."""
    found = torch.addmm(x, h, weight.t())
    return found if bias is None else found.add_(bias)


@dataclass(frozen=True, kw_only=True)
class LayerParts:
    """A layer's weights."""

    norms: tuple[tuple[torch.Tensor, float], ...]
    """Weight and epsilon of the norm before attention and of the one before the MLP."""
    attention: tuple[LoraLinear, ...]
    """Queries, keys, values, output."""
    mlp: tuple[LoraLinear, ...]
    """Gate, up, down, without adapters."""
    size: int
    """Of a head."""
    scale: float
    """What scores are multiplied by."""


def layer_states(
    x: torch.Tensor,
    parts: LayerParts,
    line: UnpaddedBatch,
    mask: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    *,
    front: tuple[torch.Tensor, torch.Tensor] | None = None,
    kept: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """States behind a layer of the states before it, both `[tokens, width]`; no gradient is noted.

    Args:
        mask: added to the scores, `[blocks or 1, 1, length, keys]`.
        cosines, sines: of the positions, `[tokens, size / 2]`.
        front: keys and values that every block sees before its own, `[1, key heads, front, size]` each.
        kept: filled with what the pass back needs.
    """
    width, size, blocks = x.shape[1], parts.size, line.blocks
    *reading, output = parts.attention
    h = x.new_empty(len(x), width + total_rank(reading))
    r1 = _normalise(x, *parts.norms[0], into=h[:, :width])
    if kept is None and h.shape[1] == width:
        wide = down = h
        q, k, v = (functional.linear(h, part.weight, part.bias) for part in reading)
    else:
        wide, down = fuse_linears(reading, h)
        biases = [part.bias for part in reading if part.bias is not None]
        together = functional.linear(h, wide, torch.cat(biases) if biases else None)
        q, k, v = torch.split(together, [len(part.weight) for part in reading], dim=1)
    q = _rotated(_by_head(q, k.shape[1] // size, size), cosines.unsqueeze(1), sines.unsqueeze(1)).mul_(parts.scale)
    k = _rotated(_by_head(k, k.shape[1] // size, size)[:, :, 0], cosines, sines)  # [key heads, tokens, size]
    q = q.flatten(1, 2).index_select(1, line.asking)  # [key heads, blocks * groups * length, size]
    k, v = (part.index_select(1, line.keys) for part in (k, v.view(len(x), -1, size).transpose(0, 1)))
    q, k, v = (part.reshape(len(part) * blocks, -1, size) for part in (q, k, v))
    if front is not None:
        k, v = (_behind(before, part, blocks) for before, part in zip(front, (k, v), strict=True))
    scores = torch.bmm(q, k.transpose(1, 2))  # [key heads * blocks, groups * length, keys]
    scores.view(-1, blocks, q.shape[1] // mask.shape[2], *mask.shape[2:]).add_(mask)
    # PyTorch's softmax of bf16 takes twice as long as one in fp32 and a conversion.
    shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(x.dtype)

    inputs = output.weight.shape[1]
    read = x.new_empty(len(x), inputs + output.rank)
    answers = torch.bmm(shares, v).view(-1, len(line.asking), size).index_select(1, line.answered)
    _by_head(read[:, :inputs], len(answers), size).copy_(answers.view(len(answers), len(x), -1, size))
    out, down_out = fuse_linears([output], read)
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
    return add_product(middle, inner, last.weight, last.bias)


def adapted_layer(
    x: torch.Tensor,
    parts: LayerParts,
    line: UnpaddedBatch,
    mask: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
) -> torch.Tensor:
    """What `layer_states` gives, with gradients for the states and the adapters, and for no other weight."""
    adapters = [weight for part in parts.attention for weight in (part.down, part.up)]
    states: torch.Tensor = _Adapted.apply(x, parts, line, mask, cosines, sines, *adapters)  # type: ignore[no-untyped-call]
    return states


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, parts: LayerParts, line: UnpaddedBatch, mask: Any, cosines: Any, sines: Any, *_: Any
    ) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        states = layer_states(x, parts, line, mask, cosines, sines, kept=kept)
        ctx.save_for_backward(*kept, cosines, sines)
        ctx.parts, ctx.line = parts, line
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        *kept, opening, raised, opened, cosines, sines = ctx.saved_tensors
        x, r1, h, wide, down, q, k, v, shares, read, out, down_out, middle, r2 = kept
        parts, line, (dy,), wanted = ctx.parts, ctx.line, gradients, ctx.needs_input_grad[0]
        *reading, output = parts.attention
        gate, up, last = parts.mlp

        d_inner = dy @ last.weight  # [tokens, inner]
        d_raised = d_inner * opened
        d_opening = torch.ops.aten.silu_backward(d_inner.mul_(raised), opening)
        d_h2 = torch.addmm(d_opening @ gate.weight, d_raised, up.weight)
        d_middle = _normalise_back(d_h2, middle, r2, parts.norms[1][0]).add_(dy)

        d_read, d_output = backward(d_middle, read, out, down_out, [output])
        heads, size = len(k) // line.blocks, parts.size
        d_read = _by_head(d_read, heads, size).flatten(1, 2).index_select(1, line.asking).view(q.shape)
        d_shares = torch.bmm(d_read, v.transpose(1, 2))
        d_scores = torch.ops.aten._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        d_q, d_k = torch.bmm(d_scores, k).mul_(parts.scale), torch.bmm(d_scores.transpose(1, 2), q)
        d_v = torch.bmm(shares.transpose(1, 2), d_read)

        d_qkv = x.new_empty(len(x), len(wide))
        for_q, for_k, for_v = (
            _by_head(part, heads, size) for part in torch.split(d_qkv, [len(part.weight) for part in reading], dim=1)
        )  # [key heads, tokens, groups, size], of keys and values one group
        d_q = d_q.view(heads, -1, size).index_select(1, line.answered).view(for_q.shape)
        _rotate(d_q, cosines.unsqueeze(1), -sines.unsqueeze(1), into=for_q)
        _rotate(_gathered(d_k, line, heads), cosines, -sines, into=for_k[:, :, 0])
        for_v[:, :, 0] = _gathered(d_v, line, heads)
        d_qkv[line.real :] = 0  # nobody learns from what stands in
        d_h, d_reading = backward(d_qkv, h, wide, down, reading, inputs=wanted)
        d_x = _normalise_back(d_h, x, r1, parts.norms[0][0]).add_(d_middle) if wanted else None
        return d_x, None, None, None, None, None, *d_reading, *d_output


def _by_head(x: torch.Tensor, heads: int, size: int) -> torch.Tensor:
    """A view of `[tokens, heads * groups * size]` as `[heads, tokens, groups, size]`."""
    return x.view(len(x), heads, -1, size).transpose(0, 1)


def _behind(front: torch.Tensor, own: torch.Tensor, blocks: int) -> torch.Tensor:
    """What every block sees before its own, `[1, heads, front, size]`, and that, `[heads * blocks, keys, size]`."""
    before = front.transpose(0, 1).expand(-1, blocks, -1, -1).flatten(0, 1)
    return torch.cat([before, own], dim=1)


def _gathered(gradient: torch.Tensor, line: UnpaddedBatch, heads: int) -> torch.Tensor:
    """The gradient of a line's keys or values, `[heads, tokens, size]`, from `[heads * blocks, length, size]`."""
    found = gradient.view(heads, len(line.keys), -1).index_select(1, line.picks)
    begin, size, first = line.front
    if size:
        others = gradient.view(heads, line.blocks, -1, gradient.shape[2])[:, first + 1 :, :size]
        found[:, begin : begin + size] += others.sum(1, dtype=torch.float32)
    return found


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
