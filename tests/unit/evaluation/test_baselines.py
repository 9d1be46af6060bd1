"""The cheaper models against scikit-learn's own, put together by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from labeltune.config.model import Train
from labeltune.data.labels import LabelSet
from labeltune.evaluation import baselines, probe_baseline
from labeltune.evaluation.baselines import Split
from labeltune.modeling import ngrams
from labeltune.probing import hidden_states, layer_probes, regression
from labeltune.probing.hidden_states import POOLINGS
from labeltune.probing.layer_probes import LayerProbes
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import write_table
from tests.conftest import spam_rows
from tests.tuning import plan

NAMES = ("ham", "spam")
UNCACHED = Train(seed=0, effort="fast", feature_cache_budget=0)
SPAM = LabelSet(names=NAMES, words=NAMES)


def split(rows: list[tuple[str, str]], start: int, end: int, names: tuple[str, ...] = NAMES) -> Split:
    chosen = rows[start:end]
    return Split(
        ids=[f"row {i}" for i in range(start, end)],
        texts=[text for _, text in chosen],
        labels=np.array([names.index(label) for label, _ in chosen]),
    )


def three(rows: list[tuple[str, str]], names: tuple[str, ...] = NAMES) -> dict[str, Split]:
    order = np.random.default_rng(1).permutation(len(rows))
    rows = [rows[i] for i in order]
    ends = [0, len(rows) * 6 // 10, len(rows) * 8 // 10, len(rows)]
    return {name: split(rows, ends[i], ends[i + 1], names) for i, name in enumerate(("train", "validation", "test"))}


def noisy_rows() -> list[tuple[str, str]]:
    """Texts in which words only lean to a label, so that every choice has another log-loss."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(150):
        label = NAMES[i % 2]
        leaning = ("free prize win cash now", "home lunch later see you")[:: 1 if i % 2 else -1]
        words = [str(rng.choice(leaning[int(rng.random() > 0.7)].split())) for _ in range(6)]
        rows.append((label, " ".join(words) + rng.choice(["!", ".", "?", ""])))
    return rows


def by_hand(kind: str, c: float) -> Pipeline:
    words = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]+", ngram_range=(1, 2), sublinear_tf=True, max_features=50_000)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, max_features=50_000)
    parts = {"words": [words], "characters": [characters], "words and characters": [words, characters]}[kind]
    union = FeatureUnion([(str(i), part) for i, part in enumerate(parts)])
    return Pipeline([("features", union), ("regression", LogisticRegression(C=c, max_iter=1000))])


def test_tfidf_is_the_pipeline_of_the_lowest_validation_loss() -> None:
    splits = three(noisy_rows())
    found = baselines.tfidf(splits, SPAM)
    losses = {}
    for kind, c in [(kind, 10.0) for kind in ngrams.KINDS] + [(found.chosen["ngrams"], c) for c in ngrams.STRENGTHS]:
        model = by_hand(kind, c).fit(splits["train"].texts, splits["train"].labels)
        losses[kind, c] = sklearn_metrics.log_loss(
            splits["validation"].labels, model.predict_proba(splits["validation"].texts)
        )
    assert len(set(losses.values())) == 8
    kind = min(ngrams.KINDS, key=lambda kind: losses[kind, 10.0])
    c = min(ngrams.STRENGTHS, key=lambda c: losses[kind, c])
    assert (found.chosen["ngrams"], found.chosen["C"]) == (kind, c)
    assert found.chosen["validation"]["log_loss"] == pytest.approx(losses[kind, c], rel=1e-5)
    model = by_hand(kind, c).fit(splits["train"].texts, splits["train"].labels)
    np.testing.assert_allclose(found.probabilities, model.predict_proba(splits["test"].texts), rtol=1e-4)
    assert found.chosen["features"] == model[-1].n_features_in_
    assert found.chosen["rows"] == len(splits["train"])
    assert found.costs.size_mib > 0


def test_test_rows_change_nothing_that_is_fitted() -> None:
    splits = three(noisy_rows())
    other = splits | {"test": Split(ids=["x"], texts=["正面 zzz"], labels=np.array([0]))}
    assert baselines.tfidf(splits, SPAM).chosen == baselines.tfidf(other, SPAM).chosen


