"""`labeltune doctor`: report hardware, missing software, and which trainings fit and how long they take."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import logging

from labeltune.config import base, resolve
from labeltune.config.model import Train, auto_epochs, auto_layers
from labeltune.config.resolve import Resolved
from labeltune.console import terminal
from labeltune.data.labels import LabelSet
from labeltune.data.loading import read_split
from labeltune.modeling import device
from labeltune.modeling.architectures import is_encoder
from labeltune.modeling.base_models import load_config, load_tokenizer, open_base
from labeltune.modeling.forward import prefix_tokens
from labeltune.modeling.prompts import Encoder
from labeltune.probing.layer_probes import compared_rows, fewest_layers, patience
from labeltune.runtime import limits
from labeltune.runtime.cache import cache_dir
from labeltune.runtime.files import read_prepared
from labeltune.training.trainer import validations_per_epoch

FORWARD, BACKWARD, WEIGHTS = 2, 2, 2
"""Operations per weight and token: forward pass, gradients of the inputs, gradients of the weights."""
FROZEN_REST, TRAINED_REST = 800.0, 300.0
"""Rate, in 1e9 operations a second, of everything but matrix products: in frozen layers, whose batches have rows of one
length, and in layers that train. Measured on 2 cores with SmolLM2-135M on SMS Spam, in fp32 at 294 and
in bf16 at 1,530."""
LIBRARIES = 1200
"""Memory in MiB of a process with all libraries and a small model, fitted to the runs of docs/results.md."""
START_SECONDS = 4.5
"""Seconds to load the base model and its tokenizer."""
MIB = 1 << 20
STEP_STATES = 34
"""Numbers per token and unit of width that a trained layer keeps for the backward pass, attention included."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The dimensions of a base model that an estimate depends on."""

    layers: int
    """Number of transformer layers."""
    layer_weights: int
    """Number of weights of one layer."""
    embedding_weights: int
    """Number of weights of the embeddings, which are looked up and not multiplied."""
    width: int
    """Size of a hidden state."""
    decoder: bool
    """Whether tokens do not attend to later ones, so that the common prefix of all prompts is computed once."""

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Return the shape of the model that a Transformers configuration describes."""
        text = config.get_text_config()
        width, heads = text.hidden_size, text.num_attention_heads
        head = getattr(text, "head_dim", None) or width // heads
        shared = getattr(text, "num_key_value_heads", None) or heads
        attention = width * head * (2 * heads + 2 * shared)
        inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * width
        gated = 2 if text.model_type in ("bert", "roberta", "xlm-roberta", "mpnet", "gpt2") else 3
        return cls(
            layers=text.num_hidden_layers,
            layer_weights=attention + gated * width * inner,
            embedding_weights=text.vocab_size * width,
            width=width,
            decoder=not is_encoder(text),
        )


def longest(lengths: Sequence[int], batch: int) -> float:
    """Return the mean length of the longest of `batch` rows drawn at random, which the others are padded to.

    >>> longest([1, 2, 3], batch=1), round(longest([0, 1], batch=3), 3)
    (2.0, 0.875)
    """
    shares = np.arange(len(lengths) + 1) / len(lengths)
    return float(np.diff(shares**batch) @ np.sort(lengths))


def attained(gflops: float, rest: float) -> float:
    """Return operations a second, from the rates of matrix products and of everything else, in 1e9 a second.

    >>> attained(300.0, 300.0)
    150000000000.0
    """
    return 1e9 / (1 / gflops + 1 / rest)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated time and memory of a training."""

    seconds: float
    """Seconds that `train` takes, without the frozen layers if another run has computed their states."""
    memory_mib: int
    """Largest resident memory, in MiB."""


