"""From a table that somebody has to a classifier, by `init` and the stages."""

import json
from pathlib import Path

import pytest

from labeltune import Classifier
from labeltune.cli import main
from stages import calibrate, configure, evaluate, prepare, train


def test_a_table_becomes_a_classifier(project: Path, notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["init", str(notes), "--model", "tiny"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "copied to data/raw/desk-notes/desk notes.csv" in printed
    assert "0 rows lack a text, 2 a label" in printed
    assert "dvc exp run -S recipe=desk-notes" in printed
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("recipe: test", "recipe: desk-notes"), encoding="utf-8")
    for stage in (configure, prepare, train, calibrate, evaluate):
        stage.main()
    rows = json.loads(Path("metrics/data.json").read_text())["rows"]
    assert sum(rows[split]["total"] for split in ("train", "validation", "test")) == 78
    assert json.loads(Path("metrics/metrics.json").read_text())["n"] == rows["test"]["total"]
    answers = Classifier.load("models/classifier").predict(["win a free prize now", "see you at home"])
    assert {answer.label for answer in answers} <= {"ham", "spam"}
