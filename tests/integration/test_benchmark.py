import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import accuracy, figures, growth, ours, peers, sides
from benchmarks import parts as measured_parts
from labeltune.config import base
from labeltune.config.model import Model
from labeltune.modeling import device
from labeltune.runtime.files import read_prepared
from stages import configure, prepare


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ("layers: 2", ["frozen layers, 1 to 2", "whole pass", "a training batch"]),
        ("layers: all, method: qlora", ["whole pass", "a training batch"]),
    ],
)
def test_the_benchmark_times_every_part(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: str,
    parts: list[str],
) -> None:
    monkeypatch.setattr(measured_parts, "SIZE", 64)
    recipe = Path("conf/recipes/test.yaml")
    recipe.write_text(recipe.read_text().replace("layers: 2", settings))
    configure.main()
    prepare.main()
    capsys.readouterr()
    measured_parts.main()
    shown = capsys.readouterr().out
    assert all(part in shown for part in parts)
    assert ("frozen layers" in shown) == (parts[0].startswith("frozen layers"))
    assert "rows/s" in shown


def here(module: list[str], folder: Path = Path()) -> dict[str, Any]:
    """What `sides` starts as a process, in this one."""
    if module[0] == "benchmarks.ours":
        with contextlib.chdir(folder):
            return asdict(ours.measure(int(module[1])))
    _, name, _, rows, _, model, _, seed, _, steps = module
    return asdict(peers.PEERS[name](peers.Task.read(Path(rows), Path(model), int(seed), int(steps))))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of PEFT
@pytest.mark.slow
def test_the_sides_answer_the_same_rows(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure.main()
    prepare.main()
    monkeypatch.setattr(sides, "run", here)
    monkeypatch.setattr(device, "matmul_rates", lambda: {"fp32": 1.0, "bf16": 0.5})
    sides.main(["--peers", "tfidf", "trainer-lora-tuned", "label-words", "--seeds", "3", "4", "--steps", "1"])
    record = json.loads(Path("benchmarks/results/sides.json").read_text(encoding="utf-8"))
    assert set(record["sides"]) == {"labeltune", "labeltune, next seed", "tfidf", "trainer-lora-tuned", "label-words"}
    assert record["sides"]["tfidf"]["accuracy"] == 1.0  # the classes share no word
    assert record["sides"]["label-words"]["accuracy"] is None  # cut short
    assert all(one["train_seconds"] > 0 for one in record["turns"][0].values())
    assert ["label-words" in turn for turn in record["turns"]] == [True, False]
    assert "trainer-lora-tuned" in capsys.readouterr().out
    figures.main(["benchmarks/results/sides.json", "sides.png"])
    assert Path("sides.png").read_bytes().startswith(b"\x89PNG")


def test_growth_is_measured_for_every_number_of_rows_that_there_is(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure.main()
    prepare.main()
    monkeypatch.setattr(growth, "run", here)
    monkeypatch.setattr(growth, "catalogued", lambda _: base.section("model", Model))
    growth.main(["--rows", "16", "32", "1000"])
    runs = json.loads(Path("benchmarks/results/growth.json").read_text(encoding="utf-8"))["runs"]
    assert [one["rows"] for one in runs] == [16, 32]
    assert all(one["train_seconds"] > 0 for one in runs)
    assert "1,000 rows: data/prepared/train.csv has 42; left out" in capsys.readouterr().out
    figures.main(["benchmarks/results/growth.json", "growth.png"])
    assert Path("growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of PEFT
def test_answers_of_the_trainer_are_those_of_their_rows(project: Path, base_folder: Path) -> None:
    configure.main()
    prepare.main()
    task = peers.Task.read(Path("data/prepared"), base_folder, 0, 0)
    longest_first = peers.Task(**vars(task) | {"texts": turned(task.texts), "labels": turned(task.labels)})
    given, other = (peers.trainer_lora_tuned(one).answers for one in (task, longest_first))
    assert given is not None
    assert other is not None
    assert given == other[::-1]
    assert len(given) == len(read_prepared(Path("data/prepared/test.csv")))


def turned(parts: dict[str, Any]) -> dict[str, Any]:
    """With the test rows in the opposite order."""
    return parts | {"test": parts["test"][::-1]}


def test_the_summary_takes_medians_of_turns_and_the_mean_over_seeds() -> None:
    def one(train: float, answers: list[str] | None) -> dict[str, Any]:
        return {"train_seconds": train, "inference_seconds": 2.0, "peak_mib": 10, "answers": answers}

    right, half = list("abab"), list("aaaa")
    turns = [{"labeltune": one(a, right), "peer": one(b, half)} for a, b in ((1.0, 8.0), (2.0, 6.0), (4.0, 4.0))]
    found = sides._summary([turn["peer"] for turn in turns], [turn["labeltune"] for turn in turns], read(right))
    assert (found["train_seconds"], found["train_times_ours"]) == (6.0, 3.0)  # of 8, 3 and 1
    assert found["inference_rows_per_second"] == 2.0
    assert found["accuracy"] == 0.5
    assert found["interval"] == [0.0, 1.0]


def read(labels: list[str]) -> Any:
    """Labels as the test rows give them."""
    return np.array(labels, dtype=object)


@pytest.mark.slow
def test_the_accuracy_suite_goes_on_where_it_was_interrupted(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = {
        "messages": accuracy.Set(recipe="test", folder="messages"),
        "absent": accuracy.Set(recipe="test", folder="x"),
    }
    monkeypatch.setattr(accuracy, "SETS", suite)
    monkeypatch.setattr(accuracy, "ROOT", project)
    accuracy.main(["--sides", "balanced", "tfidf", "--seeds", "0"])
    shown = capsys.readouterr().out
    assert "absent is left out: there is no data/raw/x" in shown
    files = sorted((project / accuracy.RESULTS).rglob("*.json"))
    assert [file.name for file in files] == ["balanced.json", "tfidf.json"]
    found = {file.stem: json.loads(file.read_text()) for file in files}
    for one in found.values():
        assert one["right"].count("1") / len(one["right"]) == pytest.approx(one["accuracy"])
        assert one["interval"][0] <= one["accuracy"] <= one["interval"][1]
    assert found["balanced"]["rows"] == {"train": 42, "validation": 6}
    monkeypatch.setattr(accuracy, "run", lambda *_, **__: pytest.fail("measured again"))
    accuracy.main(["--sides", "balanced", "tfidf", "--seeds", "0"])
    assert "balanced ahead by" in capsys.readouterr().out


def test_held_out_sentences_are_whole_and_no_training_row_is_a_part_of_one() -> None:
    whole = [f"number {place} of the films that nobody here had seen before" for place in range(30)]
    parts = ["films that nobody here", "number 7", "seen before", "an unrelated phrase"]
    held, rest = accuracy.held_out_sentences([*whole, *parts], count=20)
    assert len(held) == 20
    assert set(held) <= set(range(30))
    assert sorted(rest) == sorted(set(range(30)) - set(held) | {33} | ({31} if 7 not in held else set()))
