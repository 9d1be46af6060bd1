"""Files of answers: every row and every column in order, whole or not at all, and never a stale answer."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from labeltune import batches
from labeltune.batches import answer_file, pipe
from labeltune.calibration import Calibration
from labeltune.errors import UserError
from labeltune.inputs import Table
from labeltune.outputs import write_json
from labeltune.predict import Predictions

ROWS = [{"id": f"{i:03}", "text": f"text {i}" if i % 7 else " ", "label": "mine"} for i in range(40)]


class Stub:
    """Answers by the text's last digit; remembers what it was asked, and stops where it is told to."""

    def __init__(self, folder: Path, stop: int | None = None, artefact: str = "a") -> None:
        folder.mkdir(exist_ok=True)
        write_json(folder / "manifest.json", {"artefact": artefact})
        self.folders = (folder,)
        self.record = SimpleNamespace(labels=SimpleNamespace(names=("even", "odd")))
        self.asked: list[str] = []
        self.stop = stop

    def predict(self, texts: Iterable[str]) -> Predictions:
        texts = list(texts)
        if self.stop is not None and len(self.asked) + len(texts) > self.stop:
            raise KeyboardInterrupt
        self.asked += texts
        odd = np.array([int(text[-1]) % 2 for text in texts])
        logits = np.stack([2.0 - 4.0 * odd, np.zeros(len(texts))], axis=1).astype(np.float32)
        return Predictions(
            names=("even", "odd"), logits=logits, truncated=[text == "text 5" for text in texts],
            calibration=Calibration(threshold=0.5),
        )  # fmt: skip


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    monkeypatch.setattr(Table.chunks, "__defaults__", (0, 8))
    return Stub(tmp_path / "classifier")


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("source", ["csv", "tsv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("target", ["csv", "jsonl", "parquet"])
def test_every_row_keeps_its_columns_and_place(stub: Stub, tmp_path: Path, source: str, target: str) -> None:
    out = tmp_path / f"out.{target}"
    summary = answer_file(stub, Table.survey(write(tmp_path / f"in.{source}")), out)
    found = read(out)
    assert [{name: row[name] for name in ROWS[0]} for row in found] == ROWS
    for i, row in enumerate(found):
        expected = {True: None, False: ("even", "odd")[i % 2]}[i % 7 == 0]
        assert (row["predicted_label"] or None) == expected
        if expected:
            confidence = 1 / (1 + np.exp(-2))
            assert float(row["confidence"]) == pytest.approx(confidence)
            given = row["probabilities"]
            given = given if isinstance(given, dict) else json.loads(given)
            assert given[expected] == pytest.approx(confidence)
            assert str(row["truncated"]).lower() == str(i == 5).lower()
    assert (summary.rows, summary.skipped, summary.truncated) == (40, 6, 1)
    assert summary.labels == {"even": 17, "odd": 17}
    assert summary.renamed == {"label": "predicted_label"}
    assert {path.name for path in tmp_path.iterdir()} == {f"in.{source}", out.name, "classifier"}


def test_a_stopped_run_goes_on_behind_its_last_answer(stub: Stub, tmp_path: Path) -> None:
    table, out = Table.survey(write(tmp_path / "in.csv")), tmp_path / "out.csv"
    answer_file(stub, table, tmp_path / "whole.csv")
    stopped = Stub(tmp_path / "classifier", stop=20)
    with pytest.raises(KeyboardInterrupt):
        answer_file(stopped, table, out)
    assert not out.exists()
    with (tmp_path / ".out.csv.answers").open("a") as stream:
        stream.write('["half an ans')  # a write that the power cut short
    again = Stub(tmp_path / "classifier")
    summary = answer_file(again, table, out)
    assert summary.resumed == 24  # three chunks, blank rows among them
    assert again.asked[0] == "text 24"
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("change", ["rows", "classifier"])
def test_answers_of_other_work_are_never_taken(stub: Stub, tmp_path: Path, change: str) -> None:
    source, out = write(tmp_path / "in.csv"), tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        answer_file(Stub(tmp_path / "classifier", stop=20), Table.survey(source), out)
    if change == "rows":
        write(source, [row | {"text": "text 3"} for row in ROWS])
    again = Stub(tmp_path / "classifier", artefact="b" if change == "classifier" else "a")
    assert answer_file(again, Table.survey(source), out).resumed == 0
    if change == "rows":
        assert {row["predicted_label"] for row in read(out)} == {"odd"}


def test_rows_that_change_meanwhile_are_refused(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.csv")
    predict = stub.predict
    monkeypatch.setattr(stub, "predict", lambda texts: write(source, ROWS[:20]) and predict(texts))
    with pytest.raises(UserError, match=r"in.csv changed while it was read"):
        answer_file(stub, Table.survey(source), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,x\na,b\nc\n", r"a.csv:3: 1 fields where the header has 2"),
        ("a.csv", "a,b\n1,2\n", "no column has a usual name of a text; columns: a, b; name one with --text-column"),
        ("a.csv", "text,review\n1,2\n", "text and review may each be the text"),
        ("a.csv", "text,text\n1,2\n", "two columns have the same name"),
        ("a.csv", "text\n", "there are no rows"),
        ("a.jsonl", '{"text": "a"}\n{"text"\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n3\n', r"a.jsonl:2: expected a text or an object"),
        ("a.json", '{"text": "a"}', "expected an array"),
        ("a.parquet", "no", "truncated, damaged or no Parquet"),
        ("a.xlsx", "no", "can't tell its format"),
    ],
)
def test_a_bad_file_is_told_before_anything_is_answered(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Table.survey(tmp_path / name)


def test_other_encodings_and_lines_of_text(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("文本,号\n你好 1,甲\n".encode("gb18030"))
    answer_file(stub, Table.survey(tmp_path / "a.csv", encoding="gb18030"), tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl")[0] | {"probabilities": {}} == {
        "文本": "你好 1", "号": "甲", "label": "odd", "confidence": pytest.approx(0.8808, abs=1e-4),
        "probabilities": {}, "abstained": False, "truncated": False,
    }  # fmt: skip
    (tmp_path / "a.txt").write_text("one 1\n\ntwo 2\n")
    answer_file(stub, Table.survey(tmp_path / "a.txt"), tmp_path / "out.csv")
    assert [row["label"] for row in read(tmp_path / "out.csv")] == ["odd", "", "even"]


def test_the_target_is_not_the_source_and_has_a_known_format(stub: Stub, tmp_path: Path) -> None:
    table = Table.survey(write(tmp_path / "in.csv"))
    with pytest.raises(UserError, match="is the input"):
        answer_file(stub, table, tmp_path / "in.csv")
    with pytest.raises(UserError, match=r"name the output .csv, .jsonl, .parquet"):
        answer_file(stub, table, tmp_path / "out.xlsx")


def test_a_pipe_answers_line_by_line(stub: Stub) -> None:
    out = io.StringIO()
    assert pipe(stub, io.StringIO("a 1\n\nb 2\n"), out, format="txt") == 3
    assert [json.loads(line)["label"] for line in out.getvalue().splitlines()] == ["odd", None, "even"]
    out = io.StringIO()
    pipe(stub, io.StringIO('{"id": 7, "text": "a 1", "label": "x"}\n'), out, format="jsonl")
    assert json.loads(out.getvalue()).items() >= {"id": 7, "label": "x", "predicted_label": "odd"}.items()


def test_a_reply_without_a_text_has_every_field() -> None:
    assert list(batches.record(None)) == ["label", "confidence", "probabilities", "abstained", "truncated"]
