"""Train a classifier by the method of the settings, and keep the best of it as an artefact."""

from pathlib import Path

import torch

from labeltune.config.base import section
from labeltune.config.data import Dataset
from labeltune.config.model import Model, Prompt, Train
from labeltune.console import terminal
from labeltune.modeling import device
from labeltune.runtime import errors, files
from labeltune.training import checkpoints, run

PREPARED, TRAINED, CURVES = Path("data/prepared"), Path("models/trained"), Path("plots/curves")
METRICS, COSTS = Path("metrics/train.json"), Path("costs/train.json")


def main() -> None:
    """Write models/trained/, metrics/train.json, costs/train.json and plots/curves/."""
    settings, prompt = section("train", Train), section("prompt", Prompt)
    model, dataset = section("model", Model), section("dataset", Dataset)
    machine = device.choose(settings)
    torch.set_num_threads(machine.threads)
    terminal.say(f"training {'n-grams' if settings.method == 'ngrams' else model.name} on {machine}")
    paths = {split: PREPARED / f"{split}.csv" for split in ("train", "validation")}
    with checkpoints.workspace(), files.unchanged(paths) as data:
        task = run.Task.read(
            PREPARED, data, train=settings, model=model, prompt=prompt, dataset=dataset, machine=machine
        )
        with run.training(task, curves=CURVES) as trained:
            trained.save(TRAINED, METRICS, COSTS, CURVES)
    trained.show(TRAINED)


if __name__ == "__main__":
    errors.run(main)
