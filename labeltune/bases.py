"""Base models on disk: fetched, converted once, and hashed."""

import json
import logging
import os
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
import torch
import transformers
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from labeltune.archives import cache_dir
from labeltune.origins import Model
from labeltune.outputs import digest
from labeltune.sources import model_folder


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base model on disk, in Transformers' format."""

    name: str
    """What the records call it: its Hub name, or the archives it came from."""
    folder: Path
    """Where config.json, the weights and the tokenizer lie."""
    files: dict[str, str]
    """File name -> sha256 of what decides the logits: weights, configuration, tokenizer."""
    revision: str | None = None
    """Commit on the Hub that it is."""


def open_base(model: Model) -> Base:
    """Fetch the base model, converting a GGUF file once into safetensors in the cache.

    Raises:
        UserError: it can't be fetched, or isn't what the pinned hashes say.
    """
    source = model_folder(model)
    folder = _converted(source, model) if source.suffix == ".gguf" else source
    kept = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".json", ".txt", ".model"))
    revision = folder.name if model.source == "hub" else None  # the Hub's cache names a folder by its commit
    hashes = {file.name: digest(file) for file in kept}
    return Base(name=model.title, folder=folder, files=hashes, revision=revision)


def _converted(file: Path, model: Model) -> Path:
    """Convert a GGUF file into a Transformers folder, kept under the file's hash and the converter's version."""
    folder = cache_dir() / "models" / f"{model.name}-{digest(file)[:12]}-transformers-{transformers.__version__}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        print(f"converting {model.name} to safetensors, once", flush=True)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        options: dict[str, Any] = {"gguf_file": file.name}
        with quiet(), _read_once():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
            # Without dequantize=True the weights stay packed: they could be neither trained nor saved.
            options |= {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.bfloat16}
            network = AutoModelForCausalLM.from_pretrained(file.parent, **options)
            network.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        _forget_origin(partial / "config.json")
        os.replace(partial, folder)
    return folder


@contextmanager
def _read_once() -> Iterator[None]:
    """Let Transformers parse the file once; it does so for the tokenizer, the configuration and the weights each.

    With it, opening a 98 MB file for the first time took 19 seconds instead of 25. Its bar, which no setting of
    Transformers stops, is for terminals.
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


def load_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """Load a tokenizer that has a pad token; decoders without one pad with the end-of-text token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Transformers and PEFT say about a head that is replaced right after, and their loading bars."""
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
