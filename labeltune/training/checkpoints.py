"""Checkpoints: whole folders or none, with a manifest that is verified before a training resumes from one."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from labeltune.console.terminal import say
from labeltune.runtime.environment import Fingerprint, sha256
from labeltune.runtime.errors import WRITING_FAILED, UserError
from labeltune.runtime.files import damage, held, list_files, repository, sync, sync_entry

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


def write_manifest(folder: Path, step: int, best: int | None, fingerprint: Fingerprint) -> None:
    """Describe a checkpoint's files as they are now, with the training and the best step they belong to."""
    (folder / NAME).unlink(missing_ok=True)  # of the checkpoint that this one is a copy of
    files = list_files(folder)
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
    if problem := damage(folder, manifest["files"]):
        raise CheckpointError(f"{folder} is damaged ({problem})")
    return manifest


MIB = 1024**2
STORAGE_FAILED = WRITING_FAILED | {
    errno.EFBIG: "a file became larger than the file system or `ulimit -f` allows",
    errno.EIO: "the disk reports an input/output error",
}
# On a full disk torch.save in torch 2.13 says no more than "inline_container.cc: unexpected pos 576 vs 534".
TORCH_WORDS = ("inline_container", "PytorchStreamWriter", "iostream error")


def checkpoint_root() -> Path:
    """Where checkpoints lie."""
    return repository() / ".checkpoints"


@contextmanager
def workspace() -> Iterator[None]:
    """Keep other trainings out of the working folder, also where `dvc` was killed and its training lives on.

    Raises:
        UserError: a training runs here already, or this is one of several processes of a launcher.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise UserError(
            f"WORLD_SIZE is {processes}, as torchrun and accelerate set it: training on several processes is not "
            "supported; run `dvc repro`, or `python -m stages.train` without a launcher"
        )
    folder = Path.cwd().resolve()

    def refuse(process: int | None) -> None:
        who, stop = ("", "stop it") if process is None else (f" as process {process}", f"stop it with `kill {process}`")
        raise UserError(f"a training runs in {folder} already{who}: wait until it ends, or {stop}")

    with held(
        checkpoint_root() / "locks" / f"workspace-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.lock", refuse
    ):
        yield


SHOWN_DIFFERENCES = 3


def hardware_to_resume(fingerprint: Fingerprint, setting: str, left_open: Collection[str]) -> Mapping[str, Any]:
    """Return the hardware that a training goes on with: what a checkpoint of it was made with, else its own.

    Threads and dtype, where they are `auto`, depend on the moment: on the other workers, or on a measurement. A
    training that was interrupted then would not be found again. Where the newest checkpoint of the same settings and
    rows can't be used, it is said why.

    Args:
        fingerprint: of the training, with the hardware that was chosen now.
        setting: `auto`, `none` or a checkpoint's folder, as in `Store.resume`.
        left_open: keys of the fingerprint's hardware that a checkpoint may decide.
    """
    own = Store(checkpoint_root() / fingerprint.digest, fingerprint, keep=1)
    if setting == "none" or (setting == "auto" and own.steps()):
        return fingerprint.hardware
    folders = [checkpoint_root().parent / Path(setting).expanduser()]
    if setting == "auto":
        folders = sorted(checkpoint_root().glob("*/step-*"), key=_written, reverse=True)
    reason = None
    for folder in folders:
        try:
            manifest = read(folder)
        except CheckpointError:
            continue
        there = manifest["fingerprint"]
        different = fingerprint.differing_keys(there)
        free = [name for name in left_open if f"hardware.{name}" in different]
        if different and len(free) == len(different):
            taken = ", ".join(
                f"train.{name}: auto is {there['hardware'][name]}, not {fingerprint.hardware[name]}"
                for name in sorted(free)
            )
            say(f"{taken}, as in the checkpoint of step {manifest['step']}, {folder}")
            return dict(there["hardware"])
        alike = all(there[part] == fingerprint.content[part] for part in ("configuration", "data"))
        if reason is None and alike and different:
            told = fingerprint.differences(there)
            more = f"; and {len(told) - SHOWN_DIFFERENCES} more" if len(told) > SHOWN_DIFFERENCES else ""
            reason = (
                f"{folder}, of the same settings and rows, is not used ({'; '.join(told[:SHOWN_DIFFERENCES])}{more})"
            )
    if reason is not None and setting == "auto":
        say(reason)
    return fingerprint.hardware


def _written(folder: Path) -> float:
    """Time of a folder's last change; 0 where its training has just deleted it."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextmanager
def open_store(fingerprint: Fingerprint, *, keep: int) -> Iterator["Store"]:
    """Open a training's checkpoints, after waiting for the same training where it runs in another workspace.

    Args:
        keep: how many of the newest checkpoints stay, at least 1.
    """

    def wait(process: int | None) -> None:
        who = "another process" if process is None else f"process {process}"
        say(f"the same training runs already as {who}; waiting for it")

    with held(checkpoint_root() / "locks" / f"{fingerprint.digest}.lock", wait):
        store = Store(checkpoint_root() / fingerprint.digest, fingerprint, keep)
        store.recover()
        yield store


