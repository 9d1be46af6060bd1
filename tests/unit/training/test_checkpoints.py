import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from labeltune.runtime.environment import Fingerprint
from labeltune.runtime.errors import UserError
from labeltune.training import checkpoints
from labeltune.training.checkpoints import Store, open_store

HOLD = """
import sys
from pathlib import Path
from labeltune.training import checkpoints
from labeltune.runtime.environment import Fingerprint

def half(folder):
    (folder / "weights").write_text("ha")
    wait()

def wait():
    print("held", flush=True)
    sys.stdin.read()

parts = dict.fromkeys(("data", "base", "code", "versions", "hardware"), {})
with checkpoints.workspace(), checkpoints.open_store(Fingerprint(configuration={"seed": 1}, **parts), keep=2) as store:
    if sys.argv[1] == "save":
        store.save(20, lambda folder: (folder / "weights").write_text("20"))
        store.save(40, half)
    else:
        wait()
"""


def fingerprint(seed: int = 1) -> Fingerprint:
    parts: dict[str, Any] = {part: {} for part in ("data", "base", "code", "versions", "hardware")}
    return Fingerprint(configuration={"seed": seed}, **parts)


@pytest.fixture(autouse=True)
def main_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository that DVC names, apart from the working folder, as in a queued run."""
    folder, workspace = tmp_path / "main", tmp_path / "workspace"
    folder.mkdir()
    workspace.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.chdir(workspace)
    return folder


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store(fingerprint(), keep=2) as opened:
        yield opened


def writing(text: str) -> Callable[[Path], None]:
    """Fills a checkpoint with two files, one in a folder of its own."""

    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)
        (folder / "state").mkdir()
        (folder / "state/optimizer.pt").write_text(f"optimizer {text}")

    return write


def save(store: Store, *steps: int, best: int | None = None) -> Path:
    return [store.save(step, writing(str(step)), best=best) for step in steps][-1]


@contextmanager
def process(action: str) -> Iterator["subprocess.Popen[str]"]:
    """Another training in this workspace, which lives until its input ends."""
    command = [sys.executable, "-c", HOLD, action]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "held\n"
            yield started
        finally:
            started.kill()


def refused(setting: str | Path, store: Store) -> str:
    with pytest.raises(UserError) as caught:
        store.resume(str(setting))
    return str(caught.value)


# Saving


def test_a_checkpoint_is_what_was_written_and_is_gone_on_from(
    store: Store, main_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store.resume("auto") is None
    saved = store.save(40, writing("forty"))
    assert saved == main_repository / ".checkpoints" / fingerprint().digest / "step-00000040"
    assert (saved / "state/optimizer.pt").read_text() == "optimizer forty"
    assert capsys.readouterr().out == ""
    assert store.resume("auto") == saved
    assert capsys.readouterr().out == "going on from step 40\n"


def test_without_dvc_checkpoints_lie_in_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT")
    assert checkpoints.checkpoint_root() == Path.cwd() / ".checkpoints"


def test_a_failed_write_leaves_the_checkpoints_as_they_were(store: Store) -> None:
    save(store, 20, 40)

    def broken(folder: Path) -> None:
        (folder / "weights").write_text("ha")
        raise KeyError("bug")

    for step in (40, 60):
        with pytest.raises(KeyError, match="bug"):
            store.save(step, broken)
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-00000020", "step-00000040"]
    assert store.resume("auto") == store.path(40)


def test_a_checkpoint_is_replaced_by_the_same_step(store: Store) -> None:
    save(store, 40)
    store.save(40, writing("again"))
    assert [path.name for path in store.folder.iterdir()] == ["step-00000040"]
    assert store.resume("auto") == store.path(40)
    assert (store.path(40) / "weights").read_text() == "again"


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """A disk that is full for files above `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: (folder / "x").write_bytes(bytes(2**20)),
    "a copied folder": lambda folder: shutil.copytree("large", folder, dirs_exist_ok=True),
    "torch": lambda folder: torch.save({"x": torch.zeros(2**18)}, folder / "x.pt"),
    "safetensors": lambda folder: save_file({"x": torch.zeros(2**18)}, folder / "x.safetensors"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_the_disk_refuses_says_why_and_what_is_intact(writer: str, store: Store) -> None:
    Path("large").mkdir()
    Path("large/x").write_bytes(bytes(2**20))
    why = (
        "torch could not write a file, as on a full disk: "
        if writer == "torch"
        else "a file became larger than the file system or "
    )
    with file_limit(2**14), pytest.raises(UserError) as first:
        store.save(20, WRITERS[writer])
    assert str(first.value).startswith(f"writing the checkpoint of step 20 failed: {why}")
    assert str(first.value).endswith("run again: training starts anew")
    store.save(20, WRITERS[writer])
    with file_limit(2**14), pytest.raises(UserError) as second:
        store.save(40, WRITERS[writer])
    assert f"MiB free in {store.folder.parent}" in str(second.value)
    assert str(second.value).endswith(f"run again: {store.path(20)} is intact, and training goes on from it")
    assert list(store.folder.iterdir()) == [store.path(20)]
    assert store.resume("auto") == store.path(20)


@pytest.mark.parametrize(
    ("number", "why"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "quota is used up"), (errno.EFBIG, "ulimit")]
)
def test_the_reason_is_named(number: int, why: str, store: Store) -> None:
    def write(folder: Path) -> None:
        raise OSError(number, "x")

    with pytest.raises(UserError, match=why):
        store.save(20, write)


def test_a_full_disk_while_the_bytes_are_flushed_counts_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "x")

    save(store, 20)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="step 40 failed: the disk is full"):
        save(store, 40)
    assert list(store.folder.iterdir()) == [store.path(20)]


def test_a_checkpoint_that_cannot_be_moved_to_its_place_leaves_the_one_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        if source.name.endswith(".part"):
            raise OSError(errno.ENOSPC, "x")
        replace(source, target)

    save(store, 20)
    replace = os.replace
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="step 20 failed: the disk is full"):
        store.save(20, writing("again"))
    assert list(store.folder.iterdir()) == [store.path(20)]
    assert store.resume("auto") == store.path(20)


def test_after_going_on_a_failure_names_the_step_gone_on_from(store: Store) -> None:
    save(store, 20)
    again = Store(store.folder, fingerprint(), 2)
    again.resume("auto")
    with file_limit(2**14), pytest.raises(UserError, match="step-00000020 is intact"):
        again.save(40, WRITERS["a file"])


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: out of memory"), FileNotFoundError(errno.ENOENT, "x")])
def test_what_is_not_the_disks_fault_is_not_called_so(error: Exception, store: Store) -> None:
    def write(folder: Path) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        store.save(20, write)
    assert caught.value is error


# Which ones stay


def test_the_newest_stay_and_the_best(store: Store) -> None:
    save(store, 10, 20, 30, 40, best=10)
    assert store.steps() == [10, 30, 40]
    save(store, 50)
    assert store.steps() == [10, 40, 50]  # 40 needs 10
    save(store, 60)
    assert store.steps() == [50, 60]


def test_going_on_from_an_earlier_step_gives_up_the_later_ones_only_once_there_is_a_new_one(store: Store) -> None:
    save(store, 20, 40)
    (store.path(40) / "weights").write_text("x")
    assert store.resume("auto") == store.path(20)
    assert store.steps() == [20, 40]
    store.keep = 1
    save(store, 30)
    assert store.steps() == [30]
    assert store.resume("auto") == store.path(30)


def test_folders_of_other_names_are_left_alone(store: Store) -> None:
    shutil.copytree(save(store, 20), store.folder / "step-00000020-mine")
    save(store, 40, 60)
    assert sorted(path.name[5:] for path in store.folder.iterdir()) == ["00000020-mine", "00000040", "00000060"]


def test_a_best_step_without_checkpoint_is_a_bug(store: Store) -> None:
    with pytest.raises(AssertionError, match="no checkpoint of step 20"):
        save(store, 40, best=20)


def test_the_folder_goes_after_success_and_with_none(store: Store) -> None:
    for delete in (store.remove, lambda: store.resume("none")):
        save(store, 20)
        assert delete() is None
        assert [path.name for path in checkpoints.checkpoint_root().iterdir()] == ["locks"]
        delete()  # nothing there
    assert store.resume("auto") is None


# Damage


def flip(file: Path, byte: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    file.write_bytes(content)


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda file: os.truncate(file, file.stat().st_size - 1), "has {} of {} bytes"),
    "lengthened": (lambda file: file.write_bytes(file.read_bytes() + b"0"), "has {} of {} bytes"),
    "flipped": (flip, "changed"),
    "missing": (Path.unlink, "is missing"),
    "unreadable": (loop, "can't be read: Too many levels of symbolic links"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["weights", "state/optimizer.pt", "manifest.json"])
def test_damage_is_told_and_the_next_older_one_taken(
    file: str, damage: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    save(store, 20)
    path = save(store, 40) / file
    make, words = DAMAGES[damage]
    before = path.stat().st_size
    make(path)
    if "{}" in words:
        words = words.format(path.stat().st_size, before)
    if file == "manifest.json" and damage != "missing":
        words = "changed"
    assert store.resume("auto") == store.path(20)
    told, going = capsys.readouterr().out.splitlines()
    assert told == f"{store.path(40)} is damaged ({file} {words}): not used"
    assert going == "going on from step 20"
    assert f"train.resume: {store.path(40)} is damaged ({file} {words}); give another" in refused(store.path(40), store)


def test_any_changed_bit_of_the_manifest_is_seen(store: Store) -> None:
    file = save(store, 20) / "manifest.json"
    for byte in range(file.stat().st_size):
        flip(file, byte)
        assert store.resume("auto") is None, byte
        flip(file, byte)
    assert store.resume("auto") == store.path(20)


@pytest.mark.parametrize("text", ["[]", "{}", "null", "1", '{"sha256": 1}', "\xff"])
def test_a_manifest_that_is_something_else_is_refused(text: str, store: Store) -> None:
    (save(store, 20) / "manifest.json").write_text(text, encoding="latin-1")
    assert "is damaged (manifest.json changed)" in refused(store.path(20), store)
    save(store, 40)  # the rotation reads it too


def test_a_manifest_of_another_format_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store, 20)
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    assert "step-00000020 was written in format 1; this version reads format 2" in refused(store.path(20), store)


def test_a_file_named_manifest_deeper_in_is_a_file_like_others(store: Store) -> None:
    def write(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model/manifest.json").write_text("{}")

    (store.save(20, write) / "model/manifest.json").write_text("[]")
    assert "damaged (model/manifest.json changed)" in refused(store.path(20), store)


def test_a_renamed_checkpoint_is_refused(store: Store) -> None:
    save(store, 20).rename(store.path(40))
    assert "step-00000040 is the checkpoint of step 20" in refused(store.path(40), store)


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_checkpoint_is_no_use_without_its_best(damage: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    save(store, 10)
    save(store, 20, best=20)
    save(store, 40, best=20)
    DAMAGES[damage][0](store.path(20) / "weights")
    assert store.steps() == [20, 40]
    assert store.resume("auto") is None
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(
        f"{store.path(40)} needs the best step's checkpoint, but {store.path(20)} is damaged (weig"
    )
    assert out[1].startswith(f"{store.path(20)} is damaged")
    shutil.rmtree(store.path(20))
    assert f"but {store.path(20)} does not exist" in refused(store.path(40), store)


def test_the_older_one_stays_usable_when_a_new_best_is_damaged(store: Store) -> None:
    save(store, 20, 40, best=20)
    save(store, 60, best=60)
    (store.path(60) / "weights").unlink()
    assert store.resume("auto") == store.path(40)


# Given folders


def test_a_given_checkpoint_is_taken_although_there_are_newer_ones(
    store: Store, main_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(store, 20, 40)
    assert store.resume(str(store.path(20))) == store.path(20)
    assert store.resume(str(store.path(20).relative_to(main_repository))) == store.path(20)
    assert capsys.readouterr().out == "going on from step 20\n" * 2


def test_a_given_checkpoint_from_elsewhere_is_copied_in_with_its_best(store: Store, tmp_path: Path) -> None:
    save(store, 20, 40, best=20)
    backup = tmp_path / "backup"
    shutil.copytree(store.folder, backup)
    store.remove()
    assert store.resume(str(backup / "step-00000040")) == store.path(40)
    assert store.steps() == [20, 40]
    assert store.resume("auto") == store.path(40)
    assert (store.path(40) / "state/optimizer.pt").read_text() == "optimizer 40"


def test_a_copy_that_the_disk_refuses_names_the_original(store: Store, tmp_path: Path) -> None:
    backup = tmp_path / "step-00000020"
    store.save(20, WRITERS["a file"]).rename(backup)
    with file_limit(2**14):
        assert f"run again: {backup} is intact" in refused(backup, store)
    assert list(store.folder.iterdir()) == []


def test_a_given_checkpoint_must_exist(store: Store, tmp_path: Path) -> None:
    message = refused(tmp_path / "nowhere", store)
    assert message.startswith(f"train.resume: {tmp_path / 'nowhere'} does not exist; give another checkpoint's folder")
    assert "`auto` for the newest usable one, or `none` to start from the beginning" in message


def test_another_trainings_checkpoint_is_refused_with_the_keys_that_differ(store: Store) -> None:
    with open_store(fingerprint(2), keep=2) as other:
        save(other, 20)
    message = refused(other.path(20), store)
    assert f"{other.path(20)} is of another training (configuration.seed: 2 there, 1 here)" in message
    assert store.resume("auto") is None
    store.resume("none")
    save(store, 40)
    store.remove()
    with open_store(fingerprint(2), keep=2) as other:
        assert other.resume("auto") == other.path(20)


def test_another_trainings_checkpoint_copied_in_by_hand_is_not_used(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(fingerprint(2), keep=2) as other:
        shutil.copytree(save(other, 20), store.path(20))
    assert store.resume("auto") is None
    assert "is of another training (configuration.seed: 2 there, 1 here): not used" in capsys.readouterr().out


# Kills


class KilledError(BaseException):
    """Stands for SIGKILL: nothing after it changes a file."""


@contextmanager
def killed_before(change: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let so many changes of the file system pass and none after; the change it stops at may write half a text."""
    left, write_text = change, Path.write_text

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                if left == -1 and function is write_text:
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2], **options)
                raise KilledError
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("replace", "rename", "mkdir", "unlink", "rmdir", "fsync"):
            patched.setattr(os, name, counted(getattr(os, name)))
        patched.setattr(Path, "write_text", counted(write_text))
        yield


def kill_everywhere(
    prepare: Callable[[Store], object],
    action: Callable[[Store], object],
    check: Callable[[Store], object],
    monkeypatch: pytest.MonkeyPatch,
) -> int:
    """Kill `action` before each of its changes, kill the recovery before each of its own, and check the last one."""
    for first in range(1000):
        for second in range(1000):
            shutil.rmtree(checkpoints.checkpoint_root(), ignore_errors=True)
            with open_store(fingerprint(), keep=2) as opened:
                prepare(opened)
            store = Store(opened.folder, fingerprint(), 2)
            done = recovered = False
            with killed_before(first, monkeypatch):
                try:
                    action(store)
                    done = True
                except KilledError:
                    pass
            with killed_before(second, monkeypatch):
                try:
                    store.recover()
                    store.resume("auto")
                    recovered = True
                except KilledError:
                    pass
            with open_store(fingerprint(), keep=2) as store:
                check(store)
                assert not list(store.folder.glob(".*"))
                assert [path.name for path in checkpoints.checkpoint_root().glob(".*")] == []
            if recovered:
                break
        if done:
            return first
    raise AssertionError("it never ends")


def test_a_kill_while_saving_leaves_the_old_or_the_new_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(store: Store) -> None:
        found = store.resume("auto")
        assert found in (store.path(40), store.path(60))
        assert (found / "weights").read_text() == str(int(found.name[5:]))

    assert kill_everywhere(lambda store: save(store, 20, 40), lambda store: save(store, 60), check, monkeypatch) > 10


def test_what_a_kill_left_is_not_in_the_way_of_a_new_checkpoint(store: Store) -> None:
    left = store.folder / ".step-00000020.part"
    left.mkdir(parents=True)
    (left / "old").touch()
    assert sorted(path.name for path in save(store, 20).iterdir()) == ["manifest.json", "state", "weights"]


def test_a_kill_while_replacing_leaves_the_step_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def check(store: Store) -> None:
        assert store.resume("auto") == store.path(40)
        seen.add((store.path(40) / "weights").read_text())

    def again(store: Store) -> None:
        store.save(40, writing("again"))

    assert kill_everywhere(lambda store: save(store, 40), again, check, monkeypatch) > 10
    assert seen == {"40", "again"}


def test_a_kill_while_deleting_leaves_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def check(store: Store) -> None:
        assert store.resume("auto") in (None, store.path(40))
        seen.add(tuple(store.steps()))

    assert kill_everywhere(lambda store: save(store, 20, 40), lambda store: store.remove(), check, monkeypatch) > 5
    assert seen == {(), (20, 40)}


def test_a_killed_training_frees_its_workspace_and_its_half_checkpoint_is_not_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with process("save") as other:
        other.send_signal(signal.SIGKILL)
        assert other.wait() == -signal.SIGKILL
    with checkpoints.workspace(), open_store(fingerprint(), keep=2) as store:
        assert store.resume("auto") == store.path(20)
        assert list(store.folder.iterdir()) == [store.path(20)]
    assert capsys.readouterr().out == (
        "step 40's checkpoint was not finished when the training was killed: not used\ngoing on from step 20\n"
    )


# Locks


def test_a_second_training_in_the_workspace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with process("hold") as other:
        with pytest.raises(UserError) as caught, checkpoints.workspace():
            pass
        assert str(caught.value) == (
            f"a training runs in {Path.cwd()} already as process {other.pid}: wait until it ends, or stop it with "
            f"`kill {other.pid}`"
        )
        monkeypatch.chdir(tmp_path)
        with checkpoints.workspace():
            pass


def test_a_bystander_is_not_named(main_repository: Path) -> None:
    with checkpoints.workspace():
        (note,) = (main_repository / ".checkpoints/locks").glob("*.holder")
        host, pid, started = note.read_text().split("-")
        ended, elsewhere = (f"{host}-{pid}-1000000", f"{host}-{2**22 + 1}-{started}"), f"00000000-{pid}-{started}"
        for text in (*ended, elsewhere, "", f"{host}-{pid}", f"{host}-x-1", None):
            note.unlink() if text is None else note.write_text(text)
            with pytest.raises(UserError, match="already: wait until it ends, or stop it$"), checkpoints.workspace():
                pass
    with checkpoints.workspace():
        assert note.is_file()
    assert not note.exists()


def test_the_same_training_in_another_workspace_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    with process("hold") as other:

        def say(line: str) -> None:
            said.append(line)
            other.communicate()  # its input ends, so it does

        monkeypatch.setattr(checkpoints, "say", say)
        with open_store(fingerprint(2), keep=1):
            assert said == []
        with open_store(fingerprint(), keep=1):
            assert said == [f"the same training runs already as process {other.pid}; waiting for it"]
            assert other.poll() == 0
            monkeypatch.setattr(checkpoints, "say", pytest.fail)
            with pytest.raises(pytest.fail.Exception, match="waiting for it"), open_store(fingerprint(), keep=1):
                pass


def test_one_of_several_processes_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE is 2, .* not supported"), checkpoints.workspace():
        pass


def on(hardware: dict[str, Any], **parts: Any) -> Fingerprint:
    return replace(fingerprint(), hardware=hardware, **parts)


HARDWARE = {"device": "cpu", "threads": 2, "dtype": "bf16"}


@pytest.mark.parametrize(
    ("now", "left_open", "found"),
    [
        ({}, {"threads", "dtype"}, True),
        ({"threads": 1}, {"threads", "dtype"}, True),
        ({"threads": 1}, {"threads"}, True),
        ({"threads": 1, "dtype": "fp32"}, {"threads", "dtype"}, True),
        ({"threads": 1}, {"dtype"}, False),  # somebody asked for 1
        ({"threads": 1, "dtype": "fp32"}, {"threads"}, False),
        ({"threads": 1, "device": "another"}, {"threads", "dtype"}, False),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_what_is_left_to_the_moment_is_taken_from_the_checkpoint_of_the_same_training(
    capsys: pytest.CaptureFixture[str], now: dict[str, Any], left_open: set[str], found: bool, given: bool
) -> None:
    """The number of running workers, and with it `threads: auto`, changed since the training was interrupted."""
    with open_store(on(HARDWARE), keep=2) as store:
        folder = save(store, 40)
    again = on(HARDWARE | now)
    hardware = checkpoints.hardware_to_resume(again, str(folder) if given else "auto", left_open)
    assert hardware == (HARDWARE if found else again.hardware)
    said = capsys.readouterr().out
    for name, value in now.items():
        if found:
            assert f"train.{name}: auto is {HARDWARE[name]}, not {value}" in said
        elif not given:  # a given one is refused with the keys that differ
            assert f"{folder}, of the same settings and rows, is not used" in said
            assert f"hardware.{name}: {json.dumps(HARDWARE[name])} there, {json.dumps(value)} here" in said
    with open_store(on(dict(hardware)), keep=2) as store:
        assert (store.resume("auto") == folder) == found


@pytest.mark.parametrize("part", ["code", "versions", "base"])
def test_a_checkpoint_of_the_same_settings_that_is_not_used_is_named_with_the_reason(
    capsys: pytest.CaptureFixture[str], part: str
) -> None:
    for count, step in ((1, 20), (9, 40)):
        with open_store(on(HARDWARE, **{part: {f"name{i}": "a" for i in range(count)}}), keep=2) as store:
            folder = save(store, step)
        os.utime(folder, (step, step))
    again = on(HARDWARE, **{part: {f"name{i}": "b" for i in range(9)}})
    assert checkpoints.hardware_to_resume(again, "auto", {"threads"}) == HARDWARE
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{folder}, of the same settings and rows, is not used ({part}.name0: ")
    assert said.endswith("; and 6 more)")


def test_nothing_is_said_of_other_trainings_nor_where_there_is_a_checkpoint_of_this_one_or_none_is_wanted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_store(replace(on(HARDWARE), configuration={"seed": 2}), keep=2) as store:
        save(store, 20)
    with open_store(replace(on(HARDWARE), data={"train": "other"}), keep=2) as store:
        save(store, 20)
    with open_store(on(HARDWARE), keep=2) as store:
        damaged = save(store, 40)
    now = on(HARDWARE | {"threads": 1})
    assert checkpoints.hardware_to_resume(now, "none", {"threads"}) == now.hardware
    assert checkpoints.hardware_to_resume(on(HARDWARE), "auto", {"threads"}) == HARDWARE
    (damaged / "manifest.json").write_text("{")
    assert checkpoints.hardware_to_resume(now, "auto", {"threads"}) == now.hardware
    assert capsys.readouterr().out == ""
