"""List the rows that are worth a second look."""

from pathlib import Path

import pandas as pd

from labeltune.config import base
from labeltune.config.data import Prepare
from labeltune.config.evaluation import Worklist
from labeltune.console import terminal
from labeltune.data.labels import LabelSet
from labeltune.evaluation import worklist
from labeltune.probing import regression
from labeltune.runtime import errors
from labeltune.runtime.files import read_json, read_prepared, unchanged, write_metrics, write_table

PREPARED = Path("data/prepared")
PREDICTIONS, FEATURES = Path("data/predictions/test.csv"), Path("data/baselines/features.npz")
CHOSEN = Path("metrics/baselines.json")
WORKLIST, METRICS = Path("data/worklist/worklist.csv"), Path("metrics/worklist.json")


def main() -> None:
    """Write data/worklist/worklist.csv and metrics/worklist.json."""
    settings, threshold = base.section("worklist", Worklist), base.section("prepare", Prepare).near_threshold
    files = {split: PREPARED / f"{split}.csv" for split in ("train", "validation", "test")}
    inputs = files | {"predictions": PREDICTIONS, "features": FEATURES}
    with unchanged(inputs), regression.single_threaded():
        labels = LabelSet.load(PREPARED / "labels.json")
        frames = {split: read_prepared(path) for split, path in files.items()}
        answers = worklist.read_answers(PREDICTIONS, frames["test"])
        chosen = read_json(CHOSEN)
        errors, judged = worklist.label_errors(
            frames, regression.load(FEATURES), answers, labels, chosen,
            folds=settings.folds, seed=settings.seed, threshold=threshold,
        )  # fmt: skip
        mistakes = worklist.confident_mistakes(answers, settings.confident)
        with terminal.progress("looking for near duplicates", 2 * sum(map(len, frames.values()))) as progress:
            duplicates, copies = worklist.near_duplicates(frames, threshold, progress)

        found = worklist.figures(errors, judged, mistakes, copies, frames)
        write_table(WORKLIST, pd.concat([errors, mistakes, duplicates]))
        write_metrics(METRICS, found)
    worklist.show(found, WORKLIST)


if __name__ == "__main__":
    errors.run(main)
