"""The train stage with trackers: the same figures as in plots/curves, in the project's own folder."""

import json
from pathlib import Path

import pandas as pd
import pytest

from stages import configure, prepare, train


@pytest.fixture
def place(project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepared rows, in a working folder apart from the project's, as in a queued run; returns the project's."""
    top = tmp_path_factory.mktemp("top")
    monkeypatch.setenv("DVC_ROOT", str(top))
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    recipe = Path("conf/recipes/test.yaml")
    recipe.write_text(recipe.read_text().replace("epochs: 2", "epochs: 2, eval_steps: 3, learning_rate: 5e-3"))
    return top


def run(report_to: str | None = None) -> pd.DataFrame:
    if report_to:
        recipe = Path("conf/recipes/test.yaml")
        recipe.write_text(recipe.read_text().replace("epochs: 2", f"report_to: {report_to}, epochs: 2"))
    for stage in (configure.main, prepare.main, train.main):
        stage()
    return pd.read_csv("plots/curves/validation.csv")


@pytest.mark.slow
def test_trackers_hold_what_the_curves_hold(place: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    validation = run("[tensorboard, dvclive]")
    training = pd.read_csv("plots/curves/train.csv")
    assert not Path("tracking").exists()
    assert {path.name for path in (place / "tracking").iterdir()} == {"tensorboard", "dvclive"}
    (events,) = (place / "tracking/tensorboard").iterdir()
    (live,) = (place / "tracking/dvclive").iterdir()
    assert events.name == live.name
    assert events.name.startswith("messages-tiny-lora-label_scoring-42-")

    found = EventAccumulator(str(events)).Reload()
    for curves, split in ((validation, "eval"), (training, "train")):
        for figure in ("accuracy", "loss"):
            scalars = found.Scalars(f"{split}/{figure}")
            assert [event.step for event in scalars] == curves["step"].tolist()
            assert [event.value for event in scalars] == pytest.approx(curves[figure].tolist(), rel=1e-6)
    last = validation.iloc[-1]
    metrics = json.loads((live / "metrics.json").read_text())
    assert metrics["eval"]["accuracy"] == last["accuracy"]
    assert metrics["eval"]["loss"] == pytest.approx(last["loss"])
    assert metrics["step"] == last["step"]


@pytest.mark.slow
def test_without_trackers_nothing_is_tracked_and_the_result_is_the_same(place: Path, project: Path) -> None:
    plain = run()
    assert not (place / "tracking").exists()
    assert not (project / "tracking").exists()
    weights = Path("models/trained/adapter_model.safetensors").read_bytes()
    tracked = run("[tensorboard]")
    pd.testing.assert_frame_equal(tracked, plain)
    assert Path("models/trained/adapter_model.safetensors").read_bytes() == weights
