"""Decoder-layer kernels: forward and backward passes of a layer with LoRA whose own weights do not train."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from labeltune.modeling.packing import UnpaddedBatch


@dataclass(frozen=True, kw_only=True)
class LoraLinear:
    """A linear layer with its LoRA adapter."""

    weight: torch.Tensor
    """Weight W, `[outputs, inputs]`."""
    bias: torch.Tensor | None
    """Bias, `[outputs]`."""
    down: torch.Tensor | None = None
    """The adapter's A, `[rank, inputs]`."""
    up: torch.Tensor | None = None
    """The adapter's B, `[outputs, rank]`."""
    scaling: float = 1.0
    """The adapter's scaling s: the layer computes W·h + s·B·A·h + bias."""

    @property
    def rank(self) -> int:
        """Rank of the adapter, 0 without one."""
        return 0 if self.down is None else len(self.down)


def total_rank(linears: Sequence[LoraLinear]) -> int:
    """Return the sum of the adapters' ranks."""
    return sum(part.rank for part in linears)


def fuse_linears(linears: Sequence[LoraLinear], h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Join linear layers that have the same inputs into one matrix product.

    Args:
        h: inputs, `[tokens, inputs + ranks]`; the last columns, A·h of the adapters, are filled in here.

    Returns:
        The weights, `[outputs, inputs + ranks]`, and the adapters' A, `[ranks, inputs]`, in the type of `h`.
    """
    first, inputs = linears[0].weight, linears[0].weight.shape[1]
    downs = [part.down.to(h.dtype) for part in linears if part.down is not None]
    if not downs and len(linears) == 1:
        return first, first[:0]
    weight = first.new_zeros(sum(len(part.weight) for part in linears), h.shape[1])
    row, column = 0, inputs
    for part in linears:
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
    linears: Sequence[LoraLinear],
    *,
    inputs: bool = True,
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Return the gradients of joined linear layers: of their inputs, `[tokens, inputs]`, and of each adapter's A and B.

    Args:
        dy: gradient of the outputs, `[tokens, outputs]`.
        h, weight, down: as `fuse_linears` filled and returned them.
        inputs: whether the gradient of the inputs is wanted; else it is not computed.
    """
    size = down.shape[1]
    d_h = dy @ (weight if inputs else weight[:, size:])  # [tokens, inputs + ranks], or the ranks alone
    d_low = d_h[:, d_h.shape[1] - len(down) :]  # [tokens, ranks]
    d_down, d_up = d_low.t() @ h[:, :size], dy.t() @ h[:, size:]  # [ranks, inputs], [outputs, ranks]
    found: list[torch.Tensor | None] = []
    row = column = 0
    for part in linears:
        end, last = row + len(part.weight), column + part.rank
        if part.down is None or part.up is None:
            found += [None, None]
        else:
            found.append(d_down[column:last].to(part.down.dtype))
            found.append(d_up[row:end, column:last].to(part.up.dtype).mul_(part.scaling))
        row, column = end, last
    return (torch.addmm(d_h[:, :size], d_low, down) if inputs else d_h), found


def add_product(x: torch.Tensor, h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return `x + W·h + bias` in one matrix product."""
    found = torch.addmm(x, h, weight.t())
    return found if bias is None else found.add_(bias)


@dataclass(frozen=True, kw_only=True)
class LayerParts:
    """The weights of a decoder layer."""

    norms: tuple[tuple[torch.Tensor, float], ...]
    """Weight and epsilon of the norm before attention, and of the norm before the MLP."""
    attention: tuple[LoraLinear, ...]
    """Linear layers of queries, keys, values and output."""
    mlp: tuple[LoraLinear, ...]
    """Linear layers gate, up and down of the MLP, without adapters."""
    size: int
    """Size of an attention head."""
    scale: float
    """Factor of the attention scores."""


def layer_states(
    x: torch.Tensor,
    parts: LayerParts,
    unpadded: UnpaddedBatch,
    mask: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    *,
    prefix: tuple[torch.Tensor, torch.Tensor] | None = None,
    saved: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the states after a layer from those before it, both `[tokens, width]`; autograd records nothing.

    Args:
        mask: added to the scores, `[sequences or 1, 1, length, keys]`.
        cosines, sines: of the positions, `[tokens, size / 2]`.
        prefix: keys and values that every sequence sees before its own, `[1, key heads, prefix, size]` each.
        saved: filled with the tensors that the backward pass needs.
    """
    width, size, sequences = x.shape[1], parts.size, unpadded.sequences
    *qkv, output = parts.attention
    h = x.new_empty(len(x), width + total_rank(qkv))
    r1 = _normalise(x, *parts.norms[0], into=h[:, :width])
    if saved is None and h.shape[1] == width:
        wide = down = h
        q, k, v = (functional.linear(h, part.weight, part.bias) for part in qkv)
    else:
        wide, down = fuse_linears(qkv, h)
        biases = [part.bias for part in qkv if part.bias is not None]
        together = functional.linear(h, wide, torch.cat(biases) if biases else None)
        q, k, v = torch.split(together, [len(part.weight) for part in qkv], dim=1)
    q = _rotated(_by_head(q, k.shape[1] // size, size), cosines.unsqueeze(1), sines.unsqueeze(1)).mul_(parts.scale)
    k = _rotated(_by_head(k, k.shape[1] // size, size)[:, :, 0], cosines, sines)  # [key heads, tokens, size]
    q = q.flatten(1, 2).index_select(1, unpadded.query_index)  # [key heads, sequences * groups * length, size]
    k, v = (part.index_select(1, unpadded.key_index) for part in (k, v.view(len(x), -1, size).transpose(0, 1)))
    q, k, v = (part.reshape(len(part) * sequences, -1, size) for part in (q, k, v))
    if prefix is not None:
        k, v = (_after_prefix(before, part, sequences) for before, part in zip(prefix, (k, v), strict=True))
    scores = torch.bmm(q, k.transpose(1, 2))  # [key heads * sequences, groups * length, keys]
    scores.view(-1, sequences, q.shape[1] // mask.shape[2], *mask.shape[2:]).add_(mask)
    # PyTorch's softmax of bf16 takes twice as long as one in fp32 and a conversion.
    shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(x.dtype)

    inputs = output.weight.shape[1]
    attention_output = x.new_empty(len(x), inputs + output.rank)
    attended = torch.bmm(shares, v).view(-1, len(unpadded.query_index), size).index_select(1, unpadded.output_index)
    _by_head(attention_output[:, :inputs], len(attended), size).copy_(attended.view(len(attended), len(x), -1, size))
    out, down_out = fuse_linears([output], attention_output)
    middle = add_product(x, attention_output, out, output.bias)

    gate, up, last = parts.mlp
    h2 = torch.empty_like(middle)
    r2 = _normalise(middle, *parts.norms[1], into=h2)
    opening, raised = (functional.linear(h2, part.weight, part.bias) for part in (gate, up))  # [tokens, inner]
    opened = functional.silu(opening)
    if saved is None:
        inner = opened.mul_(raised)
    else:
        saved += [
            x,
            r1,
            h,
            wide,
            down,
            q,
            k,
            v,
            shares,
            attention_output,
            out,
            down_out,
            middle,
            r2,
            opening,
            raised,
            opened,
        ]
        inner = opened * raised
    return add_product(middle, inner, last.weight, last.bias)


def adapted_layer(
    x: torch.Tensor,
    parts: LayerParts,
    unpadded: UnpaddedBatch,
    mask: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
) -> torch.Tensor:
    """Return what `layer_states` does, with gradients of the states and the adapters, and of no other weight."""
    adapters = [weight for part in parts.attention for weight in (part.down, part.up)]
    states: torch.Tensor = _Adapted.apply(x, parts, unpadded, mask, cosines, sines, *adapters)  # type: ignore[no-untyped-call]
    return states


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        parts: LayerParts,
        unpadded: UnpaddedBatch,
        mask: Any,
        cosines: Any,
        sines: Any,
        *_: Any,
    ) -> torch.Tensor:
        saved: list[torch.Tensor] = []
        states = layer_states(x, parts, unpadded, mask, cosines, sines, saved=saved)
        ctx.save_for_backward(*saved, cosines, sines)
        ctx.parts, ctx.unpadded = parts, unpadded
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        *saved, opening, raised, opened, cosines, sines = ctx.saved_tensors
        x, r1, h, wide, down, q, k, v, shares, attention_output, out, down_out, middle, r2 = saved
        parts, unpadded, (dy,), wanted = ctx.parts, ctx.unpadded, gradients, ctx.needs_input_grad[0]
        *qkv, output = parts.attention
        gate, up, last = parts.mlp

        d_inner = dy @ last.weight  # [tokens, inner]
        d_raised = d_inner * opened
        d_opening = torch.ops.aten.silu_backward(d_inner.mul_(raised), opening)
        d_h2 = torch.addmm(d_opening @ gate.weight, d_raised, up.weight)
        d_middle = _normalise_back(d_h2, middle, r2, parts.norms[1][0]).add_(dy)

        d_attended, d_output = backward(d_middle, attention_output, out, down_out, [output])
        heads, size = len(k) // unpadded.sequences, parts.size
        d_attended = _by_head(d_attended, heads, size).flatten(1, 2).index_select(1, unpadded.query_index).view(q.shape)
        d_shares = torch.bmm(d_attended, v.transpose(1, 2))
        d_scores = torch.ops.aten._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        d_q, d_k = torch.bmm(d_scores, k).mul_(parts.scale), torch.bmm(d_scores.transpose(1, 2), q)
        d_v = torch.bmm(shares.transpose(1, 2), d_attended)

        d_qkv = x.new_empty(len(x), len(wide))
        for_q, for_k, for_v = (
            _by_head(part, heads, size) for part in torch.split(d_qkv, [len(part.weight) for part in qkv], dim=1)
        )  # [key heads, tokens, groups, size], of keys and values one group
        d_q = d_q.view(heads, -1, size).index_select(1, unpadded.output_index).view(for_q.shape)
        _rotate(d_q, cosines.unsqueeze(1), -sines.unsqueeze(1), into=for_q)
        _rotate(_gathered(d_k, unpadded, heads), cosines, -sines, into=for_k[:, :, 0])
        for_v[:, :, 0] = _gathered(d_v, unpadded, heads)
        d_qkv[unpadded.real :] = 0  # fillers have no gradient
        d_h, d_qkv_parts = backward(d_qkv, h, wide, down, qkv, inputs=wanted)
        d_x = _normalise_back(d_h, x, r1, parts.norms[0][0]).add_(d_middle) if wanted else None
        return d_x, None, None, None, None, None, *d_qkv_parts, *d_output


def _by_head(x: torch.Tensor, heads: int, size: int) -> torch.Tensor:
    """View `[tokens, heads * groups * size]` as `[heads, tokens, groups, size]`."""
    return x.view(len(x), heads, -1, size).transpose(0, 1)


def _after_prefix(prefix: torch.Tensor, own: torch.Tensor, sequences: int) -> torch.Tensor:
    """Put the prefix's keys or values, `[1, heads, prefix, size]`, before each sequence's own."""
    before = prefix.transpose(0, 1).expand(-1, sequences, -1, -1).flatten(0, 1)
    return torch.cat([before, own], dim=1)


def _gathered(gradient: torch.Tensor, unpadded: UnpaddedBatch, heads: int) -> torch.Tensor:
    """Return the gradient of the tokens' keys or values, `[heads, tokens, size]`, from that of all positions.

    Every sequence attends to the prefix, which is stored once: its gradient is the sum over the sequences.

    Args:
        gradient: `[heads * sequences, length, size]`.
    """
    found = gradient.view(heads, len(unpadded.key_index), -1).index_select(1, unpadded.token_index)
    begin, size, first = unpadded.prefix
    if size:
        others = gradient.view(heads, unpadded.sequences, -1, gradient.shape[2])[:, first + 1 :, :size]
        found[:, begin : begin + size] += others.sum(1, dtype=torch.float32)
    return found


def _normalise(x: torch.Tensor, weight: torch.Tensor, epsilon: float, *, into: torch.Tensor) -> torch.Tensor:
    """Divide by the root mean square (Zhang and Sennrich 2019); returns the factor, `[tokens, 1]` in fp32."""
    wide = x.float()
    squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    factor = squares.div_(x.shape[1]).add_(epsilon).rsqrt_()
    torch.mul((wide * factor).to(x.dtype), weight, out=into)
    return factor


def _normalise_back(dh: torch.Tensor, x: torch.Tensor, factor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the input of `_normalise`."""
    n = x.float().mul(factor)
    dn = (dh * weight).float()
    along = (dn * n).mean(dim=-1, keepdim=True)
    return dn.addcmul_(n, along, value=-1).mul_(factor).to(x.dtype)


def _rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotate pairs of features by their position (Su et al. 2021) into a new contiguous tensor of the same shape."""
    return _rotate(x, cosines, sines, into=torch.empty_like(x, memory_format=torch.contiguous_format))


def _rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, *, into: torch.Tensor) -> torch.Tensor:
    """Rotate pairs of features into a given tensor; a feature's partner is half a head further on."""
    (a, b), (first, second) = x.chunk(2, dim=-1), into.chunk(2, dim=-1)
    torch.mul(a, cosines, out=first)
    first.addcmul_(b, sines, value=-1)
    torch.mul(b, cosines, out=second)
    second.addcmul_(a, sines)
    return into
