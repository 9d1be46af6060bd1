"""Settings of data sets and of the `prepare` stage."""

from fractions import Fraction as Exact
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from labeltune.config.base import Origin, Positive, Section, Seed, Share


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
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "folder", "lines"] = "auto"
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
    split_column: str | None = None
    """Column that says which split a row is of; `train`, `validation` and `test` then name the same file. Rows for
    validation are tested on where `validation` is null."""
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
        if self.split_column is not None and self.source == "hub":
            raise ValueError("'split_column' is for files: with source: hub name the splits of the Hub")
        if self.split_column is not None and self.all is not None:
            raise ValueError("'split_column' needs 'train' and 'test', which may name the same file, not 'all'")
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


CheckAction = Literal["drop", "fail", "keep"]
WATCHED = PurePath("data/raw")
"""The folder that `collect` depends on."""


class Split(Section):
    """Shares of the splits; docs/design.md gives the rounding."""

    train: Share = 0.7
    """Share of one table that is trained on."""
    validation: Share = 0.1
    """Share of one table that is validated on."""
    test: Share = 0.2
    """Share of one table that is tested on."""
    validation_of_train: Share = 0.15
    """Share of the training rows that is validated on, where a test set is given without a validation set."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> "Split":
        total = sum(Exact(str(share)) for share in (self.train, self.validation, self.test))
        if total != 1:
            raise ValueError(f"train + validation + test must be 1, not {float(total)}")
        return self


class Prepare(Section):
    """Cleaning, hygiene, balance and split."""

    seed: Seed
    """Seed of the balance, the row limit and the split."""
    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normal form of the texts."""
    whitespace: Literal["collapse", "strip", "keep"] = "collapse"
    """`collapse`: every run of white space becomes one space, none at the ends."""
    missing_text: CheckAction = "drop"
    """Null or blank texts; kept ones are empty."""
    missing_label: Literal["drop", "fail"] = "fail"
    """Null or blank labels."""
    conflicts: CheckAction = "drop"
    """One text under two labels; `drop` drops every row of it."""
    exact_inside: CheckAction = "drop"
    """The same text twice inside a split, or inside the table before it is split; the first row stays."""
    near_inside: CheckAction = "keep"
    """Nearly the same text twice inside a split or table; the first row stays."""
    exact_across: CheckAction = "drop"
    """The same text in two splits; the test row stays, then the validation row."""
    near_across: CheckAction = "drop"
    """Nearly the same text in two splits; the test row stays, then the validation row."""
    near_threshold: Annotated[float, Field(ge=0.5, lt=1)] = 0.8
    """Jaccard similarity of character 5-grams from which two texts count as nearly the same."""
    balance: Literal["none", "smallest"] = "none"
    """`smallest`: down-sample every class of the table, or of the training rows, to the smallest one."""
    train_rows: Positive | None = None
    """Train on a stratified sample of this many rows; null takes all."""
    validation_rows: Positive | Literal["auto", "all"] = "auto"
    """Validate on a stratified sample of this many of the rows that were split off; the others are left out. `auto`:
    2,000, or a tenth of the training rows where that is more, so that validating does not take longer than training.
    A validation set that is given is never changed."""
    rare_classes: Literal["fail", "drop", "merge"] = "fail"
    """Classes with fewer than `rare_rows` rows in the table, or among the training rows: refuse them, leave their rows
    out, or make one class of them."""
    rare_rows: Positive = 3
    """Rows from which a class is not rare; one table can't be split with fewer than 3."""
    rare_name: Annotated[str, Field(min_length=1)] = "other"
    """Name of the class that `rare_classes: merge` makes."""
    corrections: str | None = None
    """A file that `labeltune chat` keeps, below data/raw, whose rows are added to the training rows; null adds none."""
    split: Split = Split()
    """Shares of the splits."""

    @model_validator(mode="after")
    def _corrections_are_watched(self) -> "Prepare":
        path = PurePath(self.corrections or WATCHED)
        if path.is_absolute() or ".." in path.parts or not path.is_relative_to(WATCHED):
            raise ValueError(
                f"corrections must lie below {WATCHED.as_posix()}, where DVC sees that they change: {path}"
            )
        return self
