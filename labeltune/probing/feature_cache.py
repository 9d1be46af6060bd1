"""The feature cache: hidden states on disk, computed once and shared by many runs."""

import hashlib
import json
import mmap
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.lib.format import open_memmap

from labeltune.console.terminal import say
from labeltune.modeling.device import device_name
from labeltune.modeling.forward import PromptPrefix, length_multiple
from labeltune.modeling.kernels import fused
from labeltune.modeling.network import Network
from labeltune.runtime.environment import sha256, versions
from labeltune.runtime.errors import WRITING_FAILED
from labeltune.runtime.files import digest, held, replacing, repository, sweep

PACKAGE = Path(__file__).parents[1]
CODE = ("modeling/**/*.py", "probing/**/*.py", "training/dataset.py")
"""Files of this library that decide how the hidden states of the frozen layers are computed."""


def cache_key(
    network: Network, base_files: Mapping[str, str], input_ids: Sequence[Sequence[int]], prefix: PromptPrefix | None
) -> dict[str, Any]:
    """Return everything that the hidden states of rows depend on, as JSON can hold it; not the number of threads.

    Seed, learning rate, head and adapters are not in it: they do not reach the frozen layers.
    """
    tokens = hashlib.sha256()
    words = getattr(network, "label_words", None)
    nodes = words.nodes if words else ()
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
        "prefix": len(prefix.tokens) if prefix else 0,
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


MIB = 1 << 20
RESERVE = 1 << 30
"""Bytes of the disk that are kept free for checkpoints and results."""
STORED: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype("<f4"),
    torch.float16: np.dtype("<f2"),
    torch.bfloat16: np.dtype("<i2"),
}
"""PyTorch type -> NumPy type; NumPy has no bfloat16, whose 16 bits are stored as an integer."""
CHUNK = 1 << 24
RESIDENT = 1 << 26
"""Bytes of a mapped array that may be read before its pages are released; Linux maps up to 64 KiB more around each."""
NAME_LENGTH = 24

WritePart = Callable[[int, torch.Tensor], object]
"""Takes rows of an array, from a position on."""
ComputeParts = Callable[[WritePart], None]
"""Computes an array and passes its rows on, in any order."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An array in the cache, and everything that its values depend on."""

    kind: str
    """Name of the kind of array in messages and file names."""
    key: Mapping[str, Any]
    """Everything that the values depend on, as JSON can hold it."""
    shape: tuple[int, ...]
    """Shape of the array."""
    dtype: torch.dtype
    """Type of its values."""

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def path(self) -> Path:
        """The array, in NumPy's format."""
        return cache_root() / f"{self.kind}-{sha256(self.key)[:NAME_LENGTH]}.npy"

    @property
    def sidecar(self) -> Path:
        """The JSON file that describes the array; it is written last, so that an array without one is unfinished."""
        return self.path.with_suffix(".json")

    def description(self, seconds: float, filled: int) -> dict[str, Any]:
        """Content of the sidecar without its checksum, as JSON gives it back."""
        content = {
            "kind": self.kind,
            "key": self.key,
            "shape": self.shape,
            "dtype": str(self.dtype).removeprefix("torch."),
            "seconds": seconds,
            "filled": filled,
        }
        return dict(json.loads(json.dumps(content)))

    def delete(self) -> None:
        """Delete both files, if they are there."""
        self.sidecar.unlink(missing_ok=True)
        with suppress(PermissionError):  # Windows deletes no file that a process has mapped
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class CachedFeatures:
    """An array from the cache."""

    array: torch.Tensor
    """The array, mapped into memory; changes to it are not written to the file."""
    mapped: mmap.mmap
    """The mapped file."""
    seconds: float
    """Seconds that computing the array took."""
    filled: int
    """Number of leading rows that were computed; the ones after them hold zeros."""


