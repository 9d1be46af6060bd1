"""Logits to calibrated probabilities."""

import numpy as np
import pytest
import torch

from labeltune.inference.calibration import NONE, Calibration

LOGITS = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.5])
def test_probabilities_are_the_softmax_of_the_logits_over_the_temperature(temperature: float) -> None:
    found = Calibration(temperature=temperature).probabilities(LOGITS)
    expected = torch.softmax(torch.from_numpy(LOGITS).double() / temperature, dim=1).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.dtype == np.float64


def test_a_temperature_changes_confidence_and_no_answer() -> None:
    sharp, plain, flat = (Calibration(temperature=value).probabilities(LOGITS) for value in (0.5, 1.0, 4.0))
    assert (sharp.argmax(1) == plain.argmax(1)).all()
    assert (flat.argmax(1) == plain.argmax(1)).all()
    assert (sharp.max(1) > plain.max(1)).all()
    assert (flat.max(1) < plain.max(1)).all()


def test_large_logits_do_not_overflow() -> None:
    found = NONE.probabilities(np.array([[1e4, -1e4], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_array_equal(found, [[1.0, 0.0], [0.5, 0.5]])


def test_without_calibration_no_answer_is_below_the_threshold_and_sets_hold_every_label() -> None:
    given = NONE.probabilities(LOGITS)
    assert (given >= NONE.threshold).all()
    assert (given >= NONE.set_threshold).all()
    assert not NONE.fitted


def test_a_bias_is_added_after_the_temperature_and_answers_stay_those_of_the_logits() -> None:
    fitted = Calibration(temperature=2.0, bias=[3.0, -1.0, 0.0, 0.5])
    given = fitted.probabilities(LOGITS)
    expected = torch.softmax(torch.from_numpy(LOGITS).double() / 2 + torch.tensor(fitted.bias), dim=1).numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-9)
    np.testing.assert_array_equal(fitted.answers(given), LOGITS.argmax(1))
    assert (given.argmax(1) != LOGITS.argmax(1)).any()
    np.testing.assert_allclose(fitted.confidence(given), given[np.arange(50), LOGITS.argmax(1)])
