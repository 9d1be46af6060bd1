"""Training curves, and the experiment trackers that receive them."""

import importlib.util
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from accelerate.tracking import DVCLiveTracker, GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker
from filelock import FileLock
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from labeltune.console.terminal import say
from labeltune.probing.regression import row_losses
from labeltune.runtime.environment import peak_memory
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import write_metrics, write_table
from labeltune.training.blending import BlendChoice
from labeltune.training.layer_selection import Choice
from labeltune.training.selection import Selection


@dataclass(kw_only=True)
class Progress:
    """Records of the training so far; checkpoints contain them, so that a resumed training has the same curves."""

    train: list[dict[str, float]] = field(default_factory=list)
    """Training figures, recorded every few steps."""
    validation: list[dict[str, float]] = field(default_factory=list)
    """Figures of each validation."""
    pending: list[tuple[float, int, int]] = field(default_factory=list)
    """For each batch since the last record: sum of the losses, number of correct predictions, number of rows."""
    rows_seen: int = 0
    """Training rows passed forward and backward."""
    seconds: float = 0.0
    """Time spent before the last start."""


@dataclass(frozen=True, kw_only=True)
class History:
    """Records of a training."""

    train: list[dict[str, float]]
    """step, epoch, loss, accuracy: over the training batches since the previous record, before each update."""
    validation: list[dict[str, float]]
    """step, epoch, loss, accuracy, macro_f1: over the whole validation split."""
    best_step: int
    """Step of the selected model."""
    seconds: float
    """Wall-clock time of training and validation."""
    rows_seen: int
    """Training rows passed forward and backward."""
    batch_size: int
    """Number of rows in a forward pass; smaller than `train.batch_size` if memory ran out."""
    accumulation: int
    """Batches per optimiser step."""
    parameters: dict[str, int]
    """Numbers of `trainable` and `total` parameters."""
    fitted: dict[str, Any] = field(default_factory=dict)
    """What a regression that was fitted in place of a fine-tuning chose; empty after a fine-tuning."""
    judged: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """Of a regression: logits of the validation rows in whose choice each took no part, `[rows, num_labels]`."""
    logits: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """Logits of the selected model for the validation rows, `[rows, num_labels]`; None if they are not needed."""

    @property
    def best(self) -> dict[str, float]:
        """Validation figures of the selected model."""
        return next(record for record in self.validation if record["step"] == self.best_step)


@dataclass(frozen=True, kw_only=True)
class OneStep:
    """Logits of a regression, which has one step over all training rows."""

    logits: dict[str, NDArray[np.float32]]
    """`train` and `validation` -> `[rows, num_labels]`."""
    judged: NDArray[np.float32]
    """Logits of the validation rows in whose choice each took no part, `[rows, num_labels]`."""
    labels: dict[str, NDArray[np.int64]]
    """`train` and `validation` -> index of each row's label, `[rows]`."""

    def history(self, *, seconds: float, parameters: dict[str, int], chosen: Mapping[str, Any]) -> History:
        """Return the records of the fit.

        Args:
            seconds: what fitting took.
            parameters: how many are `trainable`, and how many there are in `total`.
            chosen: what the validation rows chose.
        """
        figures = {split: validation_figures(self.logits[split], self.labels[split]) for split in self.logits}
        first = {"step": 1, "epoch": 1.0}
        return History(
            train=[first | {name: figures["train"][name] for name in ("loss", "accuracy")}],
            validation=[first | figures["validation"]],
            best_step=1,
            seconds=seconds,
            rows_seen=len(self.labels["train"]),
            batch_size=len(self.labels["train"]),
            accumulation=1,
            parameters=parameters,
            logits=self.logits["validation"],
            judged=self.judged,
            fitted=dict(chosen),
        )


