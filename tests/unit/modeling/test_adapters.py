"""What trains, and how: adapters and their settings against PEFT's papers, and recomputed activations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn

from labeltune.modeling import adapters, architectures
from labeltune.modeling.architectures import layer_list
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.forward import pad
from labeltune.runtime.errors import UserError
from tests.tiny import LAYERS
from tests.tuning import ANSWERS, logits, plan, reloaded, rows, tune

Bases = Callable[..., Path]


def adapted(network: nn.Module) -> list[str]:
    """Names of the adapted modules, as the base model calls them."""
    found = [name for name, module in network.named_modules() if isinstance(module, LoraLayer)]
    return sorted(name.removeprefix("base_model.model.") for name in found)


def in_layers(prefix: str, *suffixes: str) -> list[str]:
    return sorted(f"{prefix}.{layer}.{suffix}" for layer in range(LAYERS) for suffix in suffixes)


QKVO = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
BERT = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
FEED_FORWARD = ["intermediate.dense", "output.dense"]
MPNET = ["attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"]
GPT2 = ["attn.c_attn", "attn.c_proj"]
MODERN = ["attn.Wqkv", "attn.Wo"]
NEOX = ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]
TARGETS: list[tuple[str, Any, str, list[str]]] = [
    *((name, "auto", "model.layers", QKVO) for name in ("llama", "gemma3_text", "qwen2", "qwen3")),
    *((name, "attention", "model.layers", QKVO) for name in ("llama", "gemma3_text", "qwen2", "qwen3")),
    *((name, "all-linear", "model.layers", QKVO + MLP) for name in ("llama", "gemma3_text", "qwen2", "qwen3")),
    *((name, "attention+mlp-output", "model.layers", [*QKVO, "mlp.down_proj"]) for name in ("llama", "gemma3_text")),
    ("gpt2", "attention+mlp-output", "transformer.h", [*GPT2, "mlp.c_proj"]),
    ("bert", "attention+mlp-output", "bert.encoder.layer", [*BERT, "output.dense"]),
    ("modernbert", "attention+mlp-output", "model.layers", [*MODERN, "mlp.Wo"]),
    ("llama", ["q_proj", "mlp.up_proj"], "model.layers", ["self_attn.q_proj", "mlp.up_proj"]),
    ("gpt2", "auto", "transformer.h", GPT2),
    ("gpt2", "attention", "transformer.h", GPT2),
    ("gpt2", "all-linear", "transformer.h", [*GPT2, "mlp.c_fc", "mlp.c_proj"]),
    ("gpt2", ["c_attn", "c_proj"], "transformer.h", [*GPT2, "mlp.c_proj"]),
    ("bert", "auto", "bert.encoder.layer", BERT + FEED_FORWARD),
    ("bert", "attention", "bert.encoder.layer", BERT),
    ("bert", "all-linear", "bert.encoder.layer", BERT + FEED_FORWARD),
    ("bert", ["dense"], "bert.encoder.layer", ["attention.output.dense", *FEED_FORWARD]),
    ("roberta", "auto", "roberta.encoder.layer", BERT + FEED_FORWARD),
    ("roberta", "attention", "roberta.encoder.layer", BERT),
    ("roberta", ["dense"], "roberta.encoder.layer", ["attention.output.dense", *FEED_FORWARD]),
    ("mpnet", "auto", "mpnet.encoder.layer", MPNET + FEED_FORWARD),
    ("mpnet", "attention", "mpnet.encoder.layer", MPNET),
    ("mpnet", "attention+mlp-output", "mpnet.encoder.layer", [*MPNET, "output.dense"]),
    ("mpnet", ["dense"], "mpnet.encoder.layer", FEED_FORWARD),
    ("modernbert", "auto", "model.layers", [*MODERN, "mlp.Wi", "mlp.Wo"]),
    ("modernbert", "attention", "model.layers", MODERN),
    ("modernbert", ["Wo"], "model.layers", ["attn.Wo", "mlp.Wo"]),
    ("gpt_neox", "all-linear", "gpt_neox.layers", NEOX),
    ("gpt_neox", ["dense"], "gpt_neox.layers", ["attention.dense"]),
]


@pytest.mark.parametrize(
    ("architecture", "targets", "prefix", "expected"),
    TARGETS,
    ids=[f"{name}-{targets if isinstance(targets, str) else '+'.join(targets)}" for name, targets, _, _ in TARGETS],
)
def test_targets_adapt_exactly_these_layers_and_never_the_head(
    tiny_base: Bases, architecture: str, targets: Any, prefix: str, expected: list[str]
) -> None:
    network = plan(tiny_base(architecture), head="linear", lora={"targets": targets}).build()
    assert adapted(network) == in_layers(prefix, *expected)


def test_targets_in_the_top_layers_alone(tiny_base: Bases) -> None:
    network = plan(tiny_base("bert"), head="linear", layers=1, lora={"targets": "attention"}).build()
    assert adapted(network) == sorted(f"bert.encoder.layer.2.{name}" for name in BERT)


@pytest.mark.parametrize(
    ("architecture", "targets", "message"),
    [
        ("llama", ["q_prj"], r"no linear layer of tiny is called \['q_prj'\]; there are: down_proj, .*, v_proj$"),
        ("llama", ["q_proj", "wrong"], r"called \['wrong'\]; there are: down_proj, gate_proj, k_proj"),
        ("gpt2", ["q_proj", "c_fc"], r"called \['q_proj'\]; there are: c_attn, c_fc, c_proj$"),
        ("bert", ["pooler.dense"], r"called \['pooler.dense'\]; there are: dense, key, query, value$"),
        ("llama", ["embed_tokens"], r"called \['embed_tokens'\]"),
        ("llama", ["lm_head"], r"called \['lm_head'\]"),
    ],
)
def test_names_that_no_layer_has_are_refused_with_those_that_there_are(
    tiny_base: Bases, architecture: str, targets: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=f"train.lora.targets: .*{message}"):
        plan(tiny_base(architecture), head="linear", lora={"targets": targets}).build()


def first_adapted(network: nn.Module) -> tuple[str, Any]:
    """The first adapted layer, with the name that the base model's file has for it."""
    return next((name, module) for name, module in network.named_modules() if isinstance(module, LoraLayer))


