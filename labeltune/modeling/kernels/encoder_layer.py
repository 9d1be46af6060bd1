"""Encoder-layer kernels: forward and backward passes of a post-norm layer with LoRA whose own weights do not train."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from labeltune.modeling.kernels.decoder_layer import LoraLinear
from labeltune.modeling.packing import UnpaddedBatch

DRAWS = 1 << 16
"""A dropout probability is rounded to a multiple of 1 / DRAWS: four decisions are taken from each 64-bit draw."""


@dataclass(frozen=True, kw_only=True)
class EncoderParts:
    """The weights of an encoder layer."""

    attention: tuple[LoraLinear, ...]
    """Linear layers of queries, keys, values and output."""
    mlp: tuple[LoraLinear, ...]
    """The two linear layers of the MLP, with the exact GELU between them."""
    norms: tuple[tuple[torch.Tensor, torch.Tensor, float], ...]
    """Weight, bias and epsilon of the norm after attention, and of the norm after the MLP."""
    size: int
    """Size of an attention head."""
    dropout: tuple[float, float, float]
    """Dropout probability of the attention's shares, of its output, and of the MLP's output."""


def encoder_states(
    x: torch.Tensor,
    parts: EncoderParts,
    unpadded: UnpaddedBatch,
    mask: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    saved: list[torch.Tensor | None] | None = None,
) -> torch.Tensor:
    """Return the states after a layer from those before it, both `[tokens, width]`; autograd records nothing.

    Args:
        mask: added to the scores, `[sequences, 1, length or 1, length]`.
        bias: added to the scores, `[1, heads, length, length]`, or None.
        saved: filled with the tensors that the backward pass needs.
    """
    query, key, value, output = parts.attention
    (q, low_q), (k, low_k), (v, low_v) = (_product(part, x) for part in (query, key, value))
    heads, size, sequences = q.shape[1] // parts.size, parts.size, unpadded.sequences
    q, k, v = (_grid(part, heads, unpadded) for part in (q.mul_(size**-0.5), k, v))  # [heads * sequences, length, size]
    scores = torch.bmm(q, k.transpose(1, 2))
    by_sequence = scores.view(heads, sequences, *scores.shape[1:])
    by_sequence.add_(mask[:, 0])
    if bias is not None:
        by_sequence.add_(bias[0].unsqueeze(1))
    # PyTorch's softmax of bf16 takes twice as long as one in fp32 and a conversion.
    wide = torch.float32 if x.dtype.itemsize < 4 else x.dtype
    shares = torch.softmax(scores, dim=-1, dtype=wide).to(x.dtype)
    dropped = (shares, None) if saved is None else _dropout(shares, parts.dropout[0])
    attended = torch.bmm(dropped[0], v).view(heads, -1, size).index_select(1, unpadded.output_index)
    attended = attended.transpose(0, 1).reshape(len(x), -1)
    out, low_o = _product(output, attended)
    out, gone = (out, None) if saved is None else _dropout(out, parts.dropout[1])
    total = out.add_(x) if gone is None else out + x
    middle, *moments = torch.native_layer_norm(total, total.shape[1:], *parts.norms[0])

    first, second = parts.mlp
    opening, low_1 = _product(first, middle)
    inner = functional.gelu(opening)
    last, low_2 = _product(second, inner)
    last, gone_2 = (last, None) if saved is None else _dropout(last, parts.dropout[2])
    total_2 = last.add_(middle) if gone_2 is None else last + middle
    states, *moments_2 = torch.native_layer_norm(total_2, total_2.shape[1:], *parts.norms[1])
    if saved is not None:
        saved += [x, low_q, low_k, low_v, q, k, v, shares, dropped[0], dropped[1], attended, low_o, gone, total]
        saved += [*moments, middle, low_1, opening, inner, low_2, gone_2, total_2, *moments_2]
    return states


def adapted_encoder_layer(
    x: torch.Tensor, parts: EncoderParts, unpadded: UnpaddedBatch, mask: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return what `encoder_states` does, with dropout, and gradients of only the states and the adapters."""
    adapters = [weight for part in (*parts.attention, *parts.mlp) for weight in (part.down, part.up)]
    states: torch.Tensor = _Adapted.apply(x, parts, unpadded, mask, bias, *adapters)  # type: ignore[no-untyped-call]
    return states


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, parts: EncoderParts, unpadded: UnpaddedBatch, mask: Any, bias: Any, *_: Any
    ) -> torch.Tensor:
        saved: list[torch.Tensor | None] = []
        states = encoder_states(x, parts, unpadded, mask, bias, saved=saved)
        ctx.save_for_backward(*saved)
        ctx.parts, ctx.unpadded = parts, unpadded
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, low_q, low_k, low_v, q, k, v, shares, dropped, gone_0, attended, low_o, gone_1, total, *rest = (
            ctx.saved_tensors
        )
        mean, spread, middle, low_1, opening, inner, low_2, gone_2, total_2, mean_2, spread_2 = rest
        parts, unpadded, (dy,), wanted = ctx.parts, ctx.unpadded, gradients, ctx.needs_input_grad[0]
        query, key, value, output = parts.attention
        first, second = parts.mlp

        d_total_2 = _norm_back(dy, total_2, mean_2, spread_2, parts.norms[1])
        d_inner, *d_second = _product_back(_undropped(d_total_2, gone_2, parts.dropout[2]), inner, low_2, second)
        d_opening = torch.ops.aten.gelu_backward(d_inner, opening)
        d_middle, *d_first = _product_back(d_opening, middle, low_1, first, d_total_2)
        d_total = _norm_back(d_middle, total, mean, spread, parts.norms[0])

        d_attended, *d_output = _product_back(_undropped(d_total, gone_1, parts.dropout[1]), attended, low_o, output)
        heads = len(q) // unpadded.sequences
        d_attended = _grid(d_attended, heads, unpadded)
        d_shares = _undropped(torch.bmm(d_attended, v.transpose(1, 2)), gone_0, parts.dropout[0])
        d_v = torch.bmm(dropped.transpose(1, 2), d_attended)
        d_scores = torch.ops.aten._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        d_q, d_k = torch.bmm(d_scores, k).mul_(parts.size**-0.5), torch.bmm(d_scores.transpose(1, 2), q)
        d_q, d_k, d_v = (_line(part, heads, unpadded) for part in (d_q, d_k, d_v))

        d_x = d_total if wanted else None
        found = []
        for part, low, gradient in ((query, low_q, d_q), (key, low_k, d_k), (value, low_v, d_v)):
            d_x, *adapter = _product_back(gradient, x, low, part, d_x, inputs=wanted)
            found += adapter
        return d_x, None, None, None, None, *found, *d_output, *d_first, *d_second


