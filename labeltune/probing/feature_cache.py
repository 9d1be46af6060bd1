"""The feature cache: hidden states that many runs share, each computed once and kept on disk."""

import hashlib
import json
import mmap
import os
import shutil
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import torch

from labeltune.console.terminal import say
from labeltune.modeling.device import device_name
from labeltune.modeling.forward import PromptPrefix, length_multiple
from labeltune.modeling.kernels import fused
from labeltune.runtime.environment import sha256, versions
from labeltune.runtime.errors import WRITING_FAILED
from labeltune.runtime.files import digest, held, replacing, repository, sweep

PACKAGE = Path(__file__).parents[1]
CODE = ("modeling/**/*.py", "probing/**/*.py", "training/dataset.py")
"""Files of this library that decide how the hidden states of the frozen layers are computed."""


def cache_key(
    network: Any, base_files: Mapping[str, str], input_ids: Sequence[Sequence[int]], front: PromptPrefix | None
) -> dict[str, Any]:
    """All that the states of rows depend on, as JSON can hold it; not the number of threads.

    Neither seed, learning rate nor head is in it, nor any adapter: they are above the frozen layers.
    """
    tokens = hashlib.sha256()
    nodes = network.candidates.nodes if network.extra_tokens else ()
    for ids in input_ids:
        tokens.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
    return {
        "attention": network.config._attn_implementation,
        "autocast": str(network.autocast),
        "base": dict(base_files),
        "batch_tokens": fused.batch_tokens(network),
        "code": _code(),
        "device": [device_name(), torch.backends.cpu.get_cpu_capability()],
        "dtype": str(network.dtype),
        "four_bits": getattr(network.config, "quantization_config", None) is not None,
        "front": len(front.tokens) if front else 0,
        "fused": fused.installed(network),
        "multiple": length_multiple(network),
        "nodes": [[node.token, node.parent, node.depth] for node in nodes],
        "tokens": tokens.hexdigest(),
        "versions": versions(),
    }


def _code() -> dict[str, str]:
    """File below `CODE` -> sha256."""
    files = [file for pattern in CODE for file in PACKAGE.glob(pattern)]
    return {file.relative_to(PACKAGE).as_posix(): digest(file) for file in sorted(files)}


HANDOVER_BYTES = 1 << 28
"""Most bytes of the states that wait for a trunk to end where they are."""


@dataclass(kw_only=True)
class Passed:
    """Rows that went up the untuned model, and their states behind the layers where a trunk may end.

    A trunk takes them as a group of their own, whether their states are still here or not: so its last bits do not
    depend on that.
    """

    rows: list[int]
    """Their places among the training rows and the validation rows behind them."""
    ends: Collection[int]
    """Layers behind which a trunk may end."""
    key: dict[str, Any] = field(default_factory=dict)
    """What their states depend on."""
    states: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    """Layer -> states of each row, `[length, size]` without the front's."""

    def put(self, layer: int, states: list[torch.Tensor]) -> None:
        """Keep states on the CPU, if a trunk may end there and there is room."""
        size = sum(one.nbytes for one in states)
        if layer in self.ends and size * (len(self.states) + 1) <= HANDOVER_BYTES:
            self.states[layer] = [one.cpu() for one in states]

    def only(self, layer: int) -> None:
        """Forget what is not behind that layer."""
        self.states = {kept: states for kept, states in self.states.items() if kept == layer}


MIB = 1 << 20
RESERVE = 1 << 30
"""Bytes that stay free on the disk, for checkpoints and results."""
TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
ALIGNMENT = 64
CHUNK = 1 << 24
RESIDENT = 1 << 26
"""Bytes of a mapped array that may be read before its pages are let go; around each, Linux maps up to 64 KiB more."""
NAME_LENGTH = 24

