"""Unknown data: what is found in it, and the files that are written from that."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from labeltune.cli import init, inspect_data
from labeltune.config import resolve
from labeltune.data.loading import read_split
from labeltune.runtime.errors import UserError

ENGLISH = [(f"the film was {'good' if i % 2 else 'bad'} in its own way, number {i * 7919}", i % 2) for i in range(60)]
CHINESE = [
    (f"这家酒店的房间{'很好' if i % 2 else '很差'}，第{i}次来住", "好评" if i % 2 else "差评") for i in range(60)
]


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's top folder with the choices that there are, and the data outside it."""
    folder = tmp_path / "project"
    for kind in ("models", "prompts"):
        (folder / "conf" / kind).mkdir(parents=True)
        for file in (Path(__file__).parents[3] / "conf" / kind).glob("*.yaml"):
            (folder / "conf" / kind / file.name).write_bytes(file.read_bytes())
    params = Path(__file__).parents[3] / "params.yaml"
    (folder / "params.yaml").write_bytes(params.read_bytes())
    monkeypatch.chdir(folder)
    return folder


def start(what: Path | str, **given: object) -> SimpleNamespace:
    options = {"name": None, "text": None, "label": None, "model": None, "force": False} | given
    files = init.write_settings_files(str(what), **options)
    return SimpleNamespace(files=files, resolved=resolve.resolve(recipe=files[1].stem))


def test_a_csv_with_unusual_names_in_another_encoding(top: Path, tmp_path: Path) -> None:
    with (tmp_path / "moods.csv").open("w", newline="", encoding="gb18030") as stream:
        rows = csv.writer(stream)
        rows.writerow(["nr", "phrase", "mood"])
        rows.writerows([i, f"{text} “{i}”", ("sad", "glad")[label]] for i, (text, label) in enumerate(ENGLISH))
    resolved = start(tmp_path / "moods.csv").resolved
    assert (resolved.dataset.text, resolved.dataset.label, resolved.dataset.encoding) == ("phrase", "mood", "gb18030")
    assert resolved.dataset.labels == {"glad": "glad", "sad": "sad"}
    frame = read_split(resolved.dataset, "all")
    assert frame["text"].tolist() == [f"{text} “{i}”" for i, (text, _) in enumerate(ENGLISH)]
    assert (resolved.model.name, resolved.train.head, resolved.train.epochs) == ("mpnet", "linear", "auto")
    assert (resolved.train.effort, resolved.train.rate, resolved.train.lora.rank) == ("balanced", 3e-4, "auto")


def test_chinese_reviews_get_a_model_that_reads_them(top: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"内容": text, "标签": label}, ensure_ascii=False) for text, label in CHINESE]
    (tmp_path / "reviews.jsonl").write_text("\n".join(lines))
    resolved = start(tmp_path / "reviews.jsonl").resolved
    assert (resolved.model.name, resolved.prompt.name, resolved.train.head) == (
        "gemma3-270m", "chinese-classify", "label_scoring",
    )  # fmt: skip
    assert (resolved.dataset.text, resolved.dataset.label) == ("内容", "标签")
    assert len(read_split(resolved.dataset, "all")) == 60


def test_a_table_without_a_header(top: Path, tmp_path: Path) -> None:
    (tmp_path / "spam.tsv").write_text("".join(f"{('ham', 'spam')[label]}\t{text}\n" for text, label in ENGLISH))
    resolved = start(tmp_path / "spam.tsv").resolved
    assert (resolved.dataset.header, resolved.dataset.text, resolved.dataset.label) == (False, 1, 0)
    assert read_split(resolved.dataset, "all")["label"].tolist()[:2] == ["ham", "spam"]


def test_a_folder_with_splits_and_one_with_a_folder_per_class(top: Path, tmp_path: Path) -> None:
    (tmp_path / "news").mkdir()
    for split, rows in (("train", ENGLISH[:40]), ("dev", ENGLISH[40:50]), ("test", ENGLISH[50:])):
        table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
        parquet.write_table(table, tmp_path / "news" / f"{split}-00000-of-00001.parquet")
    resolved = start(tmp_path / "news").resolved
    assert [len(read_split(resolved.dataset, split)) for split in ("train", "validation", "test")] == [40, 10, 10]
    for i, (text, label) in enumerate(ENGLISH):
        file = tmp_path / "films" / ("bad", "good")[label] / f"{i}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    resolved = start(tmp_path / "films").resolved
    assert sorted(read_split(resolved.dataset, "all")["label"].unique()) == ["bad", "good"]


