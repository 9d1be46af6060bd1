"""A day's commands, one after the other, on a tiny model; in a file of its own, for a worker of its own."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.commands import run

STAGES = [
    "configure", "collect", "prepare", "train", "calibrate", "evaluate", "robustness", "baselines", "compare",
    "worklist", "plot", "report",
]  # fmt: skip
pytestmark = pytest.mark.end_to_end


def stages_run(printed: str) -> list[str]:
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]


def test_a_users_day(repository: Path) -> None:
    assert sorted(stages_run(run("dvc repro"))) == sorted(STAGES)
    assert stages_run(run("dvc repro")) == []
    run("git add .")
    run("git commit --quiet -m result")
    assert run("git status --porcelain --ignored=no").strip() == ""

    # A setting of one part reruns that part and what reads it; code that train imports retrains.
    assert stages_run(run("dvc exp run -S robustness.sample=3")) == ["configure", "robustness", "plot", "report"]
    assert stages_run(run("dvc exp run -S report.language=zh")) == ["configure", "report"]
    heads = Path("labeltune/modeling/classifiers.py")
    heads.write_text(heads.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    assert stages_run(run("dvc repro --dry"))[0] == "train"
    run("git checkout --quiet .")
    run("dvc checkout --quiet")

    # Another seed is one command, and its difference is told.
    again = stages_run(run("dvc exp run --name other -S train.seed=7"))
    assert again[:2] == ["configure", "train"]
    assert not {"prepare", "baselines"} & set(again)
    assert "train.seed" in run("dvc params diff")
    difference = json.loads(run("dvc metrics diff --json"))
    assert list(difference) == ["metrics/summary.json"]
    assert "other" in run("dvc exp show --only-changed --csv")
    compared = json.loads(run("labeltune compare HEAD other --json"))
    assert [sorted(group["seeds"]) for group in compared["groups"]] == [[7, 42]]
    assert {compared["pairs"][0]["first"], compared["pairs"][0]["second"]} == {"HEAD", "other"}  # the better one first
    assert "no such experiment" in run("labeltune compare HEAD nothing", status=1)

    # Figures draw in a page that asks for nothing outside.
    run("dvc plots diff HEAD --out page")
    assert Path("page/index.html").stat().st_size > 500_000

    # Another data set's rows are looked at and change nothing; changed rows of this one are noticed.
    other = Path("data/raw/other/other.csv")
    other.parent.mkdir()
    other.write_text("label,text\nham,hello\n", encoding="utf-8")
    assert stages_run(run("dvc repro")) == ["collect"]
    with Path("data/raw/messages/messages.csv").open("a", encoding="utf-8") as table:
        table.write("ham,another message at home for lunch\n")
    assert stages_run(run("dvc repro prepare")) == ["collect", "prepare"]
