"""The pictures: same bytes for the same rows, colours and line styles as promised, names taken literally."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from labeltune.reporting.plots import figures, style

TRAIN = pd.DataFrame(
    {
        "step": [10, 20, 30, 40],
        "epoch": [0.5, 1, 1.5, 2],
        "loss": [0.9, 0.5, 0.3, 0.2],
        "accuracy": [0.5, 0.7, 0.9, 1],
    }
)
VALIDATION = pd.DataFrame(
    {"step": [20, 40], "epoch": [1, 2], "loss": [0.6, 0.4], "accuracy": [0.6, 0.8], "macro_f1": [0.5, 0.7]}
)
Y_TRUE = np.array([0, 0, 1, 1, 2, 2])
Y_PRED = np.array([0, 1, 1, 1, 2, 2])
PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6], [0.25, 0.25, 0.5]]
)
NAMES = ["a", "b", "c"]


def draw_all(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    figures.draw_training(TRAIN, VALIDATION, 40, folder, dpi=80)
    figures.draw_confusion(Y_TRUE, Y_PRED, NAMES, folder / "confusion_matrix.png", dpi=80)
    figures.draw_roc(Y_TRUE, PROBABILITIES, NAMES, folder / "roc.png", dpi=80)
    figures.draw_precision_recall(Y_TRUE, PROBABILITIES, NAMES, folder / "precision_recall.png", dpi=80)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def test_the_same_rows_give_the_same_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    first = draw_all(tmp_path / "first")
    assert set(first) == {
        "accuracy.png",
        "loss.png",
        "training_metrics.pdf",
        "confusion_matrix.png",
        "roc.png",
        "precision_recall.png",
    }
    assert all(content.startswith((b"\x89PNG", b"%PDF")) for content in first.values())
    with mpl.rc_context({"lines.linewidth": 9, "axes.facecolor": "red", "font.size": 20, "pdf.fonttype": 42}):
        assert draw_all(tmp_path / "second") == first


def test_no_file_tells_a_date_or_version(tmp_path: Path) -> None:
    for content in draw_all(tmp_path / "drawn").values():
        assert b"CreationDate" not in content
        assert mpl.__version__.encode() not in content


def test_the_settings_of_matplotlib_are_left_as_they_were(tmp_path: Path) -> None:
    with mpl.rc_context({"lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        draw_all(tmp_path / "drawn")
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_training_is_solid_blue_and_validation_dashed_orange(metric: str) -> None:
    axes = Figure().add_subplot()
    figures.plot_training(axes, TRAIN, VALIDATION, metric, best_step=20)
    lines = {line.get_label(): line for line in axes.get_lines()}
    training, validation, kept = lines["training"], lines["validation"], lines["kept (step 20)"]
    assert (to_hex(training.get_color()), training.get_linestyle()) == ("#0072b2", "-")
    assert (to_hex(validation.get_color()), validation.get_linestyle()) == ("#e69f00", "--")
    assert list(training.get_ydata()) == TRAIN[metric].tolist()
    assert list(validation.get_xdata()) == [20, 40]
    assert (kept.get_xdata()[0], kept.get_ydata()[0]) == (20, VALIDATION[metric][0])


def test_a_kept_step_that_was_never_validated_is_refused() -> None:
    with pytest.raises(ValueError, match=r"best_step is 30, the validation steps are \[20, 40\]"):
        figures.plot_training(Figure().add_subplot(), TRAIN, VALIDATION, "loss", best_step=30)


def test_the_confusion_matrix_counts_and_shades_by_row(saved: list[Axes], tmp_path: Path) -> None:
    y_true, y_pred = np.array([0] * 1500 + [1]), np.array([0] * 1200 + [1] * 300 + [0])
    figures.draw_confusion(y_true, y_pred, NAMES, tmp_path / "out.png", dpi=80)
    (axes,) = saved
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["1,200", "300", "0", "1", "0", "0", "0", "0", "0"]
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [1, 0, 0], [0, 0, 0]])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == NAMES
    assert [tick.get_text() for tick in axes.get_xticklabels()] == NAMES


def test_names_too_wide_for_their_cells_are_turned_and_cut(saved: list[Axes], tmp_path: Path) -> None:
    figures.draw_confusion(Y_TRUE, Y_PRED, NAMES, tmp_path / "short.png", dpi=80)
    figures.draw_confusion(Y_TRUE, Y_PRED, ["business and economy", "b", "c" * 50], tmp_path / "long.png", dpi=80)
    short, long = saved
    assert {tick.get_rotation() for tick in short.get_xticklabels()} == {0}
    assert {tick.get_rotation() for tick in long.get_xticklabels()} == {45}
    assert long.get_xticklabels()[2].get_text() == "c" * (style.LONGEST - 1) + "…"


def test_names_are_no_formulas(saved: list[Axes], tmp_path: Path) -> None:
    # Read as a formula, the first two would be refused and the third would lose its dollars.
    names = [r"$\frac$", "$_$", "$x_1$"]
    figures.draw_confusion(Y_TRUE, Y_PRED, names, tmp_path / "confusion.png", dpi=80)
    figures.draw_roc(Y_TRUE, PROBABILITIES, names, tmp_path / "roc.png", dpi=80)
    confusion, roc = saved
    assert not any(tick.get_parse_math() for tick in confusion.get_xticklabels())
    found = roc.get_legend()
    assert found is not None
    assert not any(text.get_parse_math() for text in found.get_texts())


def test_a_name_that_begins_with_an_underscore_is_in_the_legend(saved: list[Axes], tmp_path: Path) -> None:
    figures.draw_roc(Y_TRUE, PROBABILITIES, ["_a", "{b}", "c"], tmp_path / "roc.png", dpi=80)
    assert [text.split("  ")[1] for text in legend(saved[0])] == ["_a", "{b}", "c"]


def test_roc_of_two_labels_is_the_last_ones_curve(saved: list[Axes], tmp_path: Path) -> None:
    y_true = (Y_TRUE == 2).astype(int)
    probabilities = np.stack([1 - PROBABILITIES[:, 2], PROBABILITIES[:, 2]], axis=1)
    figures.draw_roc(y_true, probabilities, ["ham", "spam"], tmp_path / "roc.png", dpi=80)
    (axes,) = saved
    diagonal, curve = axes.get_lines()
    x, y, _ = roc_curve(y_true, probabilities[:, 1])
    assert diagonal.get_linestyle() == ":"
    np.testing.assert_allclose(curve.get_xdata(), x)
    np.testing.assert_allclose(curve.get_ydata(), y)
    assert legend(axes) == ["1.000  spam"]
    assert axes.get_title(loc="left") == "ROC: spam against ham"


@pytest.mark.parametrize("draw", [figures.draw_roc, figures.draw_precision_recall])
def test_an_absent_label_gets_a_note_and_no_curve(draw: Callable[..., None], saved: list[Axes], tmp_path: Path) -> None:
    present = Y_TRUE != 1
    draw(Y_TRUE[present], PROBABILITIES[present], NAMES, tmp_path / "absent.png", dpi=80)
    draw(np.ones(6, int), PROBABILITIES[:, :2], ["ham", "spam"], tmp_path / "one.png", dpi=80)
    absent, one = saved
    note = "(in none or in all of the test rows)"
    assert legend(absent)[1] == f"none   b {note}"
    assert sum(note in text for text in legend(absent)) == 1
    curves = [line for line in absent.get_lines() if line.get_color() in style.PALETTE]
    assert len(curves) == 2
    assert legend(one) == [f"none   spam {note}"]
    assert not [line for line in one.get_lines() if line.get_color() in style.PALETTE]


def test_precision_is_drawn_in_steps(saved: list[Axes], tmp_path: Path) -> None:
    figures.draw_precision_recall(Y_TRUE, PROBABILITIES, NAMES, tmp_path / "out.png", dpi=80)
    for line in saved[0].get_lines():
        assert line.get_drawstyle() == "steps-pre"
        assert np.all(np.diff(line.get_xdata()) >= 0)


def test_twenty_one_labels_look_different(saved: list[Axes], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y_true = np.tile(np.arange(21), 3)
    probabilities = rng.dirichlet(np.ones(21), len(y_true))
    figures.draw_roc(y_true, probabilities, [f"label {number}" for number in range(21)], tmp_path / "roc.png", dpi=80)
    looks = {(line.get_color(), line.get_linestyle()) for line in saved[0].get_lines()[1:]}
    assert len(looks) == 21


def test_no_test_rows_still_draw_an_empty_matrix(saved: list[Axes], tmp_path: Path) -> None:
    empty = np.array([], dtype=int)
    figures.draw_confusion(empty, empty, NAMES, tmp_path / "out.png", dpi=80)
    assert [text.get_text() for text in saved[0].texts] == ["0"] * 9
