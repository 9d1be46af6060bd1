"""Manifests of checkpoints: what a folder must hold, so that a damaged or foreign one is told before it is loaded."""

import json
from pathlib import Path
from typing import Any

from labeltune.fingerprint import Fingerprint, sha256
from labeltune.outputs import digest

FORMAT = 1
NAME = "manifest.json"
SEAL = "sha256"


class CheckpointError(ValueError):
    """A checkpoint can't be used; says which one and why."""


def checkpoint_name(step: int) -> str:
    """Name of a step's folder; its order by name is its order by step.

    >>> checkpoint_name(40)
    'step-00000040'
    """
    return f"step-{step:08d}"


def write(folder: Path, step: int, best: int | None, fingerprint: Fingerprint) -> None:
    """Describe a checkpoint's files as they are now, with the training and the best step they belong to."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / NAME
    }
    manifest = {"format": FORMAT, "step": step, "best": best, "fingerprint": fingerprint.content, "files": files}
    sealed = manifest | {SEAL: sha256(manifest)}
    # No line end: JSON would be as valid without it, and a truncated file should never be.
    (folder / NAME).write_text(json.dumps(sealed, indent=2, sort_keys=True), encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest: format, step, best, fingerprint and files.

    Raises:
        CheckpointError: the folder or its manifest is missing, or the manifest isn't what `write` wrote.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist")
    try:
        manifest = json.loads((folder / NAME).read_bytes())
        sealed = manifest.pop(SEAL) == sha256(manifest)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is damaged ({NAME} is missing)") from None
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        sealed = False
    if not sealed:
        raise CheckpointError(f"{folder} is damaged ({NAME} changed)")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{folder} was written in format {manifest['format']}; this version reads format {FORMAT}"
        )
    return dict(manifest)


def best_step(folder: Path) -> int | None:
    """The step whose checkpoint this one needs; None if it needs none or can't be read."""
    try:
        return read(folder)["best"]
    except CheckpointError:
        return None


def check(folder: Path, fingerprint: Fingerprint) -> dict[str, Any]:
    """Return the manifest of a checkpoint that is whole, of this training, and has its best whole beside it.

    Raises:
        CheckpointError: it isn't.
    """
    manifest = _check_alone(folder, fingerprint)
    if manifest["best"] not in (None, manifest["step"]):
        try:
            _check_alone(folder.with_name(checkpoint_name(manifest["best"])), fingerprint)
        except CheckpointError as error:
            raise CheckpointError(f"{folder} needs the best step's checkpoint, but {error}") from None
    return manifest


def _check_alone(folder: Path, fingerprint: Fingerprint) -> dict[str, Any]:
    manifest = read(folder)
    if folder.name != checkpoint_name(manifest["step"]):
        raise CheckpointError(f"{folder} is the checkpoint of step {manifest['step']} and must be named so")
    if different := fingerprint.differences(manifest["fingerprint"]):
        raise CheckpointError(f"{folder} is of another training ({'; '.join(different)})")
    for name, kept in manifest["files"].items():
        try:
            size = (folder / name).stat().st_size
            if size != kept["bytes"]:
                raise CheckpointError(f"{folder} is damaged ({name} has {size:,} of {kept['bytes']:,} bytes)")
            if digest(folder / name) != kept["sha256"]:
                raise CheckpointError(f"{folder} is damaged ({name} changed)")
        except FileNotFoundError:
            raise CheckpointError(f"{folder} is damaged ({name} is missing)") from None
        except OSError as error:
            raise CheckpointError(f"{folder} is damaged ({name} can't be read: {error.strerror})") from None
    return manifest
