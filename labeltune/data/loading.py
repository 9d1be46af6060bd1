"""Loading a split, from any format or the Hub, as ids, texts and raw labels."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

from labeltune.config.data import Dataset
from labeltune.console.terminal import say
from labeltune.data.columns import SPLITS, find_columns, split_of
from labeltune.data.discovery import DataFile, find_files
from labeltune.data.encodings import read_lines, read_text
from labeltune.data.formats.rows import as_label, as_text, class_name
from labeltune.data.readers import open_rows
from labeltune.data.targets import check_labels
from labeltune.runtime.errors import UserError

COMMIT = re.compile(r"[0-9a-f]{40}")


def read_split(dataset: Dataset, split: str) -> pd.DataFrame:
    """Read the rows of a split, unchanged, in the order of the files.

    Args:
        dataset: The data set; files of package sources are downloaded if necessary.
        split: all, train, validation or test.

    Returns:
        One row per record: `id` (`<file>:<line or row>`, 1-based and unique; the relative path if a file
        is a text; `<split>:<row>` of the Hub), `text` (string or None) and `label` (the raw value as a
        canonical string, or None).

    Raises:
        UserError: A file can't be read as declared; the message has file, line and the key to edit.
    """
    ids: list[str] = []
    texts: list[str | None] = []
    labels: list[str | None] = []
    # A class is the same string in millions of rows, so it is stripped only once.
    known: dict[str, str] = {}
    key = f"conf/datasets/{dataset.name}.yaml"
    unread: dict[str, None] = {}
    for row_id, text, label in _rows(dataset, split, unread):
        ids.append(row_id)
        texts.append(text if isinstance(text, str) else as_text(text, row_id, f"text: in {key}"))
        if isinstance(label, str):
            if label not in known:
                known[label] = label.strip()
            labels.append(known[label])
        else:
            labels.append(as_label(label, row_id, f"label: in {key}"))
    if not ids:
        raise UserError(f"{key}: {split}: {getattr(dataset, split)} holds no rows")
    if unread:
        say(f"{dataset.name}: columns of {split} that are not read: {', '.join(unread)}")
    if dataset.labels is None and split in ("all", "train"):
        found = {label for label in labels if label}
        check_labels(found, len(labels), f"{key}: {split}", f"if they are classes, list them as labels: in {key}")
    # As objects: pandas would turn None into NaN.
    return pd.DataFrame({"id": ids, "text": texts, "label": labels}, dtype=object)


def _rows(dataset: Dataset, split: str, unread: dict[str, None]) -> Iterator[tuple[str, object, object]]:
    if dataset.source == "hub":
        yield from _of_hub(dataset, split)
        return
    for shard in find_files(dataset, split):
        yield from _of_shard(shard, dataset, split, unread)


def _of_shard(
    shard: DataFile, dataset: Dataset, split: str, unread: dict[str, None]
) -> Iterator[tuple[str, object, object]]:
    conf = f"conf/datasets/{dataset.name}.yaml"
    path, name = shard.path, shard.name
    if shard.format == "folder":
        yield name, read_text(path, dataset.encoding, conf), shard.label
    elif shard.format == "lines":
        for i, line in enumerate(read_lines(path, dataset.encoding, conf), 1):
            yield f"{name}:{i}", line.rstrip("\r\n"), shard.label
    else:
        yield from _of_table(shard, dataset, split, unread)


def _of_table(
    shard: DataFile, dataset: Dataset, split: str, unread: dict[str, None]
) -> Iterator[tuple[str, object, object]]:
    conf = f"conf/datasets/{dataset.name}.yaml"
    rows = open_rows(
        shard.path,
        shard.format,
        encoding=dataset.encoding,
        header=dataset.header,
        quoting=dataset.quoting,
        conf=conf,
    )
    if not rows.columns:
        return
    if shard.format in ("csv", "tsv") and len(rows.columns) == 1:
        raise UserError(f"{rows.where}: one column only, {rows.columns[0]!r:.60}: a text and a label are expected")
    found = find_columns(rows.header, dataset.text, dataset.label, rows.where, conf)
    text, label = (rows.columns[i] for i in found)
    names, marks = rows.classes.get(label), dataset.split_column
    if marks is not None and marks not in rows.columns:
        raise UserError(
            f"{rows.where}: no column {marks!r}; there are {', '.join(rows.columns)}: edit split_column: in {conf}"
        )
    read = (text, label) if marks is None else (text, label, marks)
    named = (
        rows.columns
        if isinstance(rows.header, int)
        else [column for column, name in zip(rows.columns, rows.header, strict=True) if name.strip()]
    )
    unread.update(dict.fromkeys(column for column in named if column not in read))
    for place, row in rows.take(read):
        if marks is not None and not _is_of(row.get(marks), split, dataset, f"{shard.path}:{place}"):
            continue
        raw = row.get(label)
        row_id = f"{shard.name}:{place}"
        yield row_id, row.get(text), raw if names is None else class_name(raw, names, row_id)


def _is_of(value: object, split: str, dataset: Dataset, where: str) -> bool:
    """Return whether the split column assigns a row to a split."""
    found = split_of(as_text(value, where, "split_column"))
    if found is None:
        words = ", ".join(word for words in SPLITS.values() for word in words)
        raise UserError(
            f"{where}: {value!r} in column {dataset.split_column} names no split: it is one of {words}; correct it, or "
            f"edit split_column: in conf/datasets/{dataset.name}.yaml"
        )
    return found == split or (found == "validation" and split == "test" and dataset.validation is None)


def pin_revision(dataset: Dataset) -> Dataset:
    """Return a data set of the Hub pinned to the current commit of its `revision`, so that all splits agree.

    Raises:
        UserError: it can't be downloaded, or there is no network and the cache holds another than the pinned commit.
    """
    if dataset.source != "hub":
        return dataset
    import datasets

    with _asking(dataset, ""):
        builder: Any = datasets.load_dataset_builder(str(dataset.hub), dataset.hub_config, revision=dataset.revision)
    if not COMMIT.fullmatch(str(builder.hash)):
        return dataset  # a local folder that is loaded as a data set of the Hub
    if COMMIT.fullmatch(dataset.revision or "") and builder.hash != dataset.revision:
        raise UserError(
            f"conf/datasets/{dataset.name}.yaml: revision: {dataset.revision} of {dataset.hub} is not in the cache, "
            f"which holds {builder.hash}; run `labeltune fetch RECIPE` where there is a connection"
        )
    return dataset.model_copy(update={"revision": builder.hash})


def hub_splits(dataset: Dataset) -> list[str]:
    """Return the names of the splits of a data set on the Hub.

    Raises:
        UserError: it can't be downloaded.
    """
    import datasets

    with _asking(dataset, ""):
        return [
            str(name)
            for name in datasets.get_dataset_split_names(
                str(dataset.hub), dataset.hub_config, revision=dataset.revision
            )
        ]


def _of_hub(dataset: Dataset, split: str) -> Iterator[tuple[str, object, object]]:
    """Yield the rows of a data set of the Hub; class numbers are replaced by their names."""
    import datasets

    key = f"conf/datasets/{dataset.name}.yaml"
    value = getattr(dataset, split)
    if not isinstance(value, str):
        raise UserError(f"{key}: {split}: with source: hub this is the name of a split, not {value!r}")
    where = f"hub: {dataset.hub}"
    with _asking(dataset, f", {split}: {value}"):
        table: Any = datasets.load_dataset(str(dataset.hub), dataset.hub_config, revision=dataset.revision, split=value)
    names = list(table.features)
    text, label = (names[i] for i in find_columns(names, dataset.text, dataset.label, where, key))
    classes = table.features[label]
    named = classes.names if isinstance(classes, datasets.ClassLabel) else None
    number = 0
    for batch in table.select_columns([text, label]).with_format("arrow").iter(10_000):
        for one, raw in zip(batch[text].to_pylist(), batch[label].to_pylist(), strict=True):
            number += 1
            yield f"{value}:{number}", one, raw if named is None else class_name(raw, named, f"{value}:{number}")


@contextmanager
def _asking(dataset: Dataset, what: str) -> Iterator[None]:
    """Turn the errors of the datasets library into a message that says what to do."""
    import datasets

    key = f"conf/datasets/{dataset.name}.yaml"
    try:
        yield
    except ValueError as error:
        # An unknown split or configuration; the library's message lists those there are.
        raise UserError(f"{key}: hub: {dataset.hub}{what}, hub_config: {dataset.hub_config}: {error}") from error
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        local = (
            f"\nOr put its files into {dataset.folder}, under the names in {key}; queued and --temp experiments see "
            f"them after `dvc add {dataset.folder}`."
            if dataset.folder
            else ""
        )
        raise UserError(
            f"{key}: hub: {dataset.hub} could not be loaded: {error}\nCheck the name and revision; with a connection, "
            "run `labeltune fetch RECIPE`; for a mirror set HF_ENDPOINT; for a private or gated one run "
            f"`hf auth login`.{local}"
        ) from error
