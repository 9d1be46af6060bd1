"""Turn raw rows into clean, leak-free, balanced splits with prompts."""

from pathlib import Path

from labeltune.config import base
from labeltune.config.data import Dataset, Prepare
from labeltune.config.model import Model, Prompt
from labeltune.console import terminal
from labeltune.data import cleaning, splitting
from labeltune.data.discovery import find_source
from labeltune.data.loading import pin_revision, read_split
from labeltune.modeling.base_models import load_tokenizer, open_base
from labeltune.modeling.prompts import Encoder
from labeltune.runtime import errors, files

PREPARED = Path("data/prepared")
METRICS = Path("metrics/data.json")


def main() -> None:
    """Write the splits, labels.json and source.json into data/prepared/, and metrics/data.json."""
    dataset = pin_revision(find_source(base.section("dataset", Dataset)))
    settings = base.section("prepare", Prepare)
    prompt, model = base.section("prompt", Prompt), base.section("model", Model)
    books = cleaning.DataStatistics()

    given = [split for split in ("all", *cleaning.SPLITS) if getattr(dataset, split) is not None]
    added = cleaning.correction_files(settings)
    folder = Path(dataset.folder) if dataset.folder and dataset.source == "files" else None
    with files.untouched(folder), files.unchanged(added):
        frames = {split: read_split(dataset, split) for split in given}
        frames = cleaning.clean(frames, settings, dataset.labels, books)
        labels = cleaning.label_set(frames, dataset.labels, dataset.verbalizer)
        with terminal.progress("looking for near duplicates", 2 * sum(map(len, frames.values()))) as progress:
            frames = splitting.split_rows(frames, settings, books, progress)
        for path in added.values():
            frames = cleaning.add_corrections(frames, cleaning.read_corrections(path, labels), settings, books)

        encoder = Encoder.of(load_tokenizer(open_base(model).folder), prompt, labels)
        tokens = {split: encoder.encode(frame["text"].tolist()) for split, frame in frames.items()}

        for split, frame in frames.items():
            rows = frame[["id", "label", "text"]].assign(
                prompt=[encoder.template.render(text) for text in frame["text"]]
            )
            files.write_table(PREPARED / f"{split}.csv", rows)
        labels.save(PREPARED / "labels.json")
        cleaning.normalization(settings).save(PREPARED)
        files.write_json(PREPARED / "source.json", dataset.provenance())
        figures = books.figures(frames, tokens, labels)
        files.write_json(METRICS, figures)
    cleaning.show_statistics(figures, labels, PREPARED)


if __name__ == "__main__":
    errors.run(main)
