"""Turn raw rows into clean, leak-free, balanced splits with prompts."""

import os
from pathlib import Path

from labeltune.config import base
from labeltune.config.data import Dataset, Prepare
from labeltune.config.model import Model, Prompt
from labeltune.console import terminal
from labeltune.data import cleaning, collection, splitting
from labeltune.modeling.base_models import load_tokenizer, open_base
from labeltune.modeling.prompts import Encoder
from labeltune.runtime import errors, files

COLLECTED, PREPARED = Path("data/collected"), Path("data/prepared")
METRICS = Path("metrics/data.json")


def main() -> None:
    """Write splits, labels.json, prevalence.json and source.json into data/prepared/, and metrics/data.json."""
    dataset, settings = base.section("dataset", Dataset), base.section("prepare", Prepare)
    prompt, model = base.section("prompt", Prompt), base.section("model", Model)
    statistics = cleaning.DataStatistics()
    if "DVC_STAGE" not in os.environ:  # run by hand: nothing else sees to it that these are the rows of now
        collection.collect(dataset, settings.corrections, COLLECTED)

    with files.untouched(COLLECTED):
        collected = collection.Collected.read(COLLECTED)
        frames = cleaning.clean(collected.frames, settings, dataset.labels, statistics)
        with terminal.progress("looking for near duplicates", 2 * sum(map(len, frames.values()))) as progress:
            frames = splitting.split_rows(frames, settings, statistics, progress)
        labels = cleaning.label_set(frames, dataset.labels, dataset.verbalizer, statistics.rare)
        if settings.corrections is not None:
            rows = cleaning.read_corrections(collected.corrections, Path(settings.corrections), labels)
            frames = cleaning.add_corrections(frames, rows, settings, statistics)

        encoder = Encoder.of(load_tokenizer(open_base(model).folder), prompt, labels)
        tokens = {split: encoder.encode(frame["text"].tolist()) for split, frame in frames.items()}

        for split, frame in frames.items():
            rows = frame[["id", "label", "text"]].assign(
                prompt=[encoder.template.render(text) for text in frame["text"]]
            )
            files.write_table(PREPARED / f"{split}.csv", rows)
        labels.save(PREPARED / "labels.json")
        cleaning.normalization(settings).save(PREPARED)
        assert statistics.prevalence is not None, "the rows were split"
        statistics.prevalence.save(PREPARED)
        files.write_json(PREPARED / "source.json", collected.source)
        figures = statistics.figures(frames, tokens, labels, template=encoder.frame)
        files.write_metrics(METRICS, figures)
    cleaning.show_statistics(figures, labels, PREPARED)


if __name__ == "__main__":
    errors.run(main)
