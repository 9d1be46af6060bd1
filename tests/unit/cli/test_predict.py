"""The command `labeltune predict`: every way gives the same answers, and a wrong one is told at once."""

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from labeltune.cli import main
from labeltune.cli.predict import show
from labeltune.inference.classifier import Classifier
from labeltune.runtime.errors import UserError
from tests import tuning

TEXTS = ["win a free prize now", "see you at home", "free cash", "lunch", "call me when you are home", "claim, now"]


@pytest.fixture(scope="module")
def folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuning.saved(base_folder, tmp_path_factory.mktemp("console") / "classifier")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return Classifier.load(folder)


@pytest.fixture
def said(classifier: Classifier, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command with a classifier that is loaded already."""
    monkeypatch.setattr(Classifier, "load", lambda given: {folder: classifier}[given])
    return folder


def predict(folder: Path, *options: object) -> None:
    main.main(["predict", str(folder), *map(str, options)])


def lines(text: str | bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_rows_of_a_file_can_go_to_a_pipe(
    said: Path, classifier: Classifier, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.csv"
    with source.open("w", newline="") as stream:
        csv.writer(stream).writerows([["label", "text"], *(["mine", text] for text in TEXTS)])
    predict(said, "--file", source, "--out", "-", "--batch-tokens", 60)
    for row, text, answer in zip(lines(capfd.readouterr().out), TEXTS, classifier.predict(TEXTS), strict=True):
        assert row.items() >= {"label": "mine", "text": text, "predicted_label": answer.label}.items()
        assert row["confidence"] == pytest.approx(answer.confidence, abs=1e-5)


def test_the_summary_as_json(said: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.txt"
    source.write_text("win\n\n")
    predict(said, "--file", source, "--out", tmp_path / "out.csv", "--json")
    assert json.loads(capsys.readouterr().out).items() >= {"rows": 2, "skipped": 1, "resumed": 0}.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "a", "--text", " "], "--text is blank: ' '"),
        (["--text", "a", "--batch-tokens", "0"], "--batch-tokens: 0 is too few"),
        (["--file", "a.csv"], "--file needs --out"),
        (["--file", "a.csv", "--out", "a.csv"], "a.csv is the input"),
        (["--file", "a.csv", "--out", "a.xlsx"], "name the output"),
        (["--file", "a.csv", "--out", "b.csv"], "a.csv: no such file"),
        (["--file", "-", "--out", "b.csv"], "omit --out, and add > b.csv"),
    ],
)
def test_a_wrong_call_is_told_before_anything_is_loaded(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        predict(Path("never looked at"), *options)


def test_a_terminal_gets_a_table_with_abstention_in_words(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setenv("COLUMNS", "120")
        answers = classifier.predict([*TEXTS, "win [bold] " + "x" * 100])
        show([*TEXTS, "win [bold] " + "x" * 100], answers, as_json=False)
        stream.flush()
        shown = os.read(controller, 1 << 16).decode()
    os.close(controller)
    assert shown.count("too unsure to say") == sum(answers.abstained) > 0
    assert f"{answers[0].confidence:.1%}" in shown
    assert "win [bold] " in shown  # no markup


@pytest.mark.end_to_end
def test_the_command_in_a_pipe_whose_reader_has_enough(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "from labeltune.cli import entry; entry()", "predict", folder, "--file", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"win a free prize now\n")
        process.stdin.flush()
        assert "label" in json.loads(process.stdout.readline())  # before the second line is there
        process.stdout.close()
        process.stdin.write(b"see you\n")
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_no_more_threads_are_taken_than_a_container_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken: list[int] = []

    def load(folder: Path) -> None:
        raise UserError("loaded")

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("labeltune.modeling.device.cores", lambda: 1)
    monkeypatch.setattr("labeltune.modeling.device.queue_workers", lambda: 0)
    monkeypatch.setattr("torch.set_num_threads", taken.append)
    monkeypatch.setattr(Classifier, "load", load)
    (tmp_path / "in.csv").write_text("text\nhello\n")
    file = ("--file", tmp_path / "in.csv", "--out", tmp_path / "out.csv")
    for options in (("--text", "a"), file):
        with pytest.raises(UserError, match="loaded"):
            predict(tmp_path, *options)
    assert taken == [1, 1]