def test_tfidf_tells_chinese_reviews_apart() -> None:
    good, bad = ["房间干净", "服务很好", "非常满意", "值得推荐"], ["房间很脏", "服务太差", "非常失望", "不会再来"]
    rng = np.random.default_rng(0)
    names = ("负面", "正面")
    rows = [
        (names[i % 2], "，".join(rng.permutation(good if i % 2 else bad)[:2]) + f"。第{i}次入住") for i in range(100)
    ]
    splits = three(rows, names)
    found = baselines.tfidf(splits, LabelSet(names=names, words=names))
    assert (found.probabilities.argmax(axis=1) == splits["test"].labels).all()
    words = ngrams.vectorizers()["words"].fit_transform(["房间很脏。", "！！"])
    assert words.getnnz(axis=1).min() > 0  # no text is without a word


def test_the_majority_gives_training_shares() -> None:
    splits = three([("ham", f"a {i}") for i in range(70)] + [("spam", f"b {i}") for i in range(30)])
    found = baselines.majority(splits, SPAM)
    shares = np.bincount(splits["train"].labels) / len(splits["train"])
    assert found.probabilities.shape == (20, 2)
    np.testing.assert_array_equal(found.probabilities, np.tile(shares, (20, 1)))
    assert found.chosen["label"] == "ham"


def planted() -> tuple[LayerProbes, dict[str, Split]]:
    """Random states of 4 layers, in which the label shows in layer 2 alone, and in its last token's state."""
    rng = np.random.default_rng(0)
    splits = {}
    states = {}
    for name, rows in (("train", 120), ("validation", 60)):
        labels = rng.integers(0, 2, rows)
        drawn = rng.normal(size=(4, rows, 2, 8)).astype(np.float32)
        drawn[2, :, 1, 3] = 40 * drawn[2, :, 1, 3] + 100 * labels  # far from the others' scale
        splits[name] = Split(ids=[str(i) for i in range(rows)], texts=[""] * rows, labels=labels)
        states[name] = drawn
    given = np.array([[reference(states, splits, i, j, 0.01) for j in range(2)] for i in range(4)])
    answers = splits["validation"].labels
    losses = -np.log(given[:, :, np.arange(60), answers])
    right = given.argmax(axis=3) == answers
    return LayerProbes(layers=(0, 1, 2, 3), states=states, losses=losses, right=right, seconds=1.0), splits


def reference(
    states: dict[str, np.ndarray], splits: dict[str, Split], layer: int, pooling: int, c: float
) -> np.ndarray:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    model.fit(states["train"][layer, :, pooling].astype(np.float64), splits["train"].labels)
    return model.predict_proba(states["validation"][layer, :, pooling].astype(np.float64))


def test_a_probe_finds_the_layer_and_pooling_that_hold_the_label() -> None:
    probes, splits = planted()
    place, _ = probes.best()
    after = {split: states[place] for split, states in probes.states.items()}
    probe = probe_baseline.choose(probes, after, splits, 2)
    assert (probe.layer, probe.pooling) == (2, "last")
    assert probe.losses["last"][2] == min(min(losses) for losses in probe.losses.values())
    by_c = {c: reference(probes.states, splits, 2, 1, c) for c in probe_baseline.STRENGTHS}
    losses = {c: sklearn_metrics.log_loss(splits["validation"].labels, given) for c, given in by_c.items()}
    assert probe.c == min(losses, key=lambda c: losses[c])
    assert probe.validation["log_loss"] == pytest.approx(losses[probe.c])
    found = probe.model.probabilities(probes.states["validation"][2, :, 1].astype(np.float64))
    np.testing.assert_allclose(found, by_c[probe.c], rtol=1e-6)


def test_samples_have_the_classes_shares_and_depend_on_the_seed() -> None:
    rows = [("ham", f"a {i}") for i in range(150)] + [("spam", f"b {i}") for i in range(50)]
    whole = split(rows, 0, 200)
    splits = {"train": whole, "validation": split(rows, 120, 160), "test": whole}

    def drawn(count: int | str, seed: int) -> dict[str, Split]:
        return probe_baseline.sampled(splits, count, seed)

    taken = drawn(40, 3)
    assert np.bincount(taken["train"].labels).tolist() == [30, 10]
    assert taken["train"].texts == [whole.texts[int(name.split()[1])] for name in taken["train"].ids]
    assert taken["validation"] is splits["validation"]
    assert len(drawn(20, 3)["validation"]) == 20
    assert taken["test"] is whole  # every test row is answered
    assert drawn(40, 3)["train"].ids == taken["train"].ids
    assert drawn(40, 4)["train"].ids != taken["train"].ids
    assert drawn("all", 3)["train"] is whole
    assert drawn(200, 3)["train"] is whole


