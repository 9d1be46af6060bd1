"""Fused layers: layers that run these kernels on unpadded batches, and top layers for the last token only."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from labeltune.modeling.architectures import architecture_of, first_position, is_encoder, layer_list, replaced
from labeltune.modeling.device import inference_tokens
from labeltune.modeling.forward import length_multiple
from labeltune.modeling.kernels.decoder_layer import LayerParts, LoraLinear, Norm, adapted_layer, layer_states
from labeltune.modeling.kernels.encoder_layer import EncoderParts, adapted_encoder_layer, encoder_states
from labeltune.modeling.network import Network
from labeltune.modeling.packing import MULTIPLE, UnpaddedBatch, model_masks, packed_visibility

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
"""Families whose layers are norm, attention, norm and a gated MLP, some with norms of queries, keys and outputs."""
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
"""Activations of the gated MLP."""
ENCODERS = ("bert", "roberta", "xlm-roberta", "mpnet")
"""Families whose layers are attention, norm, an MLP and norm."""
FAMILIES = (*DECODERS, *ENCODERS)
ATTENTION = "eager"


def install(network: Network) -> bool:
    """Let the kernels compute a network's layers where possible; returns whether they support its family."""
    config = network.config
    if config.model_type not in FAMILIES or config._attn_implementation != ATTENTION:
        return False
    if config.model_type in ENCODERS:
        able = config.hidden_act == "gelu" and not getattr(config, "is_decoder", False)
    else:
        activation = getattr(config, "hidden_act", None) or config.hidden_activation
        able = activation in ACTIVATIONS and not config.attention_dropout
        able = able and not getattr(config, "use_bidirectional_attention", False)
        able = able and not getattr(config, "attn_logit_softcapping", None)
    if able:
        for layer in layer_list(network.backbone()):
            _mix(_FusedEncoder if config.model_type in ENCODERS else _FusedDecoder, layer)
        if config.model_type == "mpnet":
            _mix(_FusedMPNet, network.backbone())
    return able


def _mix(mixin: Any, module: Any) -> None:
    kind: Any = type(module)
    module.__class__ = _fused(mixin, kind)


def installed(network: Network) -> bool:
    """Return whether the kernels are installed in a network."""
    return architecture_of(network.config) is not None and isinstance(
        layer_list(network.backbone())[0], _FusedDecoder | _FusedEncoder
    )


def batch_tokens(network: Network) -> int:
    """Return the tokens of a batch without gradients: on a CPU twice as many if rows are unpadded and have 16 bits.

    Larger batches of padded rows have more padding, and larger states do not fit into the CPU's caches.
    """
    tokens = inference_tokens()
    if network.device.type != "cpu" or network.dtype.itemsize > 2 or network.extra_tokens or not installed(network):
        return tokens
    with torch.no_grad():
        unpadded = _parts(network, range(network.config.num_hidden_layers)) is not None
    return 2 * tokens if unpadded else tokens


def padded_states(
    network: Network,
    layers: range,
    tokens: torch.Tensor | None,
    attention_mask: torch.Tensor,
    states: torch.Tensor | None,
    cache: Any,
) -> torch.Tensor | None:
    """Return the states after some layers, `[batch, length, size]`, of rows padded on the right; None for other layers.

    Args:
        tokens: `[batch, length]`, or None where there are states, `[batch, length, size]`.
        attention_mask: `[batch, prefix + length]`.
        cache: keys and values of the prefix, or None.
    """
    prefix = 0 if cache is None else cache.get_seq_length()
    parts = _parts(network, layers) if cache is None or prefix else None
    if parts is None:
        return None
    part = network.layers(states is None, layers.start, layers.stop)
    unpadded = UnpaddedBatch.of_rows(attention_mask[:, prefix:], _multiple(network), _groups(network))
    length = attention_mask.shape[1]
    positions = torch.arange(length, device=attention_mask.device).unsqueeze(0)
    if is_encoder(network.config):
        visible = attention_mask.bool().unsqueeze(1)  # [batch, 1, keys]
    else:
        visible = positions[:, prefix:].unsqueeze(2) >= positions.unsqueeze(1)  # [1, length, keys]
    masks = model_masks(network.config, visible, positions, network.dtype)
    own = positions[:, prefix:].expand(unpadded.sequences, -1) + first_position(network.config)
    hidden = _states(part, unpadded, parts, masks, own, tokens, states, cache)
    return unpadded.pad(hidden)


