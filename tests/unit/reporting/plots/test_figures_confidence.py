from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from labeltune.evaluation.confidence import analyse
from labeltune.inference.calibration import Calibration
from labeltune.reporting.plots import figures

RNG = np.random.default_rng(2)
LOGITS = RNG.normal(0, 3, (200, 2)).astype(np.float32)
GIVEN = Calibration(temperature=2.0).probabilities(LOGITS)
LABELS = (RNG.random(200) > GIVEN[:, 0]).astype(int)


def trust(calibration: Calibration) -> dict:
    return analyse(LOGITS, LABELS, calibration, ("no", "yes"))


def test_reliability_shows_both_curves_where_a_temperature_was_fitted(saved: list[Axes], tmp_path: Path) -> None:
    measured = trust(Calibration(temperature=2.0, fitted=True))
    figures.draw_reliability(measured["calibration"], tmp_path / "a.png", dpi=60)
    lines = {str(line.get_label()): line for line in saved[0].get_lines()}
    before, after = (measured["calibration"][name] for name in ("before", "after"))
    assert f"before temperature 2.00: error {before['ece']:.3f}" in lines
    drawn = lines[f"after temperature 2.00: error {after['ece']:.3f}"]
    np.testing.assert_allclose(drawn.get_ydata(), [part["accuracy"] for part in after["reliability"] if part["rows"]])
    figures.draw_reliability(trust(Calibration())["calibration"], tmp_path / "b.png", dpi=60)
    assert len(saved[1].get_lines()) == 2
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_risk_and_coverage_mark_where_the_classifier_abstains(saved: list[Axes], tmp_path: Path) -> None:
    confidence, right = GIVEN.max(axis=1), GIVEN.argmax(axis=1) == LABELS
    figures.draw_risk_coverage(confidence, right, 0.8, tmp_path / "a.png", dpi=60)
    (label,) = [str(line.get_label()) for line in saved[0].get_lines() if "abstaining" in str(line.get_label())]
    answered = confidence >= 0.8
    assert label == f"abstaining below 0.800: {1 - right[answered].mean():.1%} wrong of {answered.mean():.1%}"
    figures.draw_risk_coverage(confidence, right, 0.0, tmp_path / "b.png", dpi=60)
    assert not [line for line in saved[1].get_lines() if "abstaining" in str(line.get_label())]


def test_a_comparison_has_a_dot_for_each_seed_and_a_bar_for_their_deviation(saved: list[Axes], tmp_path: Path) -> None:
    groups = [
        {"name": "方法=甲", "accuracy": {"mean": 0.9, "deviation": 0.1, "values": [0.8, 1.0]}},
        {"name": "method=b", "accuracy": {"mean": 0.7, "deviation": None, "values": [0.7]}},
    ]
    figures.draw_comparison(groups, tmp_path / "a.png", dpi=60)
    (axes,) = saved
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["方法=甲", "method=b"]
    assert len(axes.containers) == 1
    assert sorted(x for line in axes.get_lines() for x in np.atleast_1d(line.get_xdata()))[0] == 0.7
