"""`labeltune compare`: compare finished runs, which are read from DVC's experiments."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import dvc.api
import numpy as np
import pandas as pd
from dvc.exceptions import DvcException
from dvc.scm import SCMError
from numpy.typing import NDArray
from ruamel.yaml import YAML

from labeltune.config.base import read_yaml
from labeltune.console import terminal
from labeltune.evaluation import metrics
from labeltune.evaluation.metrics import Flags, Interval, Paired, bootstrap, paired_test
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import read_predictions

PREDICTIONS = "data/predictions/test.csv"
RESOLVED = "resolved.yaml"
WORKSPACE = "workspace"
SETTINGS = Path("settings")
ANSWERED_BY = ("collect", "prepare", "train", "calibrate", "evaluate")
"""Stages whose settings the predictions depend on."""
MOST_PAIRS = 15
"""Pairs of runs that are listed; of more runs, each is compared with the best configuration's first run alone."""
SEED = "train.seed"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run and its predictions for the test rows."""

    name: str
    """Experiment, branch, tag or commit; or `workspace`."""
    settings: dict[str, Any]
    """Settings of the run, by dotted key."""
    rows: pd.DataFrame
    """id, label, prediction of the test rows, ordered by id."""

    @property
    def right(self) -> Flags:
        """Whether the prediction of each row is right, `[rows]`."""
        return (self.rows["label"] == self.rows["prediction"]).to_numpy()

    @property
    def seed(self) -> Any:
        """Training seed of the run."""
        return self.settings[SEED]

    def macro_f1(self) -> float:
        """Macro F1 of the predictions."""
        names = sorted(set(self.rows["label"]) | set(self.rows["prediction"]))
        labels, guesses = (self.rows[column].map(names.index).to_numpy() for column in ("label", "prediction"))
        return metrics.macro_f1(labels, guesses, len(names))


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in nothing but the training seed."""

    name: str
    """The settings in which the group differs from the others."""
    runs: list[Run]
    """The runs, ordered by seed."""

    @property
    def right(self) -> NDArray[np.float64]:
        """Share of the seeds whose prediction of each row is right, `[rows]`."""
        return np.mean([run.right for run in self.runs], axis=0)

    def record(self) -> dict[str, Any]:
        """Figures over the seeds; a single seed has no deviation."""
        figures: dict[str, Any] = {"name": self.name, "seeds": [run.seed for run in self.runs]}
        for name, values in (
            ("accuracy", [float(run.right.mean()) for run in self.runs]),
            ("macro_f1", [run.macro_f1() for run in self.runs]),
        ):
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            figures[name] = {"mean": float(np.mean(values)), "deviation": deviation, "values": values}
        return figures


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of several runs."""

    groups: list[Group]
    """The groups, best mean accuracy first."""
    differences: list[tuple[str, str, float, Interval | None]]
    """For two groups: mean accuracy of the first minus that of the second, with its interval over the test rows."""
    pairs: list[tuple[str, str, Paired]]
    """Comparisons of two runs on the same rows."""

    def record(self) -> dict[str, Any]:
        """Return the content that `--json` prints."""
        return {
            "groups": [group.record() for group in self.groups],
            "differences": [
                {
                    "first": first,
                    "second": second,
                    "difference": value,
                    "interval": interval.record() if interval else None,
                }
                for first, second, value, interval in self.differences
            ],
            "pairs": [{"first": first, "second": second, **test.record()} for first, second, test in self.pairs],
        }


def read_run(name: str) -> Run:
    """Read the settings and predictions of a run, from the workspace or from Git and DVC's cache.

    Raises:
        UserError: there is no such run, or it has no predictions for the test rows.
    """
    if name == WORKSPACE:
        _require_answers_of_settings()
    try:
        if name == WORKSPACE:
            settings, table = (Path(path).read_text(encoding="utf-8") for path in (RESOLVED, PREDICTIONS))
        else:
            settings, table = (dvc.api.read(path, rev=name, encoding="utf-8") for path in (RESOLVED, PREDICTIONS))
    except SCMError:
        raise UserError(f"{name}: no such experiment, branch or commit; `dvc exp list` names the experiments") from None
    except (DvcException, OSError) as error:
        raise UserError(
            f"{name}: its predictions can't be read ({' '.join(str(error).split())}); run it with `dvc exp run`, or "
            "fetch them with `dvc pull`"
        ) from None
    rows = read_predictions(StringIO(table))[["id", "label", "prediction"]]
    content = YAML(typ="safe", pure=True).load(settings)
    return Run(name=name, settings=flattened(content), rows=rows.sort_values("id", ignore_index=True))


def _require_answers_of_settings() -> None:
    """Refuse a workspace whose settings have changed since its predictions were computed, as after an interrupted run.

    Raises:
        UserError: A stage that the predictions depend on ran with other settings than those in resolved.yaml.
    """
    lock = Path("dvc.lock")
    if not lock.is_file():
        return
    stages = read_yaml(lock).get("stages") or {}
    changed = []
    for stage in ANSWERED_BY:
        for dep in (stages.get(stage) or {}).get("deps") or []:
            path = Path(dep["path"])
            if path.parent == SETTINGS and path.is_file():
                content = hashlib.md5(path.read_bytes(), usedforsecurity=False)
                changed += [stage] if content.hexdigest() != dep.get("md5") else []
    if changed:
        raise UserError(
            f"{WORKSPACE}: the settings of {', '.join(changed)} have changed since the predictions were computed, as "
            "after an interrupted run: finish it with `dvc repro`, or name a finished experiment"
        )


def flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings into a dictionary from dotted key to value.

    >>> flattened({"train": {"seed": 1, "lora": {"rank": 8}}})
    {'train.seed': 1, 'train.lora.rank': 8}
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def compare(runs: Sequence[Run], *, seed: int, resamples: int) -> Comparison:
    """Compare runs.

    Raises:
        UserError: two runs predicted different test rows, or one run is given twice.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"{', '.join(names)}: name each run once")
    for run in runs[1:]:
        if not run.rows[["id", "label"]].equals(runs[0].rows[["id", "label"]]):
            raise UserError(
                f"{runs[0].name} and {run.name} were tested on different rows: compare runs of one data set and the "
                "same prepare settings"
            )
    groups = sorted(_grouped(runs), key=lambda group: -group.right.mean())
    differences = []
    for first, second in combinations(groups, 2):
        gains = first.right - second.right  # [rows]
        interval = bootstrap(lambda rows, g=gains: g[rows].mean(axis=-1), len(gains), seed=seed, resamples=resamples)  # type: ignore[misc]
        differences.append((first.name, second.name, float(gains.mean()), interval))
    ordered = [run for group in groups for run in group.runs]
    pairs = list(combinations(ordered, 2))
    if len(pairs) > MOST_PAIRS:
        pairs = [(ordered[0], run) for run in ordered[1:]]
    tests = [(a.name, b.name, paired_test(a.right, b.right)) for a, b in pairs]
    return Comparison(groups=groups, differences=differences, pairs=tests)