def estimate(
    shape: Shape, train: Train, *, rows: int, validation: int, tokens: float, padded: float, prefix: int, gflops: float
) -> Estimate:
    """Estimate the time and memory of a training; for `depth: auto`, at the smallest depth that it may select.

    Args:
        rows: number of rows of the training split.
        validation: number of rows of the validation split.
        tokens: mean number of tokens of a row with its prompt.
        padded: mean number of tokens of the longest row of a batch.
        prefix: number of tokens that every prompt begins with.
        gflops: rate of matrix products on this machine, in 1e9 operations a second.
    """
    depth = train.depth if isinstance(train.depth, int) else shape.layers
    probed = train.depth == "auto" and (train.effort == "fast" or (train.effort == "balanced" and shape.decoder))
    if probed:
        depth = fewest_layers(shape.layers)
    layers: int | str = train.layers
    if layers == "auto":
        layers, _ = auto_layers(train.effort, train.method, depth, rows, on_gpu=False)
    epochs = auto_epochs(train.effort, rows) if train.epochs == "auto" else train.epochs
    top = min(depth, layers) if isinstance(layers, int) else depth
    top = 0 if train.method == "probe" else top
    below = depth - top
    back = BACKWARD + (WEIGHTS if train.method == "full" else 0)
    held = validation * validations_per_epoch(epochs) * epochs * FORWARD
    pooled = shape.decoder and train.head != "label_scoring"
    own = tokens - prefix if pooled else tokens
    learnt = own if pooled and train.packing is not False else padded
    frozen = FORWARD * below * shape.layer_weights * (rows + validation) * own
    trained = top * shape.layer_weights * (rows * epochs * learnt * (FORWARD + back) + tokens * held)
    probing = 0.0
    if probed:
        few = compared_rows(train.probe_rows, train.effort, num_labels=2)
        most = rows + validation if few == "all" else few
        read = min(shape.layers, depth + patience(shape.layers))
        probing = FORWARD * read * shape.layer_weights * own * (min(rows, most) + min(validation, most))
    seconds = (
        START_SECONDS + (frozen + probing) / attained(gflops, FROZEN_REST) + trained / attained(gflops, TRAINED_REST)
    )

    weights = depth * shape.layer_weights
    loaded = 4 * (weights + shape.embedding_weights) * (0.5 if train.method == "qlora" else 1)
    optimiser = 12 * top * shape.layer_weights if train.method == "full" else 0
    states = 4 * (rows + validation) * tokens * shape.width if below and top else 0
    activations = 4 * STEP_STATES * train.batch_size * learnt * shape.width * top
    memory = LIBRARIES + (loaded + optimiser + states + activations) / MIB
    return Estimate(seconds=seconds, memory_mib=round(memory))


EXTRAS = {
    "chat": ("chainlit", "the chat page"),
    "serve": ("fastapi", "the HTTP service"),
    "remote": ("dvc_s3", "`dvc push` to S3, Google Cloud, Azure, SSH"),
    "track": ("wandb", "Weights & Biases, MLflow, TensorBoard, DVCLive"),
    "scale": ("onnxruntime", "export to ONNX"),
    "test": ("pytest", "the tests"),
}
GIB = 1 << 30
SAMPLED = 1000
METHODS = ("full", "lora", "qlora", "probe")


def examine(recipe: str | None) -> None:
    """Print hardware, software and the cost of a recipe; None takes the recipe that params.yaml resolves to."""
    logging.set_verbosity_error()
    rates = device.measure_matmul()
    _machine(rates)
    _software()
    _plans(recipe, rates)


def _machine(rates: dict[str, float]) -> None:
    disk = shutil.disk_usage(Path.cwd())
    memory = f"{limits.available_memory() / GIB:.1f} of {limits.total_memory() / GIB:.1f} GiB free"
    able = torch.cpu.get_capabilities()
    flags = [name for name in ("avx2", "avx512_bf16", "amx_bf16") if able.get(name)]
    shown = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    gpu = "Apple's, which is not used: the CPU computes" if device.apple_gpu() else "none"
    if torch.cuda.is_available():
        gpu = f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / GIB:.0f} GiB"
    terminal.table(
        "machine",
        ["what", "found"],
        [
            ["CPU", f"{device.cpu_name()}, {limits.cores()} cores, {', '.join(flags) or 'no AVX'}"],
            ["matrix products", f"{shown} GFLOP/s: train.dtype auto takes {device.choose_dtype('auto')}"],
            ["GPU", gpu],
            ["memory", memory],
            ["disk", f"{disk.free / GIB:.1f} GiB free here"],
            ["cache", f"{cache_dir()}: {_size(cache_dir()) / GIB:.2f} GiB"],
        ],
    )


def _software() -> None:
    rows = [[name, importlib.metadata.version(name)] for name in ("torch", "transformers", "peft", "dvc")]
    for extra, (module, purpose) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        rows.append([f"extra {extra}", purpose if there else f"missing: pip install -e '.[{extra}]' for {purpose}"])
    for name, sign in (("Git", ".git"), ("DVC", ".dvc")):
        rows.append([name, "ready" if Path(sign).exists() else f"no {sign} here: run this in the project's top folder"])
    changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False)
    if changed.stdout.strip():
        rows.append(["", f"{len(changed.stdout.splitlines())} files differ from the last commit"])
    terminal.table("software", ["what", "found"], rows)


