"""The files that a report is written from."""

import re
import shutil
from pathlib import Path

import pytest

from labeltune.reporting.report.results import RunResults
from labeltune.runtime.errors import UserError


@pytest.mark.parametrize(
    "file", ["metrics/metrics.json", "data/predictions/test.csv", "models/classifier/labeltune.json"]
)
def test_a_report_needs_the_model_and_its_figures(run: Path, tmp_path: Path, file: str) -> None:
    for source in run.rglob("*"):
        if source.is_file() and str(source.relative_to(run)) != file:
            target = tmp_path / source.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    with pytest.raises(UserError, match=f"{re.escape(file)} is missing.*dvc repro"):
        RunResults.read(tmp_path)


def copied(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder, dirs_exist_ok=True)
    return folder


def test_a_damaged_file_is_named(run: Path, tmp_path: Path) -> None:
    (copied(run, tmp_path) / "metrics/worklist.json").write_text("{")
    with pytest.raises(UserError, match=r"worklist\.json is damaged: not valid JSON; delete it and run `dvc repro`"):
        RunResults.read(tmp_path)


def test_what_a_stage_did_not_leave_is_none(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path)
    for name in ("metrics/worklist.json", "data/robustness/flips.csv", "costs/train.json"):
        (folder / name).unlink()
    found = RunResults.read(folder)
    assert found.worklist is None
    assert found.flips is None
    assert "train" not in found.costs
    assert found.metrics == RunResults.read(run).metrics


def test_mistakes_are_the_wrong_answers_by_confidence_then_id(evidence: RunResults) -> None:
    rows = evidence.predictions
    assert rows["confidence"].dtype == float
    wrong = rows[rows["label"] != rows["prediction"]].to_dict("records")
    expected = sorted(wrong, key=lambda row: (-row["confidence"], row["id"]))
    assert evidence.mistakes.to_dict("records") == expected
