"""Inspection of unknown data: its files, how to read them, and statistics of the rows."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labeltune.config.data import Dataset
from labeltune.console.terminal import say, table
from labeltune.data.columns import PAIRS, SPLITS, USUAL, match_columns, split_of
from labeltune.data.deduplication import find_near_duplicates
from labeltune.data.discovery import saved_to_disk
from labeltune.data.encodings import likely_encoding
from labeltune.data.formats.rows import as_text
from labeltune.data.loading import read_split
from labeltune.data.readers import COLUMNAR, FORMATS, check_kind, detect_format, format_suffix, open_rows
from labeltune.data.targets import TOGETHER
from labeltune.evaluation.robustness.editing import language
from labeltune.runtime.errors import UserError

MARKS = (
    "split", "partition", "subset", "set", "fold", "phase", "usage", "data_split", "dataset_split", "split_name",
)  # fmt: skip
"""Names of columns that name the split of a row."""
NUMBERED = ("split", "data_split", "dataset_split")
"""Names of columns in which numbers are splits; elsewhere numbers may be folds of a cross-validation."""
TRUTH = {"0", "1", "0.0", "1.0", "true", "false"}
PEEKED = 2000
"""Number of rows that columns are detected by."""
COMPARED = 20_000
"""Maximum number of rows that are searched for near duplicates."""
NEAR = 0.8
SOME = 500
"""Number of rows that the language is detected by."""
TOKENS_PER_CHARACTER = {"en": 0.27, "zh": 0.75, "other": 0.6}
"""Approximate tokens per character of multilingual vocabularies; on the embedded data sets 0.23 to 0.28 for English and
0.6 to 0.8 for Chinese."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Statistics of a data set, and the settings that read it."""

    settings: dict[str, Any]
    """Keys of the data set's file under conf/datasets."""
    guessed: tuple[str, ...]
    """Keys whose values are guesses that the user should check."""
    rows: dict[str, int]
    """Split -> number of rows."""
    classes: dict[str, int]
    """Label -> number of rows, the most frequent first."""
    language: str
    """Language of most rows: `en`, `zh` or `other`."""
    tokens: tuple[int, int, int]
    """Estimated number of tokens of a text: median, 95th and 99th percentile."""
    blank: int
    """Number of rows without a text."""
    unlabelled: int
    """Number of rows without a label."""
    copies: int
    """Number of rows that repeat the text of an earlier row."""
    near: int
    """Number of near duplicates of an earlier row, among the first `COMPARED` rows."""
    conflicts: int
    """Number of texts with several labels."""
    spellings: dict[str, str]
    """Raw label -> label; raw labels that differ only in case or spaces have the same label."""
    lengths: NDArray[np.float64] = field(compare=False, repr=False)
    """Estimated number of tokens of each text."""

    @property
    def imbalance(self) -> float:
        """Ratio of the rows of the most frequent label to those of the rarest."""
        counts = list(self.classes.values())
        return counts[0] / counts[-1]

    def rare(self, least: int) -> dict[str, int]:
        """Return the labels with fewer than `rows` rows, and their numbers of rows."""
        return {name: count for name, count in self.classes.items() if count < least}

    def cut(self, room: int) -> tuple[float, float]:
        """Return the share of texts longer than `length` tokens, and the share of all tokens that are cut off."""
        beyond = np.maximum(0, self.lengths - room)
        return float((beyond > 0).mean()), float(beyond.sum() / max(1.0, self.lengths.sum()))


def inspect(place: Path, name: str, folder: Path, *, text: str | None = None, label: str | None = None) -> Inspection:
    """Inspect a file or a folder.

    Args:
        place: the file or folder to inspect, inside `folder`.
        name: name of the data set.
        folder: the data set's folder, relative to the project.
        text: name of the text column; None detects it.
        label: name of the label column; None detects it.

    Raises:
        UserError: there is nothing to read.
    """
    settings: dict[str, Any] = {"source": "files", "folder": folder.as_posix()} | _layout(place)
    first = _first_table(place, settings)
    guessed: list[str] = []
    sample = first or next(iter(sorted(place.rglob("*.txt"))), None)
    encoding, guess = "utf-8", False
    if sample:
        check_kind(sample)
    if sample and FORMATS.get(format_suffix(sample)) not in COLUMNAR:
        encoding, guess = likely_encoding(sample)
    if encoding != "utf-8":
        settings["encoding"] = encoding
        guessed += ["encoding"] * guess
    if first:
        settings = _without_unlabelled(place, settings, encoding, label) if place.is_dir() else settings
        columns, unsure = _columns(first, encoding, text, label)
        settings |= columns
        guessed += unsure
        if "all" in settings and columns.get("header", True):
            settings = _marked(first, encoding, settings)
    return describe(Dataset(name=name, **settings), settings, tuple(guessed))


