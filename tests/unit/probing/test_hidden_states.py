"""What is read of an untuned base model, against Transformers' own models, one row at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from labeltune.modeling.base_models import quiet
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.kernels import fused
from labeltune.modeling.prompts import Encoder
from labeltune.probing import hidden_states
from labeltune.probing.hidden_states import (
    HiddenStates,
    ProbedModel,
    layer_by_layer,
    load_probed_model,
    read_hidden_states,
    recorded_layers,
)
from tests.tiny import UNKNOWN
from tests.tuning import TEXTS, plan

Bases = Callable[..., Path]
WORDS = ("ham", "spam link")  # one token, and several


def loaded(made: NetworkSpec, *, scoring: bool = True) -> ProbedModel:
    return load_probed_model(made.base, made.labels, made.encoder, made.machine, scoring=scoring)


def read_states(model: ProbedModel, made: NetworkSpec, texts: Sequence[str] = TEXTS, **options: Any) -> HiddenStates:
    options = {"layers": recorded_layers(model.network), "scoring": model.missing is None} | options
    return read_hidden_states(model, made.encoder.encode(texts).input_ids, **options)


def read_layer_by_layer(model: ProbedModel, made: NetworkSpec, texts: Sequence[str] = TEXTS) -> np.ndarray:
    return np.stack(list(layer_by_layer(model, made.encoder.encode(texts).input_ids)), axis=1)


def reference_states(made: NetworkSpec, text: str) -> np.ndarray:
    """Mean and last state after every layer of Transformers' own model, `[layers, 2, size]`, of one row alone."""
    with quiet(), torch.no_grad():
        backbone = AutoModel.from_pretrained(made.base.folder, attn_implementation="eager").eval()
        ids = torch.tensor(made.encoder.encode([text]).input_ids)
        states = torch.stack(backbone(ids, output_hidden_states=True).hidden_states)[:, 0]  # [layers, length, size]
    return torch.stack([states.mean(1), states[:, -1]], dim=1).numpy()


