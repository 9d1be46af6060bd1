import importlib.util
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import Trainer, TrainerCallback, TrainingArguments

from labeltune.runtime.errors import UserError
from labeltune.training import tracking

CONFIG = {
    "recipe": "default",
    "train": {"seed": 7, "lora": {"rank": 8}},
    "dataset": {"labels": {"0": "好评", "c++?": "x"}},
}
STEPS = 3


@pytest.fixture(autouse=True)
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as the working folder, without the user's accounts and settings."""
    home = tmp_path / "home"
    home.mkdir()
    for variable in [name for name in os.environ if name.startswith(("WANDB", "MLFLOW", "TENSORBOARD", "DVC"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    # What the trackers themselves set, so that it is gone after the test.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


class _Trainer(Trainer):
    """Logs as labeltune's Trainer does: training figures after each step, validation figures after the last."""

    def training_step(self, *args: Any, **others: Any) -> torch.Tensor:
        loss = super().training_step(*args, **others)
        self.log({"train_loss": float(loss), "train_accuracy": 0.5})
        if self.state.global_step == STEPS - 1:
            self.log({"eval_accuracy": 0.75, "eval_macro_f1": float("nan")})
        return loss


class _Regression(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.weight * x - 1) ** 2).mean()}


def train(callbacks: list[TrainerCallback], folder: Path) -> None:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    rows = [{"x": torch.tensor([float(i)])} for i in range(2 * STEPS)]
    _Trainer(_Regression(), arguments, train_dataset=rows, callbacks=callbacks).train()


def track(reporter: str, tmp_path: Path, name: str = "run 1/a") -> None:
    with tracking.tracking([reporter], name, CONFIG) as callbacks:
        train(callbacks, tmp_path / "output")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_the_curves(top: Path, tmp_path: Path) -> None:
    track("tensorboard", tmp_path)
    curves = scalars(top / "tracking/tensorboard/run-1-a")
    assert set(curves) == {"train/loss", "train/accuracy", "eval/accuracy", "eval/macro_f1", "epoch"}
    assert [step for step, _ in curves["train/loss"]] == [0, 1, 2]
    assert curves["train/loss"][0][1] == pytest.approx(1.0)
    assert curves["eval/accuracy"] == [(2, 0.75)]
    assert {path.name for path in top.iterdir()} == {"tracking"}


def test_tensorboard_run_goes_on_under_its_name(top: Path, tmp_path: Path) -> None:
    track("tensorboard", tmp_path)
    track("tensorboard", tmp_path)
    assert {path.name for path in (top / "tracking/tensorboard").iterdir()} == {"run-1-a"}
    assert len(scalars(top / "tracking/tensorboard/run-1-a")["train/loss"]) == 2 * STEPS


def wandb_records(folder: Path) -> list[Any]:
    """The records of a .wandb file: a LevelDB log, so blocks of 32 KiB with chunks under headers of 7 bytes."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits for W&B's own process, as the end of a stage does, to write the last records
    content = next(folder.glob("tracking/wandb/offline-run-*/*.wandb")).read_bytes()
    place, payload, records = 7, b"", []
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        payload += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # whole, or the last chunk
            record = Record()
            record.ParseFromString(payload)
            records.append(record)
            payload = b""
    return records


def test_wandb_without_a_key_records_offline(top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    track("wandb", tmp_path)
    assert "no key, so the run is recorded offline" in capsys.readouterr().out
    records = wandb_records(top)
    history = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert history[-1]["eval/accuracy"] == 0.75
    assert [row["_step"] for row in history] == [0, 1, 2]
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.run_id, run.project) == ("run-1-a", "labeltune")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["train"] == CONFIG["train"]
    assert not run.HasField("git")
    assert next(record.exit.exit_code for record in records if record.HasField("exit")) == 0


def test_wandb_writes_the_run_and_its_logs_alone(top: Path, tmp_path: Path) -> None:
    track("wandb", tmp_path)
    assert {path.name for path in top.iterdir()} == {"tracking"}
    assert {path.suffix for path in top.rglob("*") if path.is_file()} <= {".wandb", ".log", ".yaml", ".json"}
    kept = {Path(name).name for name in files(top / "tracking/wandb")}
    assert not kept & {"requirements.txt", "output.log", "wandb-metadata.json"}


def test_wandb_online_without_a_key_is_a_clean_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match="WANDB_MODE=offline"), tracking.tracking(["wandb"], "r", CONFIG):
        pass


def test_wandb_with_a_key_goes_on_in_the_run_online(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    given: dict[str, Any] = {}
    offline = wandb.init

    def init(**options: Any) -> Any:
        given.update(options)
        return offline(mode="disabled")

    monkeypatch.setattr(wandb, "login", lambda **options: True)
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with tracking.tracking(["wandb"], "r", CONFIG):
        pass
    assert (given["mode"], given["resume"], given["id"], given["project"]) == ("online", "allow", "r", "mine")
    assert given["settings"].disable_git
    assert given["settings"].console == "off"


def mlflow_runs(top: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{top}/tracking/mlflow/mlflow.db")
    return client.search_runs([client.get_experiment_by_name("labeltune").experiment_id])


def test_mlflow_holds_curves_and_settings(top: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    track("mlflow", tmp_path)
    [run] = mlflow_runs(top)
    client = MlflowClient(tracking_uri=f"sqlite:///{top}/tracking/mlflow/mlflow.db")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval/accuracy"] == 0.75
    assert run.data.tags == {"mlflow.runName": "run-1-a"}  # no name of the user, path of the script, or commit
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [0, 1, 2]
    assert run.data.params == {
        "recipe": "default",
        "train.seed": "7",
        "train.lora": '{"rank": 8}',
        "dataset.labels": '{"0": "好评", "c++?": "x"}',
    }
    assert {path.name for path in top.iterdir()} == {"tracking"}
    assert files(top) == {"tracking/mlflow/mlflow.db", "tracking/mlflow/mlflow.lock"}


def test_mlflow_run_goes_on_under_its_name(top: Path, tmp_path: Path) -> None:
    track("mlflow", tmp_path)
    with tracking.tracking(["mlflow"], "run 1/a", {"train": {"seed": 8}}) as callbacks:
        train(callbacks, tmp_path / "output")
    [run] = mlflow_runs(top)
    assert run.data.params["train.seed"] == "7"


def test_dvclive_holds_curves_and_settings(top: Path, tmp_path: Path) -> None:
    track("dvclive", tmp_path)
    run = top / "tracking/dvclive/run-1-a"
    assert json.loads((run / "metrics.json").read_text())["eval"]["accuracy"] == 0.75
    lines = (run / "plots/metrics/train/loss.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["step", "0", "1", "2"]
    assert yaml.safe_load((run / "params.yaml").read_text(encoding="utf-8")) == CONFIG
    assert {path.name for path in top.iterdir()} == {"tracking"}


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("variables", [{}, {"DVC_EXP_BASELINE_REV": "HEAD", "DVC_EXP_NAME": "exp"}])
def test_dvclive_leaves_the_pipeline_alone(
    variables: dict[str, str], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("init")
    git("add", ".")
    git("commit", "-m", "start")
    before = (project / "dvc.yaml").read_bytes()
    for name, value in {"DVC_ROOT": str(project), **variables}.items():
        monkeypatch.setenv(name, git("rev-parse", value).strip() if value == "HEAD" else value)
    with tracking.tracking(["dvclive"], "r", CONFIG) as callbacks:
        train(callbacks, tmp_path / "output")
    assert (project / "tracking/dvclive/r/metrics.json").is_file()
    assert (project / "dvc.yaml").read_bytes() == before
    assert git("status", "--porcelain", "--", ":!home", ":!project", ":!output") == ""
    assert git("for-each-ref", "refs/exps") == ""


def test_all_four_write_to_the_project_of_a_temporary_run(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.chdir(temporary)
    monkeypatch.setenv("DVC_ROOT", str(top))
    with tracking.tracking(tracking.REPORTERS, "r", CONFIG) as callbacks:
        train(callbacks, tmp_path / "output")
    assert list(temporary.iterdir()) == []
    assert {path.name for path in top.iterdir()} == {"tracking", ".dvc"}
    assert files(top / ".dvc") == set()  # where DVCLive tells editors about each step
    assert {path.name for path in (top / "tracking").iterdir()} == set(tracking.REPORTERS)


def test_runs_are_closed_when_training_raises(top: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), tracking.tracking(tracking.REPORTERS, "r", CONFIG):
        raise RuntimeError("out of memory")
    [run] = mlflow_runs(top)
    assert run.info.status == "FAILED"
    assert next(record.exit.exit_code for record in wandb_records(top) if record.HasField("exit")) == 1
    assert (top / "tracking/dvclive/r/metrics.json").is_file()


def test_the_users_own_folders_win(top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(mine / "board"))
    monkeypatch.setenv("WANDB_DIR", str(mine))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mine}/flow.db")
    with tracking.tracking(["tensorboard", "wandb", "mlflow"], "r", CONFIG):
        pass
    assert {path.name for path in mine.iterdir()} == {"board", "wandb", "flow.db"}
    assert {path.name for path in top.iterdir()} <= {"tracking"}
    assert files(top) == set()


def test_missing_packages_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    gone = {"wandb", "sqlalchemy"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else find(name))
    with pytest.raises(UserError) as caught, tracking.tracking(tracking.REPORTERS, "r", CONFIG):
        pass
    assert str(caught.value) == (
        "train.report_to: wandb, sqlalchemy are not installed; run `pip install 'labeltune[track]'`"
    )


def test_a_folder_of_runs_is_not_a_package(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (top / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(top)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UserError, match="wandb is not installed"):
        tracking.check_installed(["wandb"])


def test_no_trackers_no_folder(top: Path) -> None:
    with tracking.tracking([], "r", CONFIG) as callbacks:
        assert callbacks == []
    assert list(top.iterdir()) == []
