"""What this machine can do, what is missing, and what fits."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import psutil
import torch
from transformers import AutoConfig, logging

from labeltune import conf, hardware, terminal
from labeltune.archives import cache_dir
from labeltune.bases import load_tokenizer, open_base
from labeltune.estimates import Shape, estimate, longest
from labeltune.front import front_tokens
from labeltune.labels import LabelSet
from labeltune.outputs import read_prepared
from labeltune.prompts import Encoder
from labeltune.resolved import Resolved
from labeltune.tables import read_split

EXTRAS = {
    "chat": ("chainlit", "the page to talk to the classifier in"),
    "serve": ("fastapi", "the HTTP service"),
    "remote": ("dvc_s3", "`dvc push` to S3, Google Cloud, Azure, SSH"),
    "track": ("wandb", "Weights & Biases, MLflow, TensorBoard, DVCLive"),
    "scale": ("onnxruntime", "export to ONNX"),
    "test": ("pytest", "the tests"),
}
GIB = 1 << 30
SAMPLED = 1000
METHODS = ("full", "lora", "qlora")


def examine(recipe: str | None) -> None:
    """Print hardware, software and what a recipe takes; None is what params.yaml resolves to."""
    logging.set_verbosity_error()
    rates = hardware.measure_matmul()
    _machine(rates)
    _software()
    _plans(recipe, rates)


def _machine(rates: dict[str, float]) -> None:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    able = torch.cpu.get_capabilities()
    flags = [name for name in ("avx2", "avx512_bf16", "amx_bf16") if able.get(name)]
    shown = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    gpu = "none"
    if torch.cuda.is_available():
        gpu = f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / GIB:.0f} GiB"
    terminal.table(
        "machine",
        ["what", "found"],
        [
            ["CPU", f"{hardware.cpu_name()}, {hardware.cores()} cores, {', '.join(flags) or 'no AVX'}"],
            ["matrix products", f"{shown} GFLOP/s: train.dtype auto takes {hardware.choose_dtype('auto')}"],
            ["GPU", gpu],
            ["memory", f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"],
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
    resolved = conf.resolve(recipe=recipe)
    rows, validation, lengths, front = _rows(resolved)
    tokens = sum(lengths) / len(lengths)
    padded = longest(lengths, resolved.train.batch_size)
    shape = Shape.of(AutoConfig.from_pretrained(open_base(resolved.model).folder))
    gflops = rates[hardware.choose_dtype(resolved.train.dtype)]
    free = psutil.virtual_memory().available / GIB
    table = []
    for method in METHODS:
        for top in dict.fromkeys((resolved.train.layers, "all")):
            settings = resolved.train.model_copy(update={"method": method, "layers": top})
            found = estimate(
                shape, settings, rows=rows, validation=validation, tokens=tokens, padded=padded, front=front,
                gflops=gflops,
            )  # fmt: skip
            fits = "yes" if found.memory_mib < 1024 * free else "no: not enough memory"
            chosen = "chosen" if (method, top) == (resolved.train.method, resolved.train.layers) else ""
            table.append([method, str(top), _clock(found.seconds), f"{found.memory_mib / 1024:.1f} GiB", fits, chosen])
    title = f"recipe {resolved.recipe}: {rows:,} training rows of {tokens:.0f} tokens, {resolved.model.name}"
    terminal.say(f"{title}, {resolved.train.epochs:g} epochs; estimates, within a third as a rule")
    terminal.table("training", ["method", "layers that train", "time", "memory", "fits", ""], table)
    if torch.cuda.is_available():
        terminal.say("the times are those of the CPU: on a GPU expect far less")


def _rows(resolved: Resolved) -> tuple[int, int, list[int], int]:
    """Training rows, validation rows, tokens of some, and how many of them every row begins with.

    Of the prepared data where it is that of this recipe, else estimated.
    """
    prepared = Path("data/prepared")
    current = conf.RESOLVED.is_file() and conf.read_yaml(conf.RESOLVED)
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
    return rows, validation, lengths, len(front_tokens(encoder))


def _same(current: dict[str, object], resolved: Resolved) -> bool:
    """Whether the prepared rows are those of these settings."""
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
