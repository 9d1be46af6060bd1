"""Settings of the stages after training: their bounds."""

from typing import Any

import pytest
from pydantic import ValidationError

from labeltune.config import evaluation
from labeltune.config.base import Section


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("Calibrate", "abstain_target", 0.0),
        ("Calibrate", "abstain_target", 1.0),
        ("Calibrate", "set_coverage", 1.0),
        ("Calibrate", "temperature", "auto"),
        ("Calibrate", "abstain", "always"),
        ("Evaluate", "resamples", 99),
        ("Evaluate", "seed", -1),
        ("Evaluate", "seed", 2**32),
        ("Evaluate", "batch_tokens", 0),
        ("Robustness", "severities", []),
        ("Robustness", "severities", [0.1, 1.0]),
        ("Robustness", "sample", 0),
        ("Baselines", "probe_rows", 0),
        ("Baselines", "probe_rows", "auto"),
        ("Worklist", "folds", 1),
        ("Worklist", "confident", 1.0),
        ("Plot", "dpi", 0),
        ("Plot", "dpi", 1201),
        ("Report", "language", "de"),
        ("Report", "mistakes", -1),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_key(section: str, key: str, value: Any) -> None:
    kind: type[Section] = getattr(evaluation, section)
    with pytest.raises(ValidationError, match=key):
        kind.model_validate({key: value})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("Evaluate", "resamples", 100),
        ("Evaluate", "seed", 2**32 - 1),
        ("Baselines", "probe_rows", "all"),
        ("Worklist", "folds", 2),
        ("Worklist", "confident", 0.0),
        ("Report", "mistakes", 0),
    ],
)
def test_a_value_at_its_bound_is_taken(section: str, key: str, value: Any) -> None:
    kind: type[Section] = getattr(evaluation, section)
    assert getattr(kind.model_validate({key: value}), key) == value