@pytest.mark.parametrize(("rslora", "scale"), [(False, 16 / 4), (True, 16 / 4**0.5)])
def test_rank_alpha_and_rank_stabilised_scale(tiny_base: Bases, rslora: bool, scale: float) -> None:
    made = plan(tiny_base("llama"), head="linear", lora={"rank": 4, "alpha": 16, "rslora": rslora}, epochs=3.0)
    network, _ = tune(made)
    name, module = first_adapted(network.eval())
    a, b = (getattr(module, f"lora_{side}").default.weight.detach() for side in "AB")
    assert (a.shape, b.shape) == ((4, 32), (32, 4))
    weight = load_file(made.base.folder / "model.safetensors")[name.removeprefix("base_model.model.") + ".weight"]
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer = module(x)
    torch.testing.assert_close(answer, x @ (weight + scale * b @ a).T, rtol=1e-5, atol=1e-5)
    assert float((answer - x @ weight.T).abs().max()) > 1e-2


def test_adapter_dropout_acts_in_training_alone(tiny_base: Bases) -> None:
    network, _ = tune(plan(tiny_base("llama"), head="linear", lora={"dropout": 0.5}))
    _, module = first_adapted(network)
    x = torch.ones(1, 32)
    with torch.no_grad():
        module.train()
        assert not torch.equal(module(x), module(x))
        module.eval()
        assert torch.equal(module(x), module(x))
    assert module.lora_dropout.default.p == 0.5


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("layers", ["all", 2])
def test_training_mode_spares_the_frozen_layers_and_is_set_once(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, method: str, layers: int | str
) -> None:
    network = plan(tiny_base("llama"), head="linear", method=method, layers=layers).build()
    stack = layer_list(architectures.unwrap(network).backbone())
    top = LAYERS if layers == "all" else int(layers)
    walks: list[bool] = []
    train = stack[-1].train
    monkeypatch.setattr(stack[-1], "train", lambda mode=True: walks.append(mode) or train(mode))
    for _ in range(2):
        network.eval()
        assert not any(module.training for module in network.modules())
        for _ in range(3):
            network.train()
            assert [layer.training for layer in stack] == [False] * (LAYERS - top) + [True] * top
            assert all(module.training for module in stack[-1].modules())
    # Where layers are frozen, the trained ones are switched off with them and on again.
    assert walks == ([False, True] if layers == "all" else [False, True, False, True]) * 2


