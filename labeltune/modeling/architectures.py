"""Architectures: the paths of layers, embeddings and attention projections in each model family."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)
from transformers.pytorch_utils import Conv1D

from labeltune.modeling.network import Network
from labeltune.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The names that a family of models gives to its parts, as paths below the backbone or below one layer."""

    layers: str = "layers"
    """List of the layers."""
    norm: str | None = "norm"
    """Norm after the top layer; None if each layer ends with its own."""
    stem: str | None = None
    """Module that adds positions and norms to token embeddings, if it is separate from the embedding."""
    positions: str | None = None
    """Position embedding that the backbone adds."""
    dropout: str | None = None
    """Dropout that the backbone applies to embeddings."""
    attention: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Linear layers of a layer's attention."""
    mlp_output: str = "down_proj"
    """Linear layer that ends a layer's MLP."""
    encoder: bool = False
    """Whether tokens attend to later tokens too."""
    counts_from_pad: bool = False
    """Whether positions are counted from the number after the pad token's id, as in fairseq, and not from 0."""


_BERT = Architecture(
    layers="encoder.layer",
    norm=None,
    stem="embeddings",
    attention=("query", "key", "value", "attention.output.dense"),
    mlp_output="output.dense",
    encoder=True,
)
_ROBERTA = replace(_BERT, counts_from_pad=True)
ARCHITECTURES = {
    "llama": Architecture(),
    "mistral": Architecture(),
    "gemma3_text": Architecture(),
    "qwen2": Architecture(),
    "qwen3": Architecture(),
    "gpt2": Architecture(
        layers="h",
        norm="ln_f",
        positions="wpe",
        dropout="drop",
        attention=("attn.c_attn", "attn.c_proj"),
        mlp_output="mlp.c_proj",
    ),
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mpnet": replace(_ROBERTA, attention=("attn.q", "attn.k", "attn.v", "attn.o")),
    "modernbert": Architecture(
        norm="final_norm",
        stem="embeddings",
        attention=("attn.Wqkv", "attn.Wo"),
        mlp_output="mlp.Wo",
        encoder=True,
    ),
}


def architecture_of(config: PretrainedConfig) -> Architecture | None:
    """Return the known architecture of a configuration, or None."""
    return ARCHITECTURES.get(config.model_type)


def first_position(config: PretrainedConfig) -> int:
    """Return the number of a row's first position in the position embeddings."""
    known = architecture_of(config)
    return config.pad_token_id + 1 if known and known.counts_from_pad else 0


def truncate_config(config: PretrainedConfig, base_name: str, depth: int | str, layers: int | str) -> int:
    """Set a configuration to `depth` layers; returns how many of its top layers are to be trained.

    Raises:
        UserError: layers that the model does not have, or a model whose layers this library can't find.
    """
    count = config.num_hidden_layers
    if architecture_of(config) is None and (depth, layers) != ("all", "all"):
        raise UserError(
            f"train.depth and train.layers: the layers of the architecture {config.model_type!r} of {base_name} are "
            f"not known here; set both to all. Known are: {', '.join(ARCHITECTURES)}"
        )
    kept = count if depth == "all" else int(depth)
    trained = kept if layers == "all" else int(layers)
    if kept > count or trained > kept:
        raise UserError(
            f"train.depth: {depth} and train.layers: {layers} do not fit {base_name}, which has {count} layers; depth "
            f"is at most {count}, layers at most the depth"
        )
    config.num_hidden_layers = kept
    if kept < count and getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:kept]
    return trained


def layer_list(backbone: Any) -> nn.ModuleList:
    """Return the layers of a backbone of a known architecture."""
    found = backbone.get_submodule(ARCHITECTURES[backbone.config.model_type].layers)
    assert isinstance(found, nn.ModuleList)
    return found


class _GivenStates(nn.Module):
    """Replaces the embeddings by the hidden states that it is called with."""

    def forward(self, *unused: Any, inputs_embeds: torch.Tensor, **ignored: Any) -> torch.Tensor:
        return inputs_embeds


