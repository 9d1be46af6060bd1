"""QLoRA: what is kept in 4 bits, in which form, and that nothing disturbs it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from transformers import TrainerCallback

from labeltune.modeling import adapters, architectures
from labeltune.modeling.architectures import layer_list
from tests.tiny import UNKNOWN
from tests.tuning import logits, plan, reloaded, tune

Bases = Callable[..., Path]
SEVERAL = ("ham it up", "ham on rye")


@pytest.mark.parametrize(
    ("architecture", "head", "words", "kept"),
    [
        ("llama", "linear", ("ham", "spam"), ("embed_tokens", "score")),
        ("llama", "label_scoring", ("ham", "spam"), ("embed_tokens", "score")),
        ("qwen2", "label_scoring", SEVERAL, ("embed_tokens", "lm_head")),
        ("gpt2", "mlp", ("ham", "spam"), ("wte", "wpe", "score")),
        ("bert", "linear", ("ham", "spam"), ("word_embeddings", "pooler", "classifier")),
        ("roberta", "linear", ("ham", "spam"), ("word_embeddings", "classifier")),
        ("modernbert", "linear", ("ham", "spam"), ("tok_embeddings", "head", "classifier")),
        (UNKNOWN, "linear", ("ham", "spam"), ("embed_in", "score")),
    ],
)
def test_the_layers_are_in_4_bits_and_the_rest_never_is(
    tiny_base: Bases, architecture: str, head: str, words: tuple[str, str], kept: tuple[str, ...]
) -> None:
    made = plan(tiny_base(architecture), words=words, method="qlora", head=head, lora={"targets": "all-linear"})
    network = architectures.unwrap(made.build())
    layers = network.gpt_neox.layers if architecture == UNKNOWN else layer_list(network.backbone())
    inside = {id(module) for module in layers.modules()}
    four = [module for module in network.modules() if isinstance(module, Linear4bit)]
    plain = [module for module in layers.modules() if type(module).__name__ in ("Linear", "Conv1D")]
    adapters = [module for name, module in network.named_modules() if ".lora_" in name]
    assert len(four) >= 4 * len(layers)
    assert all(id(module) in inside for module in four)
    assert {id(module) for module in plain} <= {id(module) for module in adapters}
    for part in kept:
        weights = [weight for name, weight in network.named_parameters() if f".{part}." in f".{name}"]
        assert weights
        assert all(weight.dtype == torch.float32 for weight in weights)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_is_nf4_with_double_quantisation_in_the_arithmetic_that_was_asked_for(tiny_base: Bases, dtype: str) -> None:
    made = plan(tiny_base("llama"), dtype=dtype, method="qlora", head="linear", epochs=2.0)
    network, history = tune(made)
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    config = network.config.quantization_config
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == expected
    for module in network.modules():
        if isinstance(module, Linear4bit):
            assert module.compute_dtype == expected
            assert module.weight.dtype == torch.uint8
            assert (module.weight.quant_state.quant_type, module.weight.quant_state.nested) == ("nf4", True)
    assert network.get_base_model().model.embed_tokens.weight.dtype == expected
    assert all(weight.dtype == torch.float32 for weight in adapters.trainable_parameters(network).values())
    assert history.validation[-1]["loss"] < 1.0
    exact = logits(plan(tiny_base("llama"), method="qlora", head="linear"), network)
    assert abs(logits(made, network) - exact).max() == 0
    assert torch.from_numpy(exact).isfinite().all()


class _Packed(TrainerCallback):
    """The 4-bit bytes after each validation."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_evaluate(
        self, args: object, state: object, control: object, model: torch.nn.Module, **unused: object
    ) -> None:
        self.seen.append(bits(model))


def bits(network: torch.nn.Module) -> torch.Tensor:
    found = [module.weight.data for module in network.modules() if isinstance(module, Linear4bit)]
    return torch.cat([weight.flatten() for weight in found])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_training_goes_on_after_a_validation_and_the_bits_stay(
    tiny_base: Bases, tmp_path: Path, architecture: str, dtype: str
) -> None:
    made = plan(tiny_base(architecture), dtype=dtype, method="qlora", head="linear", epochs=3.0, eval_steps=1)
    packed = _Packed()
    before = bits(made.build())
    network, history = tune(made, callbacks=[packed])
    assert len(packed.seen) == 3
    assert all(torch.equal(seen, before) for seen in packed.seen)
    losses = [record["loss"] for record in history.validation]
    assert len(set(losses)) == 3
    assert (logits(made, reloaded(made, network, tmp_path / "saved").network) == logits(made, network)).all()
