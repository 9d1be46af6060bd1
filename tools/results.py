"""Print a Markdown table of the workspace's experiments, the seeds of each configuration summed up.

    python tools/results.py model train.method train.head

The arguments are the keys of resolved.yaml that tell the configurations apart.
"""

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from typing import Any

NEEDED = ("metrics/metrics.json", "metrics/train.json", "costs/train.json")


def main() -> None:
    """Group `dvc exp show` by the given keys and print a row per group."""
    keys = sys.argv[1:]
    shown = subprocess.run(["dvc", "exp", "show", "--json"], capture_output=True, text=True, check=True)
    groups: dict[tuple[str, ...], dict[int, Any]] = defaultdict(dict)
    for entry in json.loads(shown.stdout):
        for experiment in entry["experiments"] or []:
            data = experiment["revs"][0]["data"]
            params = data and data["params"].get("resolved.yaml", {}).get("data")
            metrics = data and {path: content.get("data") for path, content in data["metrics"].items()}
            if params and all(metrics.get(path) for path in NEEDED):  # others wait, run or failed
                groups[tuple(str(look_up(params, key)) for key in keys)][params["train"]["seed"]] = metrics
    columns = [*keys, "accuracy, mean ± deviation", "per seed", "trainable", "median seconds", "peak MiB"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for values, seeds in sorted(groups.items()):
        ordered = [seeds[seed] for seed in sorted(seeds)]
        accuracy = [100 * run["metrics/metrics.json"]["accuracy"] for run in ordered]
        costs = [run["costs/train.json"] for run in ordered]
        deviation = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        cells = [
            *values,
            f"{statistics.mean(accuracy):.2f} ± {deviation:.2f}",
            ", ".join(f"{seed}: {value:.1f}" for seed, value in zip(sorted(seeds), accuracy, strict=True)),
            f"{ordered[0]['metrics/train.json']['parameters']['trainable']:,}",
            f"{statistics.median(cost['seconds'] for cost in costs):.0f}",
            f"{max(cost['peak_memory_mib'] for cost in costs):,}",
        ]
        print("| " + " | ".join(cells) + " |")


def look_up(content: Any, key: str) -> Any:
    """The value of a dotted key; a section that is chosen by name gives its name."""
    for part in key.split("."):
        content = content[part]
    return content["name"] if isinstance(content, dict) else content


if __name__ == "__main__":
    main()