def packed_states(
    network: Network,
    tokens: torch.Tensor | None,
    owners: torch.Tensor,
    positions: torch.Tensor,
    states: torch.Tensor | None,
) -> tuple[torch.Tensor, UnpaddedBatch] | None:
    """Return the states after the top layer, `[1, tokens, size]`, of packed rows, and the indices of their tokens.

    Args:
        tokens: `[sequences, length]`, or None where there are states after the frozen layers.
        owners, positions: as `SequencePacking.collate` returns them, `[sequences, length]`.
        states: `[sequences, length, size]`, or None.

    Returns:
        None if the kernels do not support a layer.
    """
    first, last = 0 if states is None else network.frozen_layers, network.config.num_hidden_layers
    parts = _parts(network, range(first, last))
    if parts is None:
        return None
    part = network.layers(states is None, first, last)
    unpadded = UnpaddedBatch.of(owners, _multiple(network), _groups(network))
    encoder = is_encoder(network.config)
    masks = model_masks(network.config, packed_visibility(owners, encoder=encoder), positions, network.dtype)
    numbers = positions + first_position(network.config)
    return _states(part, unpadded, parts, masks, numbers, tokens, states, None), unpadded


def _states(
    part: Any,
    unpadded: UnpaddedBatch,
    parts: Mapping[Any, Any],
    masks: Any,
    positions: torch.Tensor,
    tokens: torch.Tensor | None,
    states: torch.Tensor | None,
    cache: Any,
) -> torch.Tensor:
    past = {} if cache is None else {"past_key_values": cache}
    hidden: torch.Tensor = part(
        None if tokens is None else unpadded.unpad(tokens),
        attention_mask=masks,
        position_ids=unpadded.unpad(positions),
        inputs_embeds=None if states is None else unpadded.unpad(states),
        unpadded=unpadded,
        parts=parts,
        **past,
    ).last_hidden_state
    return hidden


def _multiple(network: Network) -> int:
    return MULTIPLE if length_multiple(network) > 1 else 1