@pytest.mark.parametrize(
    ("architecture", "method"), [("llama", "lora"), ("gpt2", "lora"), ("bert", "lora"), ("gpt2", "qlora")]
)
def test_dora_scales_each_output_to_its_trained_magnitude(
    tiny_base: Bases, tmp_path: Path, architecture: str, method: str
) -> None:
    settings = {"method": method, "head": "linear", "epochs": 3.0}
    made = plan(tiny_base(architecture), lora={"rank": 4, "alpha": 8, "dora": True}, **settings)
    network, _ = tune(made)
    _, module = first_adapted(network.eval())
    a, b = (getattr(module, f"lora_{side}").default.weight.detach() for side in "AB")
    magnitude = module.lora_magnitude_vector.default.weight.detach()
    if method == "qlora":
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(module.base_layer.weight.data, module.base_layer.weight.quant_state)
    else:
        weight = module.base_layer.weight.detach()
        weight = weight.T if architecture == "gpt2" else weight  # [outputs, inputs]
    direction = weight + 8 / 4 * b @ a
    by_hand = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)  # equation 5 of the paper
    bias = module.base_layer.bias.detach() if module.base_layer.bias is not None else 0
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(module(x), x @ by_hand.T + bias, rtol=1e-5, atol=2e-5)
    assert not torch.allclose(magnitude, weight.norm(dim=1))  # it has trained

    answers = logits(made, network)
    assert (logits(made, reloaded(made, network, tmp_path / "saved").network) == answers).all()
    merged = reloaded(made, network, tmp_path / "saved", merge=True).network
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert logits(made, merged) == pytest.approx(answers, rel=5e-6, abs=5e-6)


@pytest.mark.parametrize(
    ("architecture", "head", "bias", "method"),
    [
        ("qwen2", "linear", "none", "lora"),
        ("qwen2", "linear", "lora_only", "lora"),
        ("qwen2", "mlp", "all", "lora"),
        ("qwen2", "label_scoring", "all", "lora"),
        ("qwen2", "mlp", "lora_only", "qlora"),
        ("bert", "linear", "none", "lora"),
        ("bert", "linear", "lora_only", "lora"),
        ("bert", "linear", "all", "lora"),
        ("bert", "mlp", "all", "lora"),
        ("bert", "linear", "all", "qlora"),
    ],
)
def test_exactly_the_biases_that_were_asked_for_train_and_are_saved(
    tiny_base: Bases, tmp_path: Path, architecture: str, bias: str, head: str, method: str
) -> None:
    made = plan(tiny_base(architecture), method=method, head=head, lora={"bias": bias, "targets": "attention"})
    before = {name: weight.detach().clone() for name, weight in made.build().named_parameters()}
    network, _ = tune(made)
    targets = ("q_proj", "k_proj", "v_proj", "query", "key", "value", "attention.output.dense")
    expected = set()
    for name in before:
        owner = name.removesuffix(".bias").removesuffix(".base_layer")
        own = name.endswith(".bias") and not any(part in name for part in ("modules_to_save", "original_module"))
        if own and (bias == "all" or (bias == "lora_only" and owner.endswith(targets))):
            expected.add(name)
    assert len(expected) == {
        ("qwen2", "none"): 0, ("qwen2", "lora_only"): 9, ("qwen2", "all"): 9,
        ("bert", "none"): 0, ("bert", "lora_only"): 12, ("bert", "all"): 1 + 3 * 8,
    }[architecture, bias]  # fmt: skip
    trained = adapters.trainable_parameters(network)
    assert {name for name in trained if ".lora_" not in name and "modules_to_save" not in name} == expected
    if head != "label_scoring":
        assert any("modules_to_save" in name for name in trained)
    moved = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert expected <= moved <= trained.keys()

    answers = logits(made, network)
    assert (logits(made, reloaded(made, network, tmp_path / "saved").network) == answers).all()
    merged = reloaded(made, network, tmp_path / "saved", merge=True).network
    assert logits(made, merged) == pytest.approx(answers, rel=5e-6, abs=5e-6)


