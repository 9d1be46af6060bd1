"""What `auto` takes for depth and layers, against rules put together by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from labeltune.cli.doctor import FROZEN_REST, Shape, attained, estimate
from labeltune.config.model import Train, auto_layers
from labeltune.evaluation.baselines import Split
from labeltune.evaluation.probe_baseline import sampled
from labeltune.probing import layer_probes
from labeltune.probing.layer_probes import LEAST
from labeltune.training import layer_selection
from tests.conftest import spam_rows
from tests.tiny import UNKNOWN
from tests.tuning import plan, rows

Bases = Callable[..., Path]


def given(made: Any, count: int, start: int = 0) -> Any:
    chosen = spam_rows(count)[start:]
    return rows(made, [text for _, text in chosen], [int(label == "spam") for label, _ in chosen])


def planted(train: list[int], validation: list[int], layers: int, from_layer: int) -> np.ndarray:
    """Random states in which the label shows from a layer on, in the last token's state alone."""
    drawn = np.random.default_rng(0).normal(size=(layers + 1, len(train) + len(validation), 2, 8)).astype(np.float32)
    drawn[from_layer:] = drawn[from_layer]  # as good, all of them
    drawn[from_layer:, :, 1, 3] += 2 * np.array(train + validation)
    return drawn


@pytest.mark.parametrize(("layers", "from_layer"), [(6, 4), (6, 1), (4, 4), (12, 2)])
def test_the_shallowest_of_equal_layers_is_taken_and_reading_ends_where_none_is_better(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, layers: int, from_layer: int
) -> None:
    made = plan(
        tiny_base("llama", num_hidden_layers=layers), head="linear", depth="auto", layers=1, feature_cache_budget=0
    )
    train, validation = given(made, 60), given(made, 90, 120)
    states = planted(train.labels, validation.labels, layers, from_layer)
    asked: list[int] = []
    layers_read = (asked.append(layer) or one for layer, one in enumerate(states))
    monkeypatch.setattr(layer_probes, "layer_by_layer", lambda *_, **__: layers_read)
    selected, choice = layer_selection.choose_capacity(made, train, validation)

    losses = []
    for one in states[:, :, 1].astype(float):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        model.fit(one[: len(train)], train.labels)
        losses.append(log_loss(validation.labels, model.predict_proba(one[len(train) :])))
    assert choice.probes is not None
    assert asked == choice.probes["layers"] == list(range(min(layers, from_layer + 4) + 1))  # four that are no better
    shown = np.array(choice.probes["poolings"]) == "last"
    assert shown[from_layer:].all()
    np.testing.assert_allclose(np.array(choice.probes["log_loss"])[shown], np.array(losses)[asked][shown], atol=1e-5)
    least = -(-layers // LEAST)
    assert selected.train.depth == max(from_layer, least)
    assert choice.reasons["depth"].startswith(f"{selected.train.depth} of {layers}: from layer {least} on")
    assert selected.train.layers == 1
    assert "layers" not in choice.reasons
    assert choice.figures()["depth"]["depth"] == selected.train.depth


@pytest.mark.parametrize(
    ("noisy", "last"),
    [
        ([], 8),  # four that are no better than the fourth
        ([5], 8),
        ([5, 6], 6),
        ([6, 7], 7),
        ([1, 2], 8),  # before the best, and before a third of the layers was read
    ],
)
def test_reading_ends_behind_two_layers_that_are_surely_worse(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, noisy: list[int], last: int
) -> None:
    made = plan(tiny_base("llama", num_hidden_layers=12), head="linear", depth="auto", layers=1, feature_cache_budget=0)
    train, validation = given(made, 60), given(made, 90, 120)
    states = planted(train.labels, validation.labels, 12, 4)
    for layer in noisy:
        states[layer] = np.random.default_rng(layer).normal(size=states[layer].shape)
    monkeypatch.setattr(layer_probes, "layer_by_layer", lambda *_, **__: iter(states))
    selected, choice = layer_selection.choose_capacity(made, train, validation)
    assert choice.probes is not None
    assert choice.probes["layers"][-1] == last
    assert selected.train.depth == 4


@pytest.mark.parametrize(("errors", "taken"), [(0.9, 0), (1.1, 1), (2.5, 1)])
def test_one_standard_error_is_the_limit(errors: float, taken: int) -> None:
    rng = np.random.default_rng(3)
    best, noise = rng.exponential(size=400), rng.normal(size=400)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    worse = best + 0.1 * (noise + errors / 400**0.5)  # so many standard errors of the mean difference
    assert layer_selection.select_depth(np.stack([worse, best]), [True] * 2) == (taken, 1)


def test_a_layer_that_is_surely_worse_is_not_taken_and_an_unsure_one_is() -> None:
    rng = np.random.default_rng(1)
    hard = rng.exponential(size=200)  # what every layer finds hard counts for none
    surely, unsure = hard + 0.05 + rng.normal(scale=0.01, size=200), hard + rng.normal(scale=0.5, size=200)
    unsure += 0.5 * (unsure - hard).std() / 200**0.5 - (unsure - hard).mean()  # half an error worse
    losses = np.stack([surely, unsure, hard])
    assert layer_selection.select_depth(losses, [True] * 3) == (1, 2)
    assert layer_selection.select_depth(losses, [True, False, True]) == (2, 2)
    assert (
        layer_selection.select_depth(losses[:, :1], [True] * 3)[0]
        == layer_selection.select_depth(losses[:, :1], [True] * 3)[1]
    )


@pytest.mark.parametrize(
    ("method", "count", "on_gpu", "expected"),
    [
        ("lora", 30, False, 7),
        ("lora", 16, False, 4),
        ("qlora", 80, False, 8),
        ("lora", 3, False, 1),
        ("lora", 30, True, "all"),
        ("full", 30, False, "all"),
    ],
)
def test_how_many_layers_train(method: str, count: int, on_gpu: bool, expected: int | str) -> None:
    taken, reason = auto_layers("fast", method, count, 800, on_gpu=on_gpu)
    assert taken == expected
    assert reason.startswith(f"{expected}: ")


def test_no_fewer_layers_are_left_than_train_and_what_is_given_stays(tiny_base: Bases) -> None:
    folder = tiny_base("llama", num_hidden_layers=4)
    made = plan(folder, depth="auto", layers=4)
    selected, choice = layer_selection.choose_capacity(made, given(made, 10), given(made, 15, 20))
    assert (selected.train.depth, selected.train.layers) == (4, 4)
    assert choice.seconds > 0
    made = plan(folder, depth=2, layers="auto")
    selected, choice = layer_selection.choose_capacity(made, given(made, 2), given(made, 3, 4))
    assert (selected.train.depth, selected.train.layers) == (2, 1)
    assert choice.probes is None
    made = plan(folder, depth=2, layers=1)
    assert layer_selection.choose_capacity(made, given(made, 2), given(made, 3, 4)) == (
        made,
        layer_selection.Choice(),
    )
    assert layer_selection.Choice().figures() == {}


def test_every_seed_has_the_same_depth_and_the_baselines_sample(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tiny_base("llama"), depth="auto", probe_rows=16)
    train, validation = given(made, 30), given(made, 50, 60)
    read: list[Any] = []
    take = layer_selection.probe_layers
    monkeypatch.setattr(
        layer_selection, "probe_layers", lambda *given, **options: read.append(given[1:]) or take(*given, **options)
    )
    first, chosen = layer_selection.choose_capacity(made, train, validation)
    other = replace(made, train=Train.model_validate(made.train.model_dump() | {"seed": 7}))
    assert layer_selection.choose_capacity(other, train, validation)[1].taken == chosen.taken
    assert [part.input_ids for part in read[0][:2]] == [part.input_ids for part in read[1][:2]]
    assert isinstance(first.train.depth, int)
    assert chosen.probes is not None
    assert (chosen.probes["rows"], chosen.probes["validation_rows"]) == (16, 16)
    splits = {
        name: Split(ids=part.ids, texts=part.ids, labels=np.array(part.labels))
        for name, part in (("train", train), ("validation", validation), ("test", validation))
    }
    ids = {name: part.ids for name, part in sampled(splits, 16, 0).items()}
    tokens = dict(zip(train.ids, train.input_ids, strict=True))
    assert read[0][0].input_ids == [tokens[name] for name in ids["train"]]


@pytest.mark.parametrize("pooling", ["mean", "first", "auto"])
def test_an_encoder_is_judged_by_its_pooling_or_else_by_the_better_one(tiny_base: Bases, pooling: str) -> None:
    made = plan(tiny_base("bert"), head="linear", depth="auto", pooling=pooling, layers="auto")
    selected, choice = layer_selection.choose_capacity(made, given(made, 20), given(made, 30, 40))
    assert choice.probes is not None
    assert set(choice.probes["poolings"]) <= ({"mean"} if pooling == "mean" else {"mean", "last"})
    assert selected.build() is not None


def test_a_family_that_is_not_known_keeps_every_layer(tiny_base: Bases) -> None:
    made = plan(tiny_base(UNKNOWN), head="linear", depth="auto", layers="auto")
    selected, choice = layer_selection.choose_capacity(made, given(made, 2), given(made, 3, 4))
    assert (selected.train.depth, selected.train.layers) == ("all", "all")
    assert "not known here" in choice.reasons["depth"]


def test_an_estimate_takes_auto() -> None:
    shape = Shape(layers=32, layer_weights=100, embedding_weights=100, width=8, decoder=True)
    options = {"rows": 10_000, "validation": 100, "tokens": 50.0, "padded": 60.0, "prefix": 0, "gflops": 0.1}

    def seconds(**train: Any) -> float:
        return estimate(shape, Train.model_validate({"seed": 0, "effort": "fast", **train}), **options).seconds

    assert seconds(layers="auto") == seconds(layers=8) < seconds()
    least = -(-32 // LEAST)
    read = 2 * (least + 7) * 100 * 50.0 * (128 + 100) / attained(0.1, FROZEN_REST)  # a fifth of 32 is 7
    assert seconds(depth="auto", layers=4) == pytest.approx(seconds(depth=least, layers=4) + read)
    assert seconds(depth="auto", layers=4, probe_rows="all") > seconds(depth="auto", layers=4)
    assert seconds(epochs="auto") == seconds(epochs=1) < seconds(epochs="auto", effort="balanced") == seconds(epochs=3)
    assert seconds(layers="auto", effort="balanced") == seconds(layers=16)
    assert seconds(depth="auto", layers="auto", effort="best") == seconds()


@pytest.mark.parametrize(("effort", "depth"), [("fast", 4), ("balanced", 9), ("best", "all")])
def test_effort_decides_between_the_first_and_the_deepest_of_equal_layers_and_all(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, effort: str, depth: int | str
) -> None:
    made = plan(
        tiny_base("llama", num_hidden_layers=12), head="linear", depth="auto", layers=1, effort=effort, pooling="last",
        feature_cache_budget=0,
    )  # fmt: skip
    train, validation = given(made, 60), given(made, 90, 120)
    states = planted(train.labels, validation.labels, 12, 4)
    for layer in (6, 7, 10, 11, 12):
        states[layer] = np.random.default_rng(layer).normal(size=states[layer].shape)
    monkeypatch.setattr(layer_probes, "layer_by_layer", lambda *_, **__: iter(states))
    chosen, choice = layer_selection.choose_capacity(made, train, validation)
    assert chosen.train.depth == depth
    if effort == "balanced":
        assert choice.probes is not None
        assert choice.probes["layers"] == list(range(13))  # two layers that are surely worse do not end it


def test_an_encoder_keeps_its_layers_unless_effort_is_fast(tiny_base: Bases) -> None:
    made = plan(tiny_base("bert"), head="linear", depth="auto", layers="auto", pooling="mean", effort="balanced")
    chosen, choice = layer_selection.choose_capacity(made, given(made, 20), given(made, 30, 40))
    assert (chosen.train.depth, chosen.train.layers) == ("all", 2)
    assert choice.probes is None


def test_more_rows_get_more_passes_and_ranks_and_what_is_given_stays(tiny_base: Bases) -> None:
    folder = tiny_base("llama")
    open_settings = {"epochs": "auto", "lora": {"rank": "auto", "alpha": "auto"}, "effort": "balanced"}
    made = plan(folder, **open_settings)
    chosen, choice = layer_selection.choose_capacity(made, given(made, 20), given(made, 30, 40))
    assert (chosen.train.epochs, chosen.train.lora.rank, chosen.train.lora.alpha) == (4, 8, 16)
    assert set(choice.reasons) == {"epochs", "lora"}
    many = given(made, 20)
    many = replace(many, ids=many.ids * 100, input_ids=many.input_ids * 100, labels=many.labels * 100)
    chosen, _ = layer_selection.choose_capacity(made, many, given(made, 30, 40))
    assert (chosen.train.epochs, chosen.train.lora.rank, chosen.train.lora.alpha) == (3, 16, 32)
    made = plan(folder, **open_settings | {"epochs": 1.5, "lora": {"rank": 4, "alpha": "auto", "dropout": 0.5}})
    chosen, choice = layer_selection.choose_capacity(made, given(made, 20), given(made, 30, 40))
    assert (chosen.train.epochs, chosen.train.lora.rank, chosen.train.lora.alpha) == (1.5, 4, 8)
    assert chosen.train.lora.dropout == 0.5
    made = plan(folder, method="full", epochs=1, lora={"rank": "auto"})
    assert layer_selection.choose_capacity(made, many, many) == (made, layer_selection.Choice())
