"""Devices: the capabilities of the machine, and the choice of device, dtype, attention and threads."""

import json
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers.utils import is_flash_attn_2_available

from labeltune.config.model import Train
from labeltune.console.terminal import say, warn
from labeltune.runtime.cache import cache_dir
from labeltune.runtime.environment import KIB_PER_MIB, peak_memory
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import write_json
from labeltune.runtime.limits import cores

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MATMUL_SIZE = 1024
MATMUL_REPEATS = 8
WORTHWHILE = 1.2
FLASH = "flash_attention_2"
CPU_TOKENS = 512
GPU_TOKENS = 16384


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Hardware choices of a run; the last bits of its results depend on them."""

    dtype: str
    """fp32, bf16 or fp16: the type of the arithmetic."""
    attention: str
    """Attention kernel."""
    kernels: str
    """`fused` or `transformers`: implementation of the layers, for families that the fused kernels support."""
    threads: int
    """Number of CPU threads."""

    def __str__(self) -> str:
        if device().type == "cuda":
            return f"{device_name()}, {self.dtype}, {self.attention} attention"
        return f"{device_name()}, {self.threads} of {cores()} cores, {self.dtype}, {self.attention} attention"


def choose(settings: Train) -> Machine:
    """Resolve the settings that depend on the hardware."""
    if apple_gpu():
        say("Apple's GPU is not used: training in it is not supported, so the CPU computes")
    return Machine(
        dtype=choose_dtype(settings.dtype),
        attention=choose_attention(settings.attention),
        kernels=choose_kernels(settings.kernels),
        threads=choose_threads(settings.threads),
    )


def hardware(machine: Machine) -> dict[str, Any]:
    """What the last bits of a result depend on: the device and what is computed with, CPU threads only on a CPU."""
    threads = machine.threads if device().type == "cpu" else None
    return {"device": device_name(), **asdict(machine), "threads": threads}


def left_open(settings: Train) -> set[str]:
    """Keys of `hardware` that nobody asked for, so that a checkpoint may decide them: they depend on the moment."""
    threads = settings.threads == "auto" and "OMP_NUM_THREADS" not in os.environ
    return {name for name, free in (("threads", threads), ("dtype", settings.dtype == "auto")) if free}


def computing_as(machine: Machine, hardware: Mapping[str, Any]) -> Machine:
    """The machine with the dtype and the threads of what `hardware` returned."""
    return replace(machine, dtype=hardware["dtype"], threads=hardware["threads"] or machine.threads)


def device() -> torch.device:
    """Return the first CUDA GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def apple_gpu() -> bool:
    """Whether the machine has a GPU of Apple's, which is not used."""
    return torch.backends.mps.is_available()


def device_name() -> str:
    """Return the name of the GPU, or of the CPU if there is none."""
    return torch.cuda.get_device_name() if device().type == "cuda" else cpu_name()


def choose_dtype(setting: str) -> str:
    """Return fp32, bf16 or fp16; `auto` is bf16 if it is measurably faster on this hardware, otherwise fp32.

    Raises:
        UserError: fp16 on a CPU, where training in it loses small gradients.
    """
    on_gpu = device().type == "cuda"
    if setting == "fp16" and not on_gpu:
        raise UserError("train.dtype: fp16 needs a GPU; on this CPU use auto, bf16 or fp32")
    if setting != "auto":
        return setting
    if on_gpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    able = torch.cpu.get_capabilities()
    if not (able.get("avx512_bf16") or able.get("amx_bf16")):
        return "fp32"  # emulated, several times slower
    rates = matmul_rates()
    return "bf16" if rates["bf16"] > WORTHWHILE * rates["fp32"] else "fp32"


