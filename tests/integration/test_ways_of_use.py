"""The same texts through every way of using a classifier give the same answers."""

import contextlib
import doctest
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from starlette.testclient import TestClient

import labeltune
from labeltune.cli import main, predict
from labeltune.runtime.errors import UserError
from labeltune.serving.http_api import create_app
from stages import calibrate, configure, prepare, train
from tests.conftest import make_project
from tests.integration.test_stages import change

TRAINED = Path("models/classifier")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """A project with a trained classifier."""
    folder = tmp_path_factory.mktemp("trained")
    make_project(folder, base_folder)
    with contextlib.chdir(folder):
        change("conf/datasets/messages.yaml", "text: text", "text: text\nexamples: [win a prize now, see you at lunch]")
        for stage in (configure.main, prepare.main, train.main, calibrate.main):
            stage()
    return folder


@pytest.fixture
def trained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It, as the working folder."""
    monkeypatch.chdir(folder)
    return folder


def test_every_way_gives_the_same_answers(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pd.read_csv("data/prepared/test.csv", dtype=str, keep_default_na=False)["text"].tolist()
    classifier = labeltune.Classifier.load(str(TRAINED))
    expected = [asdict(answer) for answer in classifier.predict(texts)]
    assert len({answer["label"] for answer in expected}) == 2
    assert [asdict(answer) for answer in classifier.stream(iter(texts))] == expected

    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(classifier.predict, [texts] * 8):
            assert [asdict(answer) for answer in answers] == expected

    with TestClient(create_app(classifier)) as client:
        found = client.post("/predict", json={"texts": texts[:32]}).json()["results"]
    same(found, expected[:32])

    pd.DataFrame({"nr": range(len(texts)), "text": texts}).to_csv("in.csv", index=False)
    main.main(["predict", str(TRAINED), "--file", "in.csv", "--out", "out.jsonl"])
    lines = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line.pop("nr") for line in lines] == [str(i) for i in range(len(texts))]
    assert [line.pop("text") for line in lines] == texts
    assert lines == expected
    assert "rows/s" in capsys.readouterr().out

    given = [part for text in texts for part in ("--text", text)]
    main.main(["predict", str(TRAINED), "--json", *given])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.pop("text") for line in told] == texts
    assert told == expected

    Path("in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with Path("in.jsonl").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        main.main(["predict", str(TRAINED), "--file", "-", "--format", "jsonl"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.pop("text") for line in told] == texts
    same(told, expected)


@pytest.mark.parametrize("method", [labeltune.Classifier.predict, labeltune.Classifier.stream])
def test_the_examples_in_the_docstrings_run(
    trained: Path, capsys: pytest.CaptureFixture[str], method: Callable[..., object]
) -> None:
    Path("texts.txt").write_text("win a free prize now\n\nsee you at home\n")
    names: dict[str, object] = {"Classifier": labeltune.Classifier}
    examples = doctest.DocTestParser().get_examples(method.__doc__ or "")
    assert len(examples) == 2
    for example in examples:  # the module's own run skips them, for it has no classifier
        exec(compile(example.source, "docstring", "single"), names)
    shown = capsys.readouterr().out
    if examples[-1].want:
        assert shown == examples[-1].want
    else:
        expected = labeltune.Classifier.load(TRAINED).predict(["win a free prize now", "see you at home"])
        assert [line.split()[0] for line in shown.splitlines()] == [answer.label for answer in expected]


def same(found: list[dict], expected: list[dict]) -> None:
    """Other batches have other last bits."""
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert [one[key] for key in ("label", "abstained", "truncated")] == [
            other[key] for key in ("label", "abstained", "truncated")
        ]
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-5)
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_the_dialogue_answers_until_it_is_ended(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier = labeltune.Classifier.load(TRAINED)
    for ending in ("quit", "EXIT", "退出", EOFError, KeyboardInterrupt):
        lines = iter(["win a prize now", "  ", "\udcff", ending, "never asked"])

        def ask(prompt: str, lines: object = lines) -> str:
            line = next(lines)  # type: ignore[call-overload]
            if isinstance(line, str):
                return line
            raise line

        predict.converse(classifier, ask)
        said = capsys.readouterr().out
        assert "ham, spam" in said
        assert classifier.predict(["win a prize now"])[0].label in said
        assert "an empty line has no label" in said
        assert "that is not valid Unicode" in said
        assert said.rstrip().endswith("bye")
        assert next(lines) == "never asked"


def test_the_examples_travel_with_the_classifier(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["predict", str(TRAINED), "--demo"])
    told = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["win a prize now", "see you at lunch"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", " "], "--text is blank"),
        (["--file", "in.csv"], "--file needs --out"),
        (["--file", "none.csv", "--out", "out.csv"], "none.csv: no such file"),
    ],
)
def test_what_can_not_be_labelled_is_told(trained: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main.main(["predict", str(TRAINED), *arguments])


def test_the_doctor_tells_what_fits(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["doctor"])
    said = capsys.readouterr().out
    assert "GFLOP/s: train.dtype auto takes" in said
    assert "42 training rows" in said
    assert "chosen" in said
    for method in ("full", "lora", "qlora"):
        assert method in said
