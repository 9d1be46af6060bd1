"""labeltune beside what a user would run instead, on the rows of `dvc repro prepare`: `make bench`.

For every seed each side runs in a process of its own, in turns, so that what slows the machine slows them all. Prints
the median over the seeds of seconds, rates, memory and of the ratio to labeltune in the same turn, and the accuracy
with its interval; writes all of it to a JSON file. Slow peers take the first turn alone, and a part of it. Peers whose
packages are missing are left out.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.peers import PEERS, SENTENCES, SLOW
from labeltune.config import base, resolve
from labeltune.config.model import Model
from labeltune.console import terminal
from labeltune.evaluation import metrics
from labeltune.modeling import base_models, device
from labeltune.runtime import errors
from labeltune.runtime.files import read_prepared, write_json

PREPARED = Path("data/prepared")
ROOT = Path(__file__).resolve().parents[1]
OURS, NEXT = "labeltune", "labeltune, next seed"
SEEDS = (0, 42, 123)
RESAMPLES = 2000
Found = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=12, help="after which a slow peer stops; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sides.json"))
    options = parser.parse_args(arguments)
    model = base.section("model", Model)
    bases_of = {name: catalogued("minilm") if name in SENTENCES else model for name in options.peers}
    folders = {name: base_models.open_base(base).folder for name, base in bases_of.items()}
    turns: list[dict[str, Found]] = []
    slow = sum(name in SLOW for name in options.peers)
    runs = len(options.seeds) * (2 + len(options.peers) - slow) + slow
    with terminal.progress("sides", runs, unit="runs") as progress:
        for place, seed in enumerate(options.seeds):
            turn: dict[str, Found] = {}
            peers = [name for name in options.peers if place == 0 or name not in SLOW]
            for name in [OURS, *peers] if place % 2 == 0 else [*reversed(peers), OURS]:
                if name == OURS:
                    turn |= _ours(seed)
                else:
                    command = ["benchmarks.peers", name, "--rows", str(PREPARED), "--model", str(folders[name])]
                    steps = options.steps if name in SLOW else 0
                    found = run([*command, "--seed", str(seed), "--steps", str(steps)])
                    turn |= {name: found} if found else {}
                progress(2 if name == OURS else 1)
            turns.append(turn)
    labels = read_prepared(PREPARED / "test.csv")["label"].to_numpy()
    summary = {
        name: _summary(*zip(*((turn[name], turn[OURS]) for turn in turns if name in turn), strict=True), labels)
        for name in turns[0]
    }
    record = {
        "machine": f"{device.cpu_name()}, {device.cores()} cores", "matmul_gflops": device.measure_matmul(),
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "recipe": base.read_yaml(base.RESOLVED)["recipe"], "model": model.name, "test_rows": len(labels),
        "train_rows": len(read_prepared(PREPARED / "train.csv")), "seeds": list(options.seeds), "sides": summary,
        "turns": [{name: {k: v for k, v in one.items() if k != "answers"} for name, one in turn.items()}
                  for turn in turns],
    }  # fmt: skip
    write_json(options.out, record)
    show(record)
    terminal.say(f"figures in {options.out}")


def catalogued(name: str) -> Model:
    """A base model of the catalogue."""
    content = base.read_yaml(resolve.CONF / "models" / f"{name}.yaml")
    return Model.model_validate(
        {key: value for key, value in content.items() if key in Model.model_fields} | {"name": name}
    )


def _ours(seed: int) -> dict[str, Found]:
    """Train with an empty cache, then with the next seed, which finds the frozen layers' states in the cache."""
    with TemporaryDirectory() as folder:
        shutil.copyfile(base.RESOLVED, Path(folder) / base.RESOLVED)
        shutil.copytree(PREPARED, Path(folder) / PREPARED)
        found = {}
        for name, own in ((OURS, seed), (NEXT, seed + 1)):
            measured = run(["benchmarks.ours", str(own)], Path(folder))
            assert measured, "labeltune has all packages that it needs"
            found[name] = measured
    return found


def run(module: list[str], folder: Path = Path(), *, reads: bool = True) -> Found | None:
    """The JSON that a module prints last, if that is read; None where it lacks a package."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "DVC_ROOT": str(folder.resolve())}
    done = subprocess.run(
        [sys.executable, "-m", *module], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return dict(json.loads(done.stdout.strip().splitlines()[-1])) if reads else {}
    last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    if "ModuleNotFoundError" not in last:
        raise RuntimeError(f"{module}:\n{done.stderr[-3000:]}")
    terminal.say(f"{module[1]} is left out: {last}")
    return None


def _summary(mine: Sequence[Found], ours: Sequence[Found], labels: Any) -> Found:
    """Medians over the turns; accuracy is the mean over the seeds, its interval that of the rows."""
    rows = len(labels)
    right = [np.array(one["answers"]) == labels for one in mine if one["answers"] is not None]
    hits = np.mean(right, axis=0) if right else None
    between = hits is not None and metrics.bootstrap(
        lambda picked: hits[picked].mean(axis=-1), rows, seed=0, resamples=RESAMPLES
    )
    return {
        "train_seconds": statistics.median(one["train_seconds"] for one in mine),
        "inference_rows_per_second": statistics.median(rows / one["inference_seconds"] for one in mine),
        "peak_mib": statistics.median(one["peak_mib"] for one in mine),
        "accuracy": None if hits is None else float(hits.mean()),
        "interval": [between.low, between.high] if between else None,
        "train_times_ours": statistics.median(
            one["train_seconds"] / other["train_seconds"] for one, other in zip(mine, ours, strict=True)
        ),
        "inference_times_ours": statistics.median(
            one["inference_seconds"] / other["inference_seconds"] for one, other in zip(mine, ours, strict=True)
        ),
    }


def show(record: Found) -> None:
    """Print the table."""
    shown = []
    for name, one in record["sides"].items():
        low, high = one["interval"] or (None, None)
        shown.append(
            [
                name,
                f"{one['train_seconds']:.1f}",
                f"{one['train_times_ours']:.2f}",
                f"{one['inference_rows_per_second']:,.0f}",
                f"{one['inference_times_ours']:.2f}",
                f"{one['peak_mib']:,.0f}",
                "" if one["accuracy"] is None else f"{one['accuracy']:.3f}",
                "" if low is None else f"{low:.3f} to {high:.3f}",
            ]
        )
    what = f"{record['model']}, recipe {record['recipe']}, {record['train_rows']:,} rows, seeds {record['seeds']}"
    terminal.say(f"{what}; {record['machine']}; PyTorch {record['torch']}, Transformers {record['transformers']}")
    columns = ["side", "train s", "train ratio", "answers/s", "predict ratio", "peak MiB", "accuracy", "95% interval"]
    terminal.table("medians over the seeds; accuracy: mean", columns, shown)


if __name__ == "__main__":
    errors.run(main)
