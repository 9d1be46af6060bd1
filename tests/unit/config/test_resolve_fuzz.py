"""Settings that nobody should write: each is taken or refused by a sentence that names its file, never a traceback."""

import copy
import math
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from labeltune.config.base import read_yaml, section
from labeltune.config.model import Train
from labeltune.config.resolve import Resolved, resolve, write_resolved
from labeltune.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
VALUES: list[Any] = [
    math.inf, -math.inf, math.nan, 0, -1, 1, 2**31, 2**63, 10**400, -(10**30), 1e308, 1e-320, 0.5, 1.0, True, False,
    "", " ", "auto", "all", "none", "null", "no", "1e-3", "data/raw/../..", "/etc/passwd", "a\x00b", "\u202e",
    "é" * 10_000, [], [[]], [None], ["auto"], [0.1, "x"], [math.nan], {}, {"a": {}}, {"lora": math.inf}, {"full": 0},
    {1: 2}, {"": ""}, {"text": None},
]  # fmt: skip
LONGEST = 20_000
SETTINGS = int(os.environ.get("LABELTUNE_FUZZ", "2000")) // 4
"""Changed settings; `make fuzz` sets LABELTUNE_FUZZ."""


def places(settings: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of nested settings, groups as well."""
    found = []
    for key, value in settings.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += places(value, (*prefix, key))
    return found


def put(settings: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    for key in place[:-1]:
        settings = settings[key] if isinstance(settings.get(key), dict) else settings.setdefault(key + "x", {})
    settings[place[-1]] = value


def judge(folder: Path) -> Resolved | None:
    """Resolve; what is taken must survive being written and read again, what is refused must say where."""
    try:
        resolved = resolve(folder / "params.yaml", folder / "conf")
        text = write_resolved(resolved)
        (folder / "resolved.yaml").write_text(text, encoding="utf-8")
    except UserError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert str(folder) in refusal
        assert len(refusal) < LONGEST
        return None
    again = Resolved.model_validate(read_yaml(folder / "resolved.yaml"))
    assert write_resolved(again) == text
    assert section("train", Train, folder / "resolved.yaml") == resolved.train
    return resolved


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


def test_any_value_of_any_key_is_taken_or_refused_by_name(folder: Path) -> None:
    rng = random.Random(7)
    settings = read_yaml(folder / "params.yaml")
    yaml = YAML(typ="safe", pure=True)
    taken = 0
    for _ in range(SETTINGS):
        changed = copy.deepcopy(settings)
        for place in rng.sample(places(settings), rng.choice((1, 1, 1, 2, 3))):
            put(changed, place, copy.deepcopy(rng.choice(VALUES)))
        with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
            yaml.dump(changed, stream)
        resolved = judge(folder)
        if resolved is not None:
            taken += 1
            train = resolved.train
            assert train.epochs <= 10_000
            assert train.threads == "auto" or train.threads <= 1024
            assert all(0 <= seed < 2**32 for seed in (train.seed, resolved.prepare.seed, resolved.evaluate.seed))
            numbers = [value for value in _flat(resolved.model_dump()) if isinstance(value, float)]
            assert all(math.isfinite(number) for number in numbers)
    assert 0 < taken < SETTINGS - 10


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _flat(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in _flat(inner)]
    return [value]


def test_any_bytes_of_a_file_are_taken_or_refused_by_name(folder: Path) -> None:
    rng = random.Random(11)
    pieces = [
        b"&a [*a]", b"? ", b": ", b"- ", b"\x00", b"\xff\xfe", b"\t", b"{", b"}" * 3, b"[" * 300, b"!!python/x ", b"'",
        b"<<: *b", b"2001-01-01", b"1e999999999", b"9" * 5000, b'"\\ud800"', b"---\n", b"%YAML 9.9\n", b"recipe: x\n",
        b"\xc2\x85", b"!!binary aGk=", b"0x", b"~",
    ]  # fmt: skip
    for name in (
        "params.yaml",
        "conf/recipes/default.yaml",
        "conf/datasets/sms-spam.yaml",
        "conf/models/smollm2-135m.yaml",
    ):
        whole = (folder / name).read_bytes()
        for _ in range(40):
            content = bytearray(whole)
            for _ in range(rng.choice((1, 2, 5))):
                start = rng.randrange(len(content) + 1)
                content[start : start + rng.choice((0, 1, 7, 60))] = rng.choice(pieces)
            (folder / name).write_bytes(bytes(content))
            judge(folder)
        (folder / name).write_bytes(whole)
