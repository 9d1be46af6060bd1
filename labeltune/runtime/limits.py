"""Cores and memory that this process may use: the machine's, or what a container's control group leaves of them."""

import math
import os
from pathlib import Path

import psutil

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux mounts the control groups, and where it lists those of a process."""


def cores() -> int:
    """CPU cores that this process may use.

    They are those that it may run on, or the share of time that its control group has, as `docker run --cpus` sets it;
    part of a core counts as one.
    """
    able = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [quota / period for quota, period in map(_quota, _groups("cpu")) if quota and period]
    return max(1, min([able, *map(math.ceil, shares)]))


def available_memory() -> int:
    """Bytes that this process may still take."""
    free = psutil.virtual_memory().available
    return max(0, min([free, *(limit - used for limit, used in map(_memory, _groups("memory")) if limit is not None)]))


def total_memory() -> int:
    """Bytes of memory, used or not, that this process and those beside it may have."""
    limits = [limit for limit, _ in map(_memory, _groups("memory")) if limit is not None]
    return min([psutil.virtual_memory().total, *limits])


def _groups(controller: str) -> list[Path]:
    """Folders of this process's control group and of those around it, each of which has limits of its own.

    In a container the listed path may be the host's; then its own group is mounted at the root.
    """
    try:
        listed = [line.split(":", 2) for line in OWN.read_text(encoding="utf-8").splitlines()]
    except OSError:  # another system
        return []
    folders: list[Path] = []
    for number, names, path in listed:
        if controller in names.split(",") or (number, names) == ("0", ""):  # version 1, or 2
            mounted = ROOT / controller if names else ROOT
            place = mounted / path.strip("/")
            folders += [each for each in (place, *place.parents) if each.is_relative_to(mounted)]
    return folders


def _quota(group: Path) -> tuple[int | None, int | None]:
    """Microseconds of CPU time in each period, and the period; None without a limit."""
    both = _read(group / "cpu.max").split()  # version 2
    quota, period = both if len(both) == 2 else (_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return _number(quota), _number(period)


def _memory(group: Path) -> tuple[int | None, int]:
    """Limit in bytes, None without one, and what of it is used and can't be freed."""
    limit = _number(_read(group / "memory.max") or _read(group / "memory.limit_in_bytes"))
    used = _number(_read(group / "memory.current") or _read(group / "memory.usage_in_bytes")) or 0
    figures = dict(line.split(" ", 1) for line in _read(group / "memory.stat").splitlines())
    cached = _number(figures.get("total_inactive_file") or figures.get("inactive_file", "")) or 0
    return limit, used - cached


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    """A limit; None for `max`, -1 and nothing."""
    return int(text) if text.isdecimal() else None
