"""What the sections on data, mistakes, machine and costs state beside the recorded figures."""

import platform
from typing import Any

from labeltune.reporting.report.quotes import quote
from labeltune.reporting.report.results import PREDICTIONS, RunResults
from labeltune.runtime.environment import versions

SPLITS = ("train", "validation", "test")


def data(results: RunResults) -> dict[str, Any]:
    """Return the facts of data.md."""
    dataset = results.settings["dataset"]
    places = {
        "files": [dataset["folder"]],
        "package": [archive["requirement"] for archive in dataset["archives"] or []],
        "hub": [dataset["hub"]],
    }
    return {
        "places": places[dataset["source"]],
        "rows_read": sum(results.data["rows_read"].values()),
        "reasons": reasons(results),
        "leaks": any(results.data["leaks_left"].values()),
        "splits": SPLITS,
        "worklist_splits": worklist_splits(results),
    }


def reasons(results: RunResults) -> list[tuple[str, int | None, int]]:
    """Return reason, rows found and rows dropped, the most frequent first; reasons that found no row are left out."""
    found, dropped = results.data["found"], results.data["dropped"]
    return [
        (reason, found.get(reason), count)
        for reason, count in sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
        if count or found.get(reason)
    ]


def worklist_splits(results: RunResults) -> list[str]:
    """Return the splits that the worklist counts rows of."""
    found = results.worklist
    if found is None:
        return []
    return list(dict.fromkeys([*SPLITS, *found["label_errors"], *found["near_duplicates"]]))


def mistakes(results: RunResults, shown: int) -> dict[str, Any]:
    """Return the facts of mistakes.md: at most `shown` misclassified rows, those of highest confidence."""
    wrong = results.mistakes
    rows = wrong.head(shown).to_dict("records")
    return {
        "all_mistakes": len(wrong),
        "mistakes": [
            row
            | {
                "quote": quote(row["text"]),
                "abstained": row["abstained"] == "True",
                "truncated": row["truncated"] == "True",
            }
            for row in rows
        ],
        "predictions_file": str(PREDICTIONS),
    }


def environment(results: RunResults) -> dict[str, Any]:
    """Return the facts of environment.md."""
    return {
        "python": platform.python_version(),
        "versions": versions(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "machine": results.record["machine"],
    }


def costs(results: RunResults) -> dict[str, Any]:
    """Return the facts of costs.md."""
    return {"stages": {stage: spent for stage, spent in results.costs.items() if "seconds" in spent}}
