"""Cores and memory under a container's limits, as both versions of control groups write them."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from labeltune.runtime import limits

GIB = 1 << 30


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 cores and 16 GiB, 12 of them free, without control groups."""
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(limits.psutil, "virtual_memory", lambda: SimpleNamespace(available=12 * GIB, total=16 * GIB))
    monkeypatch.setattr(limits, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "OWN", tmp_path / "own")
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def found() -> tuple[int, float, float]:
    return limits.cores(), limits.available_memory() / GIB, limits.total_memory() / GIB


def test_without_control_groups_they_are_the_machines(machine: Path) -> None:
    assert found() == (8, 12, 16)
    write(machine, {"own": "0::/nowhere"})
    assert found() == (8, 12, 16)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("1600000 100000", 8)],
)
def test_version_2(machine: Path, quota: str, expected: int) -> None:
    write(machine, {"own": "0::/"})
    write(
        machine / "cgroup",
        {
            "cpu.max": quota,
            "memory.max": str(4 * GIB),
            "memory.current": str(3 * GIB),
            "memory.stat": f"anon 5\ninactive_file {2 * GIB}",  # can be freed
        },
    )
    assert found() == (expected, 3, 4)


def test_version_1_in_a_container_whose_path_is_the_hosts(machine: Path) -> None:
    write(machine, {"own": "4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n1:name=systemd:/\n0::/"})
    write(machine / "cgroup/cpu", {"cpu.cfs_quota_us": "300000", "cpu.cfs_period_us": "100000"})
    write(
        machine / "cgroup/memory",
        {
            "memory.limit_in_bytes": str(4 * GIB),
            "memory.usage_in_bytes": str(3 * GIB),
            "memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}",
        },
    )
    assert found() == (3, 2, 4)
    write(machine / "cgroup", {"cpu/cpu.cfs_quota_us": "-1", "memory/memory.limit_in_bytes": "9223372036854771712"})
    assert found() == (8, 12, 16)


def test_the_narrowest_of_the_groups_around_a_process_counts(machine: Path) -> None:
    write(machine, {"own": "0::/outer/inner"})
    write(
        machine / "cgroup/outer", {"cpu.max": "400000 100000", "memory.max": str(2 * GIB), "memory.current": str(GIB)}
    )
    write(machine / "cgroup/outer/inner", {"cpu.max": "max 100000", "memory.max": str(8 * GIB), "memory.current": "0"})
    assert found() == (4, 1, 2)


def test_a_full_group_leaves_nothing(machine: Path) -> None:
    write(machine, {"own": "0::/"})
    write(machine / "cgroup", {"memory.max": str(GIB), "memory.current": str(2 * GIB)})
    assert limits.available_memory() == 0


def test_systems_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(limits.os, "sched_getaffinity")
    monkeypatch.setattr(limits.os, "cpu_count", lambda: 6)
    assert limits.cores() == 6
    monkeypatch.setattr(limits.os, "cpu_count", lambda: None)
    assert limits.cores() == 1
