"""Fused layers: decoder layers that compute by `kernels` instead of by Transformers' many small steps."""

from functools import cache
from typing import Any

import torch
from torch import nn

from labeltune.architectures import architecture, layer_list
from labeltune.kernels import Parts, adapted_layer, layer_states
from labeltune.products import Product

FAMILIES = ("llama", "mistral", "qwen2")
"""Families whose layers are norm, attention, norm and a gated MLP, with no norm of queries and keys."""
ACTIVATION, ATTENTION = "silu", "eager"


def install(network: Any) -> bool:
    """Have a network's layers computed by the kernels wherever they can be; whether its family is one of theirs."""
    config = network.config
    able = (
        config.model_type in FAMILIES
        and config.hidden_act == ACTIVATION
        and config._attn_implementation == ATTENTION
        and not config.attention_dropout
    )
    if able:
        for layer in layer_list(network.backbone()):
            kind: Any = type(layer)
            layer.__class__ = _fused(kind)
    return able


def installed(network: Any) -> bool:
    """Whether that was done."""
    return architecture(network.config) is not None and isinstance(layer_list(network.backbone())[0], _Fused)


@cache
def _fused(kind: Any) -> Any:
    """A class of layers whose `forward` is that of `_Fused`; Transformers sees to its checkpoints."""
    return type(f"Fused{kind.__name__}", (_Fused, kind), {})


class _Fused:
    """Mixin over Transformers' layers; a pass that the kernels do not know is theirs."""

    def forward(
        self: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> Any:
        """States behind the layer, `[batch, length, size]`, of the states before it."""
        learning = torch.is_grad_enabled()
        parts = parts_of(self, hidden_states.dtype) if _plain(hidden_states, attention_mask) else None
        if parts is None or position_embeddings is None or (learning and past_key_values is not None):
            given = {"position_embeddings": position_embeddings, "past_key_values": past_key_values, **options}
            return super().forward(hidden_states, attention_mask=attention_mask, **given)  # type: ignore[misc]
        cosines, sines = (part[..., : parts.size // 2].unsqueeze(1) for part in position_embeddings)
        adapters = [weight for part in parts.attention for weight in (part.down, part.up) if weight is not None]
        if learning and any(part.requires_grad for part in (hidden_states, *adapters)):
            return adapted_layer(hidden_states, parts, attention_mask, cosines, sines)

        def seen(keys: torch.Tensor, values: torch.Tensor) -> Any:
            return past_key_values.update(keys, values, self.self_attn.layer_idx)

        extend = None if past_key_values is None else seen
        return layer_states(hidden_states, parts, attention_mask, cosines, sines, extend=extend)


def _plain(hidden: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether states and mask are of one type, and nobody else has a say in the arithmetic."""
    asked = torch.is_autocast_enabled(hidden.device.type) or torch.compiler.is_exporting()
    return not asked and (mask is None or mask.dtype == hidden.dtype)


def parts_of(layer: Any, dtype: torch.dtype) -> Parts | None:
    """A layer's weights as the kernels take them; None where one is of another type, trains, or is no matrix alone."""
    attention, mlp = layer.self_attn, layer.mlp
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    read = [_product(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)]
    gated = [_product(part) for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    known = [part for part in (*read, *gated) if part is not None]
    if len(known) < len(read) + len(gated) or any(part.down is not None for part in known[len(read) :]):
        return None
    fixed = [norm.weight for norm in norms] + [w for part in known for w in (part.weight, part.bias) if w is not None]
    if any(weight.dtype != dtype or (weight.requires_grad and torch.is_grad_enabled()) for weight in fixed):
        return None
    return Parts(
        norms=tuple((norm.weight, norm.variance_epsilon) for norm in norms),
        attention=tuple(known[: len(read)]),
        mlp=tuple(known[len(read) :]),
        size=attention.head_dim,
        scale=attention.scaling,
    )


def _product(module: Any) -> Product | None:
    """A linear layer with the adapter that PEFT put beside it; None for whatever else it may be."""
    if type(module) is nn.Linear:
        return Product(weight=module.weight, bias=module.bias)
    base = getattr(module, "base_layer", None)
    if type(base) is not nn.Linear or not hasattr(module, "lora_A"):
        return None
    if module.disable_adapters or module.merged or list(module.active_adapters) != list(module.lora_A):
        return None
    (name,) = module.active_adapters if len(module.active_adapters) == 1 else (None,)
    if name is None or name in module.lora_variant or module.lora_bias[name]:
        return None
    dropout = module.lora_dropout[name]
    if dropout.training and getattr(dropout, "p", 0.0):
        return None
    return Product(
        weight=base.weight,
        bias=base.bias,
        down=module.lora_A[name].weight,
        up=module.lora_B[name].weight,
        scaling=module.scaling[name],
    )