def describe(dataset: Dataset, settings: dict[str, Any], guessed: tuple[str, ...] = ()) -> Inspection:
    """Read a data set and compute its statistics."""
    given = [split for split in ("all", "train", "validation", "test") if getattr(dataset, split) is not None]
    frames = {split: read_split(dataset, split) for split in given}
    rows = pd.concat(frames.values(), ignore_index=True)
    texts = rows["text"].fillna("").str.strip()
    labelled = rows["label"].fillna("").str.strip() != ""
    usable = (texts != "") & labelled
    counts = rows["label"][usable].value_counts()
    if len(counts) < 2:
        raise UserError(
            f"{dataset.name}: a classifier needs at least two classes; found {list(counts.index) or 'none'}"
        )
    spellings = _spellings({str(value): int(count) for value, count in counts.items()})
    kept, labels = texts[usable], rows["label"][usable].map(spellings)
    counts = labels.value_counts()
    spoken = pd.Series([language(value) for value in kept.iloc[:: max(1, len(kept) // SOME)]]).mode()[0]
    tokens = kept.str.len() * TOKENS_PER_CHARACTER[spoken]
    compared = kept.iloc[:COMPARED].tolist()
    near = find_near_duplicates(compared, range(len(compared)), NEAR, inside=False)
    exact = pd.Series(compared).duplicated().to_numpy()
    return Inspection(
        settings=settings,
        guessed=guessed,
        rows={split: len(frame) for split, frame in frames.items()},
        classes={str(value): int(count) for value, count in counts.items()},
        language=spoken,
        tokens=tuple(int(np.ceil(tokens.quantile(share))) for share in (0.5, 0.95, 0.99)),  # type: ignore[arg-type]
        blank=int((texts == "").sum()),
        unlabelled=int((~labelled).sum()),
        copies=int(kept.duplicated().sum()),
        near=int(((near >= 0) & ~exact).sum()),
        conflicts=int((labels.groupby(kept).nunique() > 1).sum()),
        spellings=spellings,
        lengths=np.array(tokens, dtype=np.float64),
    )


def _spellings(counts: dict[str, int]) -> dict[str, str]:
    """Map labels that differ only in case, spaces or Unicode form to their most frequent spelling.

    >>> _spellings({"spam": 5, "Spam": 2, "ham": 7})
    {'spam': 'spam', 'Spam': 'spam', 'ham': 'ham'}
    """
    alike: dict[str, str] = {}
    for label in sorted(counts, key=lambda label: -counts[label]):
        alike.setdefault(_folded(label), label)
    found = {label: alike[_folded(label)] for label in counts}
    return found if len(alike) > 1 else {label: label for label in counts}


def _folded(label: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def show(found: Inspection) -> None:
    """Print the statistics."""
    total = sum(found.rows.values())
    reading = {key: value for key, value in found.settings.items() if key not in ("source", "folder")}
    say("read as " + ", ".join(f"{key}: {value}" for key, value in reading.items()))
    if found.guessed:
        say(f"guessed, please check: {', '.join(found.guessed)}")
    shown = [[name, count, f"{count / total:.1%}"] for name, count in islice(found.classes.items(), 20)]
    say(f"{total:,} rows: {', '.join(f'{split} {rows:,}' for split, rows in found.rows.items())}")
    table("labels", ["label", "rows", "share"], shown)
    if len(found.classes) > len(shown):
        say(f"and {len(found.classes) - len(shown)} further labels")
    merged = {raw: label for raw, label in found.spellings.items() if raw != label}
    if merged:
        listed = ", ".join(f"{raw!r} is {label!r}" for raw, label in islice(merged.items(), 5))
        more = f" and {len(merged) - 5} more" if len(merged) > 5 else ""
        say(f"labels that differ only in case or spaces are merged: {listed}{more}; give them names of their own under "
            "labels: to keep them apart")  # fmt: skip
    named = {
        "en": "English or another in Latin letters",
        "zh": "Chinese",
        "other": "neither",
    }
    median, high, most = found.tokens
    say(f"language: {named[found.language]}; about {median} tokens per text, 95% below {high}, 99% below {most}")
    say(
        f"{found.blank:,} rows lack a text, {found.unlabelled:,} a label; {found.copies:,} exact copies, "
        f"{found.near:,} near copies among the first {min(total, COMPARED):,} rows, "
        f"{found.conflicts:,} texts with several labels (`prepare` handles them)"
    )


def _layout(place: Path) -> dict[str, Any]:
    """Return the files with the rows: the keys `all`, or `train`, `validation` and `test`."""
    if place.is_file():
        return {"all": place.name}
    if folders := _split_folders(place):
        return folders
    files = sorted(file for file in place.rglob("*") if format_suffix(file) in FORMATS and file.is_file())
    firsts = {file: re.split(r"[^a-z]+", file.name.lower())[0] for file in files}
    named = {
        split: file
        for split, words in SPLITS.items()
        for word in reversed(words)
        for file in reversed(files)
        if firsts[file] == word
    }
    if "validation" not in named and firsts.get(named.get("test", place)) in SPLITS["test"][:2]:
        # If there is a test file too, one for evaluation contains the validation rows.
        beside = [file for file in files if firsts[file] in SPLITS["test"][3:]]
        named |= {"validation": beside[0]} if beside else {}
    others = [file.relative_to(place).as_posix() for file in files if "train" in named and file not in named.values()]
    if others:
        say(f"files that are not read: {', '.join(others[:5])}{f' and {len(others) - 5} more' * (len(others) > 5)}")
    inside = {split: file.relative_to(place).as_posix() for split, file in named.items()}
    if {"train", "test"} <= inside.keys():
        return inside
    if {"train", "validation"} <= inside.keys():  # the labels of a hidden test set are not published
        return {"train": inside["train"], "test": inside["validation"]}
    only = files[0].relative_to(place).as_posix() if len(files) == 1 else "."
    return {"all": inside.get("train", only)}


def _without_unlabelled(place: Path, settings: dict[str, Any], encoding: str, label: str | None) -> dict[str, Any]:
    """Return the keys without splits whose tables lack a column of train, as if their labels were hidden."""
    given_splits = [split for split in ("train", "validation", "test") if split in settings]
    files: dict[str, Path] = {split: place / settings[split] for split in given_splits}
    if any(not file.is_file() or format_suffix(file) not in FORMATS for file in files.values()) or not files:
        return settings
    headers = {
        split: {name.strip() for name in open_rows(file, detect_format(file, encoding), encoding=encoding).columns}
        for split, file in files.items()
    }
    usual = [name for name in headers["train"] if name.casefold() in USUAL["label"]]
    needed = {label.strip()} if label else set(usual) if len(usual) == 1 else set()
    lacking: list[str] = [split for split in files if split != "train" and needed - headers[split]]
    lacking += [
        split for split in files
        if split not in ("train", *lacking) and not needed and len(headers[split]) == len(headers["train"]) - 1
        and headers[split] < headers["train"]
    ]  # fmt: skip
    if not lacking:
        return settings
    for split in lacking:
        say(f"{settings[split]} is left out: it has no labels; they are probably hidden")
    kept = {key: value for key, value in settings.items() if key not in ("train", "validation", "test")}
    given = [settings[split] for split in ("validation", "test") if split in settings and split not in lacking]
    return kept | ({"train": settings["train"], "test": given[0]} if given else {"all": settings["train"]})


def _split_folders(place: Path) -> dict[str, str]:
    """Return the keys of a folder with a folder per split, or saved by the datasets library; otherwise none."""
    folders = {
        split: path.name
        for split, words in SPLITS.items()
        for path in sorted(place.iterdir(), reverse=True)
        if path.is_dir() and path.name.casefold() in words and (_has_folders(path) or saved_to_disk(path))
    }
    if "train" in folders and len(folders) > 1:
        return folders if "test" in folders else {"train": folders["train"], "test": folders["validation"]}
    return {"all": "."} if saved_to_disk(place) else {}


def _has_folders(place: Path) -> bool:
    return any(path.is_dir() and not path.name.startswith((".", "_")) for path in place.iterdir())


def _marked(path: Path, encoding: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with the splits that a column names, if there is such a column."""
    table = open_rows(path, detect_format(path, encoding), encoding=encoding)
    taken = (settings["text"], settings["label"])
    marks = next((name for name in table.columns if name.strip().casefold() in MARKS and name not in taken), None)
    if marks is None:
        return settings
    values = {as_text(row.get(marks), f"{path}:{place}", marks) for place, row in table.take([marks])}
    splits = {split_of(value) for value in values}
    words = {(value or "").strip().casefold() for value in values}
    numbered = any(word.isdecimal() for word in words) and marks.strip().casefold() not in NUMBERED
    shown = ", ".join(map(str, sorted(values, key=str)[:5]))
    if None in splits or "train" not in splits or len(splits) == 1 or numbered:
        say(f"column {marks} is not used: none of its values ({shown}) names a test split")
        return settings
    if len(splits) < len(words):
        say(f"column {marks} is not used: of {shown}, several name one split; rename them train, validation and test")
        return settings
    file = settings["all"]
    given = {"train": file} | ({"validation": file} if "validation" in splits and "test" in splits else {})
    say(f"column {marks} names the rows for training, validation and test, and is used")
    kept = {key: value for key, value in settings.items() if key != "all"}
    return kept | given | {"test": file, "split_column": marks}


def _first_table(place: Path, settings: dict[str, Any]) -> Path | None:
    """Return a file whose columns all files have; None if files have no columns."""
    if place.is_file():
        return place
    file = place / settings.get("all", settings.get("train", ""))
    if file.is_dir():
        tables = sorted(inner for inner in file.iterdir() if format_suffix(inner) in FORMATS)
        return tables[0] if tables else None
    return file


def _columns(path: Path, encoding: str, text: str | None, label: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return the keys `text`, `label` and, if there is no header, `header`; and which of them are guesses."""
    kind = detect_format(path, encoding)
    table = open_rows(path, kind, encoding=encoding)
    rows = [row for _, row in islice(table.take(None), PEEKED)]
    if not rows:
        raise UserError(f"{path}: there are no rows")
    names = table.columns
    values = {name: [str(row[name]) for row in rows if row.get(name) is not None] for name in names}
    lower = {name.strip().casefold(): name for name in names}
    pair = next(([lower[one] for one in pair] for pair in PAIRS if text is None and lower.keys() >= set(pair)), None)
    if pair:
        raise UserError(
            f"{path}: {pair[0]} and {pair[1]} look like a pair of texts that is labelled together, which "
            "this version does not support; to read only one of them, name it with --text"
        )
    if kind in ("csv", "tsv") and not text and not label and _headless(names, values):
        values = {name: [name, *column] for name, column in values.items()}
        found_text, found_label = _guess(values)
        return {"header": False, "text": names.index(found_text), "label": names.index(found_label)}, [
            "header", "text", "label",
        ]  # fmt: skip
    ask = {key: f"name one with --{key}" for key in ("text", "label")}
    found = match_columns(table.header, text, label, table.where, ask)
    chosen = {key: None if place is None else names[place] for key, place in found.items()}
    missing = [key for key, value in chosen.items() if value is None]
    if missing:
        taken = {value for value in chosen.values() if value}
        taken |= {name for name in names if name.strip().casefold() in MARKS}
        switches = [name for name in names if values[name] and {one.casefold() for one in values[name]} <= TRUTH]
        if "label" in missing and len(switches) > 1:
            raise UserError(
                f"{path}: {', '.join(switches)} contain only 0 and 1, as if each were a label of its own: {TOGETHER}; "
                "to learn one of them, name it with --label"
            )
        guess = dict(
            zip(("text", "label"), _guess({n: v for n, v in values.items() if n not in taken}, missing), strict=True)
        )
        chosen |= {key: guess[key] for key in missing}
    return dict(chosen), missing


def _headless(names: Sequence[str], values: dict[str, list[str]]) -> bool:
    """Return whether the first line is a row and not a header: its label recurs, and its text is as long as others."""
    found = match_columns(list(names), None, None, "", {})
    if any(place is not None for place in found.values()):
        return False
    lengths = {name: sorted(map(len, column)) for name, column in values.items() if column}
    text = max(lengths, key=lambda name: sum(lengths[name]) / len(lengths[name]), default="")
    long = 2 * len(text) >= (lengths[text][len(lengths[text]) // 2] if text else 0)
    return long and any(values[name].count(name) > 1 for name in names)


def _guess(values: dict[str, list[str]], missing: list[str] | tuple[str, ...] = ("text", "label")) -> tuple[str, str]:
    """Guess that the text is the column with the longest values, and the label that with the fewest distinct ones."""
    lengths = {name: sum(map(len, column)) / max(1, len(column)) for name, column in values.items()}
    text = max(lengths, key=lambda name: lengths[name]) if "text" in missing else ""
    kinds = {name: len(set(column)) for name, column in values.items() if name != text}
    able = [name for name, count in kinds.items() if count > 1]
    if "label" in missing and not able:
        raise UserError(f"no column looks like a label among {', '.join(values)}; name it with --label")
    return text, min(able, key=lambda name: kinds[name]) if "label" in missing else ""
