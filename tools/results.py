"""Print a Markdown table of the workspace's experiments, the seeds of each configuration summed up.

    python tools/results.py model train.method train.head

The arguments are keys of resolved.yaml that tell the configurations apart; `recipe=sst2-lora,sst2-full` keeps only the
experiments with one of these values. Settings and figures come from each experiment's commit. The interval is the one
over the test rows of the first seed's run; zero-shot and TF-IDF are shown where `compare` ran in the same experiment.
"""

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from typing import Any

from ruamel.yaml import YAML

RESOLVED, METRICS, COMPARISON = "resolved.yaml", "metrics/metrics.json", "metrics/baseline_comparison.json"
NEEDED = (METRICS, "metrics/train.json", "costs/train.json")
CHEAPER = {"zero-shot": "zero_shot", "TF-IDF": "tfidf"}


def main() -> None:
    """Group `dvc exp show` by the given keys and print a row per group."""
    wanted = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    keys = list(wanted)
    shown = subprocess.run(["dvc", "exp", "show", "--json"], capture_output=True, text=True, check=True)
    groups: dict[tuple[str, ...], dict[int, Any]] = defaultdict(dict)
    for entry in json.loads(shown.stdout):
        for experiment in entry["experiments"] or []:
            state = experiment["revs"][0]
            if not state["data"]:  # it waits, runs or failed
                continue
            run = {path: committed(state["rev"], path) for path in (RESOLVED, COMPARISON, *NEEDED)}
            if any(run[path] is None for path in (RESOLVED, *NEEDED)) or left(entry["rev"], run):
                continue
            values = {key: str(look_up(run[RESOLVED], key)) for key in keys}
            if all(not wanted[key] or values[key] in wanted[key].split(",") for key in keys):
                groups[tuple(values.values())][run[RESOLVED]["train"]["seed"]] = run
    columns = [
        *keys, "test rows", "accuracy, mean ± deviation", "per seed", "95% interval of the first", *CHEAPER,
        "trainable", "median seconds", "peak MiB",
    ]  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for values, seeds in sorted(groups.items()):
        ordered = [seeds[seed] for seed in sorted(seeds)]
        accuracy = [100 * run[METRICS]["accuracy"] for run in ordered]
        interval = ordered[0][METRICS]["intervals"]["accuracy"]
        costs = [run["costs/train.json"] for run in ordered]
        deviation = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        cells = [
            *values,
            str(ordered[0][METRICS]["n"]),
            f"{statistics.mean(accuracy):.2f} ± {deviation:.2f}",
            ", ".join(f"{seed}: {value:.1f}" for seed, value in zip(sorted(seeds), accuracy, strict=True)),
            f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f}" if interval else "no row differs",
            *(cheaper(ordered[0], name) for name in CHEAPER.values()),
            f"{ordered[0]['metrics/train.json']['parameters']['trainable']:,}",
            f"{statistics.median(cost['seconds'] for cost in costs):.0f}",
            f"{max(cost['peak_memory_mib'] for cost in costs):,}",
        ]
        print("| " + " | ".join(cells) + " |")


def committed(revision: str, path: str) -> Any:
    """Content of a YAML or JSON file in a commit; None where it has none."""
    found = subprocess.run(["git", "show", f"{revision}:{path}"], capture_output=True, text=True, check=False)
    return YAML(typ="safe", pure=True).load(found.stdout) if found.returncode == 0 else None


def left(begun: str, run: Any) -> bool:
    """Whether the test figures are those that the experiment began with, for it ended before `evaluate`."""
    same, other = (committed(begun, path) == run[path] for path in (METRICS, RESOLVED))
    return same and not other


def cheaper(run: Any, name: str) -> str:
    """Accuracy of a cheaper model, where the comparison in Git is this run's own and not one from before."""
    comparison = run.get(COMPARISON) or {}
    own = comparison.get("fine_tuned_model", {})
    same = all(own.get(key) == run[METRICS][key] for key in ("n", "accuracy", "macro_f1", "roc_auc"))
    model = comparison.get("models", {}).get(name)
    return f"{100 * model['accuracy']:.1f}" if same and model else "–"


def look_up(content: Any, key: str) -> Any:
    """The value of a dotted key; a section that is chosen by name gives its name."""
    for part in key.split("."):
        content = content[part]
    return content["name"] if isinstance(content, dict) else content


if __name__ == "__main__":
    main()
