"""What the sections on cheaper models and on robustness state beside the recorded figures."""

import json
import math
from dataclasses import dataclass
from typing import Any

from labeltune.evaluation.metrics import LEVEL, Interval, paired_interval
from labeltune.reporting.report.quotes import quote_both
from labeltune.reporting.report.results import Figures, RunResults

PRESERVING = "label_preserving"


def comparison(results: RunResults) -> dict[str, Any]:
    """Return the facts of comparison.md; none where models were not compared."""
    found = results.comparison
    if found is None:
        return {}
    spent = results.costs.get("baselines", {})
    chosen = results.baselines
    return {
        "models": {name: (found["models"][name], spent.get(name, {})) for name in ranked(found)},
        "own_costs": own_costs(results.costs),
        "hyperparameters": chosen and json.dumps(chosen, ensure_ascii=False, indent=2, sort_keys=True),
    }


def ranked(found: Figures) -> list[str]:
    """Return the names of the cheaper models, the most accurate first."""
    return sorted(found["models"], key=lambda name: (-found["models"][name]["accuracy"], name))


def relation(difference: float) -> str:
    """Tell whether the fine-tuned model is `more`, `less` or `equally` accurate, to a tenth of a point."""
    if round(abs(100 * difference), 1) == 0:
        return "equally"
    return "more" if difference > 0 else "less"


def own_costs(costs: dict[str, Figures]) -> Figures:
    """Return what training and using the fine-tuned model took."""
    train, evaluate = costs.get("train", {}), costs.get("evaluate", {})
    peaks = [part["peak_memory_mib"] for part in (train, evaluate) if "peak_memory_mib" in part]
    return {
        "train_seconds": train.get("seconds"),
        "rows_per_second": evaluate.get("rows_per_second"),
        "peak_memory_mib": max(peaks, default=None),
        "size_mib": evaluate.get("size_mib"),
    }


def robustness(results: RunResults, shown: int) -> dict[str, Any]:
    """Return the facts of robustness.md with at most `shown` flips; none where robustness was not measured."""
    found, flips = results.robustness, results.flips
    if found is None:
        return {}
    rows = [] if flips is None else flips.head(shown).to_dict("records")
    return {
        "preserving": of_kind(found, PRESERVING),
        "agnostic": of_kind(found, "label_agnostic"),
        "severity": steepest(found),
        "flips": [row | {"quotes": quote_both(row["text"], row["changed_text"])} for row in rows],
        "all_flips": 0 if flips is None else len(flips),
    }


def of_kind(found: Figures, kind: str) -> dict[str, Figures]:
    """The perturbations of a kind, first the one that surely costs most accuracy; those that changed no row last."""
    tests = {name: test for name, test in found["perturbation_tests"].items() if test["kind"] == kind}
    return dict(sorted(tests.items(), key=lambda item: (-sure_fall(item[1]), -(item[1]["flip_rate"] or 0), item[0])))


def sure_fall(test: Figures) -> float:
    """Lower end of the interval of the accuracy lost; minus infinity where the perturbation changed no row."""
    return -math.inf if test["paired"] is None else float(test["paired"]["interval"]["low"])


def _together(test: Figures, count: int) -> Interval:
    """Interval of the accuracy lost that holds for several perturbations at once (Bonferroni).

    The worst of many is named by looking at all of them: at 95% each, one of fifteen that cost nothing would be named
    in every second run.
    """
    paired = test["paired"]
    level = 1 - (1 - LEVEL) / count
    return paired_interval(paired["only_first"], paired["only_second"], test["rows"], level)


@dataclass(frozen=True, kw_only=True)
class Worst:
    """Which label-preserving perturbation surely costs most accuracy, or how large a fall the rows exclude."""

    count: int
    """Number of label-preserving perturbations that changed a row."""
    name: str | None
    """The perturbation; None where none surely lowers accuracy."""
    test: Figures | None
    """Its record."""
    interval: dict[str, Any] | None
    """Interval of the fall, simultaneous over all perturbations."""
    excluded: tuple[float, float]
    """Falls that are excluded for the perturbation that was measured most precisely, and for the least precise."""


def worst(found: Figures) -> Worst | None:
    """Return the worst perturbation; None where no label-preserving one changed a row."""
    tests = {name: test for name, test in of_kind(found, PRESERVING).items() if test["paired"] is not None}
    if not tests:
        return None
    together = {name: _together(test, len(tests)) for name, test in tests.items()}
    highs = [interval.high for interval in together.values()]
    name = max(together, key=lambda one: together[one].low)
    sure = together[name].low > 0
    return Worst(
        count=len(tests),
        name=name if sure else None,
        test=tests[name] if sure else None,
        interval=together[name].record() if sure else None,
        excluded=(min(highs), max(highs)),
    )


@dataclass(frozen=True, kw_only=True)
class Steepest:
    """The perturbation whose accuracy falls most from its weakest to its strongest severity."""

    name: str
    """The perturbation."""
    first: Figures
    """Its record at the weakest severity that changed a row."""
    last: Figures
    """Its record at the strongest."""

    @property
    def falls(self) -> bool:
        """Whether accuracy is lower at the strongest severity."""
        return bool(self.last["accuracy"] < self.first["accuracy"])


def steepest(found: Figures) -> Steepest | None:
    """Return the perturbation that a higher severity harms most; None where none changed rows at two severities."""
    measured = {
        name: [point for point in curve if point["accuracy"] is not None] for name, curve in found["severities"].items()
    }
    curves = {name: curve for name, curve in measured.items() if len(curve) > 1}
    if not curves:
        return None
    name = max(curves, key=lambda name: curves[name][0]["accuracy"] - curves[name][-1]["accuracy"])
    return Steepest(name=name, first=curves[name][0], last=curves[name][-1])
