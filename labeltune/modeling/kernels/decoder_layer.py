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
        inputs: whether to compute the gradient of the inputs.
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


Norm = tuple[torch.Tensor, float]
"""Weight and epsilon of a root-mean-square norm. A weight in fp32 multiplies before the result is rounded to 16 bits,
as in Gemma; one in the type of the states afterwards, as in Llama."""


@dataclass(frozen=True, kw_only=True)
class LayerParts:
    """The weights of a decoder layer."""

    norms: tuple[Norm, Norm]
    """The norm before attention, and the norm before the MLP."""
    attention: tuple[LoraLinear, ...]
    """Linear layers of queries, keys, values and output."""
    mlp: tuple[LoraLinear, ...]
    """Linear layers gate, up and down of the MLP."""
    size: int
    """Size of an attention head."""
    scale: float
    """Factor of the attention scores."""
    head_norms: tuple[Norm, Norm] | None = None
    """Norms of each head's queries and keys, or None."""
    output_norms: tuple[Norm, Norm] | None = None
    """Norms of the outputs of attention and MLP before they are added to the states, or None."""
    activation: str = "silu"
    """Activation of the gate: `silu` or `gelu_pytorch_tanh`."""

    @property
    def adapters(self) -> list[torch.Tensor | None]:
        """A and B of each linear layer's adapter."""
        return [weight for part in (*self.attention, *self.mlp) for weight in (part.down, part.up)]


