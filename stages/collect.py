"""Collect the rows of the data set, wherever they lie."""

from pathlib import Path

from labeltune.config import base
from labeltune.config.data import Dataset, Prepare
from labeltune.console import terminal
from labeltune.data import collection
from labeltune.runtime import errors

COLLECTED = Path("data/collected")


def main() -> None:
    """Write data/collected/: the rows of this data set alone, as they are given, and where they come from."""
    dataset, corrections = base.section("dataset", Dataset), base.section("prepare", Prepare).corrections
    rows = collection.collect(dataset, corrections, COLLECTED)
    terminal.say(f"collected {', '.join(f'{count:,} rows of {name}' for name, count in rows.items())}")


if __name__ == "__main__":
    errors.run(main)