WritePart = Callable[[int, torch.Tensor], object]
"""Takes rows of an array, from a position on."""
ComputeParts = Callable[[WritePart], None]
"""Computes an array and hands over its rows, in any order."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What an array is, and all that its numbers depend on."""

    kind: str
    """What messages and the file call it."""
    key: Mapping[str, Any]
    """What its numbers depend on; it must be what JSON can hold."""
    shape: tuple[int, ...]
    """Its shape."""
    dtype: torch.dtype
    """Type of its numbers."""

    @property
    def size(self) -> int:
        """Bytes of its numbers."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def path(self) -> Path:
        """Where it lies."""
        return cache_root() / f"{self.kind}-{sha256(self.key)[:NAME_LENGTH]}.safetensors"

    def header(self, seconds: float, checksum: int) -> bytes:
        """How its file begins: as many bytes, whatever seconds and checksum."""
        metadata = {
            "key": json.dumps(self.key, sort_keys=True),
            "seconds": f"{seconds:014.3f}",
            "checksum": f"{checksum:08x}",
        }
        tensor = {"dtype": TYPES[self.dtype], "shape": list(self.shape), "data_offsets": [0, self.size]}
        text = json.dumps({"__metadata__": metadata, "states": tensor}).encode()
        text += b" " * (-(8 + len(text)) % ALIGNMENT)
        return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True, kw_only=True)
class CachedFeatures:
    """An array on the shelf."""

    array: torch.Tensor
    """It, mapped into memory; what is written to it never reaches the file."""
    mapped: mmap.mmap
    """The file it lies in."""
    seconds: float
    """What computing it took."""


class Pieces(Sequence[torch.Tensor]):
    """Pieces of an array of the shelf, copied as they are asked for.

    The pages that were read are let go again and again: the memory of a process does not grow with the array, and
    whatever memory is free still holds the file's pages.
    """

    def __init__(self, kept: CachedFeatures, pieces: Sequence[torch.Tensor]) -> None:
        self.kept, self.pieces, self.read = kept, pieces, 0

    def __len__(self) -> int:
        return len(self.pieces)

    @overload
    def __getitem__(self, place: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> "Pieces": ...
    def __getitem__(self, place: int | slice) -> "torch.Tensor | Pieces":
        if isinstance(place, slice):
            return Pieces(self.kept, self.pieces[place])
        piece = self.pieces[place].clone()
        self.read += piece.nbytes
        if self.read > RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            self.kept.mapped.madvise(mmap.MADV_DONTNEED)
            self.read = 0
        return piece


def cache_root() -> Path:
    """Where the shelf is: beside the checkpoints, so that queued and temporary experiments share it."""
    return repository() / ".shelf"


def cached(entry: Entry, fill: ComputeParts, *, budget: int) -> CachedFeatures | None:
    """Return an array from the shelf, computed now if it is not there; None where there is no room for it.

    A second process that wants the same array waits for the first.

    Args:
        budget: MiB that the shelf may take: what was not used for longest makes room.
    """
    if entry.size > budget * MIB:
        return None

    def wait(process: int | None) -> None:
        who = "another process" if process is None else f"process {process}"
        say(f"{who} computes the same {entry.kind}; waiting for it")

    with held(cache_root() / "locks" / f"{entry.path.stem}.lock", wait):
        found = _open(entry)
        if found is None:
            if not _make_room(entry, budget):
                return None
            try:
                _write(entry, fill)
            except OSError as error:
                if error.errno not in WRITING_FAILED:
                    raise
                say(f"{cache_root()}: {WRITING_FAILED[error.errno]}")
                return None
            found = _open(entry)
            assert found is not None, "what was just written is whole"
        os.utime(entry.path)
        return found


def _open(entry: Entry) -> CachedFeatures | None:
    """Map a file that is whole, and exactly what is wanted; another one is deleted."""
    begin = len(entry.header(0.0, 0))
    try:
        with entry.path.open("rb") as file:
            first = file.read(begin)
            seconds, checksum = _stated(first)
            whole = os.fstat(file.fileno()).st_size == begin + entry.size
            if whole and first == entry.header(seconds, checksum) and checksum == _checksum(entry, seconds, file):
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                array = torch.frombuffer(mapped, dtype=entry.dtype, offset=begin).reshape(entry.shape)
                return CachedFeatures(array=array, mapped=mapped, seconds=seconds)
    except FileNotFoundError:
        return None
    say(f"{entry.path} is damaged: computed again")
    entry.path.unlink(missing_ok=True)
    return None


def _stated(header: bytes) -> tuple[float, int]:
    """Seconds and checksum that a header states; of a damaged one anything."""
    try:
        metadata = json.loads(header[8:])["__metadata__"]
        return float(metadata["seconds"]), int(metadata["checksum"], 16)
    except (ValueError, LookupError, TypeError):
        return 0.0, 0


def _checksum(entry: Entry, seconds: float, file: IO[bytes]) -> int:
    """CRC-32 of a header without a checksum and of the numbers; they take a small part of the time to compute."""
    total = zlib.crc32(entry.header(seconds, 0))
    file.seek(len(entry.header(seconds, 0)))
    while chunk := file.read(CHUNK):
        total = zlib.crc32(chunk, total)
    return total


def _write(entry: Entry, fill: ComputeParts) -> None:
    begin, row = len(entry.header(0.0, 0)), entry.size // entry.shape[0]
    with replacing(entry.path) as temporary, temporary.open("w+b") as file:

        def put(position: int, rows: torch.Tensor) -> None:
            assert rows.dtype == entry.dtype
            assert rows.shape[1:] == entry.shape[1:]
            file.seek(begin + position * row)
            file.write(rows.contiguous().view(torch.uint8).numpy().tobytes())

        started = time.perf_counter()
        fill(put)
        seconds = round(time.perf_counter() - started, 3)
        file.truncate(begin + entry.size)  # flushes
        checksum = _checksum(entry, seconds, file)
        file.seek(0)
        file.write(entry.header(seconds, checksum))


def _make_room(entry: Entry, budget: int) -> bool:
    """Delete what was not used for longest until an array fits; whether the disk has room for it too.

    A process that has a deleted file mapped keeps it to its end.
    """
    cache_root().mkdir(parents=True, exist_ok=True)
    sweep(cache_root())
    shelf = sorted(_used(cache_root().glob("*.safetensors")))
    total = entry.size + sum(size for _, size, _ in shelf)
    for _, size, path in shelf:
        if total <= budget * MIB:
            break
        path.unlink(missing_ok=True)
        total -= size
    free = shutil.disk_usage(cache_root()).free
    if free < entry.size + RESERVE:
        say(f"{cache_root()}: {free // MIB:,} MiB are free on the disk, too few for {entry.size // MIB:,} more")
        return False
    return True


def _used(paths: Iterable[Path]) -> Iterable[tuple[float, int, Path]]:
    """When each file was last used, and its size."""
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:  # another process made room
            continue
        yield stat.st_mtime, stat.st_size, path
