"""A tiny language model, made here and not stored: the same architecture and file formats as the real ones."""

import csv
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# Before torch is imported, which reads it once. More threads than cores make every test several times slower.
os.environ["OMP_NUM_THREADS"] = str(max(1, CORES // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))

import torch

from labeltune.config.model import Model
from labeltune.data.labels import LabelSet
from tests.lexicon import fill_lexicons
from tests.tiny import save_base

ROOT = Path(__file__).parent.parent
MOST_WORKERS = 8
"""Each one imports torch and transformers, which takes about 1 GB of memory."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use a worker for each core, but not more than there are files to run; 0 runs the tests in this process."""
    named = {Path(argument.split("::")[0]) for argument in config.args}
    files = len(named) if all(path.is_file() for path in named) else MOST_WORKERS
    workers = min(CORES, files, MOST_WORKERS)
    return workers if workers > 1 else 0


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4-layer Llama with random weights and a tokenizer in which ` ham` and ` spam` are one token each."""
    folder = tmp_path_factory.mktemp("base") / "tiny-llama"
    return save_base("llama", folder, num_hidden_layers=4, initializer_range=0.02)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """From an architecture of `tests.tiny`, and keys of its configuration, to the folder of a base model."""
    torch.set_num_threads(1)  # for matrices this small more of them only cost
    folder = tmp_path_factory.mktemp("bases")

    @cache
    def saved(architecture: str, **changes: object) -> Path:
        return save_base(architecture, folder / "-".join([architecture, *map(str, changes.values())]), **changes)

    return saved


@pytest.fixture
def tiny_model(base_folder: Path) -> Model:
    """The tiny model as a source."""
    return Model(name="tiny", source="files", folder=str(base_folder))


@pytest.fixture
def spam() -> LabelSet:
    """Two labels."""
    return LabelSet(names=("ham", "spam"), words=("ham", "spam"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or written to the user's cache."""
    cache = tmp_path_factory.mktemp("cache")
    fill_lexicons(cache)
    monkeypatch.setenv("LABELTUNE_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


HAM = ["see you at home", "lunch later today", "call me when you are home", "are you at lunch", "see you later then"]
SPAM = [
    "win a free prize now",
    "free cash call now",
    "claim your prize and win",
    "cash prize call free",
    "win cash now",
]


def spam_rows(count: int) -> list[tuple[str, str]]:
    """`count` rows of each class, all different: (label, text)."""
    return [
        (label, f"{texts[i % len(texts)]} {chr(97 + i % 26) * 6}{chr(97 + i // 26 % 26) * 6}")
        for i in range(count)
        for label, texts in (("ham", HAM), ("spam", SPAM))
    ]


def make_project(folder: Path, base_folder: Path) -> None:
    """Make a project as a user has it, with a data set of 2 x 30 rows and the tiny model."""
    for name in ("params.yaml", "conf", "stages", "labeltune", "dvc.yaml", ".dvc", ".dvcignore", ".gitignore"):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    rows = "\n".join(f"{label},{text}" for label, text in spam_rows(30))
    table = folder / "data/raw/messages/messages.csv"
    table.parent.mkdir(parents=True)
    table.write_text(f"label,text\n{rows}\n", encoding="utf-8")
    (folder / "conf/datasets/messages.yaml").write_text(
        "about: test rows\nsource: files\nfolder: data/raw/messages\nall: messages.csv\ntext: text\n", encoding="utf-8"
    )
    (folder / "conf/models/tiny.yaml").write_text(
        f"about: test model\nsource: files\nfolder: {base_folder}\n", encoding="utf-8"
    )
    (folder / "conf/recipes/test.yaml").write_text(
        "about: test recipe\ndataset: messages\nmodel: tiny\nprompt: {name: classify}\n"
        "train: {epochs: 2, batch_size: 8, layers: 2, dtype: fp32, threads: 1}\n",
        encoding="utf-8",
    )
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("recipe: default", "recipe: test"), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project as the working folder."""
    make_project(tmp_path, base_folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Messages outside the project, in UTF-16 and an unusual order of columns, two of them without a label."""
    file = tmp_path_factory.mktemp("desk") / "desk notes.csv"
    with file.open("w", newline="", encoding="utf-16") as stream:
        rows = csv.writer(stream)
        rows.writerow(["nr", "said", "kind"])
        rows.writerows([i, text, label if i > 1 else ""] for i, (label, text) in enumerate(spam_rows(40)))
    return file
