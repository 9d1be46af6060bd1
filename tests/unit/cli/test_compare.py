import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from labeltune.cli.compare import Run, compare, read_run
from labeltune.runtime.errors import UserError

LABELS = ["ham", "spam"] * 20


def run(name: str, seed: int, wrong: range, **settings: Any) -> Run:
    """A run that answers the rows of `wrong` wrongly."""
    guesses = [LABELS[i + 1 - 2 * (i % 2)] if i in wrong else LABELS[i] for i in range(40)]
    rows = pd.DataFrame({"id": [f"row {i:02}" for i in range(40)], "label": LABELS, "prediction": guesses})
    return Run(name=name, settings={"train.seed": seed, "dataset.name": "messages"} | settings, rows=rows)


def test_seeds_are_summed_up_and_configurations_told_apart() -> None:
    runs = [
        run("a", 42, range(4), **{"train.method": "lora", "train.lora.rank": 8}),
        run("b", 0, range(2), **{"train.method": "lora", "train.lora.rank": 8}),
        run("c", 0, range(8), **{"train.method": "full", "train.lora.rank": 8}),
    ]
    found = compare(runs, seed=0, resamples=200)
    best, other = (group.record() for group in found.groups)
    assert (best["name"], best["seeds"]) == ("train.method=lora", [0, 42])
    assert best["accuracy"]["values"] == pytest.approx([0.95, 0.9])
    assert best["accuracy"]["mean"] == pytest.approx(0.925)
    assert best["accuracy"]["deviation"] == pytest.approx(np.std([0.95, 0.9], ddof=1))
    assert (other["name"], other["accuracy"]["deviation"]) == ("train.method=full", None)
    ((first, second, difference, interval),) = found.differences
    assert (first, second) == ("train.method=lora", "train.method=full")
    assert difference == pytest.approx(0.925 - 0.8)
    assert interval.low < difference < interval.high


def test_every_pair_of_runs_has_its_exact_test() -> None:
    found = compare([run("a", 0, range(1)), run("b", 1, range(8)), run("c", 2, range(8, 10))], seed=0, resamples=200)
    tests = {(first, second): test for first, second, test in found.pairs}
    assert set(tests) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert (tests["a", "b"].only_first, tests["a", "b"].only_second) == (7, 0)
    assert tests["a", "b"].p_value == pytest.approx(2 * 0.5**7)
    assert [group.name for group in found.groups] == ["all runs"]


def test_settings_that_say_the_same_twice_are_named_once() -> None:
    small = {"model.name": "small", "model.hub": "org/small"}
    found = compare(
        [run("a", 0, range(1), **small), run("b", 0, range(2), **{"model.name": "big"})], seed=0, resamples=200
    )
    assert [group.name for group in found.groups] == ["model.name=small", "model.name=big"]


def test_many_runs_are_compared_with_the_best_alone() -> None:
    found = compare([run(str(i), i, range(i)) for i in range(7)], seed=0, resamples=100)
    assert [(first, second) for first, second, _ in found.pairs] == [("0", str(i)) for i in range(1, 7)]


def test_runs_over_other_rows_and_runs_given_twice_are_refused() -> None:
    other = run("b", 0, range(1))
    other.rows.loc[3, "id"] = "row 99"
    with pytest.raises(UserError, match="a and b were tested on different rows"):
        compare([run("a", 0, range(1)), other], seed=0, resamples=100)
    with pytest.raises(UserError, match="name each run once"):
        compare([run("a", 0, range(1)), run("a", 0, range(1))], seed=0, resamples=100)


def test_a_workspace_whose_settings_are_newer_than_its_answers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `configure` of an interrupted run: the answers are those of the run before."""
    monkeypatch.chdir(tmp_path)
    Path("settings").mkdir()
    Path("settings/train.yaml").write_text("train: {seed: 1}\n")
    md5 = hashlib.md5(Path("settings/train.yaml").read_bytes()).hexdigest()
    deps = f"[{{path: settings/train.yaml, hash: md5, md5: {md5}, size: 17}}]"
    Path("dvc.lock").write_text(f"schema: '2.0'\nstages: {{train: {{cmd: x, deps: {deps}}}}}\n")
    Path("resolved.yaml").write_text("train: {seed: 1}\n")
    Path("data/predictions").mkdir(parents=True)
    Path("data/predictions/test.csv").write_text("id,text,label,prediction,confidence\na,t,x,x,0.9\n")
    assert read_run("workspace").seed == 1
    Path("settings/train.yaml").write_text("train: {seed: 2}\n")
    Path("resolved.yaml").write_text("train: {seed: 2}\n")
    with pytest.raises(UserError, match="workspace: the settings of train have changed since the predictions"):
        read_run("workspace")