def _grouped(runs: Sequence[Run]) -> list[Group]:
    """Group runs whose settings differ in the seed only, and name each group by the settings in which groups differ."""
    keys = sorted({key for run in runs for key in run.settings} - {SEED})
    telling = [key for key in keys if len({str(run.settings.get(key)) for run in runs}) > 1]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(str(run.settings.get(key)) for key in telling), []).append(run)
    named = [key for key in telling if not _follows(key, telling, runs)]
    return [
        Group(
            name=", ".join(f"{key}={runs[0].settings.get(key)}" for key in named) or "all runs",
            runs=sorted(runs, key=lambda run: run.seed),
        )
        for runs in groups.values()
    ]


def _follows(key: str, telling: Sequence[str], runs: Sequence[Run]) -> bool:
    """Return whether an earlier key already distinguishes the runs: a model's files differ whenever its name does."""
    pattern = [str(run.settings.get(key)) for run in runs]
    first = {value: i for i, value in reversed(list(enumerate(pattern)))}
    shape = [first[value] for value in pattern]
    for other in sorted(telling, key=_rank):
        if other == key:
            return False
        values = [str(run.settings.get(other)) for run in runs]
        found = {value: i for i, value in reversed(list(enumerate(values)))}
        if [found[value] for value in values] == shape:
            return True
    return False


def _rank(key: str) -> tuple[int, str]:
    """Sort key that puts the settings that people change most often first."""
    chosen = ("recipe", "dataset.name", "model.name", "train.method", "train.head")
    return (chosen.index(key) if key in chosen else len(chosen), key)


def show(found: Comparison) -> None:
    """Print the comparison."""
    records = [group.record() for group in found.groups]
    rows = [[one["name"], _seeds(one["seeds"]), _mean(one["accuracy"]), _mean(one["macro_f1"])] for one in records]
    terminal.table("runs, mean and deviation over training seeds", ["settings", "seeds", "accuracy", "macro F1"], rows)
    if found.differences:
        rows = [[a, b, f"{value:+.4f}", _between(interval)] for a, b, value, interval in found.differences]
        columns = ["settings", "less", "accuracy", "95% interval over test rows"]
        terminal.table("difference of the means", columns, rows)
    if found.pairs:
        rows = [
            [a, b, f"{t.difference:+.4f}", _between(t.interval), f"{t.only_first} : {t.only_second}",
             f"{t.p_value:.3g}"]
            for a, b, t in found.pairs
        ]  # fmt: skip
        columns = ["run", "less", "accuracy", "95% interval", "rows only one has right", "p (exact McNemar)"]
        terminal.table("two runs on the same rows", columns, rows)


def _seeds(seeds: Sequence[Any]) -> str:
    return ", ".join(map(str, seeds))


def _mean(figure: Mapping[str, Any]) -> str:
    deviation = "" if figure["deviation"] is None else f" ± {figure['deviation']:.4f}"
    return f"{figure['mean']:.4f}{deviation}"


def _between(interval: Interval | None) -> str:
    return "no row differs" if interval is None else f"{interval.low:+.4f} to {interval.high:+.4f}"
