"""An n-gram model by itself: chosen by the validation rows, judged by rows that took no part in the choice."""

import numpy as np
import pytest

from labeltune.modeling import ngrams
from labeltune.training.cross_fitting import chosen_by_others
from labeltune.training.ngrams import FittedNgrams
from tests.conftest import spam_rows


def given(start: int, stop: int) -> tuple[list[str], list[int]]:
    rows = spam_rows(stop)[2 * start :]
    return [text for _, text in rows], [int(label == "spam") for label, _ in rows]


def test_the_model_is_that_of_the_search_and_its_logits_are_its_own() -> None:
    train, validation = given(0, 30), given(30, 50)
    found = FittedNgrams.fit(train, validation, 2)
    search = ngrams.search(train[0], np.array(train[1]), validation[0], np.array(validation[1]), 2)
    np.testing.assert_array_equal(found.model.weights, search.model.weights)
    np.testing.assert_array_equal(found.logits, found.model.logits(validation[0]))
    np.testing.assert_array_equal(found.judged, chosen_by_others(search.logits, np.array(validation[1])))
    assert found.choices() == {"kind": found.model.kind, "C": found.model.c, "features": len(found.model.idf)}


@pytest.mark.parametrize("labels", [2, 3])
def test_a_search_has_the_lowest_validation_loss_of_what_it_tried(labels: int) -> None:
    rng = np.random.default_rng(0)
    texts, answers = given(0, 30)
    noisy = np.where(rng.random(60) < 0.2, rng.integers(0, labels, 60), answers)
    search = ngrams.search(texts, noisy, *map(np.array, given(30, 50)), labels)  # type: ignore[arg-type]
    truth = np.array(given(30, 50)[1])
    losses = [-np.log(ngrams.probabilities(one)[np.arange(len(truth)), truth]).mean() for one in search.logits]
    assert search.place == int(np.argmin(losses))
    np.testing.assert_allclose(search.logits[search.place], search.model.logits(given(30, 50)[0]), atol=1e-5)