def validation_figures(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> dict[str, float]:
    """Loss, accuracy and macro F1 of logits `[rows, num_labels]` against label indices `[rows]`.

    Where the training loss has class weights `[num_labels]` or label smoothing, `objective` is that loss on these rows:
    the unweighted loss hardly depends on a rare label, and would select a model that never predicts it.
    """
    guesses = logits.argmax(axis=1)
    found = {
        "loss": float(row_losses(labels, softmax(logits.astype(np.float64), axis=1)).mean()),
        "accuracy": float(accuracy_score(labels, guesses)),
        "macro_f1": float(f1_score(labels, guesses, average="macro", zero_division=0.0)),
    }
    if weights is not None or smoothing:
        losses = functional.cross_entropy(
            torch.from_numpy(logits), torch.from_numpy(labels), weight=weights, label_smoothing=smoothing,
            reduction="none",
        )  # fmt: skip
        found["objective"] = float(losses.mean())
    return found


def validated(history: History, blended: BlendChoice) -> dict[str, float]:
    """Return the validation figures of the classifier, which are those of the network if there is no n-gram model."""
    if blended.logits is None or blended.labels is None:
        return history.best
    return history.best | validation_figures(blended.logits, blended.labels)


def figures(history: History, choice: Choice, blended: BlendChoice, selection: Selection) -> dict[str, Any]:
    """Return the content of metrics/train.json: figures of the selected model and of its training."""
    best = dict(history.best)
    blend = {"blend": blended.figures} if blended.figures else {}
    fitted = {"regression": history.fitted} if history.fitted else {}
    selected = {"select": selection.figures} if selection.figures else {}
    return (
        choice.figures()
        | blend
        | fitted
        | selected
        | {
            "best_step": history.best_step,
            "steps": history.validation[-1]["step"],
            "train": {name: history.train[-1][name] for name in ("loss", "accuracy")},
            "validation": {name: best[name] for name in ("loss", "accuracy", "macro_f1")},
            "parameters": history.parameters,
            "batch": {"size": history.batch_size, "accumulation": history.accumulation},
        }
    )


def costs(history: History, choice: Choice, blended: BlendChoice) -> dict[str, float]:
    """Return the content of costs/train.json, which varies from run to run; seconds include selection and blending."""
    seconds = choice.seconds + history.seconds + blended.seconds
    return {
        "seconds": round(seconds, 1),
        "choosing_seconds": round(choice.seconds, 1),
        "blending_seconds": round(blended.seconds, 1),
        "rows_per_second": round(history.rows_seen / seconds, 1),
        "peak_memory_mib": peak_memory(),
    }


def save_curves(recorded: Progress | History, folder: Path) -> None:
    """Write a table per curve, as far as training has come."""
    write_table(folder / "train.csv", pd.DataFrame(recorded.train))
    write_table(folder / "validation.csv", pd.DataFrame(recorded.validation))


def save_history(
    history: History,
    choice: Choice,
    blended: BlendChoice,
    selection: Selection,
    metrics: Path,
    costs_path: Path,
    curves: Path,
) -> None:
    """Write the figures, the costs, and a table per curve."""
    save_curves(history, curves)
    write_metrics(metrics, figures(history, choice, blended, selection))
    write_metrics(costs_path, costs(history, choice, blended))


def show_history(history: History, choice: Choice, blended: BlendChoice, folder: Path) -> None:
    """Print the summary of `train`."""
    spent = costs(history, choice, blended)
    say(
        f"trained {history.parameters['trainable']:,} of {history.parameters['total']:,} parameters in "
        f"{spent['seconds']:.0f} s, {spent['rows_per_second']:.0f} rows/s, at most {spent['peak_memory_mib']:,} MiB"
    )
    if history.fitted:
        chosen = ", ".join(f"{name} {value}" for name, value in history.fitted.items())
        say(
            f"fitted a regression with {chosen}: validation accuracy {history.best['accuracy']:.3f}, loss "
            f"{history.best['loss']:.3f}; the classifier is in {folder}/"
        )
        return
    say(
        f"kept step {history.best_step} of {history.validation[-1]['step']:.0f}: validation accuracy "
        f"{history.best['accuracy']:.3f}, loss {history.best['loss']:.3f}; the classifier is in {folder}/"
    )


REPORTERS = ("tensorboard", "wandb", "mlflow", "dvclive")
PROJECT = "labeltune"


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
def _tensorboard(folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[GeneralTracker]:
    """Write a folder per run; a resumed training adds a file to it, and TensorBoard joins the curves."""
    given = os.environ.get("TENSORBOARD_LOGGING_DIR")
    tracker = TensorBoardTracker("", Path(given).expanduser() if given else folder / "tensorboard" / name)
    tracker.start()
    try:
        # Not store_init_configuration: it adds a folder that is named by the clock, at each resumption another one.
        tracker.log({"settings": "    " + json.dumps(config, ensure_ascii=False, indent=2).replace("\n", "\n    ")})
        yield tracker
    finally:
        tracker.finish()


@contextmanager
def _wandb(folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[GeneralTracker]:
    """Record online if a key is configured, else offline; without code, commit, package list, host name and console."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # crash reports to its makers
    import wandb

    # By default W&B asks for a missing key, and an unattended run waits for the answer.
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
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
    tracker = WandBTracker(
        os.environ.get("WANDB_PROJECT", PROJECT),
        name=os.environ.get("WANDB_NAME", name),
        id=os.environ.get("WANDB_RUN_ID", name),
        dir=os.environ.get("WANDB_DIR", folder),  # W&B adds `wandb`
        resume="allow" if mode == "online" else None,
        mode=mode,
        config=dict(config),
        settings=private,
    )
    try:
        tracker.start()
    except wandb.errors.Error as error:
        raise UserError(
            f"wandb: {str(error).rstrip('.')}; WANDB_MODE=offline needs neither a network nor a key"
        ) from None
    try:
        yield tracker
    except BaseException:
        tracker.tracker.finish(exit_code=1)
        raise
    tracker.finish()


@contextmanager
def _mlflow(folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[GeneralTracker]:
    """Write to an SQLite file, since MLflow has given up its plain files; MLFLOW_TRACKING_URI names another store."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    local = folder / "mlflow"
    with _mlflow_store(local):
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        run, found = _mlflow_run(local, title, name)
        tracker = MLflowTracker(title, run_id=run)
        tracker.start()
        try:
            if not found:  # MLflow refuses to change a parameter
                tracker.store_init_configuration(parameters(config))
            yield tracker
        except BaseException:
            mlflow.end_run("FAILED")
            raise
        tracker.finish()


@contextmanager
def _mlflow_store(local: Path) -> Iterator[None]:
    """Context in which MLflow's own functions use the project's store, unless MLFLOW_TRACKING_URI names another one."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        yield
        return
    local.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = _mlflow_file(local)
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]


def _mlflow_file(local: Path) -> str:
    return f"sqlite:///{local / 'mlflow.db'}"


def _mlflow_run(local: Path, title: str, name: str) -> tuple[str, bool]:
    """Return the id of the run of this name in the experiment `title`, and whether it existed.

    Accelerate would create the run by `mlflow.start_run`, which also sends the user's name, the path of the script and
    the commit.
    """
    from mlflow import MlflowClient

    ours = os.environ["MLFLOW_TRACKING_URI"] == _mlflow_file(local)
    # MLflow creates the tables and the experiment without a lock; two queue workers would both try.
    with FileLock(local / "mlflow.lock") if ours else nullcontext(), warnings.catch_warnings():
        # MLflow 3.17 declares its tables in a way that SQLAlchemy 2.1 deprecates.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated", DeprecationWarning)
        client = MlflowClient()
        known = client.get_experiment_by_name(title)
        # By default, artifacts would be written to ./mlruns.
        place = (local / "artifacts").as_uri() if ours else None
        experiment = known.experiment_id if known else client.create_experiment(title, artifact_location=place)
    found = client.search_runs([experiment], f"attributes.run_name = '{name}'", max_results=1)
    return (found[0] if found else client.create_run(experiment, run_name=name)).info.run_id, bool(found)


@contextmanager
def _dvclive(folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[GeneralTracker]:
    """Write a folder per run, but no dvc.yaml and no experiment, because the stage is part of one already."""
    tracker = DVCLiveTracker(dir=str(folder / "dvclive" / name), resume=True, save_dvc_exp=False, dvcyaml=None)
    tracker.start()
    tracker.store_init_configuration(dict(config))
    try:
        yield tracker
    finally:
        with warnings.catch_warnings():
            # In an experiment DVCLive 3.49 looks for files to add to Git, by a name that pathspec deprecates. It finds
            # none: Git ignores tracking/.
            warnings.filterwarnings("ignore", "GitWildMatchPattern", DeprecationWarning)
            tracker.finish()


Open = Callable[[Path, str, Mapping[str, Any]], AbstractContextManager[GeneralTracker]]
OPEN: dict[str, Open] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "dvclive": _dvclive}
# mlflow-skinny, unlike mlflow, does not install what its SQLite store needs.


NEEDS = {reporter: (reporter,) for reporter in REPORTERS} | {"mlflow": ("mlflow", "sqlalchemy", "alembic")}


@contextmanager
def tracking(report_to: Sequence[str], run_name: str, config: Mapping[str, Any]) -> Iterator[list[TrainerCallback]]:
    """Open a run in each tracker, yield the callback that records what `Trainer.log` gets, and close the runs.

    They are closed when training raises too. A name that was used before continues that run, as a resumed training
    should; a new training needs a new name. Weights & Biases cannot continue a run offline: it writes a second folder
    of the same run, for `wandb sync --id`.

    Args:
        report_to: names out of REPORTERS.
        run_name: characters that a folder or a tracker refuses become hyphens.
        config: section -> settings, as in `resolved.yaml`, recorded as the run's parameters.

    Raises:
        UserError: a tracker isn't installed or refuses to start.
    """
    check_installed(report_to)
    name = re.sub(r"[^\w.-]+", "-", run_name).lstrip(".")
    with ExitStack() as runs:
        if report_to:
            PartialState(cpu=not torch.cuda.is_available())  # accelerate's trackers log, and its logger asks for it
        trackers = [runs.enter_context(OPEN[reporter](tracking_folder(), name, config)) for reporter in report_to]
        yield [_Forwarder(trackers)] if trackers else []


def check_installed(report_to: Sequence[str]) -> None:
    """Refuse trackers whose packages are missing, all in one message.

    Raises:
        UserError: at least one is missing.
    """
    missing = [package for reporter in report_to for package in NEEDS[reporter] if not _found(package)]
    if missing:
        raise UserError(
            f"train.report_to: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; "
            "run `pip install 'labeltune[track]'`"
        )


def tracking_folder() -> Path:
    """Return the folder of the trackers: tracking/ in the project.

    A queued or `--temp` run has a folder of its own, deleted when it ends; DVC_ROOT names the project in these too.
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / "tracking"


class _Forwarder(TrainerCallback):
    """Record what the training logs in the open runs."""

    def __init__(self, trackers: Sequence[GeneralTracker]) -> None:
        self.trackers = trackers

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **unused: Any,
    ) -> None:
        """Called by `Trainer.log`."""
        # Trainer's closing summary: its train_loss is the mean over the whole training, no point of the curve.
        if "train_runtime" in logs:
            return
        figures = {curve(name): float(value) for name, value in logs.items()}
        for tracker in self.trackers:
            tracker.log(figures, step=state.global_step)


def log(callbacks: Sequence[TrainerCallback], history: History) -> None:
    """Pass the figures of a training without a Trainer on to trackers, as `Trainer.log` does."""
    arguments: Any = None  # which a tracker does not read
    for prefix, records in (("train", history.train), ("eval", history.validation)):
        for record in records:
            state = TrainerState(global_step=int(record["step"]))
            figures = {f"{prefix}_{name}": value for name, value in record.items() if name not in ("step", "epoch")}
            for callback in callbacks:
                callback.on_log(arguments, state, TrainerControl(), logs=figures)


def curve(name: str) -> str:
    """Return the curve of a logged figure; trackers group curves by the part before the slash.

    >>> curve("eval_macro_f1"), curve("train_loss"), curve("epoch")
    ('eval/macro_f1', 'train/loss', 'epoch')
    """
    return re.sub("^(train|eval)_", r"\1/", name)


def _found(package: str) -> bool:
    """Return whether a package is installed; a folder of that name without code, such as wandb/, does not count."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
