"""The commands that people type, for real, on a tiny model."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.commands import run

pytestmark = pytest.mark.end_to_end


def test_queued_experiments_run_side_by_side(repository: Path) -> None:
    run("dvc repro prepare")
    run("git add .")
    run("git commit --quiet -m result")
    run("dvc exp run --queue -S train.seed=0,1 evaluate")
    run("dvc exp run --run-all -j 2")
    assert run("dvc queue status").count("Success") == 2
    shown = json.loads(run("dvc exp show --json"))
    experiments = [run_["revs"][0] for entry in shown for run_ in entry["experiments"] or []]
    seeds = [entry["data"]["params"]["params.yaml"]["data"]["train"]["seed"] for entry in experiments]
    assert sorted(seeds) == [0, 1]


def test_a_failed_stage_leaves_no_half_written_out(repository: Path) -> None:
    table = Path("data/raw/messages/messages.csv")
    table.write_text(table.read_text(encoding="utf-8") + "ham,too,many,fields\n", encoding="utf-8")
    printed = run("dvc repro", status=255)
    assert "messages.csv" in printed
    assert "Traceback" not in printed
    assert not Path("data/prepared").exists()
    assert not Path("models/classifier").exists()
