"""Answers: one by one they say what the arrays say."""

import numpy as np
import pytest

from labeltune.calibration import Calibration
from labeltune.predict import Answer, Predictions

LOGITS = np.array([[0.0, np.log(3.0)], [2.0, 2.0], [np.log(19.0), 0.0]], dtype=np.float32)


@pytest.fixture
def predictions() -> Predictions:
    fitted = Calibration(temperature=1.0, fitted=True, threshold=0.8)
    return Predictions(names=("no", "yes"), logits=LOGITS, truncated=[False, True, False], calibration=fitted)


def test_an_answer_holds_what_its_row_says(predictions: Predictions) -> None:
    first, second, third = predictions
    assert first == Answer(
        label="yes",
        confidence=pytest.approx(0.75),
        probabilities={"no": pytest.approx(0.25), "yes": pytest.approx(0.75)},
        abstained=True,
        truncated=False,
    )
    assert second.truncated
    assert (third.label, third.confidence, third.abstained) == ("no", pytest.approx(0.95), False)


def test_answers_and_arrays_agree(predictions: Predictions) -> None:
    assert [answer.confidence for answer in predictions] == predictions.confidence.tolist()
    assert [answer.abstained for answer in predictions] == predictions.abstained
    assert [list(answer.probabilities.values()) for answer in predictions] == predictions.probabilities.tolist()


def test_a_part_keeps_its_rows(predictions: Predictions) -> None:
    assert list(predictions[1:]) == list(predictions)[1:]
