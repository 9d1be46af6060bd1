"""Probes: a regression on frozen states as a network that is saved, loaded and asked like any other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel

from labeltune.inference import artifact
from labeltune.inference.classifier import Classifier
from labeltune.modeling.adapters import trainable_parameters
from labeltune.probing import layer_probes
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import digest
from labeltune.training import probe
from labeltune.training.layer_selection import choose_capacity
from labeltune.training.probe import Head, fit_heads
from tests.conftest import spam_rows
from tests.tuning import TEXTS, logits, plan, reloaded, rows, tune

Bases = Callable[..., Path]


def made_of(base: Path, **changes: Any) -> Any:
    return plan(base, **{"method": "probe", "head": "linear", **changes})


def given(made: Any, count: int = 20) -> Any:
    chosen = spam_rows(count)
    return rows(made, [text for _, text in chosen], [int(label == "spam") for label, _ in chosen])


@pytest.mark.parametrize("labels", [2, 3])
def test_a_head_answers_as_scikit_learns_regression_on_standardized_states(labels: int) -> None:
    rng = np.random.default_rng(0)
    answers = np.arange(60) % labels
    states = (rng.normal(size=(60, 5)) * [1, 10, 0.1, 3, 0] + [0, 50, 0, 0, 7]).astype(np.float32)
    states[:, 0] += answers
    for head in fit_heads(states, answers, labels):
        expected = make_pipeline(StandardScaler(), LogisticRegression(C=head.c)).fit(states.astype(np.float64), answers)
        np.testing.assert_allclose(
            softmax(head.logits(states), axis=1), expected.predict_proba(states.astype(np.float64)), atol=2e-4
        )
    assert [head.c for head in fit_heads(states, answers, labels)] == list(layer_probes.STRENGTHS)


def test_labels_without_a_training_row_are_never_answered() -> None:
    states = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    for answers in (np.array([0, 2] * 6), np.array([2] * 12)):
        for head in fit_heads(states, answers, 4):
            assert set(head.logits(states).argmax(axis=1)) <= set(answers.tolist())
            assert np.isfinite(head.logits(states)).all()


@pytest.mark.parametrize(("architecture", "pooling"), [("llama", "last"), ("llama", "mean"), ("bert", "auto")])
def test_a_probe_reads_the_states_that_transformers_gives_and_trains_nothing_else(
    tiny_base: Bases, architecture: str, pooling: str
) -> None:
    base = tiny_base(architecture)
    made = made_of(base, pooling=pooling)
    train = given(made)
    network, history = tune(made, train)
    assert set(trainable_parameters(network)) == {f"{network.head_name}.weight", f"{network.head_name}.bias"}
    backbone = AutoModel.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        hidden = [backbone(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in train.input_ids]
    pooled = torch.stack([one[-1] if pooling == "last" else one.mean(0) for one in hidden]).numpy()
    expected = next(head for head in fit_heads(pooled, np.array(train.labels), 2) if head.c == history.fitted["C"])
    texts = [text for _, text in spam_rows(20)]
    np.testing.assert_allclose(
        softmax(logits(made, network, texts), axis=1), softmax(expected.logits(pooled), axis=1), atol=2e-3
    )
    assert history.logits is not None
    np.testing.assert_allclose(logits(made, network, texts), history.logits, rtol=1e-4, atol=1e-3)
    assert history.best["accuracy"] == (history.logits.argmax(axis=1) == np.array(train.labels)).mean() > 0.75


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_a_saved_probe_is_a_head_beside_its_base_and_gives_the_same_bytes(
    tiny_base: Bases, tmp_path: Path, architecture: str
) -> None:
    made = made_of(tiny_base(architecture), depth=2, pooling="mean")
    network, _ = tune(made, given(made))
    expected = logits(made, network)
    classifier = reloaded(made, network, tmp_path / "first")
    np.testing.assert_allclose(classifier.predict(TEXTS).logits, expected, rtol=1e-4, atol=1e-3)
    again, _ = tune(made, given(made))
    reloaded(made, again, tmp_path / "second")
    for name in ("head.safetensors", "manifest.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert [file.name for file in (tmp_path / "first").glob("*.safetensors")] == ["head.safetensors"]
    assert not (tmp_path / "first/adapter_config.json").exists()


def test_weights_of_another_head_are_refused(tiny_base: Bases, tmp_path: Path) -> None:
    made = made_of(tiny_base("llama"))
    network, _ = tune(made, given(made))
    reloaded(made, network, tmp_path / "probe")
    file = tmp_path / "probe" / artifact.HEAD
    saved = load_file(file)
    save_file(saved | {"weight": saved["weight"][:, :8].contiguous()}, file)
    manifest = tmp_path / "probe/manifest.json"
    hashes = json.loads(manifest.read_text())
    hashes["sha256"]["head.safetensors"] = digest(file)
    manifest.write_text(json.dumps(hashes))
    with pytest.raises(UserError, match=r"head.safetensors does not fit the model it describes: \['weight'\]"):
        Classifier.load(tmp_path / "probe")


def test_the_states_are_read_once_and_an_interrupted_probe_ends_with_the_same_weights(
    tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    made = made_of(tiny_base("llama"), pooling="mean")
    whole, _ = tune(made_of(tiny_base("llama"), pooling="mean", feature_cache_budget=0), given(made))
    calls: list[int] = []
    compute = probe.compute_logits

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(*arguments, **options)

    monkeypatch.setattr(probe, "compute_logits", counted)
    train = given(made)
    apart = given(made, 5)
    with pytest.raises(KeyboardInterrupt):
        probe.fit_probe(made, train, apart)
    network, _ = probe.fit_probe(made, train, train)
    assert len(calls) == 2  # what was read before the interruption is in the feature cache
    np.testing.assert_array_equal(network.score.weight.detach().numpy(), whole.score.weight.detach().numpy())


def test_only_the_depth_of_a_probe_is_left_open(tiny_base: Bases) -> None:
    made = made_of(tiny_base("llama"), depth="auto", layers="auto", epochs="auto", lora={"rank": "auto"})
    train = given(made)
    found, choice = choose_capacity(made, train, train)
    assert set(choice.taken) == {"depth", "layers"}
    assert isinstance(found.train.depth, int)
    assert found.train.layers == "all"
    network, _ = tune(found, train)
    assert network.config.num_hidden_layers == found.train.depth


def test_a_probe_tells_trackers_one_step(tiny_base: Bases) -> None:
    made = made_of(tiny_base("llama"))
    told: list[tuple[int, dict[str, float]]] = []

    class Listener:
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float]) -> None:
            told.append((state.global_step, logs))

    callbacks: Any = [Listener()]
    _, history = tune(made, given(made), callbacks=callbacks)
    assert [step for step, _ in told] == [1, 1]
    assert set(told[0][1]) == {"train_loss", "train_accuracy"}
    assert told[1][1]["eval_accuracy"] == history.best["accuracy"]


def test_a_head_of_one_label_alone_has_no_weights() -> None:
    model = layer_probes.fit(np.ones((3, 2), np.float32), np.array([1, 1, 1]), 2)
    head = Head.of(model, 1.0)
    assert not head.weights.any()
    assert head.bias.tolist() == [-50.0, 0.0]
