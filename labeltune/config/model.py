"""Settings of base models, prompts and training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from labeltune.config.base import SHA256, Fraction, Origin, Positive, Section, Seed

TOKENIZER_KINDS = (".json", ".txt", ".model", ".spm", ".codes", ".tokenizer", ".jinja")
"""Suffixes of the files that the tokenizers of Transformers save: vocabularies, merges and SentencePiece models."""


class Model(Origin):
    """A base model: its weights and tokenizer."""

    members: list[str] | None = None
    """With `source: package`: one GGUF file, one folder of Transformers files, or the parts of a GGUF or zip file."""
    sha256: SHA256 | None = None
    """SHA-256 of the joined file, if there are several parts."""
    unpack: list[str] | None = None
    """Files to take out of the joined members, where these are a zip file; a folder around all of them is left out."""

    @model_validator(mode="after")
    def _package_has_members(self) -> "Model":
        if self.source == "package" and not self.members:
            raise ValueError("source: package needs the key 'members', the model's files in the archives")
        if self.unpack and self.source != "package":
            raise ValueError(f"unpack: takes files out of members, which source: {self.source} has not")
        if self.unpack and not self.sha256:
            raise ValueError("unpack: needs the key 'sha256', the hash of the zip file that the members form")
        return self


Method = Literal["full", "lora", "qlora", "probe", "ngrams"]
Effort = Literal["fast", "balanced", "best"]
Rate = Annotated[float, Field(gt=0, le=1e6)]
RATES: dict[Method, float] = {"full": 5e-5, "lora": 1e-3, "qlora": 1e-3}


class Prompt(Section):
    """The prompt around each text."""

    name: str | None = None
    """Name of a prompt under conf/prompts/; the other keys of this section override its keys."""
    template: str = "{text}"
    """Template with the placeholder `{text}`; `{labels}` is replaced by the label words. Other braces are literal."""
    separator: str = ", "
    """Separator between the label words in `{labels}`."""
    max_length: Annotated[int, Field(ge=8, le=2**20)] = 256
    """Maximum length of a prompt in tokens; longer texts are truncated in the middle, the template never is."""

    @model_validator(mode="after")
    def _has_text(self) -> "Prompt":
        if self.template.count("{text}") != 1:
            raise ValueError("template must contain {text} exactly once")
        return self


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Positive | Literal["auto"] = 8
    """Rank r of the update matrices; `auto`: 8 to 32, by `train.effort` and the number of training rows."""
    alpha: Positive | Literal["auto"] = 16
    """Scaling: the update is multiplied by alpha / rank; `auto`: twice the rank."""
    dropout: Fraction = 0.0
    """Dropout probability of the adapter's input; a value above 0 slows training on a CPU by about a third."""
    targets: list[str] | Literal["auto", "attention", "attention+mlp-output", "all-linear"] = "auto"
    """Linear layers with an adapter: those of the attention, those and the last one of each MLP, all of them, or a list
    of names; `auto`: those of the attention in decoders, all of them in encoders."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases that are trained with the adapters: none, all of them, or those of the adapted layers."""
    rslora: bool = False
    """Whether to scale by alpha / sqrt(rank) instead (rsLoRA; Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Whether to train the magnitude and the direction of the weights separately (DoRA; Liu et al. 2024,
    arXiv:2402.09353)."""


