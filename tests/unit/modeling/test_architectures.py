"""Parts of a backbone: which layers there are, what a view of them computes, and which of them are adapted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel

from labeltune.modeling.architectures import (
    ARCHITECTURES,
    adapter_targets,
    architecture_of,
    is_encoder,
    layer_list,
    replaced,
    truncate_config,
    unwrap,
    view,
    without_pooler,
)
from labeltune.runtime.errors import UserError
from tests.tiny import DECODERS, ENCODERS, LAYERS, TWINS, UNKNOWN

Bases = Callable[..., Path]
IDS = torch.tensor([[5, 17, 40, 9, 63, 22]])


def loaded(tiny_base: Bases, architecture: str) -> Any:
    return AutoModel.from_pretrained(tiny_base(architecture), attn_implementation="eager").eval()


@pytest.mark.parametrize("architecture", [*DECODERS, *ENCODERS, *TWINS])
@pytest.mark.parametrize("cut", range(1, LAYERS))
def test_two_views_one_after_the_other_are_the_whole_backbone(tiny_base: Bases, architecture: str, cut: int) -> None:
    """Transformers' own pass over all layers is the reference; the states in between are its `hidden_states`."""
    backbone = loaded(tiny_base, architecture)
    with torch.no_grad():
        whole = backbone(input_ids=IDS, output_hidden_states=True)
        below = view(backbone, None, cut)(input_ids=IDS, use_cache=False).last_hidden_state
        above = view(backbone, cut, LAYERS)(inputs_embeds=below, use_cache=False).last_hidden_state
    torch.testing.assert_close(below, whole.hidden_states[cut])
    torch.testing.assert_close(above, whole.last_hidden_state)


def test_a_view_shares_every_weight_and_leaves_the_backbone_as_it_was(tiny_base: Bases) -> None:
    backbone = loaded(tiny_base, "gemma3_text")
    types = list(backbone.config.layer_types)
    part = view(backbone, 1, 2)
    (layer,) = layer_list(part)
    assert layer is layer_list(backbone)[1]
    assert (part.config.num_hidden_layers, part.config.layer_types) == (1, types[1:2])
    assert (backbone.config.num_hidden_layers, backbone.config.layer_types) == (LAYERS, types)
    assert len(layer_list(backbone)) == LAYERS
    assert not isinstance(backbone.norm, nn.Identity)


def test_replacing_a_module_changes_a_copy_alone() -> None:
    module = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    twin = replaced(module, "0.1", nn.Identity())
    assert isinstance(twin[0][1], nn.Identity)
    assert isinstance(module[0][1], nn.ReLU)
    assert twin[0][0] is module[0][0]
    assert twin[1] is module[1]


def test_the_pooler_is_taken_off_a_copy(tiny_base: Bases) -> None:
    backbone = loaded(tiny_base, "bert")
    assert without_pooler(backbone).pooler is None
    assert backbone.pooler is not None
    decoder = loaded(tiny_base, "llama")
    assert without_pooler(decoder) is decoder


@pytest.mark.parametrize(
    ("depth", "layers", "left", "trained"), [("all", "all", 3, 3), (2, "all", 2, 2), (2, 1, 2, 1), ("all", 2, 3, 2)]
)
def test_a_configuration_is_cut_to_the_depth_with_its_types_of_layers(
    tiny_base: Bases, depth: int | str, layers: int | str, left: int, trained: int
) -> None:
    config = AutoConfig.from_pretrained(tiny_base("gemma3_text"))
    types = list(config.layer_types)
    assert truncate_config(config, "tiny", depth, layers) == trained
    assert config.num_hidden_layers == left
    assert config.layer_types == types[:left]


@pytest.mark.parametrize(
    ("architecture", "depth", "layers", "message"),
    [
        ("llama", 4, "all", "train.depth: 4 and train.layers: all do not fit tiny, which has 3 layers"),
        ("llama", 2, 3, "train.depth: 2 and train.layers: 3 do not fit tiny"),
        (UNKNOWN, 2, "all", f"architecture '{UNKNOWN}' of tiny are not known here; set both to all"),
    ],
)
def test_layers_that_are_not_there_or_not_known_are_refused(
    tiny_base: Bases, architecture: str, depth: int | str, layers: int | str, message: str
) -> None:
    config = AutoConfig.from_pretrained(tiny_base(architecture))
    with pytest.raises(UserError, match=message):
        truncate_config(config, "tiny", depth, layers)


@pytest.mark.parametrize("architecture", [*DECODERS, *ENCODERS, *TWINS])
def test_the_names_of_the_table_are_those_of_transformers(tiny_base: Bases, architecture: str) -> None:
    """Attention and MLP output are linear layers of every layer, and the norm and the embeddings are there."""
    backbone = loaded(tiny_base, architecture)
    known = architecture_of(backbone.config)
    assert known is ARCHITECTURES[architecture]
    assert len(layer_list(backbone)) == LAYERS
    for layer in layer_list(backbone):
        linear = [name for name, module in layer.named_modules() if getattr(module, "weight", None) is not None]
        for target in (*known.attention, known.mlp_output):
            assert any(name == target or name.endswith(f".{target}") for name in linear), target
    for path in (known.norm, known.stem, known.positions, known.dropout):
        assert path is None or backbone.get_submodule(path) is not None


def test_adapters_of_an_unknown_family_need_names(tiny_base: Bases) -> None:
    backbone = loaded(tiny_base, UNKNOWN)
    assert "query_key_value" in adapter_targets(backbone, "all-linear", "tiny")
    with pytest.raises(
        UserError, match="train.lora.targets: auto is not known for the architecture 'gpt_neox' of tiny"
    ):
        adapter_targets(backbone, "auto", "tiny")


def test_auto_adapts_the_attention_of_decoders_and_every_linear_layer_of_encoders(tiny_base: Bases) -> None:
    decoder, encoder = loaded(tiny_base, "llama"), loaded(tiny_base, "bert")
    assert adapter_targets(decoder, "auto", "tiny") == list(ARCHITECTURES["llama"].attention)
    assert adapter_targets(encoder, "auto", "tiny") == adapter_targets(encoder, "all-linear", "tiny")
    assert not any("pooler" in name for name in adapter_targets(encoder, "all-linear", "tiny"))


@pytest.mark.parametrize(
    ("config", "encoder"),
    [
        ("LlamaConfig", False), ("GPT2Config", False), ("BertConfig", True), ("ModernBertConfig", True),
        ("GPTNeoXConfig", False), ("ElectraConfig", True), ("T5Config", True),
    ],
)  # fmt: skip
def test_encoders_are_told_from_decoders_in_families_of_the_table_and_in_others(config: str, encoder: bool) -> None:
    assert is_encoder(getattr(transformers, config)()) is encoder


def test_what_peft_wraps_is_unwrapped_and_anything_else_is_itself() -> None:
    class Wrapped:
        def get_base_model(self) -> str:
            return "inside"

    assert unwrap(Wrapped()) == "inside"
    module = nn.Linear(1, 1)
    assert unwrap(module) is module
