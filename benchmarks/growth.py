"""How labeltune grows with rows and with the model: `python -m benchmarks.growth`, after `dvc repro prepare`.

Trains on the first rows of the prepared ones, once for each number of rows and each base model, in a process of its own
each, where nothing is known beforehand. Prints seconds, rows per second and memory; writes them to a JSON file.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.sides import PREPARED, catalogued, run
from labeltune.config import base, resolve
from labeltune.config.resolve import Resolved
from labeltune.console import terminal
from labeltune.modeling import base_models
from labeltune.runtime import errors
from labeltune.runtime.files import read_prepared, write_json, write_table

ANSWERED = 256
"""Test rows that are asked."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    resolved = Resolved.model_validate(base.read_yaml(base.RESOLVED))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 5000, 20000, 50000], help="default: %(default)s")
    parser.add_argument("--models", nargs="+", default=[resolved.model.name], help="default: the recipe's")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/growth.json"))
    options = parser.parse_args(arguments)
    given = {split: read_prepared(PREPARED / f"{split}.csv") for split in ("train", "test")}
    measured = []
    with terminal.progress("growth", len(options.rows) * len(options.models), unit="runs") as progress:
        for name in options.models:
            model = catalogued(name)
            base_models.open_base(model)
            for count in options.rows:
                if count > len(given["train"]):
                    terminal.say(f"{count:,} rows: data/prepared/train.csv has {len(given['train']):,}; left out")
                    progress(1)
                    continue
                with TemporaryDirectory() as place:
                    folder = Path(place)
                    shutil.copytree(PREPARED, folder / PREPARED)
                    write_table(folder / PREPARED / "train.csv", given["train"].head(count))
                    write_table(folder / PREPARED / "test.csv", given["test"].head(ANSWERED))
                    settings = resolved.model_copy(update={"model": model})
                    (folder / base.RESOLVED).write_text(resolve.write_resolved(settings), encoding="utf-8")
                    found = run(["benchmarks.ours", str(resolved.train.seed)], folder)
                assert found, "labeltune has all packages that it needs"
                seconds, rate = found["train_seconds"], len(found["answers"]) / found["inference_seconds"]
                measured.append(
                    {
                        "model": name,
                        "rows": count,
                        "train_seconds": seconds,
                        "train_rows_per_second": round(count / seconds, 1),
                        "inference_rows_per_second": round(rate, 1),
                        "peak_mib": found["peak_mib"],
                    }
                )
                progress(1)
    write_json(options.out, {"recipe": resolved.recipe, "runs": measured})
    terminal.table("growth", list(measured[0]), [list(one.values()) for one in measured])
    terminal.say(f"figures in {options.out}")


if __name__ == "__main__":
    errors.run(main)