def matmul_rates() -> dict[str, float]:
    """Return GFLOP/s of a matrix product in fp32 and bf16, measured once per CPU and cached.

    The flags of the CPU do not determine the rate: on CPUs with avx512_bf16, bf16 had 0.5 to 4.5 times the rate of
    fp32. It is cached so that a noisy second measurement can't change a repeated run.
    """
    name = re.sub(r"[^\w.()@+,-]+", "-", cpu_name())
    kept = cache_dir() / "matmul" / f"{name}-torch-{torch.__version__}.json"
    with suppress(FileNotFoundError, ValueError, LookupError, TypeError):  # missing or damaged
        rates = json.loads(kept.read_bytes())
        return {name: float(rates[name]) for name in ("fp32", "bf16")}
    rates = measure_matmul()
    try:
        write_json(kept, rates)
    except OSError as error:
        say(f"{kept} can't be written ({error.strerror}): the speed in bf16 is measured in each run")
    return rates


def measure_matmul() -> dict[str, float]:
    """Measure GFLOP/s of a matrix product in fp32 and bf16."""
    rates = {}
    for name in ("fp32", "bf16"):
        square = torch.ones(MATMUL_SIZE, MATMUL_SIZE, dtype=DTYPES[name])
        seconds = []
        for _ in range(MATMUL_REPEATS):
            started = time.perf_counter()
            torch.mm(square, square)
            seconds.append(time.perf_counter() - started)
        rates[name] = round(2 * MATMUL_SIZE**3 / min(seconds) / 1e9, 1)
    return rates


def cpu_name() -> str:
    """Return the name of the CPU."""
    return str(torch.cpu.get_capabilities().get("cpu_name", platform.processor() or platform.machine()))


def choose_attention(setting: str) -> str:
    """Return the attention kernel; `auto` is eager on a CPU and sdpa on a GPU.

    Raises:
        UserError: flash_attention_2 without a GPU, or without its package.
    """
    if setting == FLASH and not has_flash_attention():
        raise UserError(
            f"train.attention: {FLASH} needs a CUDA GPU and the package flash-attn; use auto, sdpa or eager"
        )
    return setting if setting != "auto" else ("sdpa" if device().type == "cuda" else "eager")


def has_flash_attention() -> bool:
    """Whether this machine can compute flash attention."""
    return device().type == "cuda" and is_flash_attn_2_available()


def able(machine: Machine) -> Machine:
    """The machine that a classifier was trained on, with an attention that this one can compute.

    All kernels compute the same function; only flash attention exists on some machines alone.
    """
    if machine.attention != FLASH or has_flash_attention():
        return machine
    attention = choose_attention("auto")
    warn(f"the classifier was trained with {FLASH}, which this machine has not: {attention} attention computes it")
    return replace(machine, attention=attention)


def choose_kernels(setting: str) -> str:
    """Return the implementation of the layers; `auto` is fused on a CPU only, because GPUs were not measured."""
    return setting if setting != "auto" else ("transformers" if device().type == "cuda" else "fused")


def inference_tokens() -> int:
    """Return the number of tokens of a batch without gradients; on a CPU it fits into the caches."""
    return GPU_TOKENS if device().type == "cuda" else CPU_TOKENS


def choose_threads(setting: int | str) -> int:
    """Return the CPU threads of this process; `auto` shares the cores between the queue's running workers.

    Two trainings with all cores each slow each other down by a factor of 5 to 20 (measured on 2 cores).
    """
    if isinstance(setting, int):
        return setting
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return max(1, cores() // max(1, queue_workers()))


def queue_workers() -> int:
    """Return the number of live workers of `dvc queue start` or `dvc exp run --run-all` on this machine."""
    workers = 0
    for process in psutil.process_iter(["cmdline"]):
        workers += "queue-worker" in (process.info["cmdline"] or [])
    return workers


def costs(seconds: float, rows: int, folders: Iterable[Path]) -> dict[str, float]:
    """Return the costs of predicting: seconds, rows per second, memory in MiB, and size of the folders in MiB."""
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir() if file.is_file())
    return {
        "seconds": round(seconds, 3),
        "rows_per_second": round(rows / seconds, 2),
        "peak_memory_mib": peak_memory(),
        "size_mib": round(size / KIB_PER_MIB**2, 2),
    }


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the GPU or of the CPU ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
