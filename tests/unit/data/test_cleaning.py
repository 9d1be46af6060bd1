"""Corrections: understood, kept line by line, and added to the training rows alone."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from labeltune.config.data import Prepare
from labeltune.data import cleaning, collection
from labeltune.data.cleaning import DataStatistics, clean
from labeltune.data.labels import LabelSet
from labeltune.data.splitting import split_rows
from labeltune.runtime.errors import UserError
from labeltune.serving.chat import messages
from labeltune.serving.chat.messages import Correction
from stages import configure, prepare

LABELS = LabelSet(names=("ham", "spam"), words=("ham", "spam"))


def correction(text: str = "win cash", label: str = "ham") -> Correction:
    return Correction(text=text, label=label, predicted="spam", confidence=0.75, time="2026-01-02T03:04:05Z")


@pytest.mark.parametrize(
    ("message", "label"),
    [
        ("this should be spam", "spam"),
        ("  That one should be SPAM!  ", "spam"),
        ("No, it should have been labelled `ham`.", "ham"),
        ("should be not spam", "not spam"),
        ("it should be U.S.", "U.S."),
        ("这应该是 spam", "spam"),
        ("不对，应该标为“正面”。", "正面"),
        ("这条应是正面", "正面"),
        ("this should be fun", None),
        ("this should be spam, I think", None),
        ("they say this should be spam", None),
        ("spam", None),
        ("this is spam", None),
        ("", None),
    ],
)
def test_what_is_said_is_understood_and_nothing_else(message: str, label: str | None) -> None:
    assert messages.said(message, ["ham", "spam", "not spam", "U.S.", "正面"]) == label


def test_labels_that_differ_in_case_alone_are_told_apart() -> None:
    assert messages.said("this should be IT", ["it", "IT"]) == "IT"
    assert messages.said("this should be it", ["it", "IT"]) == "it"


def test_every_line_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/corrections.jsonl"
    said = [correction('two\nlines \u2028 and "quotes"'), correction("房间很干净", "spam")]
    for one in said:
        messages.append_correction(path, one)
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert [Correction(**json.loads(line)) for line in lines] == said
    assert list(json.loads(lines[0])) == ["text", "label", "predicted", "confidence", "time"]


@pytest.mark.parametrize("line", ['{"text": "\\ud83d", "label": "ham"}', "[" * 100_000, '{"text": 3, "label": "ham"}'])
def test_a_line_that_is_no_correction_is_refused(tmp_path: Path, spam: LabelSet, line: str) -> None:
    path = tmp_path / "corrections.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(UserError, match=r"corrections.jsonl:1: expected .*correct or delete the line"):
        cleaning.read_corrections(path.read_bytes(), path, spam)


def test_a_line_that_was_cut_off_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "corrections.jsonl"
    path.write_text('{"text": "win', encoding="utf-8")
    messages.append_correction(path, correction())
    messages.append_correction(path, correction())
    first, *others = path.read_text(encoding="utf-8").splitlines()
    assert first == '{"text": "win'
    assert [json.loads(line)["text"] for line in others] == ["win cash"] * 2
    with pytest.raises(UserError, match=r"corrections.jsonl:1: expected .*correct or delete the line"):
        cleaning.read_corrections(path.read_bytes(), path, LABELS)


def test_of_several_for_one_text_the_last_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "corrections.jsonl"
    for text, label in (("one", "ham"), ("two", "ham"), ("one", "spam")):
        messages.append_correction(path, correction(text, label))
    rows = cleaning.read_corrections(path.read_bytes(), path, LABELS)
    assert rows.to_dict("records") == [
        {"id": "corrections.jsonl:2", "text": "two", "label": "ham"},
        {"id": "corrections.jsonl:3", "text": "one", "label": "spam"},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": "eggs"}', r":1: 'eggs' is not one of the classes: \['ham', 'spam'\]"),
        ('{"text": "a", "label": "ham"}\n[1]', ":2: expected"),
        ('{"text": 1, "label": "ham"}', ":1: expected"),
        ('{"label": "ham"}', ":1: expected"),
        ("\n\n", "holds no corrections; set the key to null"),
    ],
)
def test_a_file_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "corrections.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        cleaning.read_corrections(path.read_bytes(), path, LABELS)


def test_the_file_must_be_there_and_where_a_change_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert collection.correction_file(None) == {}
    with pytest.raises(UserError, match="prepare.corrections: no file data/raw/corrections.jsonl"):
        collection.correction_file(str(messages.KEPT))
    messages.append_correction(messages.KEPT, correction())
    assert collection.correction_file(str(messages.KEPT)) == {"corrections": messages.KEPT}
    for path in ("corrections.jsonl", "/data/raw/corrections.jsonl", "data/raw/../corrections.jsonl"):
        with pytest.raises(ValidationError, match="corrections must lie below data/raw"):
            Prepare(seed=0, corrections=path)


def table(start: int, count: int) -> pd.DataFrame:
    """Texts that share no 5-gram."""
    rows = [(label, f"{label}{i:04d}" * 3) for i in range(start, start + count) for label in LABELS.names]
    return frame(*rows)


def frame(*rows: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{"id": f"f:{i}", "text": text, "label": label} for i, (label, text) in enumerate(rows)])


def prepared(rows: dict[str, pd.DataFrame], added: pd.DataFrame | None, **changes: Any) -> tuple[dict, DataStatistics]:
    settings, statistics = Prepare.model_validate({"seed": 1, **changes}), DataStatistics()
    frames = split_rows(clean(rows, settings, None, statistics), settings, statistics)
    return (frames if added is None else cleaning.add_corrections(frames, added, settings, statistics)), statistics


NEW = [("spam", "a text that nobody has seen before"), ("ham", "quite another one, with its own words")]


@pytest.mark.parametrize("changes", [{}, {"train_rows": 10}, {"balance": "smallest"}])
@pytest.mark.parametrize("given", ["all", "split"])
def test_they_come_on_top_of_training_rows_and_change_nothing_else(given: str, changes: dict) -> None:
    whole = {"all": table(0, 40)} if given == "all" else {"train": table(0, 30), "test": table(100, 10)}
    without, _ = prepared(whole, None, **changes)
    frames, statistics = prepared(whole, frame(*NEW), **changes)
    for split in ("validation", "test"):
        pd.testing.assert_frame_equal(frames[split], without[split])
    pd.testing.assert_frame_equal(frames["train"].iloc[:-2].reset_index(drop=True), without["train"])
    assert list(zip(frames["train"]["label"], frames["train"]["text"], strict=True))[-2:] == NEW
    assert statistics.read["corrections"] == 2


def test_what_repeats_another_split_or_a_training_row_is_dropped_and_counted() -> None:
    whole = {"train": table(0, 30), "validation": table(50, 5), "test": table(100, 10)}
    near = whole["test"]["text"][0]
    rows = [
        ("ham", whole["test"]["text"][3]),  # the same as a test row
        ("ham", whole["validation"]["text"][2]),  # the same as a validation row
        ("ham", near[:-1] + "x"),  # nearly a test row
        ("ham", whole["train"]["text"][0]),  # a training row again
        ("spam", whole["train"]["text"][2]),  # a training row under its other label
        *NEW,
    ]
    frames, statistics = prepared(whole, frame(*rows), near_threshold=0.5)
    assert statistics.dropped["exact_across"] == {"corrections": 2}
    assert statistics.dropped["near_across"] == {"corrections": 1}
    assert statistics.dropped["exact_inside"] == {"corrections": 2}
    assert statistics.relabelled == 1
    assert not statistics.dropped["conflicts"].total()
    train = frames["train"].set_index("text")["label"]
    assert (train[whole["train"]["text"][0]], train[whole["train"]["text"][2]]) == ("ham", "spam")
    assert len(frames["train"]) == 60 + len(NEW)
    assert sum(statistics.read.values()) == sum(map(len, frames.values())) + sum(
        counts.total() for counts in statistics.dropped.values()
    )


def test_a_persons_last_word_counts_whatever_the_white_space() -> None:
    whole = {"train": table(0, 30), "validation": table(50, 5), "test": table(100, 10)}
    known = whole["train"]["text"][0]
    assert whole["train"]["label"][0] == "ham"
    rows = [("spam", "said  twice"), ("ham", " said twice"), ("ham", f"{known}\n"), ("spam", f"  {known}")]
    frames, statistics = prepared(whole, frame(*rows))
    train = frames["train"].set_index("text")["label"]
    assert train["said twice"] == "ham"
    assert train[known] == "spam"
    assert statistics.relabelled == 1
    assert len(frames["train"]) == 61
    assert statistics.dropped["exact_inside"] == {"corrections": 3}


def test_the_gates_settings_hold_for_them() -> None:
    whole = {"train": table(0, 30), "validation": table(50, 5), "test": table(100, 10)}
    leak = frame(("ham", whole["test"]["text"][3]))
    frames, statistics = prepared(whole, leak, exact_across="keep")
    assert len(frames["train"]) == 61
    assert statistics.found["exact_across"] == {"corrections": 1}
    with pytest.raises(UserError, match="prepare.exact_across is set to fail"):
        prepared(whole, leak, exact_across="fail")


def test_what_the_splits_hold_themselves_is_not_counted_again() -> None:
    twins = [
        ("ham", "nearly these words and no others at all, one"),
        ("ham", "nearly these words and no others at all, 2"),
    ]
    same = ("ham", "stands in both")
    whole = {
        "train": pd.concat([table(0, 30), frame(*twins, same)]),
        "validation": pd.concat([table(50, 5), frame(same)]),
        "test": table(100, 10),
    }
    _, without = prepared(whole, None, exact_across="keep")
    _, statistics = prepared(whole, frame(*NEW), exact_across="keep")
    assert without.found["near_inside"] == {"train": 1}
    assert without.found["exact_across"] == {"train": 1}
    assert {reason: +counts for reason, counts in statistics.found.items()} == {
        reason: +counts for reason, counts in without.found.items()
    }


def test_prepare_trains_on_them_when_it_is_told_to(project: Path) -> None:
    configure.main()
    prepare.main()
    before = {split: (project / f"data/prepared/{split}.csv").read_text() for split in cleaning.SPLITS}
    known = pd.read_csv(project / "data/prepared/test.csv")["text"][0]
    for text, label in (("a text that nobody has seen before", "spam"), (known, "ham")):
        messages.append_correction(messages.KEPT, correction(text, label))
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("corrections: null", f"corrections: {messages.KEPT}"))
    configure.main()
    prepare.main()
    after = {split: (project / f"data/prepared/{split}.csv").read_text() for split in cleaning.SPLITS}
    added = after["train"].removeprefix(before["train"])
    assert after == before | {"train": before["train"] + added}
    assert added.startswith("corrections.jsonl:1,spam,a text that nobody has seen before,")
    figures = json.loads((project / "metrics/data.json").read_text())
    assert figures["corrections"] == 1
    assert figures["rows_read"]["corrections"] == 2
    assert figures["dropped"]["exact_across"] == 1
