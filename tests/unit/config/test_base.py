"""Sections of settings: what a section refuses, and how YAML and older names of settings are read."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from labeltune.config import base
from labeltune.config.base import RENAMED, Origin, Section, current_names, read_yaml
from labeltune.config.model import Train
from labeltune.config.resolve import KINDS
from labeltune.runtime.errors import UserError


class Example(Section):
    """A section of two settings."""

    rate: float = 0.5
    """A rate."""
    name: str | None = None
    """A name."""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rat": 0.1}, "Extra inputs are not permitted"),
        ({"rate": "0.1"}, "valid number"),
        ({"name": 3}, "valid string"),
        ({"rate": float("inf")}, "finite number"),
        ({"rate": float("nan")}, "finite number"),
    ],
)
def test_a_section_refuses_unknown_keys_and_converts_no_types(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Example.model_validate(given)


def test_a_section_cannot_be_changed_and_its_docstrings_describe_its_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Example().rate = 0.1
    assert Example.model_fields["rate"].description == "A rate."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate: 1e-3\nanswer: no\n", {"rate": 0.001, "answer": "no"}),
        ("on: off\nnumber: 010\n", {"on": "off", "number": 10}),
        ("empty:\n", {"empty": None}),
    ],
)
def test_yaml_is_read_as_dvc_reads_it(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_yaml(path) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\n", "x.yaml: not valid YAML: .*line"),
        ("a: 1\na: 2\n", "x.yaml: not valid YAML: .*line 2"),
        ("- a\n", "x.yaml: expected keys and values, found list"),
        ("", "x.yaml: expected keys and values, found NoneType"),
        ("a: !!python/object:os.system x\n", "x.yaml: not valid YAML"),
        ("[" * 5000, "x.yaml: not valid YAML"),
    ],
)
def test_what_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as caught:
        read_yaml(path)
    assert len(str(caught.value)) < len(str(path)) + base.SAID + 50


def test_a_missing_file_says_where_to_run() -> None:
    with pytest.raises(UserError, match=r"nowhere.yaml: no such file; run this in the project's top folder"):
        read_yaml(Path("nowhere.yaml"))


def test_a_section_is_read_from_the_resolved_file(tmp_path: Path) -> None:
    path = tmp_path / "resolved.yaml"
    path.write_text("example: {rate: 0.25}\nother: {rate: fast}\n", encoding="utf-8")
    assert base.section("example", Example, path) == Example(rate=0.25)
    for name in ("other", "missing"):
        with pytest.raises(UserError, match=f"section '{name}' does not fit this version; run `dvc repro configure`"):
            base.section(name, Example, path)


@pytest.mark.parametrize(("source", "needed"), [("files", "folder"), ("package", "archives"), ("hub", "hub")])
def test_a_source_needs_its_key(source: str, needed: str) -> None:
    with pytest.raises(ValidationError, match=f"source: {source} needs the key '{needed}'"):
        Origin.model_validate({"name": "x", "source": source})


def test_records_call_a_thing_by_its_name_on_the_hub_where_it_has_one() -> None:
    assert Origin(name="mine", source="files", folder="x", hub="owner/name").title == "owner/name"
    assert Origin(name="mine", source="files", folder="x").title == "mine"


@pytest.mark.parametrize(
    ("requirement", "sha256", "said"),
    [
        ("snownlp>=0.12", "0" * 64, "requirement"),
        ("snownlp==0.12; x", "0" * 64, "requirement"),
        ("snownlp==0.12", "0" * 63, "sha256"),
        ("snownlp==0.12", "G" * 64, "sha256"),
    ],
)
def test_an_archive_that_is_not_pinned_is_refused(requirement: str, sha256: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        base.Archive(requirement=requirement, sha256=sha256)


@pytest.mark.parametrize("old", RENAMED)
def test_every_new_name_is_a_setting_and_no_old_one_is(old: str) -> None:
    section, _, key = RENAMED[old].partition(".")
    assert section == old.partition(".")[0] == "train"
    assert key in Train.model_fields
    assert old.partition(".")[2] not in Train.model_fields
    assert section not in KINDS


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_is_read_as_the_new_one_in_its_own_section_alone(old: str) -> None:
    section, _, key = old.partition(".")
    new = RENAMED[old].partition(".")[2]
    assert current_names(section, {key: 5, "seed": 1}, "x.yaml") == {new: 5, "seed": 1}
    assert current_names("evaluate", {key: 5}, "x.yaml") == {key: 5}
    assert current_names(section, {key: None, new: 6}, "x.yaml") == {new: 6}
    assert current_names(section, {key: 5, new: None}, "x.yaml") == {new: 5}
    with pytest.raises(UserError, match=f"x.yaml: {old} is the old name of {RENAMED[old]}, and both are set"):
        current_names(section, {key: 5, new: 6}, "x.yaml")
