"""Trackers: a run in TensorBoard, Weights & Biases, MLflow or DVCLive, which gets settings and figures alone."""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from labeltune.errors import UserError
from labeltune.terminal import say

REPORTERS = ("tensorboard", "wandb", "mlflow", "dvclive")
PROJECT = "labeltune"
MLFLOW_BATCH = 100  # most parameters that MLflow takes at once

Record = Callable[[dict[str, float], int], None]
"""Takes curve -> value, and the optimiser step they belong to."""


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Settings as flat text; deeper ones are JSON, since their keys can be labels, which MLflow refuses as names.

    >>> parameters({"recipe": "default", "train": {"epochs": 2.0, "lora": {"rank": 8}}})
    {'recipe': 'default', 'train.epochs': '2.0', 'train.lora': '{"rank": 8}'}
    """
    flat: dict[str, Any] = {}
    for section, content in config.items():
        flat |= (
            {f"{section}.{key}": v for key, v in content.items()} if isinstance(content, dict) else {section: content}
        )
    return {key: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for key, v in flat.items()}


@contextmanager
def _tensorboard(folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[Record]:
    """One folder per run; a resumed training adds a file, which TensorBoard joins."""
    from torch.utils.tensorboard import SummaryWriter

    given = os.environ.get("TENSORBOARD_LOGGING_DIR")
    with SummaryWriter(Path(given).expanduser() if given else folder / "tensorboard" / name) as writer:
        settings = json.dumps(config, ensure_ascii=False, indent=2)
        writer.add_text("settings", "    " + settings.replace("\n", "\n    "))

        def record(figures: dict[str, float], step: int) -> None:
            for title, value in figures.items():
                writer.add_scalar(title, value, step)
            writer.flush()

        yield record


@contextmanager
def _wandb(folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[Record]:
    """Online where a key is configured, else offline; no code, commit, package list, host or console goes along."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # crash reports to its makers
    import wandb

    # Left to itself, W&B asks for a missing key, and a run that nobody watches waits for the answer.
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
    if "WANDB_MODE" not in os.environ and mode == "offline":
        say("wandb: no key, so the run is recorded offline; `wandb login` gives one, `wandb sync` uploads the run")
    folder.mkdir(parents=True, exist_ok=True)
    private = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        silent=mode == "offline",
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", name),
            id=os.environ.get("WANDB_RUN_ID", name),
            dir=os.environ.get("WANDB_DIR", folder),  # W&B adds `wandb`
            resume="allow" if mode == "online" else None,
            mode=mode,
            config=dict(config),
            settings=private,
        )
    except wandb.errors.Error as error:
        raise UserError(
            f"wandb: {str(error).rstrip('.')}; WANDB_MODE=offline needs neither a network nor a key"
        ) from None
    try:
        yield lambda figures, step: run.log(figures, step=step)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


@contextmanager
def _mlflow(folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[Record]:
    """An SQLite file, since MLflow has given up its plain files; MLFLOW_TRACKING_URI names another store."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    given = os.environ.get("MLFLOW_TRACKING_URI")
    title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    local = folder / "mlflow"
    if not given:
        local.mkdir(parents=True, exist_ok=True)
    # MLflow makes the tables and the experiment unprotected; two queue workers would both try.
    with nullcontext() if given else FileLock(local / "mlflow.lock"), warnings.catch_warnings():
        # MLflow 3.17 declares its tables in a way that SQLAlchemy 2.1 deprecates.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated", DeprecationWarning)
        client = MlflowClient(tracking_uri=given or f"sqlite:///{local / 'mlflow.db'}")
        known = client.get_experiment_by_name(title)
        # Without a place of their own, artifacts would go to ./mlruns.
        place = None if given else (local / "artifacts").as_uri()
        experiment = known.experiment_id if known else client.create_experiment(title, artifact_location=place)
    found = client.search_runs([experiment], f"attributes.run_name = '{name}'", max_results=1)
    run = (found[0] if found else client.create_run(experiment, run_name=name)).info.run_id
    client.update_run(run, status="RUNNING")
    if not found:  # MLflow refuses to change a parameter
        settings = [Param(key, value) for key, value in parameters(config).items()]
        for start in range(0, len(settings), MLFLOW_BATCH):
            client.log_batch(run, params=settings[start : start + MLFLOW_BATCH])

    def record(figures: dict[str, float], step: int) -> None:
        now = round(time.time() * 1000)
        client.log_batch(run, metrics=[Metric(title, value, now, step) for title, value in figures.items()])

    try:
        yield record
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run)


@contextmanager
def _dvclive(folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[Record]:
    """One folder per run; it writes no dvc.yaml and makes no experiment, for the stage belongs to one."""
    from dvclive import Live

    live = Live(str(folder / "dvclive" / name), resume=True, save_dvc_exp=False, dvcyaml=None)
    live.log_params(dict(config))

    def record(figures: dict[str, float], step: int) -> None:
        live.step = step
        for title, value in figures.items():
            live.log_metric(title, value)
        live.next_step()

    try:
        yield record
    finally:
        with warnings.catch_warnings():
            # In an experiment DVCLive 3.49 looks for files to add to Git, by a name that pathspec deprecates. It finds
            # none: Git ignores tracking/.
            warnings.filterwarnings("ignore", "GitWildMatchPattern", DeprecationWarning)
            live.end()


Open = Callable[[Path, str, Mapping[str, Any]], AbstractContextManager[Record]]
OPEN: dict[str, Open] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "dvclive": _dvclive}
# mlflow-skinny, unlike mlflow, doesn't bring what its SQLite store needs.
