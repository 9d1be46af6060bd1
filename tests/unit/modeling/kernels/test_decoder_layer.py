"""The fused kernels against Transformers' layers with PEFT's adapters: logits, every gradient, where they can't."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from labeltune.config.model import Prompt
from labeltune.modeling import adapters, architectures, device, packing
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.classifiers import shared_prefix
from labeltune.modeling.forward import compute_logits
from labeltune.modeling.kernels import fused
from labeltune.modeling.prompts import Encoder
from labeltune.runtime.errors import UserError
from labeltune.training import dataset
from labeltune.training.dataset import Collator, states
from tests.tuning import ANSWERS, TEXTS, plan, rows

Bases = Callable[..., Path]
PROMPT = Prompt(template="Classify the text as ham or spam. Text: {text}\nLabel:", max_length=64)
DECODERS = list(fused.DECODERS)
LINEAR = {"head": "linear", "pooling": "mean"}
LORA = {"rank": 4, "alpha": 12, "targets": "attention"}


def twins(folder: Path, **options: Any) -> list[tuple[NetworkSpec, Any]]:
    """One network by Transformers' layers, one by the kernels, with the same adapters that do something."""
    made = []
    for kernels in ("transformers", "fused"):
        one = plan(folder, kernels=kernels, **(LINEAR | {"lora": LORA} | options))
        one = replace(one, encoder=Encoder.of(one.encoder.tokenizer, PROMPT, one.labels))
        network = one.build()
        torch.manual_seed(0)
        for name, parameter in adapters.trainable_parameters(network).items():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        made.append((one, network))
    return made


