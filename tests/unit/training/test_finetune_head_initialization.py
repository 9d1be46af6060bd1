"""Initialization of linear heads, against scikit-learn on states that Transformers gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel

from labeltune.config.model import Train
from labeltune.data.sampling import sample
from labeltune.modeling.adapters import trainable_parameters
from labeltune.modeling.architectures import unwrap
from labeltune.runtime.errors import UserError
from labeltune.training import finetune
from labeltune.training.dataset import with_states
from tests.conftest import spam_rows
from tests.tuning import logits, plan, rows, tune

Bases = Callable[..., Path]


def given(made: Any, count: int = 40) -> Any:
    chosen = spam_rows(count)
    return rows(made, [text for _, text in chosen], [int(label == "spam") for label, _ in chosen])


def head(network: Any) -> np.ndarray:
    (weight,) = (weight for name, weight in trainable_parameters(network).items() if unwrap(network).head_name in name)
    return weight.detach().numpy().copy()


def states(made: Any, base: Path, train: Any) -> np.ndarray:
    """Mean states of the rows by Transformers itself, `[rows, size]`."""
    backbone = AutoModel.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        found = [backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in train.input_ids]
    return torch.stack(found).numpy()


@pytest.mark.parametrize("labels", [2, 3])
def test_the_weights_are_those_of_scikit_learns_regression(labels: int) -> None:
    rng = np.random.default_rng(0)
    drawn, answers = rng.normal(size=(60, 5)) * [1, 10, 0.1, 3, 0], np.arange(60) % labels
    drawn[:, 0] += answers
    weights = finetune.fit_head(drawn.astype(np.float32), answers, labels)
    assert weights is not None
    scale = drawn.std(axis=0)
    scale[4] = finetune.LEAST_SPREAD * scale.mean()  # a constant column is not divided by 0
    expected = LogisticRegression(C=finetune.STRENGTH, fit_intercept=False).fit(drawn / scale, answers)
    shares = np.exp(drawn @ weights.T)
    np.testing.assert_allclose(
        shares / shares.sum(axis=1, keepdims=True), expected.predict_proba(drawn / scale), atol=1e-4
    )


@pytest.mark.parametrize("layers", ["all", 1])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_a_head_begins_as_a_regression_on_the_states_that_it_reads(
    tiny_base: Bases, architecture: str, method: str, layers: int | str
) -> None:
    base = tiny_base(architecture)
    made = plan(base, head="linear", pooling="mean", method=method, layers=layers, feature_cache_budget=0)
    network: Any = made.build()
    train = given(made)
    (known,) = with_states(made, unwrap(network), [train])
    assert (known.states is None) == (layers == "all")
    finetune.initialize_head(made, network, known)
    pooled = states(made, base, train)
    expected = finetune.fit_head(pooled, np.array(train.labels), 2)
    assert expected is not None
    np.testing.assert_allclose(head(network), expected, rtol=2e-3, atol=2e-5)
    texts = [text for _, text in spam_rows(40)]
    np.testing.assert_allclose(logits(made, network, texts), pooled @ expected.T, rtol=2e-3, atol=2e-3)


def test_a_sample_of_the_rows_is_read(tiny_base: Bases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "ROWS", 24)
    monkeypatch.setattr(finetune, "ROWS_PER_LABEL", 1)
    base = tiny_base("llama")
    made = plan(base, head="linear", pooling="mean")
    network, train = made.build(), given(made)
    finetune.initialize_head(made, network, train)
    part = train.take(sample(train.labels, 24, finetune.SEED))
    assert sorted(part.labels) == [0] * 12 + [1] * 12
    expected = finetune.fit_head(states(made, base, part), np.array(part.labels), 2)
    assert expected is not None
    np.testing.assert_allclose(head(network), expected, rtol=2e-3, atol=2e-5)


def test_every_seed_begins_alike_and_random_ones_apart(tiny_base: Bases) -> None:
    def begun(**changes: Any) -> np.ndarray:
        made = plan(tiny_base("llama"), head="linear", **changes)
        network = made.build()
        finetune.initialize_head(made, network, given(made))
        return head(network)

    assert (begun(seed=1) == begun(seed=2)).all()
    assert not (begun(seed=1, head_initialization="random") == begun(seed=2, head_initialization="random")).any()


def test_training_starts_from_there(tiny_base: Bases) -> None:
    losses = {}
    for start in ("regression", "random"):
        made = plan(
            tiny_base("llama"),
            head="linear",
            pooling="mean",
            head_initialization=start,
            learning_rate=1e-6,
            batch_size=80,
        )
        train = given(made)
        losses[start] = tune(made, train)[1].validation[0]["loss"]
        if start == "regression":
            weights = finetune.fit_head(states(made, tiny_base("llama"), train), np.array(train.labels), 2)
            assert weights is not None
            shown = states(made, tiny_base("llama"), train) @ weights.T
            right = shown[np.arange(80), train.labels] - np.log(np.exp(shown).sum(axis=1))
            assert losses[start] == pytest.approx(-right.mean(), rel=1e-3)
    assert losses["regression"] < losses["random"]


def test_a_label_without_rows_has_no_weights_and_one_label_alone_no_regression(tiny_base: Bases) -> None:
    made = plan(tiny_base("llama"), words=("ham", "spam", "news"), head="linear")
    network: Any = made.build()
    finetune.initialize_head(made, network, given(made))
    assert not head(network)[2].any()
    assert head(network)[:2].any()
    before = head(network)
    train = given(made)
    finetune.initialize_head(made, network, train.take([row for row, label in enumerate(train.labels) if label == 1]))
    assert (head(network) == before).all()


def test_only_a_linear_head_can_and_it_reads_pooled_states(tiny_base: Bases) -> None:
    with pytest.raises(ValidationError, match="head_initialization: regression is for head: linear, not mlp"):
        Train.model_validate({"seed": 1, "head": "mlp", "head_initialization": "regression"})
    made = plan(tiny_base("bert"), head="linear", head_initialization="regression")
    with pytest.raises(UserError, match="head_initialization: regression needs train.pooling first, last or mean"):
        finetune.initialize_head(made, made.build(), given(made))
    made = plan(tiny_base("bert"), head="linear")
    network: Any = made.build()
    before = {name: weight.clone() for name, weight in trainable_parameters(network).items()}
    finetune.initialize_head(made, network, given(made))
    assert all((weight == before[name]).all() for name, weight in trainable_parameters(network).items())