class Train(Section):
    """Fine-tuning."""

    seed: Seed
    """Seed for the initial weights, the order of the rows and dropout."""
    effort: Effort = "balanced"
    """What `auto` takes for depth, layers, epochs and rank. `fast`: the shallowest layers that will do, a quarter of
    them trained, one epoch; `balanced`: the best depth, half of the layers trained, or all from 20,000 training rows
    on, two to four epochs; `best`: every layer, three to five epochs."""
    method: Method = "lora"
    """Train all weights, low-rank adapters, or adapters on 4-bit weights (QLoRA; Dettmers et al. 2023,
    arXiv:2305.14314); `probe` trains none and fits a logistic regression to the base model's hidden states, with
    `head: linear`; `ngrams` is TF-IDF of words and characters with a logistic regression, which has no base model."""
    head: Literal["label_scoring", "linear", "mlp"] = "label_scoring"
    """Score the label words with the language model head, or train a linear or MLP classification head."""
    label_score: Literal["sum", "mean", "pmi", "contextual", "first_token"] = "sum"
    """Score of a label word of several tokens: the sum or the mean of their log-probabilities, the sum minus a prior
    (`pmi`, `contextual`), or the log-probability of the first token."""
    pooling: Literal["auto", "first", "last", "mean"] = "auto"
    """Hidden state that the head reads: that of the first or last token, or the mean over all tokens; `auto`: the last
    token in decoders; in encoders that of Transformers' own classifier, the first token with `head: mlp`, or the mean
    with `method: probe`."""
    depth: Positive | Literal["all", "auto"] = "all"
    """Number of layers to keep; `auto` compares regressions on the base model's states by their validation
    loss. With `effort: fast` it takes the shallowest layer within a standard error of the best, at least a third of the
    model; with `balanced` the deepest within a standard error, at least half of the model, or every layer of an
    encoder; with `best` every layer."""
    probe_rows: Positive | Literal["all", "auto"] = "auto"
    """Layers are compared by regressions on so many training rows, judged by at most as many validation rows: for
    `depth: auto`, and for the baseline on hidden states. They are read layer by layer until none is better. `auto`:
    1,024, or 64 for each label where that is more; with `effort: fast` 128, or 16 for each label."""
    layers: Positive | Literal["all", "auto"] = "all"
    """Number of top layers to train, of those that are kept; `auto`: on a CPU, with `effort: fast` and adapters,
    a quarter of them and at most 8; with `balanced`, half of them below 20,000 training rows; else all."""
    feature_cache_budget: Annotated[int, Field(ge=0, lt=2**31)] = 4096
    """Maximum size of the feature cache in MiB. It keeps hidden states of the frozen layers on disk for all trainings,
    so that other seeds, learning rates, heads and experiments do not compute them again; 0 disables it."""
    lora: Lora = Lora()
    """Settings of the adapters, with `method: lora` and `method: qlora`."""
    head_initialization: Literal["auto", "regression", "random"] = "auto"
    """Initialize a `linear` head by a logistic regression on the base model's hidden states (of 256 training rows, or
    32 for each label if that is more) or at random; `auto`: by a regression, unless the head is Transformers' own with
    a pooler."""
    head_dropout: Fraction = 0.1
    """Dropout probability in the `mlp` head."""
    epochs: Annotated[float, Field(gt=0, le=10_000)] | Literal["auto"] = 2.0
    """Number of passes over the training rows; `auto`: 1 to 5, by `effort` and the number of rows."""
    batch_size: Positive = 16
    """Number of rows in a forward pass."""
    batches: Literal["random", "by_length"] = "random"
    """How rows are grouped into batches. `by_length` avoids padding, but if length correlates with the label, the
    labels of a batch are unbalanced."""
    packing: Literal["auto"] | bool = "auto"
    """Whether to pack several rows of a batch into one sequence after a single copy of the prompt's prefix, instead of
    padding them; for networks with a classification head, in encoders with `pooling` first, last or mean. `auto`: on a
    CPU, where it is faster."""
    accumulation: Positive = 1
    """Number of batches in an optimizer step (gradient accumulation)."""
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = "auto"
    """`auto`: AdamW in fp32; with `method: qlora`, paged 8-bit AdamW."""
    learning_rate: Rate | dict[Method, Rate] = Field(default_factory=lambda: dict(RATES))
    """Peak learning rate, or {method: rate}; adapters need a higher one than full fine-tuning, regressions none."""
    scheduler: Literal["linear", "cosine", "polynomial", "inverse_sqrt", "constant"] = "linear"
    """Learning rate schedule after the warm-up."""
    warmup: Fraction = 0.1
    """Share of the steps in which the learning rate increases from 0 to its peak."""
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Maximum norm of the gradients, which are clipped to it."""
    label_smoothing: Fraction = 0.0
    """Share of the target probability that is distributed uniformly over all labels."""
    class_weights: Literal["none", "balanced"] | dict[str, Rate] = "none"
    """Weight of each label in the training loss: 1, rows / (labels · rows of the label) with `balanced`, or
    {label: weight}."""
    gradient_checkpointing: bool = False
    """Whether to recompute activations in the backward pass, which needs less memory and is about a third slower."""
    eval_steps: Positive | Literal["auto"] = "auto"
    """Number of optimizer steps between two validations; `auto`: about two validations per epoch, and at least two in
    all."""
    keep_best: Literal["loss", "accuracy", "macro_f1"] = "loss"
    """Validation metric that selects the model; `loss` includes class weights and label smoothing, as in training."""
    early_stopping: Positive | None = None
    """Number of validations without improvement after which training stops; null disables early stopping."""
    checkpoints: Positive = 2
    """Maximum number of checkpoints on disk, in addition to the best one."""
    resume: str = "auto"
    """`auto`: resume from the newest checkpoint of the same training; `none`: start from the beginning; else the path
    of a checkpoint."""
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "dvclive"]] = Field(default_factory=list)
    """Experiment trackers that receive the curves, in addition to plots/curves."""
    blend: Literal["auto", "none"] = "auto"
    """Add the logits of an n-gram model, fitted to the training rows, to the network's, with weights fitted to the
    validation rows; `auto`: where that lowers their cross-fitted log-loss by more than a standard error
    and 0.001."""
    select: Literal["none", "auto"] = "none"
    """Whether a cheaper classifier is taken instead if the paired test on validation rows finds it better. `auto` fits
    n-grams and a probe of the same depth to the training rows, the latter by one pass of the base model; `none` only
    tells, of the n-grams that `blend` has fitted."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Data type of the computation and of frozen weights; `auto`: bf16 if it is faster on this hardware."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation; `auto`: `eager` on a CPU, where it is 1.3 to 1.4 times as fast, else `sdpa`."""
    kernels: Literal["auto", "fused", "transformers"] = "auto"
    """Implementation of the layers of Llama, Mistral, Qwen 2, Qwen 3, Gemma 3, BERT, RoBERTa, XLM-R and MPNet:
    labeltune's fused kernels or Transformers' own; `auto`: `fused` on a CPU, where a training step then takes two
    thirds to four fifths of the time."""
    threads: Annotated[int, Field(gt=0, le=1024)] | Literal["auto"] = "auto"
    """Number of CPU threads; `auto`: the number of cores, divided among the running queue workers."""

    @property
    def fine_tunes(self) -> bool:
        """Whether the method trains the base model, in steps and epochs."""
        return self.method in RATES

    @property
    def rate(self) -> float:
        """Peak learning rate for a method that fine-tunes."""
        return self.learning_rate[self.method] if isinstance(self.learning_rate, dict) else self.learning_rate

    @model_validator(mode="after")
    def _fits_together(self) -> "Train":
        if not self.fine_tunes:
            self._is_a_regression()
        elif isinstance(self.learning_rate, dict) and self.method not in self.learning_rate:
            raise ValueError(f"learning_rate has {sorted(self.learning_rate)}, and none for method: {self.method}")
        if self.lora.bias == "all" and self.layers != "all" and self.method in ("lora", "qlora"):
            raise ValueError("lora.bias: all trains biases in every layer; set layers: all, or lora.bias: lora_only")
        if self.head == "label_scoring" and self.pooling not in ("auto", "last"):
            raise ValueError(f"head: label_scoring reads the last token; pooling: {self.pooling} does not fit it")
        if self.head_initialization == "regression" and self.head != "linear":
            raise ValueError(f"head_initialization: regression is for head: linear, not {self.head}")
        return self

    def _is_a_regression(self) -> None:
        if self.method == "probe" and self.head != "linear":
            raise ValueError(f"method: probe fits a linear head, and head: {self.head} is none; set head: linear")
        if self.class_weights != "none" or self.label_smoothing:
            raise ValueError(
                f"method: {self.method} is a regression with neither class_weights nor label_smoothing; set "
                "class_weights: none and label_smoothing: 0.0"
            )


FEW_ROWS, MANY_ROWS = 1_000, 20_000
"""Training rows below which an epoch is short, and from which one brings nearly all there is to learn."""
EPOCHS: dict[Effort, tuple[float, float, float]] = {"fast": (1, 1, 1), "balanced": (4, 3, 2), "best": (5, 4, 3)}
"""Passes over few training rows, over more, and over many."""
RANKS: dict[Effort, tuple[int, int, int]] = {"fast": (8, 8, 8), "balanced": (8, 16, 32), "best": (16, 16, 32)}
"""Ranks of the adapters, likewise."""
PROBE_ROWS: dict[Effort, tuple[int, int]] = {"fast": (128, 16), "balanced": (1024, 64), "best": (1024, 64)}
"""Rows on which layers are compared: at least so many, and at least so many for each label."""
FAST_SHARE, FAST_MOST = 4, 8
"""With `fast`, a CPU trains one layer in so many, and at most so many."""


def _bracket(rows: int) -> int:
    return (rows >= FEW_ROWS) + (rows >= MANY_ROWS)


def auto_epochs(effort: Effort, rows: int) -> float:
    """Passes over `rows` training rows.

    >>> auto_epochs("balanced", 800), auto_epochs("balanced", 2_000), auto_epochs("best", 60_000)
    (4, 3, 3)
    """
    return EPOCHS[effort][_bracket(rows)]


def auto_rank(effort: Effort, rows: int) -> int:
    """Rank of the adapters for `rows` training rows.

    >>> auto_rank("fast", 60_000), auto_rank("balanced", 60_000)
    (8, 32)
    """
    return RANKS[effort][_bracket(rows)]


def auto_probe_rows(effort: Effort, num_labels: int) -> int:
    """Training rows, and validation rows, on which layers are compared.

    >>> auto_probe_rows("fast", 2), auto_probe_rows("fast", 77), auto_probe_rows("balanced", 2)
    (128, 1232, 1024)
    """
    least, per_label = PROBE_ROWS[effort]
    return max(least, per_label * num_labels)


def auto_layers(effort: Effort, method: str, depth: int, rows: int, *, on_gpu: bool) -> tuple[int | str, str]:
    """How many top layers train of a model of `depth` layers, and why.

    >>> auto_layers("balanced", "lora", 12, 2_000, on_gpu=False)
    (6, '6: half of 12, as a CPU trains on fewer than 20,000 rows')
    """
    if on_gpu:
        return "all", "all: a GPU trains them as fast as it can be fed"
    if effort == "best":
        return "all", "all: train.effort is best"
    if effort == "balanced" and rows >= MANY_ROWS:
        return "all", f"all: {rows:,} rows can use them"
    if effort == "balanced":
        half = max(1, -(-depth // 2))
        return half, f"{half}: half of {depth}, as a CPU trains on fewer than {MANY_ROWS:,} rows"
    if method == "full":
        return "all", "all: every weight trains with method: full"
    top = min(FAST_MOST, max(1, depth // FAST_SHARE))
    return top, f"{top}: a quarter of {depth}, at most {FAST_MOST}, as a CPU trains adapters"
