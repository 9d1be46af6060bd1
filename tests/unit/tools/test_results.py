"""The table of experiments: grouped, filtered, and never with another run's comparison."""

import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[3] / "tools/results.py"


def commit(recipe: str, seed: int, accuracy: float, *, own: bool = True) -> dict[str, Any]:
    """The files of an experiment's commit, by path."""
    figures = {"n": 200, "accuracy": accuracy, "macro_f1": 0.8, "roc_auc": 0.9}
    comparison = {
        "fine_tuned_model": figures if own else figures | {"n": 225},
        "models": {"zero_shot": {"accuracy": 0.5}, "tfidf": {"accuracy": 0.7}},
    }
    interval = {"low": accuracy - 0.05, "high": accuracy + 0.05}
    return {
        "resolved.yaml": {"recipe": recipe, "model": {"name": "tiny"}, "train": {"seed": seed}},
        "metrics/metrics.json": figures | {"intervals": {"accuracy": interval}},
        "metrics/baseline_comparison.json": comparison,
        "metrics/train.json": {"parameters": {"trainable": 1234}},
        "costs/train.json": {"seconds": 10.0 + seed, "peak_memory_mib": 1000 + seed},
    }


COMMITS = {
    "begun": commit("default", 1, 0.99),
    "a42": commit("a", 42, 0.9),
    "a0": commit("a", 0, 0.8),
    "b0": commit("b", 0, 0.6, own=False),
    "early": commit("a", 7, 0.99),  # ended before `evaluate`: these are the figures of Git's own run
    "prepared": {"resolved.yaml": commit("a", 8, 0.9)["resolved.yaml"]},
}


def table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[0] == "dvc":
            states = [{"rev": name, "data": {"params": {}}} for name in COMMITS if name != "begun"]
            experiments = [{"revs": [state]} for state in [*states, {"rev": "queued", "data": None}]]
            shown = [{"rev": "workspace", "experiments": None}, {"rev": "begun", "experiments": experiments}]
            return subprocess.CompletedProcess(command, 0, stdout=json.dumps(shown))
        revision, _, path = command[-1].partition(":")
        content = COMMITS[revision].get(path)
        return subprocess.CompletedProcess(command, 0 if content else 128, stdout=json.dumps(content))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["results.py", *arguments])
    runpy.run_path(str(TOOL), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_seeds_are_summed_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    header, _, first, second = table(monkeypatch, capsys, "recipe", "model")
    row = dict(zip(header, first, strict=True))
    assert row["recipe"] == "a"
    assert row["accuracy, mean ± deviation"] == "85.00 ± 7.07"
    assert row["per seed"] == "0: 80.0, 42: 90.0"
    assert row["95% interval of the first"] == "75.0 to 85.0"
    assert (row["zero-shot"], row["TF-IDF"]) == ("50.0", "70.0")
    assert (row["median seconds"], row["peak MiB"], row["trainable"]) == ("31", "1,042", "1,234")
    other = dict(zip(header, second, strict=True))
    assert (other["zero-shot"], other["TF-IDF"]) == ("–", "–")  # those in Git are of the default recipe


def test_one_value_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(monkeypatch, capsys, "recipe=b,c", "model")[2:]
    assert [row[0] for row in rows] == ["b"]