@pytest.mark.parametrize(("depth", "moves"), [("all", False), (LAYERS, False), (LAYERS - 1, True)])
def test_label_rows_train_where_the_model_was_cut(
    tiny_base: Bases, tmp_path: Path, depth: int | str, moves: bool
) -> None:
    made = plan(tiny_base("llama"), depth=depth)
    before = made.load().score.weight.detach().clone()
    network = tune(made)[0]
    rows_of_words = architectures.unwrap(network).score.weight
    assert torch.equal(rows_of_words, before) is not moves
    again = reloaded(made, network, tmp_path / "saved")
    assert (logits(made, again.network) == logits(made, network)).all()


def gradients(made: NetworkSpec, network: Any) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Gradients of a training batch, and the layers in the order in which they ran."""
    runs: list[int] = []
    network.train()
    frozen = architectures.unwrap(network).frozen_layers
    for index, layer in enumerate(layer_list(architectures.unwrap(network).backbone())):

        def note(module: nn.Module, given: Any, named: Any, answer: Any, index: int = index) -> None:
            runs.append(index)
            answer = answer[0] if isinstance(answer, tuple) else answer
            assert not answer.requires_grad or index >= frozen, "the frozen layers' activations are kept for nothing"

        # What is called inside the layer: hooks of the layer itself stay outside of the recomputation.
        next(layer.children()).register_forward_hook(note, with_kwargs=True)
    batch = pad(rows(made).input_ids, made.encoder.tokenizer.pad_token_id)
    torch.manual_seed(3)
    nn.functional.cross_entropy(network(**batch).logits, torch.tensor(ANSWERS)).backward()
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}, runs


@pytest.mark.parametrize("layers", ["all", 2])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    ("architecture", "head"), [("llama", "linear"), ("llama", "several"), ("gpt2", "linear"), ("bert", "linear")]
)
def test_recomputed_activations_give_the_same_gradients(
    tiny_base: Bases, architecture: str, head: str, method: str, layers: Any
) -> None:
    words = ("ham it up", "ham on rye") if head == "several" else ("ham", "spam")
    settings = {"method": method, "head": "linear" if head == "linear" else "label_scoring", "layers": layers}
    settings["lora"] = {"dropout": 0.3}  # recomputed with the same random numbers
    stored, recomputed = (
        plan(tiny_base(architecture), words=words, kernels="transformers", gradient_checkpointing=on, **settings)
        for on in (False, True)
    )
    expected, runs = gradients(stored, stored.build())
    found, again = gradients(recomputed, recomputed.build())
    frozen = LAYERS - 2 if layers == 2 else 0
    assert runs == [*range(LAYERS)]
    assert again == [*range(LAYERS), *reversed(range(frozen, LAYERS))]
    assert found.keys() == expected.keys()
    assert all(bool(gradient.any()) for name, gradient in expected.items() if "lora_B" in name)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_recomputed_activations_train_the_same_model(tiny_base: Bases) -> None:
    answers = []
    for on in (False, True):
        made = plan(tiny_base("llama"), head="linear", layers=2, epochs=3.0, gradient_checkpointing=on)
        answers.append(logits(made, tune(made)[0]))
    assert (answers[0] == answers[1]).all()