def _plans(recipe: str | None, rates: dict[str, float]) -> None:
    resolved = resolve.resolve(recipe=recipe)
    rows, validation, lengths, prefix = _rows(resolved)
    tokens = sum(lengths) / len(lengths)
    padded = longest(lengths, resolved.train.batch_size)
    shape = Shape.of(load_config(open_base(resolved.model).folder))
    gflops = rates[device.choose_dtype(resolved.train.dtype)]
    free = limits.available_memory() / GIB
    table = []
    tops = tuple(dict.fromkeys((resolved.train.layers, "all")))
    plans = [(name, top) for name in METHODS for top in (tops if name != "probe" else tops[:1])]
    for method, top in plans:
        settings = resolved.train.model_copy(update={"method": method, "layers": top})
        found = estimate(
            shape, settings, rows=rows, validation=validation, tokens=tokens, padded=padded, prefix=prefix,
            gflops=gflops,
        )  # fmt: skip
        fits = "yes" if found.memory_mib < 1024 * free else "no: not enough memory"
        chosen = "chosen" if (method, top) == (resolved.train.method, resolved.train.layers) else ""
        trained = "none" if method == "probe" else str(top)
        table.append([method, trained, _clock(found.seconds), f"{found.memory_mib / 1024:.1f} GiB", fits, chosen])
    train = resolved.train
    epochs = auto_epochs(train.effort, rows) if train.epochs == "auto" else train.epochs
    title = f"recipe {resolved.recipe}: {rows:,} training rows of {tokens:.0f} tokens, {resolved.model.name}"
    terminal.say(f"{title}, {epochs:g} epochs; estimates, usually within a third")
    terminal.table("training", ["method", "layers that train", "time", "memory", "fits", ""], table)
    if torch.cuda.is_available():
        terminal.say("the times are for the CPU; a GPU is much faster")


def _rows(resolved: Resolved) -> tuple[int, int, list[int], int]:
    """Return the number of training and validation rows, the token counts of some rows, and the length of the prefix.

    They are counted in the prepared data if it is that of this recipe, otherwise estimated.
    """
    prepared = Path("data/prepared")
    current = base.RESOLVED.is_file() and base.read_yaml(base.RESOLVED)
    if current and (prepared / "train.csv").is_file() and _same(current, resolved):
        frames = [read_prepared(prepared / f"{split}.csv") for split in ("train", "validation")]
        labels = LabelSet.load(prepared / "labels.json")
    else:
        given = "all" if resolved.dataset.all is not None else "train"
        frame = read_split(resolved.dataset, given).dropna()
        split = resolved.prepare.split
        share = float(split.train) if given == "all" else 1 - float(split.validation_of_train)
        counts = frame["label"].value_counts()
        usable = len(frame) if resolved.prepare.balance != "smallest" else int(counts.min()) * len(counts)
        rows = round(usable * share)
        if resolved.prepare.train_rows:
            rows = min(rows, int(resolved.prepare.train_rows))
        sample = frame.sample(min(SAMPLED, len(frame)), random_state=0)
        frames = [sample, pd.DataFrame()]
        names = resolved.dataset.labels
        labels = LabelSet.of(frame["label"].unique().tolist(), names, resolved.dataset.verbalizer)
    tokenizer = load_tokenizer(open_base(resolved.model).folder)
    encoder = Encoder.of(tokenizer, resolved.prompt, labels)
    some = frames[0]["text"].iloc[:SAMPLED].tolist()
    lengths = [min(length, resolved.prompt.max_length) for length in encoder.encode(some).lengths]
    if len(frames[1]):
        rows, validation = len(frames[0]), len(frames[1])
    else:
        validation = round(rows / 7)
    return rows, validation, lengths, len(prefix_tokens(encoder))


def _same(current: dict[str, object], resolved: Resolved) -> bool:
    """Return whether the prepared rows were prepared with these settings."""
    fresh = resolved.model_dump(mode="json")
    return all(current.get(key) == fresh[key] for key in ("dataset", "prepare", "prompt"))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0


def _clock(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
