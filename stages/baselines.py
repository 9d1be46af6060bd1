"""Ask cheaper models the same test rows."""

from pathlib import Path

import torch

from labeltune.config.base import section
from labeltune.config.evaluation import Baselines
from labeltune.config.model import Model, Prompt, Train
from labeltune.data.labels import LabelSet
from labeltune.evaluation import baselines, probe_baseline
from labeltune.modeling import base_models, device
from labeltune.modeling.prompts import Encoder
from labeltune.probing import regression
from labeltune.probing.hidden_states import load_probed_model
from labeltune.runtime import errors
from labeltune.runtime.files import read_prepared, unchanged, write_metrics, write_table

PREPARED = Path("data/prepared")
PREDICTIONS, FEATURES = Path("data/baselines/predictions.csv"), Path("data/baselines/features.npz")
METRICS, COSTS = Path("metrics/baselines.json"), Path("costs/baselines.json")


def main() -> None:
    """Write data/baselines/, metrics/baselines.json and costs/baselines.json."""
    settings = section("baselines", Baselines)
    prompt, model = section("prompt", Prompt), section("model", Model)
    # Of the training only dtype, attention, threads, and the rows by which layers are compared make a difference here.
    train = section("train", Train)
    machine = device.choose(train)
    torch.set_num_threads(machine.threads)
    files = {split: PREPARED / f"{split}.csv" for split in ("train", "validation", "test")}

    with unchanged(files), regression.single_threaded():
        labels = LabelSet.load(PREPARED / "labels.json")
        splits = {split: baselines.Split.of(read_prepared(path), labels) for split, path in files.items()}
        # Lightest first, so that each one's peak of memory is its own.
        found = [baselines.majority(splits, labels), baselines.tfidf(splits, labels)]

        base = base_models.open_base(model)
        encoder = Encoder.of(base_models.load_tokenizer(base.folder), prompt, labels)
        read = load_probed_model(base, labels, encoder, machine, scoring=settings.zero_shot)
        probed = probe_baseline.sampled(splits, settings.probe_rows, settings.seed)
        compared = probe_baseline.compared(splits, train, len(labels))
        answers, states = probe_baseline.answer(read, probed, compared, encoder, len(labels), train)
        found += answers

        write_table(PREDICTIONS, baselines.answers(found, splits["test"], labels))
        regression.save(FEATURES, states)
        write_metrics(METRICS, baselines.chosen(found, read.missing))
        write_metrics(COSTS, baselines.costs(found))
    baselines.show(found, read.missing, PREDICTIONS)


if __name__ == "__main__":
    errors.run(main)