@pytest.mark.parametrize("words", [("ham", "spam"), WORDS])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "qwen2", "gpt2"])
def test_a_decoders_states_are_transformers_own(tiny_base: Bases, architecture: str, words: tuple[str, str]) -> None:
    made = plan(tiny_base(architecture), words=words)
    model = loaded(made)
    assert model.missing is None
    expected = np.stack([reference_states(made, text) for text in TEXTS])
    assert recorded_layers(model.network) == tuple(range(expected.shape[1]))
    for scoring in (True, False):
        found = read_states(model, made, scoring=scoring).states
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(read_layer_by_layer(model, made), read_states(model, made, scoring=False).states)
        alone = read_states(model, made, TEXTS[1:2], scoring=scoring).states
        np.testing.assert_allclose(alone, expected[1:2], rtol=1e-4, atol=1e-5)
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 0.1  # layers differ, or nothing is shown


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", UNKNOWN])
def test_an_encoders_and_an_unknown_familys_states_are_transformers_own(tiny_base: Bases, architecture: str) -> None:
    made = plan(tiny_base(architecture))
    model = loaded(made)
    expected = np.stack([reference_states(made, text) for text in TEXTS])
    np.testing.assert_allclose(read_states(model, made).states, expected, rtol=1e-4, atol=1e-5)
    if architecture != UNKNOWN:
        np.testing.assert_array_equal(read_layer_by_layer(model, made), read_states(model, made).states)
    np.testing.assert_allclose(read_states(model, made, TEXTS[2:3]).states, expected[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("words", [("ham", "spam"), WORDS])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_a_shared_front_and_several_threads_change_nothing(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, architecture: str, words: tuple[str, str], threads: int
) -> None:
    made = plan(tiny_base(architecture), words=words)
    template = replace(made.encoder.template, prefix="Classify the text as ham or spam. Text: ")
    made = replace(made, encoder=Encoder(tokenizer=made.encoder.tokenizer, template=template, max_length=64))
    model = loaded(made)
    assert (model.prefix is not None) == (architecture != "bert" and words != WORDS)
    texts = [*TEXTS, *(f"{text} {text}" for text in TEXTS), "x" * 200]  # the last loses its middle
    expected = np.stack([reference_states(made, text) for text in texts])
    monkeypatch.setattr(fused, "inference_tokens", lambda: 40)  # several batches, so that threads have work
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = read_states(model, made, texts)
    np.testing.assert_allclose(found.states, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        read_layer_by_layer(model, made, texts), read_states(model, made, texts, scoring=False).states
    )
    if found.scores is not None:
        plain = read_states(replace(model, prefix=None), made, texts)
        np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-4, atol=1e-4)


def test_asking_for_one_layer_gives_its_states_alone(tiny_base: Bases) -> None:
    made = plan(tiny_base("llama"))
    model = loaded(made)
    whole, part = read_states(model, made), read_states(model, made, layers=(2,))
    np.testing.assert_array_equal(part.states, whole.states[:, 2:3])
    assert list(part.layer_seconds) == [2]
    assert 0 < part.layer_seconds[2] < part.seconds


@pytest.mark.parametrize("words", [("ham", "spam"), WORDS, ("正面", "负面")])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "qwen2"])
def test_zero_shot_scores_are_those_of_each_label_word_by_itself(
    tiny_base: Bases, architecture: str, words: tuple[str, str]
) -> None:
    made = plan(tiny_base(architecture), words=words)
    with quiet():
        causal = AutoModelForCausalLM.from_pretrained(made.base.folder, attn_implementation="eager").eval()
    spaced = [word if "面" in word else f" {word}" for word in words]
    tokens = [made.encoder.tokenizer(word, add_special_tokens=False)["input_ids"] for word in spaced]
    expected = torch.zeros(len(TEXTS), len(words))
    for i, prompt in enumerate(made.encoder.encode(TEXTS).input_ids):
        for j, word in enumerate(tokens):
            with torch.no_grad():
                steps = causal(torch.tensor([prompt + word])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
            expected[i, j] = steps.gather(1, torch.tensor(word)[:, None]).sum()
    scores = read_states(loaded(made), made).scores
    assert scores is not None
    torch.testing.assert_close(torch.from_numpy(scores).log_softmax(1), expected.log_softmax(1), rtol=1e-4, atol=1e-4)
    assert (expected[:, 0] - expected[:, 1]).std() > 0.1  # texts differ, or nothing is shown


@pytest.mark.parametrize(("least", "passes"), [(1, [1, 1, 2, 3]), (2, [2, 2, 2, 3]), (3, [2, 2, 2, 3])])
def test_no_layer_is_read_before_it_is_asked_for_but_below_the_least(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, least: int, passes: list[int]
) -> None:
    """Layer by layer, how far the rows have come: below the least they go through two at once."""
    made = plan(tiny_base("llama"))
    model = loaded(made)
    expected = read_layer_by_layer(model, made)
    monkeypatch.setattr(hidden_states, "STRIDE", 2)
    run, stops = model.network.run, list[int]()
    monkeypatch.setattr(model.network, "run", lambda *given, **how: stops.append(how["stop"]) or run(*given, **how))
    reached, states = [], []
    for one in layer_by_layer(model, made.encoder.encode(TEXTS).input_ids, least=least):
        reached.append(stops[-1])
        states.append(one)
    assert reached == passes
    np.testing.assert_array_equal(np.stack(states, axis=1), expected)


def test_progress_counts_every_row(tiny_base: Bases) -> None:
    made = plan(tiny_base("llama"))
    done: list[int] = []
    read_states(loaded(made), made, progress=done.append)
    assert sum(done) == len(TEXTS)


@pytest.mark.parametrize(
    ("architecture", "words", "scoring", "why"),
    [
        ("bert", ("ham", "spam"), True, "is an encoder"),
        ("llama", ("ham", "spam"), False, "baselines.zero_shot is false"),
        (UNKNOWN, WORDS, True, "can't score label words of several tokens with 'gpt_neox'"),
        ("llama", ("ham", " "), True, "no tokens"),
    ],
)
def test_what_cannot_be_scored_is_said_and_states_are_read_all_the_same(
    tiny_base: Bases, architecture: str, words: tuple[str, str], scoring: bool, why: str
) -> None:
    made = plan(tiny_base(architecture), words=words)
    model = loaded(made, scoring=scoring)
    assert model.missing is not None
    assert why in model.missing
    found = read_states(model, made)
    assert found.scores is None
    assert np.isfinite(found.states).all()


def test_a_models_files_make_its_size(tiny_base: Bases) -> None:
    folder = tiny_base("llama")
    files = [file for file in folder.iterdir() if file.suffix in (".safetensors", ".json", ".txt", ".model")]
    assert loaded(plan(folder)).size == sum(file.stat().st_size for file in files)
