"""Tracking: what a training logs, handed to the trackers that the user asked for.

A tracker gets the run's settings and the figures that the training logs, nothing else. Transformers' own callbacks for
the four aren't used: they record every training argument with its temporary paths, keep `train_loss` out of Weights &
Biases' curves, number DVCLive's steps by calls, can't go on in an MLflow run, and leave a run open that fails.
"""

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from labeltune.errors import UserError
from labeltune.trackers import OPEN, REPORTERS, Record

NEEDS = {reporter: (reporter,) for reporter in REPORTERS} | {"mlflow": ("mlflow", "sqlalchemy", "alembic")}


@contextmanager
def tracking(report_to: Sequence[str], run_name: str, config: Mapping[str, Any]) -> Iterator[list[TrainerCallback]]:
    """Open a run in each tracker, yield what fills them from `Trainer.log`, and close them, also when training raises.

    A name that was used before goes on in the same run, as a resumed training should; a new training needs a new name.
    Weights & Biases can't when it is offline: it writes a second folder of the same run, for `wandb sync --id`.

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
        records = [runs.enter_context(OPEN[reporter](tracking_folder(), name, config)) for reporter in report_to]
        yield [_Forwarder(records)] if records else []


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
    """Where the trackers write: tracking/ in the project.

    A queued or `--temp` run has a folder of its own, deleted when it ends; DVC_ROOT names the project in these too.
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / "tracking"


class _Forwarder(TrainerCallback):
    """Hands what the training logs to the open runs."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

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
        for record in self.records:
            record(figures, state.global_step)


def curve(name: str) -> str:
    """The curve that a logged figure belongs to; trackers group curves by what stands before the slash.

    >>> curve("eval_macro_f1"), curve("train_loss"), curve("epoch")
    ('eval/macro_f1', 'train/loss', 'epoch')
    """
    return re.sub("^(train|eval)_", r"\1/", name)


def _found(package: str) -> bool:
    """Whether a package is installed; a mere folder of that name, such as wandb/, isn't one."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