def layer_states(
    x: torch.Tensor,
    parts: LayerParts,
    unpadded: UnpaddedBatch,
    mask: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    *,
    prefix: tuple[torch.Tensor, torch.Tensor] | None = None,
    saved: dict[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the states after a layer from those before it, both `[tokens, width]`; autograd records nothing.

    Args:
        mask: added to the scores, `[sequences or 1, 1, length, keys]`.
        cosines, sines: of the positions, `[tokens, size / 2]`.
        prefix: keys and values of the prefix that every sequence attends to, `[1, key heads, prefix, size]` each.
        saved: filled with the tensors that the backward pass needs.
    """
    return _mlp(_attention(x, parts, unpadded, mask, cosines, sines, prefix, saved), parts, saved)


def _attention(
    x: torch.Tensor,
    parts: LayerParts,
    unpadded: UnpaddedBatch,
    mask: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    prefix: tuple[torch.Tensor, torch.Tensor] | None,
    saved: dict[str, torch.Tensor] | None,
) -> torch.Tensor:
    """Return the states after attention, as `layer_states` does."""
    width, size, sequences = x.shape[1], parts.size, unpadded.sequences
    *qkv, output = parts.attention
    h = x.new_empty(len(x), width + total_rank(qkv))
    r1 = _normalise(x, *parts.norms[0], into=h[:, :width])
    if saved is None and h.shape[1] == width:
        wide = down = together = h
        q, k, v = (functional.linear(h, part.weight, part.bias) for part in qkv)
    else:
        wide, down = fuse_linears(qkv, h)
        biases = [part.bias for part in qkv if part.bias is not None]
        together = functional.linear(h, wide, torch.cat(biases) if biases else None)
        q, k, v = torch.split(together, [len(part.weight) for part in qkv], dim=1)
    q, k = _by_head(q, k.shape[1] // size, size), _by_head(k, k.shape[1] // size, size)
    if parts.head_norms is not None:
        (q, rq), (k, rk) = (_normalised(one, *norm) for one, norm in zip((q, k), parts.head_norms, strict=True))
        if saved is not None:
            saved |= {"together": together, "rq": rq, "rk": rk}
    q = _rotated(q, cosines.unsqueeze(1), sines.unsqueeze(1)).mul_(parts.scale)
    k = _rotated(k[:, :, 0], cosines, sines)  # [key heads, tokens, size]
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
    if parts.output_norms is None:
        middle = add_product(x, attention_output, out, output.bias)
    else:
        raw = functional.linear(attention_output, out, output.bias)
        normed, r_out = _normalised(raw, *parts.output_norms[0])
        middle = normed.add_(x)
        if saved is not None:
            saved |= {"raw": raw, "r_out": r_out}
    if saved is not None:
        saved |= {"x": x, "r1": r1, "h": h, "wide": wide, "down": down, "q": q, "k": k, "v": v, "shares": shares}
        saved |= {"attention_output": attention_output, "out": out, "down_out": down_out}
    return middle


def _mlp(middle: torch.Tensor, parts: LayerParts, saved: dict[str, torch.Tensor] | None) -> torch.Tensor:
    """Return the states after the MLP from those after attention, as `layer_states` does."""
    (gate, up, last), width = parts.mlp, middle.shape[1]
    h2 = middle.new_empty(len(middle), width + total_rank((gate, up)))
    r2 = _normalise(middle, *parts.norms[1], into=h2[:, :width])
    if h2.shape[1] == width:
        opening, raised = (functional.linear(h2, part.weight, part.bias) for part in (gate, up))  # [tokens, inner]
    else:
        wide2, down2 = fuse_linears((gate, up), h2)
        if saved is not None:
            saved |= {"h2": h2, "wide2": wide2, "down2": down2}
        biases = [part.bias for part in (gate, up) if part.bias is not None]
        opening, raised = functional.linear(h2, wide2, torch.cat(biases) if biases else None).chunk(2, dim=1)
    opened = _activated(opening, parts.activation)
    if last.rank:
        inner = middle.new_empty(len(middle), raised.shape[1] + last.rank)
        torch.mul(opened, raised, out=inner[:, : raised.shape[1]])
        final, down_last = fuse_linears([last], inner)
        if saved is not None:
            saved |= {"inner": inner, "final": final, "down_last": down_last}
    else:
        inner, final = opened.mul_(raised) if saved is None else opened * raised, last.weight
    if saved is not None:
        saved |= {"middle": middle, "r2": r2, "opening": opening, "raised": raised, "opened": opened}
    if parts.output_norms is None:
        return add_product(middle, inner, final, last.bias)
    raw_last = functional.linear(inner, final, last.bias)
    normed, r_last = _normalised(raw_last, *parts.output_norms[1])
    if saved is not None:
        saved |= {"raw_last": raw_last, "r_last": r_last}
    return normed.add_(middle)


def adapted_layer(
    x: torch.Tensor,
    parts: LayerParts,
    unpadded: UnpaddedBatch,
    mask: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
) -> torch.Tensor:
    """Return what `layer_states` does, with gradients of only the states and the adapters."""
    states: torch.Tensor = _Adapted.apply(x, parts, unpadded, mask, cosines, sines, *parts.adapters)  # type: ignore[no-untyped-call]
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
        saved: dict[str, torch.Tensor] = {}
        states = layer_states(x, parts, unpadded, mask, cosines, sines, saved=saved)
        ctx.save_for_backward(*saved.values(), cosines, sines)
        ctx.names, ctx.parts, ctx.unpadded = tuple(saved), parts, unpadded
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        *kept, cosines, sines = ctx.saved_tensors
        saved = dict(zip(ctx.names, kept, strict=True))
        parts, unpadded, (dy,), wanted = ctx.parts, ctx.unpadded, gradients, ctx.needs_input_grad[0]
        d_middle, d_mlp = _mlp_back(dy, saved, parts)
        d_raw = d_middle
        if parts.output_norms is not None:
            d_raw = _normalise_back(d_middle, saved["raw"], saved["r_out"], parts.output_norms[0][0])

        x, q, k, v, shares = (saved[name] for name in ("x", "q", "k", "v", "shares"))
        *qkv, output = parts.attention
        d_attended, d_output = backward(d_raw, saved["attention_output"], saved["out"], saved["down_out"], [output])
        heads, size = len(k) // unpadded.sequences, parts.size
        d_attended = _by_head(d_attended, heads, size).flatten(1, 2).index_select(1, unpadded.query_index).view(q.shape)
        d_shares = torch.bmm(d_attended, v.transpose(1, 2))
        d_scores = torch.ops.aten._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        d_q, d_k = torch.bmm(d_scores, k).mul_(parts.scale), torch.bmm(d_scores.transpose(1, 2), q)
        d_v = torch.bmm(shares.transpose(1, 2), d_attended)

        sizes = [len(part.weight) for part in qkv]
        d_qkv = x.new_empty(len(x), len(saved["wide"]))
        for_q, for_k, for_v = (
            _by_head(part, heads, size) for part in torch.split(d_qkv, sizes, dim=1)
        )  # [key heads, tokens, groups, size], of keys and values one group
        d_q = d_q.view(heads, -1, size).index_select(1, unpadded.output_index).view(for_q.shape)
        _rotate(d_q, cosines.unsqueeze(1), -sines.unsqueeze(1), into=for_q)
        _rotate(_gathered(d_k, unpadded, heads), cosines, -sines, into=for_k[:, :, 0])
        for_v[:, :, 0] = _gathered(d_v, unpadded, heads)
        if parts.head_norms is not None:
            before = torch.split(saved["together"], sizes, dim=1)
            for place, name, gradient in ((0, "rq", for_q), (1, "rk", for_k)):
                raw = _by_head(before[place], heads, size)
                gradient.copy_(_normalise_back(gradient, raw, saved[name], parts.head_norms[place][0]))
        d_qkv[unpadded.real :] = 0  # fillers have no gradient
        d_h, d_qkv_parts = backward(d_qkv, saved["h"], saved["wide"], saved["down"], qkv, inputs=wanted)
        d_x = _normalise_back(d_h, x, saved["r1"], parts.norms[0][0]).add_(d_middle) if wanted else None
        return d_x, None, None, None, None, None, *d_qkv_parts, *d_output, *d_mlp


def _mlp_back(
    dy: torch.Tensor, saved: dict[str, torch.Tensor], parts: LayerParts
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Return the gradients of the states between attention and MLP, and of the MLP's adapters."""
    gate, up, last = parts.mlp
    middle, opening, raised, opened = (saved[name] for name in ("middle", "opening", "raised", "opened"))
    d_last = dy
    if parts.output_norms is not None:
        d_last = _normalise_back(dy, saved["raw_last"], saved["r_last"], parts.output_norms[1][0])
    if last.rank:
        d_inner, d_last_parts = backward(d_last, saved["inner"], saved["final"], saved["down_last"], [last])
    else:
        d_inner, d_last_parts = d_last @ last.weight, [None, None]  # [tokens, inner]
    d_raised = d_inner * opened
    d_opening = _activated_back(d_inner.mul_(raised), opening, parts.activation)
    if gate.rank or up.rank:
        d_both = torch.cat([d_opening, d_raised], dim=1)
        d_h2, d_gated = backward(d_both, saved["h2"], saved["wide2"], saved["down2"], [gate, up])
    else:
        d_h2, d_gated = torch.addmm(d_opening @ gate.weight, d_raised, up.weight), [None] * 4
    return _normalise_back(d_h2, middle, saved["r2"], parts.norms[1][0]).add_(dy), [*d_gated, *d_last_parts]


def _activated(x: torch.Tensor, activation: str) -> torch.Tensor:
    return functional.silu(x) if activation == "silu" else functional.gelu(x, approximate="tanh")


def _activated_back(dy: torch.Tensor, x: torch.Tensor, activation: str) -> torch.Tensor:
    if activation == "silu":
        return torch.ops.aten.silu_backward(dy, x)
    return torch.ops.aten.gelu_backward(dy, x, approximate="tanh")


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
    """Divide the last axis by its root mean square (Zhang and Sennrich 2019).

    Args:
        into: filled with the result.

    Returns:
        The factor, in fp32, with a last axis of 1.
    """
    wide = x.float()
    squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    factor = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    normed = wide * factor
    torch.mul(normed.to(x.dtype) if weight.dtype == x.dtype else normed, weight, out=into)
    return factor


def _normalised(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `_normalise` computes in a new tensor, and the factor."""
    found = torch.empty_like(x, memory_format=torch.contiguous_format)
    return found, _normalise(x, weight, epsilon, into=found)


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
