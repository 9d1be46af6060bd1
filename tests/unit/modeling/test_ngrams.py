"""The n-gram model against scikit-learn's pipeline, and its files."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from labeltune.modeling import ngrams
from labeltune.modeling.ngrams import Ngrams

ENGLISH = {
    0: ["see you at home", "lunch later today?", "call me when home"],
    1: ["win a FREE prize!!", "free cash now"],
}
CHINESE = {0: ["房间很脏", "服务太差，不会再来"], 1: ["房间干净", "服务很好，值得推荐"]}
ODD = ["", "!", "x", "a\tb\n\nc", "free free free", "Ünïcode é 中文 free", "🙂🙂", "\u200b", "I\u0307", "_", "a" * 300]


def rows(texts: dict[int, list[str]], count: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(count)
    found, labels = [], rng.integers(0, len(texts), count)
    for row, label in enumerate(labels):
        mine = texts[int(label if rng.random() < 0.85 else rng.integers(0, len(texts)))]
        found.append(f"{rng.choice(mine)} {rng.choice(mine)} {row % 7}")
    return found, labels


def fitted(texts: dict[int, list[str]] = ENGLISH) -> Ngrams:
    return ngrams.fit(*rows(texts, 90), *rows(texts, 40), len(texts))


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE, ENGLISH | {2: ["rain and snow", "sun, wind"]}])
def test_its_probabilities_are_those_of_scikit_learns_regression_on_the_same_features(
    texts: dict[int, list[str]],
) -> None:
    model = fitted(texts)
    given, labels = rows(texts, 90)
    makers = [ngrams.vectorizers()[name] for name in ngrams.KINDS[model.kind]]
    features = sparse.hstack([maker.fit_transform(given) for maker in makers], format="csr")
    reference = LogisticRegression(C=model.c, max_iter=1000).fit(features, labels)
    asked = [*rows(texts, 33)[0], *ODD]
    read = sparse.hstack([maker.transform(asked) for maker in makers], format="csr")
    np.testing.assert_allclose(softmax(model.logits(asked), axis=1), reference.predict_proba(read), atol=1e-5)
    np.testing.assert_allclose(model.probabilities(asked).sum(axis=1), 1)


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE])
def test_a_saved_model_gives_the_same_bits_and_the_same_bytes(texts: dict[int, list[str]], tmp_path: Path) -> None:
    model = fitted(texts)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        fitted(texts).save(tmp_path / name)
    for name in (ngrams.VOCABULARY, ngrams.WEIGHTS):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    again = Ngrams.load(tmp_path / "first")
    asked = [*rows(texts, 20)[0], *ODD]
    np.testing.assert_array_equal(again.logits(asked), model.logits(asked))
    assert (again.kind, again.c, again.vocabularies) == (model.kind, model.c, model.vocabularies)
    assert again.nbytes == model.nbytes
    assert {array.dtype for array in (again.idf, again.weights, again.intercept)} == {np.dtype(np.float32)}


def test_the_arrays_are_read_without_pickle(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    with np.load(tmp_path / ngrams.WEIGHTS) as arrays:
        held = {name: arrays[name] for name in arrays}
    np.savez(tmp_path / ngrams.WEIGHTS, **held | {"idf": np.array([object()])})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Ngrams.load(tmp_path)


def test_a_text_alone_has_the_logits_that_it_has_among_others() -> None:
    model = fitted()
    asked = [*rows(ENGLISH, 20)[0], *ODD]
    together = model.logits(asked)
    for row, text in enumerate(asked):
        np.testing.assert_array_equal(model.logits([text])[0], together[row])


def test_a_text_without_ngrams_has_the_intercept() -> None:
    model = fitted(CHINESE)
    np.testing.assert_array_equal(model.logits([""]), model.intercept[None])


def test_the_vocabulary_is_bounded_by_the_frequent_ngrams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "MOST", 10)
    model = fitted()
    assert {len(known) for known in model.vocabularies.values()} == {10}
    assert len(model.idf) == len(model.weights) == 10 * len(ngrams.KINDS[model.kind])


def test_labels_without_training_rows_are_never_answered() -> None:
    texts, labels = rows(ENGLISH, 60)
    model = ngrams.fit(texts, labels * 2, *rows(ENGLISH, 30), 4)
    given = model.probabilities([*texts, *ODD])
    assert given[:, [1, 3]].max() < 1e-9
    assert set(given.argmax(axis=1)) == {0, 2}


def test_training_rows_of_one_label_leave_nothing_to_tell_apart() -> None:
    texts, labels = rows(ENGLISH, 30)
    model = ngrams.fit(texts, np.ones(30, dtype=np.int64), texts, labels, 2)
    np.testing.assert_allclose(model.probabilities(["free", "home"]), [[0, 1], [0, 1]], atol=1e-9)


def test_validation_rows_choose_and_teach_nothing() -> None:
    texts, labels = rows(ENGLISH, 90)
    model = ngrams.fit(texts, labels, ["quux quux"] * 8, np.array([0, 1] * 4), 2)
    assert "quux" not in json.dumps(model.vocabularies)
