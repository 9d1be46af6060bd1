"""Loading: the head that is put on, and every model and setting that has to be refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from labeltune.modeling.adapters import trainable_parameters
from labeltune.modeling.base_models import quiet
from labeltune.runtime.errors import UserError
from tests.tiny import DECODERS, ENCODERS, UNKNOWN, VOCABULARY, tokenizer
from tests.tuning import TEXTS, logits, plan, reloaded, tune

Bases = Callable[..., Path]


@pytest.mark.parametrize("architecture", [*DECODERS, UNKNOWN])
def test_label_scoring_is_the_language_models_own_score_of_the_label_words(tiny_base: Bases, architecture: str) -> None:
    made = plan(tiny_base(architecture), lora={"targets": "all-linear"})
    words = [made.encoder.tokenizer(f" {word}")["input_ids"][0] for word in made.labels.words]
    ours = logits(made, made.build())
    with quiet():
        causal = AutoModelForCausalLM.from_pretrained(made.base.folder, attn_implementation="eager").eval()
    for row, ids in enumerate(made.encoder.encode(TEXTS).input_ids):
        with torch.no_grad():
            full = causal(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(torch.tensor(ours[row]), full[words], rtol=1e-5, atol=1e-5)


def test_depth_cuts_the_model_and_keeps_the_layers_below(tiny_base: Bases) -> None:
    network = plan(tiny_base("llama"), head="linear", depth=2).load()
    assert len(network.model.layers) == 2
    saved = load_file(tiny_base("llama") / "model.safetensors")
    assert torch.equal(network.model.layers[1].mlp.up_proj.weight, saved["model.layers.1.mlp.up_proj.weight"])


@pytest.mark.parametrize("architecture", ["llama", "bert"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_seed_alone_decides_the_initial_weights(tiny_base: Bases, architecture: str, head: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)
        network = plan(tiny_base(architecture), head=head, seed=seed).build()
        return torch.cat([parameter.detach().flatten() for parameter in trainable_parameters(network).values()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize(
    ("method", "head", "targets"),
    [
        ("full", "linear", "auto"),
        ("full", "label_scoring", "auto"),
        ("lora", "linear", "all-linear"),
        ("lora", "mlp", ["query_key_value"]),
        ("lora", "label_scoring", "all-linear"),
        ("qlora", "linear", ["query_key_value"]),
        ("qlora", "label_scoring", "all-linear"),
    ],
)
def test_an_architecture_that_is_not_in_the_table_works_where_nothing_need_be_known(
    tiny_base: Bases, tmp_path: Path, method: str, head: str, targets: Any
) -> None:
    made = plan(tiny_base(UNKNOWN), method=method, head=head, lora={"targets": targets})
    before = logits(made, made.build())
    network, _ = tune(made)
    together = logits(made, network)
    assert abs(together - before).max() > 1e-3
    assert (logits(made, reloaded(made, network, tmp_path / "saved").network) == together).all()
    for row, text in enumerate(TEXTS):
        assert logits(made, network, [text])[0] == pytest.approx(together[row], abs=2e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lora": {"targets": "auto"}},
            "train.lora.targets: auto is not known for .* 'gpt_neox' of tiny; set it",
        ),
        ({"lora": {"targets": "attention"}}, "train.lora.targets: attention is not known .* or to a list of layer"),
        ({"layers": 1}, "train.depth and train.layers: .* 'gpt_neox' of tiny are not known here; set both to all"),
        ({"depth": 2}, "train.depth and train.layers: .* 'gpt_neox' of tiny are not known here; set both to all"),
        ({"lora": {"targets": ["q_proj"]}}, r"called \['q_proj'\]; there are: dense, .*, query_key_value"),
    ],
)
def test_what_has_to_be_known_of_an_architecture_is_refused_with_what_to_set(
    tiny_base: Bases, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(tiny_base(UNKNOWN), head="linear", **settings).build()


def test_words_of_several_tokens_with_an_unknown_architecture_are_refused(tiny_base: Bases) -> None:
    made = plan(tiny_base(UNKNOWN), words=("ham it up", "ham on rye"), lora={"targets": "all-linear"})
    with pytest.raises(UserError, match="several tokens with 'gpt_neox'; it can with gemma3_text, gpt2, llama"):
        made.load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 9}, "train.depth: 9 .* has 3 layers"),
        ({"depth": 2, "layers": 3}, "train.layers: 3 do not fit tiny"),
    ],
)
def test_layers_that_the_model_does_not_have_are_refused(
    tiny_base: Bases, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(tiny_base("llama"), **settings).build()


def own_base(folder: Path, family: str, **sizes: Any) -> Path:
    """A base model of a family that `tests.tiny` does not have."""
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, bos_token_id=0, eos_token_id=0, **sizes
    )
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    tokenizer(False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("head", ["linear", "label_scoring"])
def test_an_architecture_that_transformers_cannot_classify_with_is_refused(tmp_path: Path, head: str) -> None:
    folder = own_base(tmp_path, "Mamba", state_size=4, expand=1)
    with pytest.raises(UserError, match=r"no classifier for the architecture 'mamba' of tiny; tested are llama"):
        plan(folder, head=head, method="full").build()


def test_label_scoring_by_rows_that_have_a_bias_is_refused(tmp_path: Path) -> None:
    folder = own_base(tmp_path, "Phi", intermediate_size=32, num_attention_heads=2)
    assert "lm_head.bias" in load_file(folder / "model.safetensors")
    with pytest.raises(UserError, match="label_scoring reads .* and tiny adds a bias to it; set train.head: linear"):
        plan(folder, method="full").build()


def test_a_family_that_names_its_spread_otherwise_gets_a_head(tmp_path: Path) -> None:
    sizes = {"ffn_dim": 32, "num_attention_heads": 2, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
    folder = own_base(tmp_path, "OPT", **sizes)
    network = plan(folder, head="linear", method="full", max_length=32).build()
    assert float(network.score.weight.detach().std()) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_label_scoring_with_an_encoder_is_refused(tiny_base: Bases, architecture: str) -> None:
    message = r"label_scoring needs a causal language model, and tiny is \w+; set train.head: linear or mlp"
    with pytest.raises(UserError, match=message):
        plan(tiny_base(architecture)).build()


@pytest.mark.parametrize(
    ("architecture", "weight", "head"),
    [
        ("llama", "model.layers.1.mlp.up_proj.weight", "linear"),
        ("llama", "model.norm.weight", "label_scoring"),
        ("gpt2", "transformer.h.2.attn.c_attn.bias", "linear"),
        ("bert", "encoder.layer.0.output.dense.weight", "linear"),
        ("qwen2", "lm_head.weight", "label_scoring"),
        (UNKNOWN, "gpt_neox.layers.0.mlp.dense_h_to_4h.weight", "mlp"),
    ],
)
@pytest.mark.parametrize("words", [("ham", "spam"), ("ham it up", "ham on rye")], ids=["one token", "several"])
def test_a_base_that_lacks_weights_of_its_own_is_refused_and_never_filled_up_by_chance(
    tiny_base: Bases, tmp_path: Path, architecture: str, weight: str, head: str, words: tuple[str, str]
) -> None:
    folder = tmp_path / "lacking"
    shutil.copytree(tiny_base(architecture), folder)
    weights = load_file(folder / "model.safetensors")
    del weights[weight]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights of its own layers, such as \[|found no output embedding in"):
        plan(folder, head=head, words=words, lora={"targets": "all-linear"}).load()


@pytest.mark.parametrize(
    ("architecture", "positions"),
    [("gpt2", 256), ("bert", 256), ("roberta", 254), ("mpnet", 254), ("llama", 256), (UNKNOWN, 256)],
)
def test_prompts_longer_than_the_models_positions_are_refused(
    tiny_base: Bases, architecture: str, positions: int
) -> None:
    settings = {"head": "linear", "lora": {"targets": "all-linear"}}
    network = plan(tiny_base(architecture), max_length=positions, **settings).build().eval()
    ids = torch.full((1, positions), 7)
    assert network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()
    message = f"prompt.max_length: {positions + 1} is more than tiny can read; .* set it to at most {positions}$"
    with pytest.raises(UserError, match=message):
        plan(tiny_base(architecture), max_length=positions + 1, **settings).build()


def test_label_words_take_positions_too(tiny_base: Bases) -> None:
    words = ("ham it up", "ham on rye")
    behind = max(map(len, (tokenizer(False)(f" {word}")["input_ids"] for word in words))) - 1
    assert behind > 2
    plan(tiny_base("gpt2"), words=words, max_length=256 - behind).load()
    message = f"has 256 positions, {behind} of them for the label words; set it to at most {256 - behind}"
    with pytest.raises(UserError, match=message):
        plan(tiny_base("gpt2"), words=words, max_length=257 - behind).load()


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_full_training_in_bf16_keeps_its_weights_in_fp32(tiny_base: Bases, architecture: str) -> None:
    settings = {"method": "full", "head": "linear", "head_initialization": "random", "learning_rate": 1e-6}
    exact, made = (plan(tiny_base(architecture), dtype=dtype, **settings) for dtype in ("fp32", "bf16"))
    before = {name: weight.detach().clone() for name, weight in made.build().named_parameters()}
    network, _ = tune(made)
    seen: list[torch.dtype] = []
    module = next(module for module in network.backbone().modules() if isinstance(module, torch.nn.Linear))
    handle = module.register_forward_hook(lambda _, given, answer: seen.append(answer.dtype))
    difference = abs(logits(made, network) - logits(exact, tune(exact)[0])).max()
    handle.remove()
    assert set(seen) == {torch.bfloat16}
    assert 1e-5 < difference < 0.1
    moved = 0
    for name, weight in network.named_parameters():
        assert weight.dtype == torch.float32
        step = (weight.detach() - before[name]).abs()
        assert float(step.max()) < 3e-6
        # In bf16 such a step would be lost: neighbours of 0.1 lie 5e-4 apart.
        moved += int((step > 0).sum())
        if weight.ndim > 1:
            assert float((weight.detach().bfloat16() == before[name].bfloat16()).float().mean()) > 0.95
    assert moved > 0.5 * sum(weight.numel() for weight in before.values() if weight.shape[0] != VOCABULARY)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "modernbert"])
def test_adapters_and_heads_on_a_bf16_base_are_fp32(tiny_base: Bases, tmp_path: Path, architecture: str) -> None:
    made = plan(tiny_base(architecture), dtype="bf16", head="linear")
    network, _ = tune(made)
    for name, weight in network.named_parameters():
        fp32 = any(part in name for part in (".lora_", ".score.", ".classifier.", ".pooler.", ".head."))
        assert weight.dtype == (torch.float32 if fp32 else torch.bfloat16), name
    assert (logits(made, reloaded(made, network, tmp_path / "saved").network) == logits(made, network)).all()


@pytest.mark.parametrize("before", [2, 3])
@pytest.mark.parametrize("pooling", ["auto", "mean"])
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_a_base_that_was_fine_tuned_for_other_labels_gets_a_fresh_head_and_says_so(
    tiny_base: Bases, tmp_path: Path, capsys: pytest.CaptureFixture[str], architecture: str, pooling: str, before: int
) -> None:
    """Three labels against two is another shape; two against two would pass for the same labels."""
    tuned = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_base(architecture), num_labels=before, pad_token_id=0
    )
    tuned.save_pretrained(tmp_path / "tuned")
    tokenizer(architecture in ENCODERS).save_pretrained(tmp_path / "tuned")
    made = plan(tmp_path / "tuned", head="linear", method="full", pooling=pooling)
    network = made.build()
    output = next(m for m in reversed(list(network.modules())) if getattr(m, "out_features", 0) == 2)
    old = next(m for m in reversed(list(tuned.modules())) if getattr(m, "out_features", 0) == before)
    assert output.weight.shape[0] == 2
    assert not torch.allclose(output.weight, old.weight[:2].float())
    assert torch.equal(output.weight, made.load().get_submodule(network.head_name).weight)  # by the seed alone
    assert "fine-tuned for other labels" in capsys.readouterr().out


def test_weights_of_another_size_than_the_configuration_says_are_refused(tiny_base: Bases, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base("bert"), folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    save_file(weights | {name: weights[name][:-5]}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="have other sizes than its config.json says"):
        plan(folder, head="linear", method="full").load()


def test_what_transformers_cannot_do_with_a_family_is_refused_or_left_to_auto(tiny_base: Bases) -> None:
    settings = {"head": "linear", "method": "full"}
    asked = plan(tiny_base("mpnet"), attention="sdpa", **settings)
    with pytest.raises(UserError, match="train.attention: Transformers has no sdpa for tiny; set it to auto or eager"):
        replace(asked, machine=replace(asked.machine, attention="sdpa")).load()
    left = plan(tiny_base("mpnet"), **settings)
    network = replace(left, machine=replace(left.machine, attention="sdpa")).load()
    assert network.config._attn_implementation == "eager"
    with pytest.raises(UserError, match="train.gradient_checkpointing: Transformers can't .* 'mpnet'; set it to false"):
        plan(tiny_base("mpnet"), gradient_checkpointing=True, **settings).build()
