"""Turn raw rows into clean, leak-free, balanced splits with prompts."""

from pathlib import Path

from labeltune import conf, corrections, data, ledger, outputs, terminal
from labeltune.bases import load_tokenizer, open_base
from labeltune.origins import Dataset, Model
from labeltune.params import Prepare, Prompt
from labeltune.prompts import Encoder
from labeltune.sources import locate
from labeltune.tables import pinned, read_split

PREPARED = Path("data/prepared")
METRICS = Path("metrics/data.json")


def main() -> None:
    """Write the splits, labels.json and source.json into data/prepared/, and metrics/data.json."""
    dataset = pinned(locate(conf.section("dataset", Dataset)))
    settings = conf.section("prepare", Prepare)
    prompt, model = conf.section("prompt", Prompt), conf.section("model", Model)
    books = ledger.Ledger()

    given = [split for split in ("all", *ledger.SPLITS) if getattr(dataset, split) is not None]
    added = corrections.given(settings)
    folder = Path(dataset.folder) if dataset.folder and dataset.source == "files" else None
    with outputs.untouched(folder), outputs.unchanged(added):
        frames = {split: read_split(dataset, split) for split in given}
        frames = data.clean(frames, settings, dataset.labels, books)
        labels = data.label_set(frames, dataset.labels, dataset.verbalizer)
        with terminal.progress("looking for near duplicates", 2 * sum(map(len, frames.values()))) as progress:
            frames = data.split_rows(frames, settings, books, progress)
        for path in added.values():
            frames = corrections.add(frames, corrections.read(path, labels), settings, books)

        encoder = Encoder.of(load_tokenizer(open_base(model).folder), prompt, labels)
        tokens = {split: encoder.encode(frame["text"].tolist()) for split, frame in frames.items()}

        for split, frame in frames.items():
            rows = frame[["id", "label", "text"]].assign(
                prompt=[encoder.template.render(text) for text in frame["text"]]
            )
            outputs.write_table(PREPARED / f"{split}.csv", rows)
        labels.save(PREPARED / "labels.json")
        outputs.write_json(PREPARED / "source.json", dataset.provenance())
        figures = books.figures(frames, tokens, labels)
        outputs.write_json(METRICS, figures)
    ledger.show(figures, labels, PREPARED)


if __name__ == "__main__":
    terminal.run(main)
