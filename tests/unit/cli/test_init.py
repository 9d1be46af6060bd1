"""The files that `init` writes: where, under what names, and with what values."""

import csv
import json
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from labeltune.cli import main
from labeltune.config import resolve
from labeltune.config.base import read_yaml
from labeltune.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
CHINESE = "这家酒店的房间很好", "这家酒店的早餐很差"


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's top folder, in a folder with blanks and Chinese characters."""
    folder = tmp_path / "客户 项目"
    for kind in ("models", "prompts"):
        (folder / "conf" / kind).mkdir(parents=True)
        for file in (ROOT / "conf" / kind).glob("*.yaml"):
            (folder / "conf" / kind / file.name).write_bytes(file.read_bytes())
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (folder / "docs").mkdir()
    (folder / ".git").mkdir()
    monkeypatch.chdir(folder)
    return folder


def rows(labels: dict[str, int], text: str = "the film was like no other, number") -> list[tuple[str, str]]:
    return [(f"{text} {i * 7919}{label}", label) for label, count in labels.items() for i in range(count)]


def table(path: Path, given: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *given])
    return path


def start(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines that the command prints."""
    main.main(["init", *arguments])
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("file", "recipe"),
    [
        ("reviews.csv", "reviews"),
        ("客户评论.csv", "客户评论"),
        ("2024.csv", "2024"),
        ("null.csv", "null"),
        ("True.csv", "true"),
        ("1e5.csv", "1e5"),
        ('it\'s "new" (2).csv', "it-s-new-2"),
        ("🎬 films.v1.2.csv", "films-v1-2"),
        ("Отзывы за год.csv", "отзывы-за-год"),
        ("cafe\u0301.csv", "café"),
        ("train.csv", "desk"),
    ],
)
def test_the_command_that_is_printed_last_runs_the_recipe_that_was_written(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, recipe: str
) -> None:
    (tmp_path / "desk").mkdir()
    printed = start(capsys, str(table(tmp_path / "desk" / file, rows({"a": 9, "b": 9}))))
    words = shlex.split(printed[-1])
    assert words[:4] == ["dvc", "exp", "run", "-S"]
    override = OverridesParser.create().parse_override(words[4])
    assert (override.key_or_group, override.value()) == ("recipe", recipe)
    assert resolve.resolve(recipe=recipe).dataset.name == recipe
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("recipe: default", f'recipe: "{recipe}"'), encoding="utf-8")
    assert resolve.resolve().recipe == recipe


def test_a_name_that_says_nothing_is_asked_for(top: Path, tmp_path: Path) -> None:
    (tmp_path / "🎬.csv").write_text("text,label\nx,a\n")
    with pytest.raises(UserError, match="give one with --name"):
        main.main(["init", str(tmp_path / "🎬.csv")])


def test_a_sub_folder_finds_the_projects_top(
    top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table(top / "docs" / "moods.csv", rows({"a": 9, "b": 9}))
    monkeypatch.chdir(top / "docs")
    printed = start(capsys, "moods.csv")
    assert sorted(path.name for path in (top / "docs").iterdir()) == ["moods.csv"]
    assert (top / "data/raw/moods/moods.csv").is_file()
    assert (top / "conf/recipes/moods.yaml").is_file()
    assert f"cd {shlex.quote(str(top))}" in printed
    assert Path.cwd() == top / "docs"


def test_a_folder_outside_any_project_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "moods.csv", rows({"a": 9, "b": 9}))
    with pytest.raises(UserError, match="lies in no project"):
        main.main(["init", "moods.csv"])
    assert [path.name for path in tmp_path.iterdir()] == ["moods.csv"]


def test_a_project_without_git_is_told_what_the_command_needs(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (top / ".git").rmdir()
    printed = start(capsys, str(table(tmp_path / "moods.csv", rows({"a": 9, "b": 9}))))
    assert any("need Git" in line for line in printed)
    assert any(line.startswith("git init") for line in printed)
    assert printed[-1] == "dvc exp run -S recipe=moods"


def test_an_unknown_model_is_refused_at_once_with_what_may_be_meant(top: Path, tmp_path: Path) -> None:
    file = table(tmp_path / "moods.csv", rows({"a": 9, "b": 9}))
    with pytest.raises(UserError, match=r"--model: no model 'minilmm'. Did you mean 'minilm'\?.*conf/models/NAME.yaml"):
        main.main(["init", str(file), "--model", "minilmm"])
    assert not (top / "data").exists()
    assert not (top / "conf/recipes").exists()


def test_label_words_are_scored_by_models_that_are_known_to_be_able_to(top: Path, tmp_path: Path) -> None:
    given = [(f"{CHINESE[i % 2]}，第{i}次来住", ("好评", "差评")[i % 2]) for i in range(40)]
    file = table(tmp_path / "reviews.csv", given)
    for architecture in ("BertForMaskedLM", "GPT2LMHeadModel"):
        folder = tmp_path / architecture
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        text = f"about: x\nsource: files\nfolder: {folder}\n"
        Path(f"conf/models/{architecture.lower()}.yaml").write_text(text)
    heads = {}
    for model in (None, "minilm", "bert-base-chinese", "bertformaskedlm", "gpt2lmheadmodel"):
        name = model or "chosen"
        main.main(["init", str(file), "--name", name, *([] if model is None else ["--model", model])])
        resolved = resolve.resolve(recipe=name)
        heads[name] = resolved.train.head
        assert ("{labels}" in resolved.prompt.template) == (resolved.train.head == "label_scoring")
    assert heads == {
        "chosen": "label_scoring", "minilm": "linear", "bert-base-chinese": "linear", "bertformaskedlm": "linear",
        "gpt2lmheadmodel": "label_scoring",
    }  # fmt: skip


def test_labels_that_would_fill_the_prompt_are_left_out_of_it(top: Path, tmp_path: Path) -> None:
    names = [f"{first}{second}" * 6 for first in "甲乙丙丁" for second in "子丑寅卯"]
    file = table(tmp_path / "topics.csv", rows(dict.fromkeys(names, 4), text="这是一段很普通的中文文本，编号"))
    main.main(["init", str(file)])
    resolved = resolve.resolve(recipe="topics")
    assert (resolved.prompt.template, resolved.train.head) == ("{text}", "linear")


def test_a_prompt_that_lists_labels_leaves_room_for_the_text(top: Path, tmp_path: Path) -> None:
    names = ["询问账单的问题", "申请退款的问题", "物流配送的问题", "修改地址的问题", "账号登录的问题", "商品质量的问题"]
    file = table(tmp_path / "topics.csv", rows(dict.fromkeys(names, 8), text="这是一段很普通的中文文本，编号"))
    main.main(["init", str(file)])
    resolved = resolve.resolve(recipe="topics")
    assert "{labels}" in resolved.prompt.template
    around = len(resolved.prompt.template) + sum(map(len, names))
    assert resolved.prompt.max_length >= around + 15


def test_what_is_not_read_of_long_texts_is_told(top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = table(
        tmp_path / "long.csv", [(f"{text} " + "and so on " * 1000, label) for text, label in rows({"a": 9, "b": 9})]
    )
    printed = " ".join(start(capsys, str(long)))
    assert "100% of the texts are longer than prompt.max_length: 512 and lose their middle: about 8" in printed
    assert "100% of the texts are longer and lose their middle" in Path("conf/recipes/long.yaml").read_text()
    short = " ".join(start(capsys, str(table(tmp_path / "short.csv", rows({"a": 9, "b": 9})))))
    assert "lose their middle" not in short


def test_rare_labels_are_told_with_what_to_do_and_do_not_stop_the_run(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = " ".join(start(capsys, str(table(tmp_path / "tickets.csv", rows({"a": 20, "b": 20, "c": 5, "d": 1})))))
    assert "too few rows to be learned or tested well: 'c' (5), 'd' (1)" in printed
    assert "prepare.rare_classes" in printed
    assert resolve.resolve(recipe="tickets").prepare.rare_classes == "drop"
    start(capsys, str(table(tmp_path / "few.csv", rows({"a": 20, "c": 5, "d": 1}))))
    assert resolve.resolve(recipe="few").prepare.rare_classes == "drop"
    start(capsys, str(table(tmp_path / "two.csv", rows({"a": 20, "d": 1}))))
    assert resolve.resolve(recipe="two").prepare.rare_classes == "fail"  # one label alone is no task


def test_labels_that_differ_in_case_or_spaces_alone_are_one_and_it_is_told(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = rows({"not spam": 9, "Not  Spam": 3, "spam": 9, "SPAM": 2})
    printed = " ".join(start(capsys, str(table(tmp_path / "mails.csv", given))))
    assert "labels that differ only in case or spaces are merged: 'Not  Spam' is 'not spam'" in printed
    labels = resolve.resolve(recipe="mails").dataset.labels
    assert labels == {"not spam": "not spam", "Not  Spam": "not spam", "spam": "spam", "SPAM": "spam"}
    start(capsys, str(table(tmp_path / "case.csv", rows({"us": 9, "US": 9}))))
    assert resolve.resolve(recipe="case").dataset.labels == {"us": "us", "US": "US"}  # nothing else tells them apart


def test_a_message_names_no_file_that_was_not_written(top: Path, tmp_path: Path) -> None:
    file = tmp_path / "lists.jsonl"
    file.write_text("".join(json.dumps({"text": f"t {i}", "label": ["a", "b"]}) + "\n" for i in range(9)))
    with pytest.raises(UserError, match="several labels") as raised:
        main.main(["init", str(file)])
    assert "see --label" in str(raised.value)
    assert "conf/datasets" not in str(raised.value)
    both = table(tmp_path / "both.csv", rows({"a|b": 9, "b|c": 9, "a": 9, "b": 9, "c": 9}))
    with pytest.raises(UserError, match="several labels") as raised:
        main.main(["init", str(both)])
    assert "conf/datasets/both.yaml is not written yet" in str(raised.value)


@pytest.mark.parametrize(
    "label",
    ["no", "~", "- a", "a: b", "#", "'", '"', "x" * 1500, "\u2028x", "\x85x", "🎬", "\x7f", "{a}", "1e3", "\ufffe"],
)
def test_every_label_can_be_read_back(top: Path, tmp_path: Path, label: str) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text(
        "".join(json.dumps({"text": f"t {i * 7919}", "label": ("a", label)[i % 2]}) + "\n" for i in range(20))
    )
    main.main(["init", str(file)])
    assert set(read_yaml(Path("conf/datasets/odd.yaml"))["labels"]) == {"a", label.strip()}