class Pieces(Sequence[torch.Tensor]):
    """Pieces of a cached array, which are copied on access.

    Pages that were read are released repeatedly, so the memory of the process does not grow with the array, while free
    memory still caches the file.
    """

    def __init__(self, features: CachedFeatures, pieces: Sequence[torch.Tensor]) -> None:
        self.features, self.pieces, self.bytes_read = features, pieces, 0

    def __len__(self) -> int:
        return len(self.pieces)

    @overload
    def __getitem__(self, place: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> "Pieces": ...
    def __getitem__(self, place: int | slice) -> "torch.Tensor | Pieces":
        if isinstance(place, slice):
            return Pieces(self.features, self.pieces[place])
        piece = self.pieces[place].clone()
        self.bytes_read += piece.nbytes
        if self.bytes_read > RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            self.features.mapped.madvise(mmap.MADV_DONTNEED)
            self.bytes_read = 0
        return piece


def cache_root() -> Path:
    """Return the folder of the cache, next to the checkpoints, so that queued and temporary experiments share it."""
    return repository() / ".feature_cache"


def cached(entry: Entry, compute: ComputeParts, *, budget: int) -> CachedFeatures | None:
    """Return an array from the cache, computing it if necessary; None if there is no room for it.

    A second process that wants the same array waits for the first.

    Args:
        budget: maximum size of the cache in MiB; the least recently used arrays are deleted.
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
                _write(entry, compute)
            except OSError as error:
                entry.delete()
                if error.errno not in WRITING_FAILED:
                    raise
                say(f"{cache_root()}: {WRITING_FAILED[error.errno]}")
                return None
            found = _open(entry)
            assert found is not None, "what was just written is whole"
        with suppress(FileNotFoundError):  # another process made room; the mapped array stays readable
            os.utime(entry.path)
        return found


def _open(entry: Entry) -> CachedFeatures | None:
    """Map an array if it is complete and has the description of the entry; a damaged one is deleted."""
    try:
        content = entry.sidecar.read_bytes()
        seconds, filled, checksum = _stated(content)
        described = entry.description(seconds, filled)
        if content == _sidecar_bytes(described, checksum) and checksum == _checksum(described, entry.path):
            array = open_memmap(entry.path, mode="c")
            mapped: Any = array.base  # the mapped file
            if array.shape == entry.shape and array.dtype == STORED[entry.dtype]:
                values = torch.from_numpy(array).view(entry.dtype)
                return CachedFeatures(array=values, mapped=mapped, seconds=seconds, filled=filled)
    except FileNotFoundError:
        return None
    say(f"{entry.path} is damaged: computed again")
    entry.delete()
    return None


def _stated(content: bytes) -> tuple[float, int, str]:
    """Return seconds, filled rows and checksum from a sidecar; arbitrary values for a damaged one."""
    try:
        stated = json.loads(content)
        return float(stated["seconds"]), int(stated["filled"]), str(stated["checksum"])
    except (ValueError, LookupError, TypeError, OverflowError):
        return 0.0, 0, ""


def _sidecar_bytes(described: Mapping[str, Any], checksum: str) -> bytes:
    return json.dumps({**described, "checksum": checksum}, sort_keys=True, indent=2).encode()


def _checksum(described: Mapping[str, Any], path: Path) -> str:
    """Return the CRC-32 of a description and of the array's file, which is fast compared with computing the array."""
    total = zlib.crc32(json.dumps(described, sort_keys=True).encode())
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total = zlib.crc32(chunk, total)
    return f"{total:08x}"


def _write(entry: Entry, compute: ComputeParts) -> None:
    """Compute an array and write it to its file.

    NumPy creates the file, which is filled by ordinary writes: on a full disk these raise an error, whereas writing to
    mapped memory would kill the process.
    """
    row, filled = entry.size // entry.shape[0], 0
    with replacing(entry.path, durable=False) as temporary:
        begin = open_memmap(temporary, mode="w+", dtype=STORED[entry.dtype], shape=entry.shape).offset
        with temporary.open("r+b") as file:

            def put(position: int, rows: torch.Tensor) -> None:
                nonlocal filled
                assert rows.dtype == entry.dtype
                assert rows.shape[1:] == entry.shape[1:]
                file.seek(begin + position * row)
                file.write(rows.contiguous().view(torch.uint8).numpy().tobytes())
                filled = max(filled, position + len(rows))

            started = time.perf_counter()
            compute(put)
            seconds = round(time.perf_counter() - started, 3)
        described = entry.description(seconds, filled)
        checksum = _checksum(described, temporary)
    with replacing(entry.sidecar, durable=False) as temporary:
        temporary.write_bytes(_sidecar_bytes(described, checksum))


def _make_room(entry: Entry, budget: int) -> bool:
    """Delete the least recently used arrays until this one fits, and return whether the disk has room for it too.

    A process that has mapped a deleted array can use it until it ends.
    """
    cache_root().mkdir(parents=True, exist_ok=True)
    sweep(cache_root())
    arrays = sorted(_used(cache_root().glob("*.npy")))
    total = entry.size + sum(size for _, size, _ in arrays)
    for _, size, path in arrays:
        if total <= budget * MIB:
            break
        try:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        except PermissionError:  # Windows deletes no file that a process has mapped
            continue
        total -= size
    free = shutil.disk_usage(cache_root()).free
    if free < entry.size + RESERVE:
        say(f"{cache_root()}: {free // MIB:,} MiB are free on the disk, too few for {entry.size // MIB:,} more")
        return False
    return True


def _used(paths: Iterable[Path]) -> Iterable[tuple[float, int, Path]]:
    """Return the time of the last use and the size of each array."""
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:  # another process made room
            continue
        yield stat.st_mtime, stat.st_size, path


def states_entry(
    network: Network,
    base_files: Mapping[str, str],
    input_ids: Sequence[Sequence[int]],
    prefix: PromptPrefix | None,
    *,
    layers: int,
    pad_id: int,
) -> Entry:
    """Return the entry of the states after the first `layers` layers for all tokens of some rows, row by row.

    Layer selection and training have the same entry for the same rows, so one reads what the other computed.
    """
    lengths = [len(ids) + network.extra_tokens for ids in input_ids]
    return Entry(
        kind="hidden-states",
        key=cache_key(network, base_files, input_ids, prefix) | {"layers": layers, "pad": pad_id},
        shape=(sum(lengths), network.config.hidden_size),
        dtype=network.dtype,
    )


def row_positions(input_ids: Sequence[Sequence[int]], extra_tokens: int) -> list[int]:
    """Return the position of each row's states in the array of a `states_entry`.

    >>> row_positions([[5, 6], [7], [8, 9]], extra_tokens=1)
    [0, 3, 5]
    """
    return [0, *accumulate(len(ids) + extra_tokens for ids in input_ids)][:-1]


def put_row(position: int, states: torch.Tensor, put: WritePart, prefix: PromptPrefix | None) -> None:
    """Write a row's states, `[length, size]`, after those of the prompt prefix that the row continues."""
    if prefix is not None:
        put(position, prefix.hidden.cpu().to(states.dtype))
        position += len(prefix.hidden)
    put(position, states)
