"""The fused encoder layers against Transformers' with PEFT's adapters: logits, every gradient, dropout."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from labeltune.modeling import adapters
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.forward import compute_logits
from labeltune.modeling.kernels import encoder_layer, fused
from labeltune.modeling.kernels.decoder_layer import LoraLinear
from labeltune.modeling.packing import UnpaddedBatch
from tests.tuning import TEXTS, plan
from tests.unit.modeling.kernels.test_decoder_layer import gradients

Bases = Callable[..., Path]
LINEAR = {"head": "linear", "pooling": "mean"}
LORA = {"rank": 4, "alpha": 12, "targets": "all-linear"}
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def twins(folder: Path, **options: Any) -> list[tuple[NetworkSpec, Any]]:
    """One network by Transformers' layers, one by the kernels, with the same adapters that do something."""
    made = []
    for kernels in ("transformers", "fused"):
        one = plan(folder, kernels=kernels, **(LINEAR | {"lora": LORA} | options))
        network = one.build()
        torch.manual_seed(0)
        for name, parameter in adapters.trainable_parameters(network).items():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        made.append((one, network))
    return made


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the kernels ran, layer by layer."""
    names: list[str] = []
    for name in ("encoder_states", "adapted_encoder_layer"):
        kernel = getattr(fused, name)
        monkeypatch.setattr(fused, name, lambda *given, kernel=kernel, name=name: names.append(name) or kernel(*given))
    return names


@pytest.mark.parametrize("targets", ["all-linear", "attention", ["output.dense"]], ids=str)
@pytest.mark.parametrize(("layers", "known"), [("all", False), (2, False), (2, True)])
@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize("architecture", fused.ENCODERS)
def test_logits_and_gradients_are_transformers_and_pefts(
    tiny_base: Bases,
    ran: list[str],
    architecture: str,
    side_by_side: bool,
    layers: int | str,
    known: bool,
    targets: Any,
) -> None:
    folder, found = tiny_base(architecture, **WITHOUT_DROPOUT), []
    for made, network in twins(folder, layers=layers, lora=LORA | {"targets": targets}):
        ran.clear()
        found.append(gradients(made, network, known=known, side_by_side=side_by_side))
    # With one target some trained layers' states do not need a gradient, but their adapters do.
    assert ran[-2:] == ["adapted_encoder_layer"] * 2
    assert ran.count("adapted_encoder_layer") == (3 if layers == "all" else 2)
    expected, fast = found
    assert expected.keys() == fast.keys()
    for name, gradient in expected.items():
        # A bias of all keys alike changes no attention: the gradient of its adapter's B can be zero.
        assert gradient.any() or "key" in name, name
        torch.testing.assert_close(fast[name], gradient, rtol=1e-4, atol=2e-5 * float(gradient.abs().max()) + 1e-9)


def test_in_bf16_they_err_as_little_as_transformers(tiny_base: Bases) -> None:
    errors = [0.0, 0.0]
    sizes = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.05}
    for architecture in fused.ENCODERS:
        folder = tiny_base(architecture, **sizes, **WITHOUT_DROPOUT)
        exact = gradients(*twins(folder, layers=2)[0], known=False, side_by_side=True)
        whole = sum(float(value.norm() ** 2) for value in exact.values())
        for place, (made, network) in enumerate(twins(folder, layers=2, dtype="bf16")):
            found = gradients(made, network, known=False, side_by_side=True)
            wrong = sum(float((found[name] - value).norm() ** 2) for name, value in exact.items())
            errors[place] += (wrong / whole) ** 0.5
    assert 0 < errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("architecture", fused.ENCODERS)
def test_answers_are_the_same_with_adapters_and_without(tiny_base: Bases, ran: list[str], architecture: str) -> None:
    answers = []
    for made, network in twins(tiny_base(architecture), layers=2):
        for merged in (False, True):
            network = network.merge_and_unload() if merged else network
            ran.clear()
            ids = made.encoder.encode(TEXTS).input_ids
            pad_id = made.encoder.tokenizer.pad_token_id
            answers.append(compute_logits(network, ids, pad_id=pad_id, batch_tokens=64))
            assert set(ran) == ({"encoder_states"} if made.machine.kernels == "fused" else set())
    for other in answers[1:]:
        torch.testing.assert_close(torch.tensor(other), torch.tensor(answers[0]), rtol=1e-4, atol=2e-5)


def test_recomputed_activations_draw_the_same_dropout(tiny_base: Bases, ran: list[str]) -> None:
    found = []
    for recomputed in (False, True):
        _, (made, network) = twins(tiny_base("bert"), layers=2, gradient_checkpointing=recomputed)
        ran.clear()
        torch.manual_seed(3)
        found.append(gradients(made, network, known=False, side_by_side=False))
        assert ran.count("adapted_encoder_layer") == 2 + 2 * recomputed
    assert all(torch.equal(found[1][name], gradient) for name, gradient in found[0].items())


def test_gradients_through_dropout_are_those_of_the_function_that_was_computed() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.4

    def linear(inputs: int, outputs: int) -> LoraLinear:
        down, up = drawn(2, inputs).requires_grad_(), drawn(outputs, 2).requires_grad_()
        return LoraLinear(weight=drawn(outputs, inputs), bias=drawn(outputs), down=down, up=up, scaling=0.7)

    parts = encoder_layer.EncoderParts(
        attention=(linear(8, 8), linear(8, 8), linear(8, 8), linear(8, 8)),
        mlp=(linear(8, 12), linear(12, 8)),
        norms=((drawn(8), drawn(8), 1e-5), (drawn(8), drawn(8), 1e-5)),
        size=4,
        dropout=(0.2, 0.3, 0.4),
    )
    owners = torch.tensor([[0, 0, 1, 1], [2, 2, 2, -2]])
    unpadded = UnpaddedBatch.of(owners, 1, 1)
    mask = torch.where(owners.unsqueeze(2) == owners.unsqueeze(1), 0.0, -1e9).double().unsqueeze(1)
    bias = drawn(1, 2, 4, 4)
    x = drawn(len(unpadded.token_index), 8).requires_grad_()
    weights = [weight for part in (*parts.attention, *parts.mlp) for weight in (part.down, part.up)]

    def run(states: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return encoder_layer.adapted_encoder_layer(states, parts, unpadded, mask, bias)[: unpadded.real]

    assert torch.autograd.gradcheck(run, (x, *weights), atol=1e-6)
    # Fillers copy the first token, whose gradient must not be counted twice.
    run(x).sum().backward()
    assert x.grad is not None
    assert not x.grad[unpadded.real :].any()


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(probability: float) -> None:
    torch.manual_seed(0)
    kept, gone = encoder_layer._dropout(torch.ones(1001, 201), probability)
    assert gone is not None
    count = gone.numel()
    error = 5 * (probability * (1 - probability) / count) ** 0.5
    assert abs(float(gone.double().mean()) - probability) < error
    assert abs(float(kept.double().mean()) - 1) < error / (1 - probability)
    assert torch.equal(kept == 0, gone)
    neighbours = (gone[:, 1:] & gone[:, :-1]).double().mean()
    assert abs(float(neighbours) - probability**2) < error  # draws of one 64-bit number are independent
    same, nothing = encoder_layer._dropout(kept, 0.0)
    assert same is kept
    assert nothing is None


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("bert", {"method": "full"}),
        ("bert", {"lora": LORA | {"dropout": 0.3}}),
        ("mpnet", {"lora": LORA | {"dora": True}}),
        ("modernbert", {}),
    ],
    ids=str,
)
def test_what_the_kernels_do_not_know_is_trained_by_transformers(
    tiny_base: Bases, ran: list[str], architecture: str, options: dict[str, Any]
) -> None:
    made, network = twins(tiny_base(architecture), layers="all", **options)[1]
    gradients(made, network, known=False, side_by_side=False)
    assert not ran


def test_layers_of_another_activation_are_left_to_transformers() -> None:
    config = SimpleNamespace(model_type="bert", _attn_implementation="eager", hidden_act="relu")
    assert not fused.install(SimpleNamespace(config=config))
