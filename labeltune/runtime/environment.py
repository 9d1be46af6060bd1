"""The environment of a run: code, library versions and memory, and the fingerprint that ties a checkpoint to them."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from labeltune.runtime.files import digest

PACKAGES = ("labeltune", "stages")
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "numpy")
DIGEST_LENGTH = 16
SHOWN_LENGTH = 24


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Everything that the result of a training depends on, as JSON values.

    >>> def fingerprint(seed):
    ...     parts = dict.fromkeys(("data", "base", "code", "versions", "hardware"), {})
    ...     return Fingerprint(configuration={"train": {"seed": seed}}, **parts)
    >>> fingerprint(1).digest == fingerprint(1).digest != fingerprint(2).digest
    True
    >>> fingerprint(2).differences(fingerprint(1).content)
    ['configuration.train.seed: 1 there, 2 here']
    """

    configuration: Mapping[str, Any]
    """Settings that the result depends on, which excludes `resume` and `checkpoints`."""
    data: Mapping[str, str]
    """Split -> sha256 of its prepared rows, or another identification of the data."""
    base: Mapping[str, str]
    """File of the base model -> sha256."""
    code: Mapping[str, str]
    """File of this project -> sha256; see `code_hashes`."""
    versions: Mapping[str, str | None]
    """Library -> installed version; see `versions`."""
    hardware: Mapping[str, Any]
    """Device, dtype and threads, which change the order of additions."""

    @property
    def content(self) -> dict[str, Any]:
        """Return all parts as JSON represents them: tuples as lists, keys as text."""
        return dict(json.loads(json.dumps(asdict(self), allow_nan=False)))

    @property
    def digest(self) -> str:
        """Return the name of the training: 16 hexadecimal digits."""
        return sha256(self.content)[:DIGEST_LENGTH]

    def differing_keys(self, other: Mapping[str, Any]) -> list[str]:
        """The dotted keys in which another training's content differs from this one, sorted."""
        here, there = _flat(self.content), _flat(other)
        keys = sorted(here.keys() | there.keys())
        return [key for key in keys if key not in here or key not in there or here[key] != there[key]]

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """The same keys with both values."""
        here, there = _flat(self.content), _flat(other)
        return [f"{key}: {_shown(there, key)} there, {_shown(here, key)} here" for key in self.differing_keys(other)]


def sha256(content: Mapping[str, Any]) -> str:
    """Return the sha256 of sorted JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_hashes() -> dict[str, str]:
    """Return the sha256 of every file of this project that the process has imported, by path.

    Call it after all imports: a module that is imported later is not included.
    """
    hashes = {}
    for module in list(sys.modules.values()):
        # The module that `python -m` runs is called __main__; only its spec knows its name.
        spec = getattr(module, "__spec__", None)
        if spec is None or not spec.has_location or spec.name.partition(".")[0] not in PACKAGES:
            continue
        depth = spec.name.count(".") + 1 + (spec.submodule_search_locations is not None)
        hashes["/".join(Path(spec.origin).parts[-depth:])] = digest(Path(spec.origin))
    return dict(sorted(hashes.items()))


def versions() -> dict[str, str | None]:
    """Return the installed versions of the numerical libraries; None for one that is not installed."""
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one with dotted keys; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def _shown(flat: dict[str, Any], key: str) -> str:
    if key not in flat:
        return "absent"
    text = json.dumps(flat[key], ensure_ascii=False)
    return text if len(text) <= SHOWN_LENGTH else f"{text[: SHOWN_LENGTH - 1]}…"


KIB_PER_MIB = 1024


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in MiB."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset) // KIB_PER_MIB**2
    import resource  # which Windows has not

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // KIB_PER_MIB if sys.platform != "darwin" else peak // KIB_PER_MIB**2
