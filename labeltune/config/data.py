"""Settings of data sets and of the `prepare` stage."""

from fractions import Fraction as Exact
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from labeltune.config.base import Origin, Positive, Section, Seed, Share


class Dataset(Origin):
    """A labelled data set: its files, their format and their columns."""

    hub_config: str | None = None
    """With `source: hub`: the configuration of the data set, if it has several."""
    hub_splits: dict[Literal["all", "train", "validation", "test"], str] | None = None
    """With `source: files`: read the rows from `hub` if `folder` does not exist. Maps each split to its name on the
    Hub."""
    all: str | dict[str, str] | None = None
    """A single table that `prepare` splits: a file, a folder, or {label: file} for one file per class."""
    train: str | dict[str, str] | None = None
    """The training rows of a data set that is already split."""
    validation: str | dict[str, str] | list[str] | None = None
    """The validation rows; null takes a share of `train`. Of a list of files, the first one that exists is used."""
    test: str | dict[str, str] | list[str] | None = None
    """The test rows. Of a list of files, the first one that exists is used; if none exists, `train` is split like
    `all`."""
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "folder", "lines"] = "auto"
    """Format of the files. `folder`: one sub-folder per class with one text per file; `lines`: one file per class with
    one text per line."""
    encoding: str = "utf-8"
    """Encoding of text files, or several separated by commas: each file is read with the first one that can decode
    it."""
    header: bool = True
    """Whether the first line of CSV and TSV files holds the names of the columns."""
    quoting: Literal["auto", "standard", "none"] = "auto"
    """Whether `"` quotes a field; `auto`: `standard` for CSV, `none` for TSV."""
    text: str | int | None = None
    """Name or 0-based position of the text column; null looks for one of the usual names."""
    label: str | int | None = None
    """Name or 0-based position of the label column; null looks for one of the usual names."""
    split_column: str | None = None
    """Column that holds each row's split; `train`, `validation` and `test` then name the same file. If `validation` is
    null, the validation rows are used as test rows."""
    labels: dict[str, str] | None = None
    """Raw value -> label name, in the order of the classes; null uses the sorted raw values."""
    verbalizer: dict[str, str] | None = None
    """Label name -> label word, which label scoring scores and the prompt lists; null uses the names."""
    examples: list[str] = Field(default_factory=list)
    """Example texts for `labeltune predict --demo` and the chat."""

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
        """Return the settings that read the same rows from the Hub; `folder` is kept for messages."""
        splits = dict.fromkeys(("all", "train", "validation", "test")) | dict(self.hub_splits or {})
        return Dataset.model_validate(self.model_dump() | {"source": "hub", "hub_splits": None} | splits)

    def provenance(self) -> dict[str, Any]:
        """Return the keys that tell where the rows come from, for the records."""
        keys = {"files": ["folder"], "package": ["archives"], "hub": ["hub", "hub_config", "revision"]}[self.source]
        given = self.model_dump(include={"source", "all", "train", "validation", "test", *keys})
        return {key: value for key, value in given.items() if value is not None}


CheckAction = Literal["drop", "fail", "keep"]
RAW_DATA = PurePath("data/raw")
"""The folder that `collect` depends on."""


class Split(Section):
    """Shares of the splits; docs/design.md describes the rounding."""

    train: Share = 0.7
    """Share of the training rows in a single table."""
    validation: Share = 0.1
    """Share of the validation rows in a single table."""
    test: Share = 0.2
    """Share of the test rows in a single table."""
    validation_of_train: Share = 0.15
    """Share of the training rows that become validation rows if there is a test set but no validation set."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> "Split":
        total = sum(Exact(str(share)) for share in (self.train, self.validation, self.test))
        if total != 1:
            raise ValueError(f"train + validation + test must be 1, not {float(total)}")
        return self


class Prepare(Section):
    """Cleaning, data checks, class balance and split."""

    seed: Seed
    """Seed for balancing, for the limit of training rows and for the split."""
    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalization form of the texts."""
    whitespace: Literal["collapse", "strip", "keep"] = "collapse"
    """`collapse`: replace each run of white space by one space and strip both ends; `strip`: strip both ends only."""
    missing_text: CheckAction = "drop"
    """Handling of missing or blank texts; those that are kept become empty strings."""
    missing_label: Literal["drop", "fail"] = "fail"
    """Handling of missing or blank labels."""
    conflicts: CheckAction = "drop"
    """Handling of texts with different labels; `drop` removes every row with such a text."""
    exact_inside: CheckAction = "drop"
    """Handling of duplicate texts within a split, or within the table before the split; the first row is kept."""
    near_inside: CheckAction = "keep"
    """Handling of near-duplicate texts within a split or table; the first row is kept."""
    exact_across: CheckAction = "drop"
    """Handling of duplicate texts across splits; test rows take precedence over validation rows, and those over
    training rows."""
    near_across: CheckAction = "drop"
    """Handling of near-duplicate texts across splits, with the same precedence."""
    near_threshold: Annotated[float, Field(ge=0.5, lt=1)] = 0.8
    """Minimum Jaccard similarity of character 5-grams at which two texts are near duplicates."""
    balance: Literal["none", "smallest"] = "none"
    """`smallest`: downsample every class of the table, or of the training rows, to the size of the smallest one."""
    train_rows: Positive | None = None
    """Size of the stratified sample of training rows; null uses all of them."""
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
    """File of corrections from `labeltune chat`, below data/raw, that are added to the training rows; null adds
    none."""
    split: Split = Split()
    """Shares of the splits."""

    @model_validator(mode="after")
    def _corrections_are_watched(self) -> "Prepare":
        path = PurePath(self.corrections or RAW_DATA)
        if path.is_absolute() or ".." in path.parts or not path.is_relative_to(RAW_DATA):
            raise ValueError(
                f"corrections must lie below {RAW_DATA.as_posix()}, where DVC sees that they change: {path}"
            )
        return self