def _groups(network: Network) -> int:
    config = network.config
    return int(config.num_attention_heads // getattr(config, "num_key_value_heads", config.num_attention_heads))


@cache
def _fused(mixin: Any, kind: Any) -> Any:
    """Return a class of modules with the `forward` of a mixin; Transformers adds its gradient checkpointing."""
    return type(f"Fused{kind.__name__}", (mixin, kind), {})


class _FusedDecoder:
    """Mixin over Transformers' decoder layers: the kernels compute unpadded batches, Transformers all others."""

    def forward(
        self: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: Any = None,
        unpadded: UnpaddedBatch | None = None,
        parts: Mapping[Any, LayerParts] | None = None,
        **options: Any,
    ) -> Any:
        """Return the states after the layer, `[1, tokens, size]`, from those before it."""
        if unpadded is None or parts is None or attention_mask is None or position_embeddings is None:
            given = {"position_embeddings": position_embeddings, "past_key_values": past_key_values, **options}
            return super().forward(hidden_states, attention_mask=attention_mask, **given)  # type: ignore[misc]
        own, states = parts[self], hidden_states[0]
        cosines, sines = (part[0, :, : own.size // 2] for part in position_embeddings)
        adapters = [weight for weight in own.adapters if weight is not None]
        if torch.is_grad_enabled() and any(part.requires_grad for part in (states, *adapters)):
            assert past_key_values is None, "a prefix with gradients is a part of the batch, never cached"
            return adapted_layer(states, own, unpadded, attention_mask, cosines, sines).unsqueeze(0)
        prefix = None
        if past_key_values is not None:
            before = past_key_values.layers[self.self_attn.layer_idx]
            prefix = (before.keys[:1], before.values[:1])
        return layer_states(states, own, unpadded, attention_mask, cosines, sines, prefix=prefix).unsqueeze(0)


class _FusedEncoder:
    """Mixin over Transformers' encoder layers: the kernels compute unpadded batches, Transformers all others."""

    def forward(
        self: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *given: Any,
        unpadded: UnpaddedBatch | None = None,
        parts: Mapping[Any, EncoderParts] | None = None,
        bias: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Return the states after the layer, `[1, tokens, size]`, from those before it."""
        if unpadded is None or parts is None or attention_mask is None:
            return super().forward(hidden_states, attention_mask, *given, **options)  # type: ignore[misc]
        own, states = parts[self], hidden_states[0]
        adapters = [w for part in (*own.attention, *own.mlp) for w in (part.down, part.up) if w is not None]
        if torch.is_grad_enabled() and any(part.requires_grad for part in (states, *adapters)):
            return adapted_encoder_layer(states, own, unpadded, attention_mask, bias).unsqueeze(0)
        return encoder_states(states, own, unpadded, attention_mask, bias).unsqueeze(0)


class _FusedMPNet:
    """Mixin over MPNet's backbone, which passes no options to its layers except the bias of relative positions."""

    def forward(
        self: Any,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        unpadded: UnpaddedBatch | None = None,
        parts: Mapping[Any, EncoderParts] | None = None,
        **options: Any,
    ) -> Any:
        """Return an output whose `last_hidden_state` is `[1, tokens, size]`."""
        if unpadded is None or attention_mask is None:
            return super().forward(  # type: ignore[misc]
                input_ids, attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds, **options
            )
        hidden = self.embeddings(input_ids=input_ids, position_ids=position_ids, inputs_embeds=inputs_embeds)
        bias = self.encoder.compute_position_bias(hidden.new_empty(1, attention_mask.shape[-1]))
        for layer in self.encoder.layer:
            hidden = layer(hidden, attention_mask, unpadded=unpadded, parts=parts, bias=bias)
        return BaseModelOutput(last_hidden_state=hidden)


def _parts(network: Network, layers: range) -> dict[Any, Any] | None:
    """Return the weights of some layers by layer; None if the kernels do not support one of the layers."""
    if network.autocast or not installed(network) or torch.compiler.is_exporting():
        return None
    parts_of = _encoder_parts if network.config.model_type in ENCODERS else _decoder_parts
    found = {
        layer: parts_of(layer, network.dtype) for layer in layer_list(network.backbone())[layers.start : layers.stop]
    }
    return None if None in found.values() else found


def _decoder_parts(layer: Any, dtype: torch.dtype) -> LayerParts | None:
    """Return a layer's weights; None if one has another type, trains, or is not a plain matrix."""
    attention, mlp = layer.self_attn, layer.mlp
    four = hasattr(layer, "pre_feedforward_layernorm")  # Gemma's norms before and after attention and MLP
    second = layer.pre_feedforward_layernorm if four else layer.post_attention_layernorm
    outputs = (layer.post_attention_layernorm, layer.post_feedforward_layernorm) if four else ()
    heads = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else ()
    norms = (layer.input_layernorm, second)
    attended = [_lora_linear(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)]
    gated = [_lora_linear(part) for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    known = [part for part in (*attended, *gated) if part is not None]
    if len(known) < len(attended) + len(gated):
        return None
    if not _fixed(known, [norm.weight for norm in (*norms, *heads, *outputs)], dtype):
        return None
    config = attention.config
    return LayerParts(
        norms=(_norm(norms[0]), _norm(norms[1])),
        attention=tuple(known[: len(attended)]),
        mlp=tuple(known[len(attended) :]),
        size=attention.head_dim,
        scale=attention.scaling,
        head_norms=(_norm(heads[0]), _norm(heads[1])) if heads else None,
        output_norms=(_norm(outputs[0]), _norm(outputs[1])) if outputs else None,
        activation=getattr(config, "hidden_act", None) or config.hidden_activation,
    )


def _norm(module: Any) -> Norm:
    """Return a norm's weight and epsilon; Gemma stores what the weight differs from 1 by."""
    if hasattr(module, "variance_epsilon"):
        return module.weight, module.variance_epsilon
    return 1.0 + module.weight.float(), module.eps


def _encoder_parts(layer: Any, dtype: torch.dtype) -> EncoderParts | None:
    """Return a layer's weights, as `_decoder_parts` does."""
    attention, middle, output = layer.attention, layer.intermediate.dense, layer.output
    if hasattr(attention, "attn"):  # MPNet
        inner, norm = attention.attn, attention.LayerNorm
        linears, dropout = (inner.q, inner.k, inner.v, inner.o), attention.dropout
        size = inner.attention_head_size
    else:
        inner, norm = attention.self, attention.output.LayerNorm
        linears = (inner.query, inner.key, inner.value, attention.output.dense)
        dropout, size = attention.output.dropout, inner.attention_head_size
    norms = (norm, output.LayerNorm)
    parts = [_lora_linear(part) for part in (*linears, middle, output.dense)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not _fixed(known, [w for one in norms for w in (one.weight, one.bias)], dtype):
        return None
    query, key, value, out, first, second = known
    return EncoderParts(
        attention=(query, key, value, out),
        mlp=(first, second),
        norms=tuple((one.weight, one.bias, one.eps) for one in norms),
        size=size,
        dropout=(_probability(inner.dropout), _probability(dropout), _probability(output.dropout)),
    )


def _probability(dropout: nn.Dropout) -> float:
    return dropout.p if dropout.training else 0.0


def _fixed(linears: Sequence[LoraLinear], others: Sequence[torch.Tensor], dtype: torch.dtype) -> bool:
    """Return whether all weights but adapters have the network's type and are frozen."""
    weights = [*others, *(w for part in linears for w in (part.weight, part.bias) if w is not None)]
    training = torch.is_grad_enabled()
    return all(weight.dtype == dtype and not (weight.requires_grad and training) for weight in weights)


def _lora_linear(module: Any) -> LoraLinear | None:
    """Return a linear layer with PEFT's adapter, if it has one; None for any other module."""
    if type(module) is nn.Linear:
        return LoraLinear(weight=module.weight, bias=module.bias)
    base = getattr(module, "base_layer", None)
    if type(base) is not nn.Linear or not hasattr(module, "lora_A") or len(module.lora_A) != 1:
        return None
    (name,) = module.lora_A
    if module.disable_adapters or module.merged or list(module.active_adapters) != [name]:
        return None
    dropout = module.lora_dropout[name]
    if name in module.lora_variant or module.lora_bias[name] or (dropout.training and getattr(dropout, "p", 0.0)):
        return None
    return LoraLinear(
        weight=base.weight,
        bias=base.bias,
        down=module.lora_A[name].weight,
        up=module.lora_B[name].weight,
        scaling=module.scaling[name],
    )


LAST_TOKEN_FAMILIES = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3")
"""Families whose layers have the same names for their parts."""
KERNELS = ("eager", "sdpa")


def supports_last_token(config: Any) -> bool:
    """Return whether the top layer can be computed at only some positions; never in an exported graph."""
    known = config.model_type in LAST_TOKEN_FAMILIES and config._attn_implementation in KERNELS
    return known and not torch.compiler.is_exporting()


def last_token_layer(backbone: Any, positions: torch.Tensor) -> Any:
    """Return the backbone with a top layer that computes only some positions, `[batch, positions, size]`.

    Args:
        positions: positions in each row, `[batch, positions]`.
    """
    layers = layer_list(backbone)
    return replaced(backbone, "layers", nn.ModuleList([*layers[:-1], _LastTokenLayer(layers[-1], positions)]))


class _LastTokenLayer(nn.Module):
    """A layer that computes the states of only some positions."""

    def __init__(self, layer: Any, positions: torch.Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.positions = positions

    def forward(self, hidden_states: torch.Tensor, **options: Any) -> Any:
        """Return states after the layer, `[batch, positions, size]`, from those before it, `[batch, length, size]`."""
        layer = self.layer
        if layer.gradient_checkpointing and layer.training:
            # Checkpointing would recompute the layer without the cache that provides keys and values.
            plain = copy.copy(layer)
            plain.gradient_checkpointing = False
            return layer._gradient_checkpointing_func(partial(self._states, plain, **options), hidden_states)
        return self._states(layer, hidden_states, **options)

    def _states(
        self,
        layer: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, ...] = (),
        past_key_values: Any = None,
        **options: Any,
    ) -> Any:
        positions, rows = self.positions, len(self.positions)
        width = layer.self_attn.head_dim * layer.self_attn.config.num_attention_heads
        attention = replaced(layer.self_attn, "q_proj", _NoQueries(width))
        captured = _CacheCapture(past_key_values)
        with suppress(_EnoughError):
            attention(
                hidden_states=layer.input_layernorm(hidden_states),
                attention_mask=None,
                position_embeddings=position_embeddings,
                past_key_values=captured,
            )
        if attention_mask is not None:  # without a mask no row is padded, and the last position attends to all
            attention_mask = attention_mask.expand(rows, -1, -1, -1)  # [batch, 1, length, keys]
            index = positions[:, None, :, None].expand(-1, 1, -1, attention_mask.shape[3])
            attention_mask = attention_mask.gather(2, index)
        return layer(
            _at(hidden_states, positions),
            attention_mask=attention_mask,
            position_embeddings=tuple(
                _at(part.expand(len(positions), -1, -1), positions) for part in position_embeddings
            ),
            past_key_values=_FullCache(captured.pair),
            **options,
        )


def _at(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the values at positions, `[batch, positions, size]`, of `[batch, length, size]`."""
    return values.gather(1, positions.unsqueeze(2).expand(-1, -1, values.shape[2]))


class _NoQueries(nn.Module):
    """A projection whose result is not used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.new_zeros(*hidden.shape[:-1], self.width)


class _EnoughError(Exception):
    """Raised to end attention once it has computed keys and values."""


class _CacheCapture:
    """A cache that receives keys and values, after those of the prefix, and then interrupts attention."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.pair: tuple[torch.Tensor, ...] = ()
        """Keys and values with norm and position, `[batch, heads, keys, size]`."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *unused: Any) -> None:
        """Store keys and values; never returns."""
        self.pair = (keys, values) if self.cache is None else self.cache.update(keys, values, layer)
        raise _EnoughError


class _FullCache:
    """A cache that already contains all keys and values."""

    def __init__(self, pair: tuple[torch.Tensor, ...]) -> None:
        self.pair = pair

    def update(self, *unused: Any) -> tuple[torch.Tensor, ...]:
        """Return all keys and values, which include those of the computed positions."""
        return self.pair
