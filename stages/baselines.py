"""Ask cheaper models the same test rows."""

from pathlib import Path

import torch

from labeltune import baselines, bases, conf, features, hardware, ngrams, outputs, probes, regression, terminal
from labeltune.evaluation import Baselines
from labeltune.labels import LabelSet
from labeltune.origins import Model
from labeltune.params import Prompt, Train
from labeltune.prompts import Encoder
from labeltune.untuned import load

PREPARED = Path("data/prepared")
PREDICTIONS, FEATURES = Path("data/baselines/predictions.csv"), Path("data/baselines/features.npz")
METRICS, COSTS = Path("metrics/baselines.json"), Path("costs/baselines.json")


def main() -> None:
    """Write data/baselines/, metrics/baselines.json and costs/baselines.json."""
    settings = conf.section("baselines", Baselines)
    prompt, model = conf.section("prompt", Prompt), conf.section("model", Model)
    # Of the training only dtype, attention, threads, and the rows by which layers are compared make a difference here.
    train = conf.section("train", Train)
    machine = hardware.choose(train)
    torch.set_num_threads(machine.threads)
    files = {split: PREPARED / f"{split}.csv" for split in ("train", "validation", "test")}

    with outputs.unchanged(files), regression.single_threaded():
        labels = LabelSet.load(PREPARED / "labels.json")
        splits = {split: baselines.Split.of(outputs.read_prepared(path), labels) for split, path in files.items()}
        # Lightest first, so that each one's peak of memory is its own.
        found = [baselines.majority(splits, labels), ngrams.tfidf(splits, labels)]

        base = bases.open_base(model)
        encoder = Encoder.of(bases.load_tokenizer(base.folder), prompt, labels)
        untuned = load(base, labels, encoder, machine, scoring=settings.zero_shot)
        probed = probes.sampled(splits, settings.probe_rows, settings.seed)
        compared = probes.compared(splits, train.depth_rows, len(labels))
        answers, states = probes.answer(untuned, probed, compared, encoder, len(labels), budget=train.trunk_budget)
        found += answers

        outputs.write_table(PREDICTIONS, baselines.answers(found, splits["test"], labels))
        features.save(FEATURES, states)
        outputs.write_json(METRICS, baselines.chosen(found, untuned.missing))
        outputs.write_json(COSTS, baselines.costs(found))
    baselines.show(found, untuned.missing, PREDICTIONS)


if __name__ == "__main__":
    terminal.run(main)