def _product(part: LoraLinear, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a linear layer's outputs, `[tokens, outputs]`, and A·h of its adapter, `[tokens, rank]`."""
    found = functional.linear(h, part.weight, part.bias)
    if part.down is None or part.up is None:
        return found, None
    low = h @ part.down.to(h.dtype).t()
    return found.addmm_(low, (part.up * part.scaling).to(h.dtype).t()), low


def _product_back(
    dy: torch.Tensor,
    h: torch.Tensor,
    low: torch.Tensor | None,
    part: LoraLinear,
    added: torch.Tensor | None = None,
    *,
    inputs: bool = True,
) -> tuple[Any, torch.Tensor | None, torch.Tensor | None]:
    """Return the gradients of a linear layer's inputs, and of its adapter's A and B.

    Args:
        dy: gradient of the outputs, `[tokens, outputs]`.
        h, low: the inputs, and A·h.
        added: added to the gradient of the inputs, `[tokens, inputs]`.
        inputs: whether to compute the gradient of the inputs, which is None otherwise.
    """
    d_h = None
    if inputs:
        d_h = dy @ part.weight if added is None else torch.addmm(added, dy, part.weight)
    if part.down is None or part.up is None or low is None:
        return d_h, None, None
    d_low = dy @ (part.up * part.scaling).to(dy.dtype)  # [tokens, rank]
    if d_h is not None:
        d_h.addmm_(d_low, part.down.to(dy.dtype))
    d_down = (d_low.t() @ h).to(part.down.dtype)
    return d_h, d_down, (dy.t() @ low).to(part.up.dtype).mul_(part.scaling)


def _grid(x: torch.Tensor, heads: int, unpadded: UnpaddedBatch) -> torch.Tensor:
    """Return `[heads * sequences, length, size]` of the tokens' `[tokens, heads * size]`."""
    by_head = x.view(len(x), heads, -1).transpose(0, 1).index_select(1, unpadded.key_index)
    return by_head.view(heads * unpadded.sequences, -1, by_head.shape[2])


def _line(gradient: torch.Tensor, heads: int, unpadded: UnpaddedBatch) -> torch.Tensor:
    """Return the gradient of the tokens' `[tokens, heads * size]` from that of all positions; fillers have none."""
    found = gradient.reshape(heads, len(unpadded.key_index), -1).index_select(1, unpadded.token_index)
    line = found.transpose(0, 1).reshape(found.shape[1], -1)
    line[unpadded.real :] = 0
    return line


def _norm_back(
    dy: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    spread: torch.Tensor,
    norm: tuple[torch.Tensor, torch.Tensor, float],
) -> torch.Tensor:
    """Return the gradient of a layer norm's input."""
    weight, bias, _ = norm
    found: torch.Tensor = torch.ops.aten.native_layer_norm_backward(
        dy.contiguous(), x, x.shape[1:], mean, spread, weight, bias, [True, False, False]
    )[0]
    return found


def _dropout(x: torch.Tensor, probability: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Apply dropout; returns the result, and which elements were dropped, None with the probability 0."""
    threshold = round(probability * DRAWS)
    if not threshold:
        return x, None
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(1 << 63), None)
    gone = (draws.view(torch.int16)[: x.numel()] < threshold - DRAWS // 2).view(x.shape)
    return _undropped(x, gone, probability), gone


def _undropped(dx: torch.Tensor, gone: torch.Tensor | None, probability: float) -> torch.Tensor:
    """Return the gradient of the input of dropout."""
    if gone is None:
        return dx
    return dx.masked_fill(gone, 0).mul_(DRAWS / (DRAWS - round(probability * DRAWS)))
