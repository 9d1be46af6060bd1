"""A pipeline whose training is killed, in the workspace, a temporary folder or the queue, ends as if it had not been.

What DVC wrote into dvc.lock is compared: the hashes of models/trained, plots/curves and metrics/train.json.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import make_project
from tests.end_to_end.commands import commit_project, run, user

pytestmark = pytest.mark.end_to_end
FAULTS = Path(__file__).parent / "faults"
# 6 steps an epoch; a validation and a checkpoint every second step.
TRAIN = (
    "train: {epochs: 2, batch_size: 4, accumulation: 2, eval_steps: 2, layers: 2, lora: {dropout: 0.1}, dtype: fp32,"
    " threads: 1}"
)


@pytest.fixture(scope="module")
def prepared(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with prepared rows, committed."""
    folder = tmp_path_factory.mktemp("prepared")
    make_project(folder, base_folder)
    recipe = folder / "conf/recipes/test.yaml"
    recipe.write_text("\n".join([*recipe.read_text(encoding="utf-8").splitlines()[:-1], TRAIN, ""]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        user(tmp_path_factory.mktemp("home"), patched)
        patched.setenv("HF_HUB_OFFLINE", "1")
        patched.setenv("LABELTUNE_CACHE", str(folder / ".dvc/tmp/labeltune"))
        patched.chdir(folder)
        commit_project(folder)
        run("dvc repro prepare")
        run("git add .")
        run("git commit --quiet -m prepared")
        yield folder


@pytest.fixture
def repository(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the working folder."""
    folder = tmp_path / "repository"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def expected(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an uninterrupted training writes."""
    folder = tmp_path_factory.mktemp("expected") / "repository"
    shutil.copytree(prepared, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        assert "going on" not in run("dvc repro train")
        return outs(Path("dvc.lock").read_text(encoding="utf-8"))


def outs(lock: str) -> dict[str, str]:
    """Path -> hash of the train stage's outs, costs apart: they are run times."""
    content: Any = YAML(typ="safe").load(lock)
    found = {out["path"]: out["md5"] for out in content["stages"]["train"]["outs"]}
    del found["costs/train.json"]
    assert sorted(found) == ["metrics/train.json", "models/trained", "plots/curves"]
    return found


def experiment() -> dict[str, str]:
    """The outs of the only experiment."""
    (name,) = run("dvc exp list --name-only").split()
    (commit,) = {line.split()[0] for line in run("git show-ref").splitlines() if line.endswith(f"/{name}")}
    return outs(run(f"git show {commit}:dvc.lock"))


@pytest.fixture
def fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The next training is killed while it saves step 8's checkpoint; returns the file that tells of it."""
    marker = tmp_path / "killed"
    monkeypatch.setenv("PYTHONPATH", str(FAULTS))
    monkeypatch.setenv("FAULT", f"kill:8:{marker}")
    return marker


@pytest.mark.parametrize("command", ["dvc repro train", "dvc exp run --temp train"])
def test_the_same_command_goes_on_after_a_kill(
    command: str, repository: Path, fatal: Path, expected: dict[str, str]
) -> None:
    printed = run(command, status=255)
    assert fatal.exists()
    assert "going on" not in printed
    printed = run(command)
    assert "step 8's checkpoint was not finished when the training was killed: not used" in printed
    assert "going on from step 6" in printed
    assert [path.name for path in Path(".checkpoints").iterdir()] == ["locks"]
    found = experiment() if "exp" in command else outs(Path("dvc.lock").read_text(encoding="utf-8"))
    assert found == expected


def test_a_queued_experiment_goes_on_when_it_is_queued_again(
    repository: Path, fatal: Path, expected: dict[str, str]
) -> None:
    run("dvc exp run --queue --name first train")
    run("dvc exp run --run-all")
    assert fatal.exists()
    assert "Failed" in run("dvc queue status")
    assert len(list(Path(".checkpoints").glob("*/step-*"))) >= 2
    run("dvc exp run --queue --name second train")
    run("dvc exp run --run-all")
    assert "going on from step 6" in run("dvc queue logs second")
    assert [path.name for path in Path(".checkpoints").iterdir()] == ["locks"]
    assert experiment() == expected


@contextmanager
def let_go(pipe: str, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Who waits for a writer of a pipe reads its end once a process is over: it does not wait for ever."""

    def wait() -> None:
        process.wait()
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))

    waiting = threading.Thread(target=wait)
    waiting.start()
    yield
    waiting.join()


def test_a_training_whose_dvc_was_killed_keeps_others_out_while_it_lives(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAULTS))
    pipe = tmp_path / "pipe"
    for name in ("held", "go"):
        os.mkfifo(f"{pipe}.{name}")
    with (
        subprocess.Popen(
            ["dvc", "repro", "train"],
            env=os.environ | {"FAULT": f"hold:2:{pipe}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as dvc,
        let_go(f"{pipe}.held", dvc),
        Path(f"{pipe}.held").open() as lines,
    ):
        process = int(lines.readline())
        dvc.send_signal(signal.SIGKILL)
        dvc.wait()
        try:
            printed = run("dvc repro train", status=255)
            assert f"a training runs in {repository} already as process {process}: wait until it ends, or" in printed
            Path(f"{pipe}.go").open("w").close()
            assert lines.read() == ""  # it ended
        except BaseException:
            os.kill(process, signal.SIGKILL)
            raise
    assert Path("models/trained/manifest.json").is_file()
