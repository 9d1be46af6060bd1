"""The results that a report is written from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from labeltune.config.base import RESOLVED, read_yaml
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import read_prepared

PREDICTIONS = Path("data/predictions/test.csv")
FLIPS = Path("data/robustness/flips.csv")
RECORD = Path("models/classifier/labeltune.json")
METRICS, COSTS, PLOTS = Path("metrics"), Path("costs"), Path("plots")

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The results of a run."""

    metrics: Figures
    """metrics/metrics.json."""
    data: Figures
    """metrics/data.json."""
    train: Figures
    """metrics/train.json."""
    confidence: Figures | None
    """metrics/confidence_analysis.json."""
    robustness: Figures | None
    """metrics/robustness_result.json."""
    comparison: Figures | None
    """metrics/baseline_comparison.json."""
    baselines: Figures | None
    """metrics/baselines.json."""
    worklist: Figures | None
    """metrics/worklist.json."""
    costs: dict[str, Figures]
    """Stage -> costs/STAGE.json."""
    record: Figures
    """The classifier's labeltune.json."""
    settings: Figures
    """resolved.yaml."""
    configuration: str
    """Text of resolved.yaml."""
    predictions: pd.DataFrame
    """id, text, label, prediction, confidence, abstained, truncated of every test row."""
    flips: pd.DataFrame | None
    """The worst flips of robustness, confidences as numbers."""
    plots: Path
    """The folder of the pictures."""

    @classmethod
    def read(cls, root: Path = Path()) -> "RunResults":
        """Read the files of a run; only the model, its predictions and their metrics are required.

        Raises:
            UserError: one of these files is missing.
        """
        settings = read_yaml(root / RESOLVED)
        return cls(
            metrics=_required(root / METRICS / "metrics.json"),
            data=_required(root / METRICS / "data.json"),
            train=_required(root / METRICS / "train.json"),
            confidence=_optional(root / METRICS / "confidence_analysis.json"),
            robustness=_optional(root / METRICS / "robustness_result.json"),
            comparison=_optional(root / METRICS / "baseline_comparison.json"),
            baselines=_optional(root / METRICS / "baselines.json"),
            worklist=_optional(root / METRICS / "worklist.json"),
            costs={path.stem: _required(path) for path in sorted((root / COSTS).glob("*.json"))},
            record=_required(root / RECORD),
            settings=settings,
            configuration=(root / RESOLVED).read_text(encoding="utf-8"),
            predictions=_table(root / PREDICTIONS, ["confidence"]),
            flips=_table(root / FLIPS, ["confidence", "changed_confidence"]) if (root / FLIPS).is_file() else None,
            plots=root / PLOTS,
        )

    @property
    def names(self) -> list[str]:
        """Label names, `[num_labels]`."""
        return list(self.record["labels"]["names"])

    @property
    def mistakes(self) -> pd.DataFrame:
        """The misclassified test rows, in descending order of confidence."""
        wrong = self.predictions[self.predictions["label"] != self.predictions["prediction"]]
        return wrong.sort_values(["confidence", "id"], ascending=[False, True], kind="stable")


def _required(path: Path) -> Figures:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path} is missing, and the report is written from it; run `dvc repro`") from None
    except ValueError:
        raise UserError(f"{path} is damaged: not valid JSON; delete it and run `dvc repro`") from None


def _optional(path: Path) -> Figures | None:
    return _required(path) if path.is_file() else None


def _table(path: Path, numbers: list[str]) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path} is missing, and the report is written from it; run `dvc repro`")
    frame = read_prepared(path)
    return frame.assign(**{name: frame[name].astype(float) for name in numbers})
