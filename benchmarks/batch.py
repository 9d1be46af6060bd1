"""Labelling files from small to large on this machine: `python -m benchmarks.batch`.

Prints rows per second and the peak memory so far for files of growing length; where memory is flat, the peak of a
small file is that of the largest. Without a classifier's folder it takes the tests' tiny model, which has every part of
a real one and next to no arithmetic: its figure is what reading, tokenizing, batching and writing cost.
"""

import argparse
import platform
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from labeltune.console import terminal
from labeltune.inference.classifier import Classifier
from labeltune.modeling import device
from labeltune.runtime import environment, errors
from labeltune.serving.batch import answer_file
from labeltune.serving.tables import Table

SIZES = (10_000, 100_000, 1_000_000)
WORDS = ("see", "you", "at", "home", "lunch", "later", "call", "win", "free", "prize", "cash", "claim", "now")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("classifier", nargs="?", type=Path, help="a trained folder; default: the tests' tiny model")
    parser.add_argument("--rows", nargs="+", type=int, default=SIZES, help="lengths of the files; default: %(default)s")
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        classifier = Classifier.load(options.classifier or _tiny(folder))
        before, shown = environment.peak_memory(), []
        for rows in options.rows:
            source = _write(folder / f"{rows}.csv", rows)
            started = time.perf_counter()
            table = Table.survey(source)
            with terminal.bar(f"labelling {rows:,} rows", rows) as bar:
                summary = answer_file(classifier, table, folder / f"{rows}.out.csv", bar)
            seconds = time.perf_counter() - started
            assert summary.rows == rows
            shown.append([rows, f"{rows / seconds:,.0f}", f"{seconds:,.1f}", environment.peak_memory()])
    terminal.say(f"{device.cpu_name()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
                 f"PyTorch {torch.__version__}; {before:,} MiB once the classifier is loaded")  # fmt: skip
    terminal.table("files", ["rows", "rows/s", "seconds", "peak MiB"], shown)


def _tiny(folder: Path) -> Path:
    from tests import tiny, tuning

    return tuning.saved(tiny.save_base("llama", folder / "base"), folder / "classifier")


def _write(path: Path, rows: int) -> Path:
    """A CSV file of messages of 3 to 30 words."""
    rng = random.Random(rows)
    with path.open("w", encoding="utf-8") as stream:
        stream.write("id,when,text\n")
        for row in range(rows):
            stream.write(f"{row},2026-11-23,{' '.join(rng.choices(WORDS, k=rng.randint(3, 30)))}\n")
    return path


if __name__ == "__main__":
    errors.run(main)
