"""From a table that somebody has to a classifier, by `init` and the stages."""

import csv
import json
from pathlib import Path

import pytest

from labeltune import Classifier
from labeltune.cli import main
from labeltune.runtime.errors import UserError
from stages import calibrate, configure, evaluate, prepare, train
from tests.conftest import spam_rows


@pytest.fixture
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Messages outside the project, in UTF-16 and an unusual order of columns, two of them without a label."""
    file = tmp_path_factory.mktemp("desk") / "desk notes.csv"
    with file.open("w", newline="", encoding="utf-16") as stream:
        rows = csv.writer(stream)
        rows.writerow(["nr", "said", "kind"])
        rows.writerows([i, text, label if i > 1 else ""] for i, (label, text) in enumerate(spam_rows(40)))
    return file


def test_a_table_becomes_a_classifier(project: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["init", str(table), "--model", "tiny"])
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


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["..", ".", "../..", "a/b", "a/../b", "/etc", ".hidden", "a\nb", "-x", "x" * 200])
def test_a_name_is_never_a_path_and_nothing_is_touched(project: Path, table: Path, name: str) -> None:
    before = files_below(project)
    with pytest.raises(UserError, match="--name: .* is no name"):
        main.main(["init", str(table), f"--name={name}", "--force"])
    assert files_below(project) == before


@pytest.mark.parametrize("kept", ["last-year.csv", "desk notes.csv"])
def test_what_a_failing_init_did_not_write_stays(project: Path, table: Path, kept: str) -> None:
    """A column that is not there: last year's file in the folder stays, also one of the same name."""
    folder = project / "data/raw/reviews"
    folder.mkdir()
    (folder / kept).write_text("nr,said,kind\n1,old,ham\n", encoding="utf-8")
    before = files_below(project)
    with pytest.raises(UserError):
        main.main(["init", str(table), "--name", "reviews", "--force", "--text", "bdy", "--model", "tiny"])
    assert files_below(project) == before


def test_a_failing_init_leaves_no_copy(project: Path, table: Path) -> None:
    before = files_below(project)
    with pytest.raises(UserError):
        main.main(["init", str(table), "--text", "bdy", "--model", "tiny"])
    assert files_below(project) == before
    assert not (project / "data/raw/desk-notes").exists()


def test_the_same_init_works_twice_with_force(project: Path, table: Path) -> None:
    command = ["init", str(table), "--model", "tiny"]
    main.main(command)
    first = files_below(project)
    with pytest.raises(UserError, match="overwrite with --force"):
        main.main(command)
    main.main([*command, "--force"])
    assert files_below(project) == first
