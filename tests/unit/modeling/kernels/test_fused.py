"""The top layer at the positions that are read, against the same network with the whole of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeltune.config.model import Prompt
from labeltune.modeling import adapters, architectures
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.classifiers import shared_prefix
from labeltune.modeling.forward import compute_logits, pad
from labeltune.modeling.kernels import fused
from labeltune.modeling.prompts import Encoder
from labeltune.training import dataset
from tests.tiny import UNKNOWN
from tests.tuning import ANSWERS, TEXTS, plan, rows

Bases = Callable[..., Path]
FAMILIES = ["llama", "gemma3_text", "mistral", "qwen2", "qwen3"]
SEVERAL = ("ham it up", "ham on rye")
LONG = "a text that is longer than the sixteen positions of a sliding window, by some words more, and then by some more"


def built(folder: Path, attention: str = "eager", **options: Any) -> tuple[NetworkSpec, Any]:
    """A network with adapters that do something."""
    made = plan(folder, max_length=100, **options)
    prompt = Prompt(template="Classify the text as ham or spam. Text: {text}\nLabel:", max_length=100)
    made = replace(
        made,
        encoder=Encoder.of(made.encoder.tokenizer, prompt, made.labels),
        machine=replace(made.machine, attention=attention),
    )
    network = made.build()
    torch.manual_seed(0)
    for parameter in adapters.trainable_parameters(network).values():
        torch.nn.init.normal_(parameter, std=0.1)
    return made, network.eval()


def answers(made: NetworkSpec, network: Any, texts: list[str], *, whole: bool, **options: Any) -> np.ndarray:
    architectures.unwrap(network).all_states = whole
    encoded = made.encoder.encode(texts).input_ids
    return compute_logits(network, encoded, pad_id=made.encoder.tokenizer.pad_token_id, batch_tokens=400, **options)


@pytest.mark.parametrize("words", [("ham", "spam"), SEVERAL], ids=["one token", "several"])
@pytest.mark.parametrize("attention", fused.KERNELS)
@pytest.mark.parametrize("architecture", FAMILIES)
def test_logits_are_those_of_the_whole_layer(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, architecture: str, attention: str, words: tuple[str, str]
) -> None:
    made, network = built(tiny_base(architecture), attention, words=words, layers=2)
    shapes: list[torch.Size] = []
    inner = architectures.unwrap(network)
    inner.model.layers[-1].register_forward_hook(lambda *given: shapes.append(given[-1].shape))
    texts = [*TEXTS, LONG]  # padded: the mask matters
    found = answers(made, network, texts, whole=False)
    nodes = 1 + inner.extra_tokens
    assert shapes
    assert all(shape[1] == nodes for shape in shapes)
    assert (nodes > 1) == (words == SEVERAL)
    whole = answers(made, network, texts, whole=True)
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5)
    alike = [LONG, LONG]  # no padding: sdpa gets no mask
    np.testing.assert_allclose(
        answers(made, network, alike, whole=False), answers(made, network, alike, whole=True), rtol=0, atol=1e-5
    )
    assert np.abs(whole).max() > 0.1

    input_ids = made.encoder.encode(texts).input_ids
    monkeypatch.setattr(fused, "inference_tokens", lambda: 400)  # rounding depends on what is in a batch
    states = dataset.states(inner, input_ids, pad_id=made.encoder.tokenizer.pad_token_id)
    resumed = answers(made, network, texts, whole=False, states=states)
    np.testing.assert_allclose(resumed, found, rtol=1e-6, atol=0 if attention == "eager" else 1e-5)
    if words != SEVERAL:
        prefix = shared_prefix(network, made.encoder)
        np.testing.assert_allclose(answers(made, network, texts, whole=False, prefix=prefix), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("words", [("ham", "spam"), SEVERAL], ids=["one token", "several"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_gradients_are_those_of_the_whole_layer(
    tiny_base: Bases, architecture: str, method: str, words: tuple[str, str]
) -> None:
    made, network = built(tiny_base(architecture), words=words, layers=2, method=method)
    batch = pad(rows(made).input_ids, made.encoder.tokenizer.pad_token_id)
    found = []
    for whole in (False, True):
        architectures.unwrap(network).all_states = whole
        network.train().zero_grad()
        torch.nn.functional.cross_entropy(network(**batch).logits, torch.tensor(ANSWERS)).backward()
        found.append(
            {
                name: weight.grad.clone()
                for name, weight in adapters.trainable_parameters(network).items()
                if weight.grad is not None
            }
        )
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-3, atol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in found[1].values())


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", {"head": "linear", "pooling": "mean"}),
        ("gpt2", {"head": "linear"}),
        ("bert", {"head": "linear"}),
        (UNKNOWN, {"head": "linear", "method": "full"}),
    ],
    ids=str,
)
def test_where_more_is_read_or_parts_are_called_otherwise_the_whole_layer_runs(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, architecture: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(fused, "last_token_layer", lambda *_: pytest.fail("not here"))
    made = plan(tiny_base(architecture), **options)
    network = made.build().train()
    batch = pad(rows(made).input_ids, made.encoder.tokenizer.pad_token_id)
    assert torch.isfinite(network(**batch).logits).all()