def test_what_is_in_the_rows_is_counted(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = top / "data/raw/odd"
    folder.mkdir(parents=True)
    rows = [*ENGLISH, ENGLISH[0], (ENGLISH[1][0] + "!", ENGLISH[1][1]), (ENGLISH[2][0], 1), (" ", 1), ("last one", 1)]
    with (folder / "odd.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    found = inspect_data.inspect(Path("data/raw/odd/odd.csv"), "odd", Path("data/raw/odd"))
    assert (found.rows, found.classes, found.language) == ({"all": 65}, {"1": 33, "0": 31}, "en")
    assert (found.blank, found.copies, found.conflicts) == (1, 2, 1)
    assert found.near >= 1
    inspect_data.show(found)
    assert "1 rows lack a text, 0 a label; 2 exact copies" in capsys.readouterr().out


def test_unequal_labels_are_weighted_and_files_are_not_overwritten(top: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "label": "rare" if i % 10 == 0 else "usual"} for i, (text, _) in enumerate(ENGLISH)]
    (tmp_path / "rare.json").write_text(json.dumps(rows))
    started = start(tmp_path / "rare.json")
    assert started.resolved.train.class_weights == "balanced"
    before = started.files[0].read_bytes()
    with pytest.raises(UserError, match=r"rare.yaml exist: choose another --name, or overwrite with --force"):
        start(tmp_path / "rare.json")
    assert started.files[0].read_bytes() == before
    start(top / "data/raw/rare/rare.json", name="rare", force=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,x\nb,x\n", "at least two classes"),
        ("text,label\n", "there are no rows"),
        ("a,b\nlong text here,1\nanother long text,1\n", "no column looks like a label"),
    ],
)
def test_data_that_nothing_can_be_learnt_from(top: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        start(tmp_path / "bad.csv")
    assert not (top / "conf/datasets/bad.yaml").exists()
    assert not (top / "data/raw/bad").exists()


@pytest.mark.parametrize(
    ("names", "header"), [("comment,toxic", True), ("remark,toxic", True), ("this one was fine too by me,toxic", False)]
)
def test_a_name_that_is_a_label_does_not_make_a_header_a_row(
    top: Path, tmp_path: Path, names: str, header: bool
) -> None:
    rows = [f"{text},{('clean', 'toxic')[label]}" for text, label in ENGLISH]
    (tmp_path / "a.csv").write_text("\n".join([names, *(row.replace(", ", " ") for row in rows)]))
    dataset = start(tmp_path / "a.csv").resolved.dataset
    assert dataset.header is header
    assert len(read_split(dataset, "all")) == 61 - header


def test_a_split_column_is_used_and_said(top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marks = ["0"] * 40 + ["1"] * 10 + ["2"] * 10
    rows = [
        {"text": text, "mood": f"m{label}", "split": mark} for (text, label), mark in zip(ENGLISH, marks, strict=True)
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    dataset = start(tmp_path / "a.json").resolved.dataset
    assert (dataset.all, dataset.label, dataset.split_column) == (None, "mood", "split")
    assert [len(read_split(dataset, split)) for split in ("train", "validation", "test")] == [40, 10, 10]
    assert "column split names the rows for training, validation and test, and is used" in capsys.readouterr().out
    (tmp_path / "b.json").write_text(json.dumps([row | {"split": "north"} for row in rows]))
    assert start(tmp_path / "b.json").resolved.dataset.all == "b.json"
    assert "column split is not used: none of its values (north) names" in capsys.readouterr().out


def test_folders_of_splits_with_folders_of_classes(top: Path, tmp_path: Path) -> None:
    for i, (text, label) in enumerate(ENGLISH):
        file = tmp_path / "films" / ("train", "test")[i % 3 == 0] / ("neg", "pos")[label] / f"{i}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "films/train/unsup").mkdir()
    (tmp_path / "films/train/unsup/0.txt").write_text("no label")
    (tmp_path / "films/README").write_text("about")
    dataset = start(tmp_path / "films").resolved.dataset
    assert (dataset.train, dataset.test, dataset.labels) == ("train", "test", {"neg": "neg", "pos": "pos"})
    assert [len(read_split(dataset, split)) for split in ("train", "test")] == [40, 20]


def test_folders_that_the_datasets_library_saved(top: Path, tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = datasets.Dataset.from_dict(
        {"text": [text for text, _ in ENGLISH], "label": [label for _, label in ENGLISH]}, features=features
    )
    datasets.disable_progress_bars()
    rows.save_to_disk(tmp_path / "one")
    rows.train_test_split(0.5, seed=0).save_to_disk(tmp_path / "two")
    assert start(tmp_path / "one").resolved.dataset.labels == {"bad": "bad", "good": "good"}
    dataset = start(tmp_path / "two").resolved.dataset
    assert (dataset.train, dataset.test, dataset.labels) == ("train", "test", {"bad": "bad", "good": "good"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", "PK", "a.xlsx is a spreadsheet: save the sheet as CSV"),
        ("a.csv", "text,rude,late\na,0,1\nb,1,0\nc,1,1\n", "rude, late contain only 0 and 1.*name it with --label"),
        ("a.csv", "premise,hypothesis,label\na,b,x\nc,d,y\n", "premise and hypothesis look like a pair.*with --text"),
        ("a.csv", "text,label\na,x\nb,y\nc,x|y\n", r"'x\|y' look like several labels"),
        ("a.csv", "text,s\n" + "".join(f"t{i},{i}.5\n" for i in range(30)), "30 different numbers .*regression"),
        ("a.jsonl", '{"text": "a", "label": ["x", "y"]}\n', "a.jsonl:1: several labels"),
    ],
)
def test_another_task_is_refused_by_name(top: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        start(tmp_path / name)
    assert not (top / "conf/datasets/a.yaml").exists()


def test_one_of_several_columns_is_learnt_where_it_is_named(top: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("premise,hypothesis,rude,late\na b,b,0,1\nb c,c,1,0\n")
    dataset = start(tmp_path / "a.csv", text="premise", label="late").resolved.dataset
    assert (dataset.text, dataset.label) == ("premise", "late")


@pytest.mark.parametrize(
    ("there", "hidden", "taken"),
    [
        (["train", "validation", "test"], [], {"train": "train", "validation": "validation", "test": "test"}),
        (["train", "validation", "test"], ["test"], {"train": "train", "test": "validation"}),
        (["train", "test"], [], {"train": "train", "test": "test"}),
        (["train", "test"], ["test"], {"all": "train"}),
        (["everything"], [], {"all": "everything"}),
    ],
)
def test_a_data_set_of_the_hub(
    top: Path, monkeypatch: pytest.MonkeyPatch, there: list[str], hidden: list[str], taken: dict[str, str]
) -> None:
    def load(name: str, config: object, *, revision: object, split: str) -> datasets.Dataset:
        assert (name, split in there) == ("somebody/films", True)
        rows = [(text, -1 if split in hidden else label) for text, label in ENGLISH]
        features = datasets.Features(
            {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
        )
        columns = dict(zip(("sentence", "label"), map(list, zip(*rows, strict=True)), strict=True))
        return datasets.Dataset.from_dict(columns, features=features)

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config, revision: there)
    monkeypatch.setattr(datasets, "load_dataset", load)
    found = start("somebody/films").resolved.dataset
    assert (found.source, found.hub, found.labels) == ("hub", "somebody/films", {"bad": "bad", "good": "good"})
    given = {split: getattr(found, split) for split in ("all", "train", "validation", "test")}
    assert {split: name for split, name in given.items() if name is not None} == taken


def test_what_is_not_there_is_told(top: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        start("nothing.csv")


def rows_of(kind: str, count: int = 40) -> list[tuple[str, str]]:
    return [
        (f"the {kind} film was {('bad', 'good')[i % 2]}, number {i * 7919}", ("neg", "pos")[i % 2])
        for i in range(count)
    ]


def written(path: Path, rows: list[tuple[str, ...]], *header: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.mark.parametrize(
    ("column", "values", "splits"),
    [
        ("set", ("train", "dev", "test"), True),
        ("Partition", ("Train", "Valid", "Test"), True),
        ("fold", ("training", "validation", "testing"), True),
        ("phase", ("train", "val", "eval"), True),
        ("data_split", ("0", "1", "2"), True),
        ("fold", ("0", "1", "2"), False),  # folds of a cross-validation
        ("subset", ("train", "test", "eval"), False),  # two names of one split
        ("split", ("train", "unlabelled", "test"), False),
    ],
)
def test_a_column_of_splits_is_used_or_told_not_to_be(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, values: tuple[str, ...], splits: bool
) -> None:
    parts = [0] * 24 + [1] * 8 + [2] * 8
    rows = [(*row, values[part]) for row, part in zip(rows_of("new"), parts, strict=True)]
    written(tmp_path / "films.csv", rows, "text", "label", column)
    dataset = start(tmp_path / "films.csv").resolved.dataset
    said = capsys.readouterr().out
    if splits:
        assert [len(read_split(dataset, split)) for split in ("train", "validation", "test")] == [24, 8, 8]
        assert f"column {column} names the rows" in said
    else:
        assert (dataset.all, dataset.split_column) == ("films.csv", None)
        assert f"column {column} is not used" in said


@pytest.mark.parametrize(
    ("names", "taken", "unread"),
    [
        (("train", "dev", "test"), ("train.csv", "dev.csv", "test.csv"), ""),
        (("train", "dev", "eval"), ("train.csv", "dev.csv", "eval.csv"), ""),
        (("train", "eval", "test"), ("train.csv", "eval.csv", "test.csv"), ""),
        (("train", "test", "extra"), ("train.csv", None, "test.csv"), "files that are not read: extra.csv"),
    ],
)
def test_files_named_for_splits(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple, taken: tuple, unread: str
) -> None:
    for name in names:
        written(tmp_path / "films" / f"{name}.csv", rows_of(name), "text", "label")
    dataset = start(tmp_path / "films").resolved.dataset
    assert (dataset.train, dataset.validation, dataset.test) == taken
    assert unread in capsys.readouterr().out


@pytest.mark.parametrize("label", ["label", "Outcome"])
def test_a_test_file_without_labels_is_left_out_by_name(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], label: str
) -> None:
    """As in competitions: the labels of test.csv are hidden."""
    written(tmp_path / "films/train.csv", rows_of("new"), "text", label)
    written(tmp_path / "films/test.csv", [(text,) for text, _ in rows_of("hidden")], "text")
    dataset = start(tmp_path / "films").resolved.dataset
    assert (dataset.all, dataset.train, dataset.test) == ("train.csv", None, None)
    assert "test.csv is left out: it has no labels" in " ".join(capsys.readouterr().out.split())
