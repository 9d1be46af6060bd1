import ast
import hashlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from labeltune.runtime import environment
from labeltune.runtime.environment import Fingerprint, code_hashes, versions
from tests.conftest import ROOT

PARTS: dict[str, Any] = {
    "configuration": {"train": {"seed": 1, "layers": (1, 2)}, "prompt": "classify"},
    "data": {"train": "ab" * 32},
    "base": {"model.safetensors": "cd" * 32},
    "code": {"labeltune/training/finetune.py": "ef" * 32},
    "versions": {"torch": "2.13.0", "bitsandbytes": None},
    "hardware": {"device": "cpu", "threads": 2},
}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_decides_the_digest(part: str) -> None:
    changed = Fingerprint(**PARTS | {part: PARTS[part] | {"more": 1}})
    assert changed.digest != Fingerprint(**PARTS).digest
    assert changed.differences(Fingerprint(**PARTS).content) == [f"{part}.more: absent there, 1 here"]


def test_the_digest_does_not_depend_on_order_or_on_what_json_makes_of_a_tuple() -> None:
    listed = PARTS | {"configuration": {"prompt": "classify", "train": {"layers": [1, 2], "seed": 1}}}
    one, other = Fingerprint(**PARTS), Fingerprint(**dict(reversed(listed.items())))
    assert one.digest == other.digest
    assert one.differences(other.content) == []
    assert len(one.digest) == 16


def test_differences_name_every_key_with_short_values() -> None:
    here = Fingerprint(**PARTS)
    there = here.content
    there["configuration"]["train"] = {"seed": 2, "layers": [1, 2]}
    there["data"] = {"train": "12" * 32}
    there["hardware"] = {}
    assert here.differences(there) == [
        "configuration.train.seed: 2 there, 1 here",
        'data.train: "1212121212121212121212… there, "ababababababababababab… here',
        "hardware: {} there, absent here",
        'hardware.device: absent there, "cpu" here',
        "hardware.threads: absent there, 2 here",
    ]


def test_code_hashes_cover_imported_files_and_the_stage_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "stages.configure", raising=False)
    stage = ModuleType("__main__")  # as in `python -m stages.configure`
    stage.__spec__ = importlib.util.find_spec("stages.configure")
    assert "stages/configure.py" not in code_hashes()
    monkeypatch.setitem(sys.modules, "__main__", stage)
    hashes = code_hashes()
    assert {
        "labeltune/__init__.py",
        "labeltune/runtime/environment.py",
        "stages/__init__.py",
        "stages/configure.py",
    } <= set(hashes)
    assert all(hashes[name] == hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in hashes)
    assert list(hashes) == sorted(hashes)


def test_versions_are_of_what_is_installed() -> None:
    found = versions()
    assert found["torch"] is not None
    assert torch.__version__.startswith(found["torch"].partition("+")[0])
    assert set(found) == {"torch", "transformers", "peft", "accelerate", "bitsandbytes", "numpy"}
    if importlib.util.find_spec("bitsandbytes") is None:
        assert found["bitsandbytes"] is None


@pytest.mark.parametrize(("system", "peak", "expected"), [("linux", 3 << 10, 3), ("darwin", 3 << 20, 3)])
def test_the_peak_of_memory_is_in_mib_whatever_the_system_counts_in(
    monkeypatch: pytest.MonkeyPatch, system: str, peak: int, expected: int
) -> None:
    resource = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=peak))
    monkeypatch.setitem(sys.modules, "resource", resource)
    monkeypatch.setattr(environment.sys, "platform", system)
    assert environment.peak_memory() == expected


def test_the_peak_of_memory_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=5 << 20))
    monkeypatch.setattr(environment.psutil, "Process", lambda: process)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(environment.sys, "platform", "win32")
    assert environment.peak_memory() == 5


POSIX_ONLY = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "curses", "readline"}


def test_no_module_needs_at_its_import_what_only_posix_systems_have() -> None:
    needed = []
    for file in [file for folder in ("labeltune", "stages") for file in (ROOT / folder).rglob("*.py")]:
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            needed += [f"{file.relative_to(ROOT)}: {name}" for name in names if name.split(".")[0] in POSIX_ONLY]
    assert needed == []