class _Zero(nn.Module):
    """Replaces a position embedding that the hidden states already contain."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), device=positions.device)


def view(backbone: Any, start: int | None, stop: int) -> Any:
    """Return the backbone with the layers from `start` to before `stop`, sharing every weight.

    It is called with `inputs_embeds`, the states after the layers before `start`, or with tokens if `start` is None.
    Unless `stop` is the top, its last hidden state is that of layer `stop - 1`, before the final norm.
    """
    parts = ARCHITECTURES[backbone.config.model_type]
    layers = layer_list(backbone)
    part = replaced(backbone, parts.layers, nn.ModuleList(layers[start:stop]))
    part.config = copy.copy(backbone.config)
    part.config.num_hidden_layers = stop - (start or 0)
    if getattr(part.config, "layer_types", None):
        part.config.layer_types = part.config.layer_types[start:stop]
    if stop < len(layers) and parts.norm:
        part = replaced(part, parts.norm, nn.Identity())
    if start is not None:
        for name, stand_in in (
            (parts.stem, _GivenStates()),
            (parts.positions, _Zero()),
            (parts.dropout, nn.Identity()),
        ):
            if name:
                part = replaced(part, name, stand_in)
    return part


def without_pooler(backbone: Any) -> Any:
    """Return the backbone without the pooler that belongs to the head; it shares every weight."""
    return backbone if getattr(backbone, "pooler", None) is None else replaced(backbone, "pooler", None)


def replaced(module: nn.Module, path: str, child: nn.Module | None) -> Any:
    """Return a shallow copy of a module in which the submodule at `path` is replaced; it shares every weight."""
    name, _, rest = path.partition(".")
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    inner = module._modules[name]
    twin._modules[name] = replaced(inner, rest, child) if rest and inner is not None else child
    return twin


def adapter_targets(backbone: Any, wanted: str | list[str], base_name: str) -> list[str]:
    """Return the names of the layers that get an adapter; PEFT matches them with the ends of the modules' full names.

    Args:
        backbone: the model without its head.
        wanted: `auto`, `attention`, `attention+mlp-output`, `all-linear`, or names.

    Raises:
        UserError: a name that no linear layer has, or an architecture whose attention is not known here.
    """
    known = architecture_of(backbone.config)
    inside = backbone.get_submodule(known.layers) if known else backbone
    linear = [name for name, module in inside.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    if isinstance(wanted, list):
        missed = [name for name in wanted if not any(_ends_with(path, name) for path in linear)]
        if missed:
            names = sorted({path.rsplit(".", 1)[-1] for path in linear})
            raise UserError(
                f"train.lora.targets: no linear layer of {base_name} is called {missed}; there are: {', '.join(names)}"
            )
        return wanted
    if known is None and wanted != "all-linear":
        raise UserError(
            f"train.lora.targets: {wanted} is not known for the architecture {backbone.config.model_type!r} of "
            f"{base_name}; set it to all-linear or to a list of layer names. Known are: {', '.join(ARCHITECTURES)}"
        )
    if known and (wanted == "attention" or (wanted == "auto" and not known.encoder)):
        return list(known.attention)
    if known and wanted == "attention+mlp-output":
        return [*known.attention, known.mlp_output]
    # Below a layer's number, as in `0.mlp.up_proj`: the whole path, for `dense` alone would also mean the pooler's.
    return sorted({path.split(".", 1)[1] for path in linear} if known else {path.rsplit(".", 1)[-1] for path in linear})


def _ends_with(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def is_encoder(config: PretrainedConfig) -> bool:
    """Return whether tokens attend to later tokens, in which case the model can't score what follows a prompt."""
    known = architecture_of(config)
    if known:
        return known.encoder
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING


def unwrap(network: Network) -> Network:
    """Return the Transformers model inside a PEFT model, or the model itself."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network
