"""Files of answers: every row and every column in order, whole or not at all, and never a stale answer."""

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from rich.console import Console

from labeltune.console.terminal import Bar
from labeltune.inference.calibration import Calibration
from labeltune.inference.classifier import Predictions
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import write_json
from labeltune.serving import batch
from labeltune.serving.batch import answer_blocks, answer_file, answers
from labeltune.serving.tables import Table

ROWS = [{"id": f"{i:03}", "text": f"text {i}" if i % 7 else " ", "label": "mine"} for i in range(40)]


class Stub:
    """Answers by the text's last digit; remembers what it was asked, and stops where it is told to."""

    def __init__(self, folder: Path, stop: int | None = None, artefact: str = "a", *, digits: bool = True) -> None:
        folder.mkdir(exist_ok=True)
        write_json(folder / "manifest.json", {"artefact": artefact})
        self.folders = (folder,)
        self.record = SimpleNamespace(labels=SimpleNamespace(names=("even", "odd")))
        self.asked: list[str] = []
        self.stop = stop
        self.digits = digits

    def predict(self, texts: Iterable[str], *, progress: Callable[[int], None] | None = None, **_: Any) -> Predictions:
        texts = list(texts)
        if self.stop is not None and len(self.asked) + len(texts) > self.stop:
            raise KeyboardInterrupt
        self.asked += texts
        if progress:
            progress(len(texts))
        odd = np.array([int(text[-1]) % 2 if self.digits else 0 for text in texts])
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


def test_a_text_of_zero_width_characters_has_no_answer_and_stops_nobody_elses(stub: Stub) -> None:
    found = answers(stub, ["text 1", "\u200b", "\ufeff \n", " ", "", None, "text 2"])
    assert [answer and answer.label for answer in found] == ["odd", None, None, None, None, None, "even"]
    assert stub.asked == ["text 1", "text 2"]


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
    monkeypatch.setattr(stub, "predict", lambda texts, **_: write(source, ROWS[:20]) and predict(texts))
    with pytest.raises(UserError, match=r"in.csv changed while it was read"):
        answer_file(stub, Table.survey(source), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,x\na,b\nc\n", r"a.csv:3: 1 fields, expected 2"),
        ("a.csv", "a,b\n1,2\n", "no column has a usual name of a text; columns: a, b; name one with --text-column"),
        ("a.csv", "text,review\n1,2\n", "text and review may each be the text"),
        ("a.csv", "text,text\n1,2\n", "column names stand twice: text"),
        ("a.csv", "text\n", "there are no rows"),
        ("a.jsonl", '{"text": "a"}\n{"text"\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n3\n', r"a.jsonl:2: a record must be an object {.*} or a text, found 3"),
        ("a.jsonl", '{"text": "a"}\n{"text": "\\uD83D"}\n', r"a.jsonl:2: not valid Unicode"),
        ("a.json", '{"a": {"text": "a"}}', "expected a list of records or one key that holds it"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": ["b"]}\n',
            r"a.jsonl:2: one value is expected, found list \['b'\]; see --text-column",
        ),
        ("a.parquet", "no", "truncated, damaged or no Parquet"),
        ("a.xlsx", "no", "is a spreadsheet: save the sheet as CSV"),
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


# Without NUL, which no reader of text files takes.
ANY = st.text(
    st.sampled_from("a,;\"'\r\n\t \\=\ufeff\u2028\x85 é好😀") | st.characters(codec="utf-8", exclude_characters="\0")
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.fixed_dictionaries({"id": ANY, "text": ANY, "sender": ANY}), min_size=1, max_size=3))
def test_every_text_comes_back_from_a_file_of_answers(rows: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        stub = Stub(place / "classifier", digits=False)
        for target in ("out.csv", "out.jsonl", "out.parquet"):
            answer_file(stub, Table.survey(place / "in.jsonl"), place / target)
            found = [row for chunk in Table.survey(place / target).chunks() for row in chunk]
            assert [{name: row[name] for name in rows[0]} for row in found] == rows


def test_a_labelled_file_can_be_labelled_again(stub: Stub, tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    answer_file(stub, Table.survey(write(tmp_path / "in.csv")), first)
    summary = answer_file(stub, Table.survey(first), second)
    assert summary.renamed["label"] == "predicted_predicted_label"
    for old, new in zip(read(first), read(second), strict=True):
        assert {name: new[name] for name in old} == old
        assert new["predicted_predicted_label"] == old["predicted_label"]
        assert new["predicted_confidence"] == old["confidence"]


def test_types_of_json_are_those_that_hold_every_row(stub: Stub, tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "empty": None, "late": "x" if i > 20 else None, "n": i if i < 9 else i / 4}
            for i in range(30)]  # fmt: skip
    answer_file(stub, Table.survey(write(tmp_path / "in.jsonl", rows)), tmp_path / "out.parquet")
    found = read(tmp_path / "out.parquet")
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    stub.asked.clear()
    table = Table.survey(write(tmp_path / "mixed.jsonl", [*rows, {"text": "a", "n": "nine"}]))
    with pytest.raises(UserError, match=r"mixed.jsonl: a column holds values of several types"):
        answer_file(stub, table, tmp_path / "mixed.parquet")
    assert not stub.asked


def test_parquet_is_written_in_large_groups(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "JOINED", 25)
    answer_file(stub, Table.survey(write(tmp_path / "in.csv")), tmp_path / "out.parquet")
    assert parquet.read_metadata(tmp_path / "out.parquet").num_row_groups == 2


def test_the_bar_counts_every_row_once_and_those_of_before(stub: Stub, tmp_path: Path) -> None:
    table, out = Table.survey(write(tmp_path / "in.csv")), tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        answer_file(Stub(tmp_path / "classifier", stop=20), table, out)
    bar = Bar("labelling", table.rows, "rows", Console(file=io.StringIO()))
    answer_file(stub, table, out, bar)
    assert (bar.skipped, bar.done) == (24, 40)


def test_answers_half_written_before_a_power_cut_are_dropped(stub: Stub, tmp_path: Path) -> None:
    table, out = Table.survey(write(tmp_path / "in.csv")), tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        answer_file(Stub(tmp_path / "classifier", stop=20), table, out)
    part = tmp_path / ".out.csv.answers"
    part.write_bytes(part.read_bytes()[:-9])  # the note arrived on the disk, the answers did not
    assert answer_file(stub, table, out).resumed == 0
    assert len(read(out)) == 40


def test_blocks_are_answered_row_by_row(stub: Stub) -> None:
    out = io.BytesIO()
    blocks = [[{"text": "a 1"}, {"text": " "}], [{"id": 7, "text": "b 2", "label": "x"}]]
    assert answer_blocks(stub, blocks, out, text="text") == 3
    first, second, third = map(json.loads, out.getvalue().splitlines())
    assert (first["label"], second["label"], stub.asked) == ("odd", None, ["a 1", "b 2"])
    assert third.items() >= {"id": 7, "label": "x", "predicted_label": "even"}.items()
    out = io.BytesIO()
    answer_blocks(stub, blocks[:1], out, text="text", columns=("text", "label"))
    assert "label" not in json.loads(out.getvalue().splitlines()[0])


def test_a_reply_without_a_text_has_every_field() -> None:
    assert list(batch.record(None)) == ["label", "confidence", "probabilities", "abstained", "truncated"]