class Store:
    """The checkpoints of one training, each a folder; made by `open_store`."""

    def __init__(self, folder: Path, fingerprint: Fingerprint, keep: int) -> None:
        assert keep >= 1
        self.folder = folder
        self.fingerprint = fingerprint
        self.keep = keep
        self._last: Path | None = None

    def path(self, step: int) -> Path:
        """Folder of a step's checkpoint."""
        return self.folder / checkpoint_name(step)

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, whole or damaged, in order."""
        names = (path.name for path in self.folder.glob("step-*"))
        return sorted(int(name[5:]) for name in names if re.fullmatch(r"step-\d{8,}", name))

    def recover(self) -> None:
        """Finish what a kill interrupted, except for half-written checkpoints: `resume` tells of those."""
        for gone in (*self.folder.parent.glob(".*.gone"), *self.folder.glob(".*.gone")):
            shutil.rmtree(gone, ignore_errors=True)
        for old in self.folder.glob(".step-*.old"):
            current = old.with_name(old.stem[1:])
            if current.exists():
                _discard(old)
            else:
                os.replace(old, current)

    def save(self, step: int, write: Callable[[Path], object], *, best: int | None = None) -> Path:
        """Write a checkpoint, then delete what is no longer needed.

        The newest ones stay, and the bests that they need. Those of later steps go: training took another way.

        Args:
            write: fills the folder that it is given.
            best: step of the best validation, whose checkpoint is needed to go on; it may be `step` itself.

        Raises:
            UserError: it couldn't be written; the checkpoints before it are as they were.
        """
        assert best is None or best in {step, *self.steps()}, f"there is no checkpoint of step {best}"
        self._write(step, write, best, intact=self._last)
        self._last = self.path(step)
        kept = [earlier for earlier in self.steps() if earlier <= step][-self.keep :]
        needed = {*kept, best, *(best_step(self.path(earlier)) for earlier in kept)}
        for other in self.steps():
            if other not in needed:
                _discard(self.path(other))
        return self._last

    def resume(self, setting: str) -> Path | None:
        """Return the verified checkpoint to resume from, or None to start from the beginning.

        Args:
            setting: `auto` for the newest usable one, `none` to delete what is there, or a checkpoint's folder,
                relative to the main repository. One from elsewhere is copied in, with its best.

        Raises:
            UserError: the given checkpoint isn't there, is damaged, or is another training's.
        """
        if setting == "none":
            self.remove()
            return None
        for unfinished in sorted(self.folder.glob(".step-*.part")):
            step = int(unfinished.stem[6:])
            say(f"step {step}'s checkpoint was not finished when the training was killed: not used")
            _discard(unfinished)
        chosen = (
            self._newest() if setting == "auto" else self._given(checkpoint_root().parent / Path(setting).expanduser())
        )
        if chosen is None:
            return None
        say(f"going on from step {chosen}")
        self._last = self.path(chosen)
        return self._last

    def remove(self) -> None:
        """Delete all checkpoints of this training: call it once its result is written."""
        self._last = None
        _discard(self.folder)

    def _newest(self) -> int | None:
        for step in reversed(self.steps()):
            try:
                check(self.path(step), self.fingerprint)
            except CheckpointError as error:
                say(f"{error}: not used")
            else:
                return step
        return None

    def _given(self, path: Path) -> int:
        try:
            manifest = check(path, self.fingerprint)
        except CheckpointError as error:
            raise UserError(
                f"train.resume: {error}; give another checkpoint's folder, `auto` for the newest usable one, or "
                "`none` to start from the beginning"
            ) from None
        step, best = int(manifest["step"]), manifest["best"]
        if path.resolve() != self.path(step).resolve():
            for each in (step,) if best in (None, step) else (best, step):
                source = path.with_name(checkpoint_name(each))
                copy = partial(shutil.copytree, source, dirs_exist_ok=True)
                self._write(each, copy, best_step(source), intact=path)
        return step

    def _write(self, step: int, write: Callable[[Path], object], best: int | None, *, intact: Path | None) -> None:
        """Write a checkpoint beside its place, have it on the disk, and only then move it there."""
        final = self.path(step)
        unfinished, old = _hidden(final, "part"), _hidden(final, "old")
        try:
            _discard(unfinished)
            unfinished.mkdir(parents=True)
            write(unfinished)
            write_manifest(unfinished, step, best, self.fingerprint)
            sync(unfinished)
            if final.exists():
                _discard(old)
                os.replace(final, old)
            os.replace(unfinished, final)
            sync_entry(self.folder)
            sync_entry(self.folder.parent)
        except BaseException as error:
            why = _storage_failure(error, self.folder)
            shutil.rmtree(unfinished, ignore_errors=True)
            if old.exists() and not final.exists():
                os.replace(old, final)
            if why is None:
                raise
            state = f"{intact} is intact, and training goes on from it" if intact else "training starts anew"
            raise UserError(
                f"writing the checkpoint of step {step} failed: {why}. When that is mended, run again: {state}"
            ) from error
        _discard(old)


def _hidden(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def _discard(path: Path) -> None:
    """Delete a folder, if it is there, so that a kill in the middle leaves nothing that bears its name."""
    if path.exists():
        gone = _hidden(path, "gone")
        os.replace(path, gone)
        # What can't be deleted yet, as an open file on NFS, goes at the next start; no reason to end a training.
        shutil.rmtree(gone, ignore_errors=True)


def _storage_failure(error: BaseException, folder: Path) -> str | None:
    """Why writing into a folder failed, with the space left there; None if it wasn't for the storage."""
    text = str(error)
    why = STORAGE_FAILED.get(error.errno or 0) if isinstance(error, OSError) else None
    if isinstance(error, RuntimeError | SafetensorError | shutil.Error):  # they have no error number
        why = next((words for number, words in STORAGE_FAILED.items() if os.strerror(number) in text), None)
        if why is None and any(word in text for word in TORCH_WORDS):
            why = f"torch could not write a file, as on a full disk: {text.splitlines()[0]}"
    return why and f"{why} ({shutil.disk_usage(folder.parent).free // MIB:,} MiB free in {folder.parent})"