def test_more_states_than_memory_are_refused_before_they_are_computed(
    tiny_base: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tiny_base("llama"))
    model = hidden_states.load_probed_model(made.base, made.labels, made.encoder, made.machine, scoring=False)
    monkeypatch.setattr(layer_probes, "MEMORY_SHARE", 1e-9)
    with pytest.raises(UserError, match="train.probe_rows: the states of 32 rows take .* set it to at most"):
        probe_baseline.answer(model, three(spam_rows(20)), three(spam_rows(20)), made.encoder, 2, UNCACHED)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_states_and_scores_come_together(
    tiny_base: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    choose = probe_baseline.choose
    monkeypatch.setattr(
        probe_baseline, "choose", lambda *given, **options: replace(choose(*given, **options), pooling=pooling)
    )
    made = plan(tiny_base("llama"))
    model = hidden_states.load_probed_model(made.base, made.labels, made.encoder, made.machine, scoring=True)
    splits = three(spam_rows(20))
    found, states = probe_baseline.answer(model, splits, splits, made.encoder, 2, UNCACHED)
    assert [baseline.name for baseline in found] == ["hidden_states", "zero_shot"]
    for baseline in found:
        assert baseline.probabilities.shape == (len(splits["test"]), 2)
        np.testing.assert_allclose(baseline.probabilities.sum(axis=1), 1)
    assert found[1].costs.train_seconds == 0
    # One row alone, through the same model.
    ids = made.encoder.encode(splits["test"].texts[:1]).input_ids
    alone = hidden_states.read_hidden_states(model, ids, layers=(found[0].chosen["layer"],), scoring=True)
    place = POOLINGS.index(pooling)
    np.testing.assert_allclose(states["test"].states[:1], alone.states[:, 0, place], rtol=1e-4, atol=1e-5)
    assert alone.scores is not None
    odds = np.log(found[1].probabilities[0, 0] / found[1].probabilities[0, 1])
    assert odds == pytest.approx(alone.scores[0, 0] - alone.scores[0, 1], abs=1e-4)

    regression.save(tmp_path / "a.npz", states)
    regression.save(tmp_path / "b.npz", states)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = regression.load(tmp_path / "a.npz")
    assert list(loaded) == ["train", "validation", "test"]
    for name, part in loaded.items():
        ids = made.encoder.encode(splits[name].texts).input_ids
        again = hidden_states.read_hidden_states(model, ids, layers=(found[0].chosen["layer"],)).states[:, 0, place]
        np.testing.assert_allclose(part.states, again, rtol=1e-4, atol=1e-5)
        assert part.ids == splits[name].ids
        assert part.states.dtype == np.float32
        np.testing.assert_array_equal(part.states, states[name].states)


def test_what_is_written_is_complete_and_free_of_times(tmp_path: Path) -> None:
    splits = three(noisy_rows())
    found = [baselines.majority(splits, SPAM), baselines.tfidf(splits, SPAM)]
    written = []
    for name in ("first.csv", "second.csv"):
        write_table(tmp_path / name, baselines.answers(found, splits["test"], SPAM))
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    table = pd.read_csv(tmp_path / "first.csv")
    assert list(table.columns) == ["model", "id", "label", "prediction", "p_ham", "p_spam"]
    assert table["model"].unique().tolist() == ["majority", "tfidf"]
    given = table[table["model"] == "tfidf"]
    assert given["id"].tolist() == splits["test"].ids
    np.testing.assert_array_equal(given[["p_ham", "p_spam"]].to_numpy(), found[1].probabilities)
    assert (given["prediction"].to_numpy() == np.array(NAMES)[found[1].probabilities.argmax(axis=1)]).all()

    kept = json.loads(json.dumps(baselines.chosen(found, "why not"), allow_nan=False))
    assert kept["zero_shot"] == {"missing": "why not"}
    assert "seconds" not in json.dumps(kept)
    spent = baselines.costs(found)["tfidf"]
    assert set(spent) == {"train_seconds", "rows_per_second", "peak_memory_mib", "size_mib"}
    assert spent["peak_memory_mib"] > 10