def gradients(made: NetworkSpec, network: Any, *, known: bool, side_by_side: bool) -> dict[str, torch.Tensor]:
    """Logits and gradients of a training batch, by name."""
    inner = architectures.unwrap(network)
    pad_id = made.encoder.tokenizer.pad_token_id
    given = rows(made)
    if known and inner.frozen_layers:
        given = replace(given, states=states(inner, given.input_ids, pad_id=pad_id))
    packed_by = dataset.choose_packing(made, inner) if side_by_side else None
    batch = Collator(pad_id=pad_id, packing=packed_by)([given[row] for row in range(len(given))])
    network.train()
    logits = network(**{name: tensor for name, tensor in batch.items() if name != "rows"}).logits
    functional.cross_entropy(logits, torch.tensor(ANSWERS)).backward()
    found = {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}
    assert found.keys() == adapters.trainable_parameters(network).keys()
    return found | {"logits": logits.detach()}


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the kernels ran, layer by layer."""
    ran: list[str] = []
    for name in ("layer_states", "adapted_layer"):
        kernel = getattr(fused, name)
        monkeypatch.setattr(
            fused, name, lambda *given, kernel=kernel, name=name, **named: ran.append(name) or kernel(*given, **named)
        )
    return ran


@pytest.mark.parametrize(
    "targets", ["attention", ["q_proj", "v_proj"], ["o_proj"], "all-linear", ["up_proj"], ["down_proj"]], ids=str
)
@pytest.mark.parametrize(("layers", "known"), [("all", False), (2, False), (2, True)])
@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize("architecture", DECODERS)
def test_logits_and_gradients_are_transformers_and_pefts(
    tiny_base: Bases,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    side_by_side: bool,
    layers: int | str,
    known: bool,
    targets: Any,
) -> None:
    ran = counted(monkeypatch)
    found = []
    for made, network in twins(tiny_base(architecture), layers=layers, lora=LORA | {"targets": targets}):
        ran.clear()
        found.append(gradients(made, network, known=known, side_by_side=side_by_side))
    frozen = 0 if layers == "all" else 1
    assert ran == ["layer_states"] * frozen * (1 if not known else len(ran) - 2) + ["adapted_layer"] * (3 - frozen)
    expected, fast = found
    assert expected.keys() == fast.keys()
    for name, gradient in expected.items():
        assert gradient.any(), name
        torch.testing.assert_close(fast[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_in_bf16_they_err_as_little_as_transformers(tiny_base: Bases) -> None:
    errors = [0.0, 0.0]
    for architecture in DECODERS:
        folder = tiny_base(architecture, hidden_size=128, intermediate_size=256)
        exact = gradients(*twins(folder, layers=2)[0], known=False, side_by_side=True)
        for place, (made, network) in enumerate(twins(folder, layers=2, dtype="bf16")):
            found = gradients(made, network, known=False, side_by_side=True)
            errors[place] += sum(float((found[name] - value).norm() / value.norm()) for name, value in exact.items())
    assert 0 < errors[1] < 1.25 * errors[0]


@pytest.mark.parametrize("architecture", DECODERS)
@pytest.mark.parametrize("with_prefix", [True, False])
def test_answers_are_the_same_with_adapters_and_without(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, architecture: str, with_prefix: bool
) -> None:
    ran = counted(monkeypatch)
    answers = []
    for made, network in twins(tiny_base(architecture), layers=2):
        for merged in (False, True):
            network = network.merge_and_unload() if merged else network
            ran.clear()
            prefix = shared_prefix(network, made.encoder) if with_prefix else None
            ids = made.encoder.encode(TEXTS).input_ids
            pad_id = made.encoder.tokenizer.pad_token_id
            answers.append(compute_logits(network, ids, pad_id=pad_id, batch_tokens=64, prefix=prefix))
            assert set(ran) == ({"layer_states"} if made.machine.kernels == "fused" else set())
    for other in answers[1:]:
        torch.testing.assert_close(torch.tensor(other), torch.tensor(answers[0]), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("dtype", "multiple"), [("fp32", 1), ("bf16", packing.MULTIPLE)])
def test_a_line_holds_each_token_once_and_is_rounded_where_kernels_are_compiled(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, dtype: str, multiple: int
) -> None:
    made, network = twins(tiny_base("llama"), layers=2, dtype=dtype)[1]
    seen: list[int] = []
    kernel = fused.layer_states
    monkeypatch.setattr(
        fused, "layer_states", lambda x, *more, **named: seen.append(len(x)) or kernel(x, *more, **named)
    )
    ids = made.encoder.encode(TEXTS).input_ids
    compute_logits(network, ids, pad_id=0, batch_tokens=10_000)
    least = sum(map(len, ids)) + 1
    assert seen == [-(-least // multiple) * multiple] * 3


def test_recomputed_activations_give_the_same_gradients(tiny_base: Bases, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = counted(monkeypatch)
    found = []
    for recomputed in (False, True):
        _, (made, network) = twins(tiny_base("llama"), layers=2, gradient_checkpointing=recomputed)
        ran.clear()
        found.append(gradients(made, network, known=False, side_by_side=False))
        assert ran == ["layer_states", "adapted_layer", "adapted_layer"] + ["adapted_layer"] * 2 * recomputed
    assert all(torch.equal(found[1][name], gradient) for name, gradient in found[0].items())


@pytest.mark.parametrize(
    "options",
    [
        {"lora": LORA | {"dropout": 0.3}},
        {"lora": LORA | {"dora": True}},
        {"lora": LORA | {"bias": "lora_only"}, "architecture": "qwen2"},
        {"method": "full"},
        {"method": "full", "dtype": "bf16"},
        {"method": "qlora"},
    ],
    ids=str,
)
def test_what_the_kernels_do_not_know_is_trained_by_transformers(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    ran = counted(monkeypatch)
    folder = tiny_base(options.pop("architecture", "llama"), hidden_size=64, intermediate_size=128)
    found = []
    for made, network in twins(folder, layers=2, **options):
        torch.manual_seed(1)  # of the dropout
        ran.clear()
        found.append(gradients(made, network, known=False, side_by_side=False))
        assert "adapted_layer" not in ran
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("change", [{"attention": "sdpa"}, {"architecture": "gpt2"}, {"architecture": "modernbert"}])
def test_where_they_can_not_they_are_not_installed_and_asking_for_them_is_refused(
    tiny_base: Bases, change: dict[str, str]
) -> None:
    folder = tiny_base(change.pop("architecture", "llama"))
    made = plan(folder, **LINEAR)
    made = replace(made, machine=replace(made.machine, **change))
    assert not fused.installed(made.load())
    asked = replace(made, train=made.train.model_copy(update={"kernels": "fused"}))
    with pytest.raises(
        UserError,
        match=f"fused knows the layers of {', '.join(fused.FAMILIES)} with",
    ):
        asked.load()
    assert fused.installed(plan(tiny_base("llama"), **LINEAR).load())
    assert not fused.installed(plan(tiny_base("llama"), kernels="transformers", **LINEAR).load())


@pytest.mark.parametrize(
    ("architecture", "options", "times"),
    [
        ("llama", {"dtype": "bf16"}, 2),
        ("llama", {"dtype": "bf16", "method": "lora", "layers": 1}, 2),
        ("llama", {"dtype": "bf16", "head": "label_scoring", "pooling": "auto"}, 2),
        ("llama", {"dtype": "fp32"}, 1),
        ("llama", {"dtype": "bf16", "kernels": "transformers"}, 1),
        ("llama", {"dtype": "bf16", "method": "full"}, 1),  # autocast, which the kernels leave to Transformers
        (
            "llama",
            {"dtype": "bf16", "head": "label_scoring", "pooling": "auto", "words": ("ham it up", "ham on rye")},
            1,
        ),
        ("gemma3_text", {"dtype": "bf16"}, 2),
        ("bert", {"dtype": "bf16", "pooling": "first"}, 2),
        ("modernbert", {"dtype": "bf16", "pooling": "first"}, 1),
    ],
)
def test_batches_that_are_never_padded_have_twice_the_tokens(
    tiny_base: Bases, architecture: str, options: dict[str, Any], times: int
) -> None:
    network = plan(tiny_base(architecture), **(LINEAR | options)).build()
    assert fused.batch_tokens(network) == times * device.inference_tokens()


def test_a_prefix_learns_from_every_packed_sequence(tiny_base: Bases, monkeypatch: pytest.MonkeyPatch) -> None:
    # After a line end no text merges with the prefix, so that every row begins with it.
    prompt = PROMPT.model_copy(update={"template": "Classify the text as ham or spam. Text:\n{text}\nLabel:"})
    monkeypatch.setitem(globals(), "PROMPT", prompt)
    monkeypatch.setattr(packing, "PACKED_LENGTH", 1)
    made, network = twins(tiny_base("llama"), layers="all")[0]
    packed_by = dataset.choose_packing(made, architectures.unwrap(network))
    assert packed_by is not None
    given = rows(made)
    owners = Collator(pad_id=0, packing=packed_by)([given[row] for row in range(len(given))])["owners"]
    assert int((owners[:, 0] == packing.PREFIX).sum()) >= 2
    expected, fast = (
        gradients(*twin, known=False, side_by_side=True) for twin in twins(tiny_base("llama"), layers="all")
    )
    for name, gradient in expected.items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
