"""Settings of base models, prompts and training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from labeltune.config.base import SHA256, Fraction, Origin, Positive, Section, Seed


class Model(Origin):
    """A base model: its weights and tokenizer."""

    members: list[str] | None = None
    """With `source: package`: one GGUF file, one folder of Transformers files, or the parts of a GGUF or zip file."""
    sha256: SHA256 | None = None
    """Hash of the joined members, where there are several."""
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


Method = Literal["full", "lora", "qlora"]
Effort = Literal["fast", "balanced", "best"]
Rate = Annotated[float, Field(gt=0, le=1e6)]
RATES: dict[Method, float] = {"full": 5e-5, "lora": 1e-3, "qlora": 1e-3}


class Prompt(Section):
    """How a text becomes the model's input."""

    name: str | None = None
    """A prompt under conf/prompts/, whose keys the ones given here override."""
    template: str = "{text}"
    """The text around `{text}`; `{labels}` lists the label words. Other braces are literal."""
    separator: str = ", "
    """What stands between the label words in `{labels}`."""
    max_length: Annotated[int, Field(ge=8, le=2**20)] = 256
    """Most tokens of a prompt; a longer text loses its middle, the template never loses anything."""

    @model_validator(mode="after")
    def _has_text(self) -> "Prompt":
        if self.template.count("{text}") != 1:
            raise ValueError("template must contain {text} exactly once")
        return self


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Positive | Literal["auto"] = 8
    """Rank r of the update B·A; `auto`: by `train.effort` and the number of training rows, 8 to 32."""
    alpha: Positive | Literal["auto"] = 16
    """The update is scaled by alpha / rank; `auto`: twice the rank."""
    dropout: Fraction = 0.0
    """Dropout of the adapter's input; above 0 it costs about a third of the speed on a CPU."""
    targets: list[str] | Literal["auto", "attention", "attention+mlp-output", "all-linear"] = "auto"
    """Layers that get an adapter: the attention's, those and the last one of each MLP, every linear one, or layer
    names; `auto`: the attention's in decoders, every linear one in encoders."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases that train beside the adapters: none, all of the model's, or those of the adapted layers."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Train the weights' magnitudes apart from their directions (Liu et al. 2024, arXiv:2402.09353)."""


class Train(Section):
    """Fine-tuning."""

    seed: Seed
    """Seed of the initial weights, the order of rows and dropout."""
    effort: Effort = "balanced"
    """What `auto` takes for depth, layers, epochs and rank. `fast`: the shallowest layers that will do, a quarter of
    them trained, one epoch; `balanced`: the best depth, half of the layers trained, or all from 20,000 training rows
    on, two to four epochs; `best`: every layer, three to five epochs."""
    method: Method = "lora"
    """Train every weight, low-rank adapters, or adapters on 4-bit weights (Dettmers et al. 2023, arXiv:2305.14314)."""
    head: Literal["label_scoring", "linear", "mlp"] = "label_scoring"
    """Score the label words with the language model's own output rows, or train a classifier."""
    label_score: Literal["sum", "mean", "pmi", "contextual", "first_token"] = "sum"
    """Score of a label word of several tokens: the sum of their log-probabilities, the mean, the sum less a prior
    (`pmi`, `contextual`), or that of the first token alone."""
    pooling: Literal["auto", "first", "last", "mean"] = "auto"
    """Hidden state that the head sees: of the first or last token, or the mean over all; `auto`: the last one in
    decoders; in encoders what Transformers' own classifier takes, and the first one with `head: mlp`."""
    depth: Positive | Literal["all", "auto"] = "all"
    """Cut the model after this many layers; `auto` compares regressions on the base model's states by their validation
    loss. With `effort: fast` it takes the shallowest layer within a standard error of the best, at least a third of the
    model; with `balanced` the deepest within a standard error, at least half of the model, or every layer of an
    encoder; with `best` every layer."""
    probe_rows: Positive | Literal["all", "auto"] = "auto"
    """Layers are compared by regressions on so many training rows, judged by at most as many validation rows: for
    `depth: auto`, and for the baseline on hidden states. They are read layer by layer until none is better. `auto`:
    1,024, or 64 for each label where that is more; with `effort: fast` 128, or 16 for each label."""
    layers: Positive | Literal["all", "auto"] = "all"
    """Train in only this many top layers of those that are left; `auto`: on a CPU, with `effort: fast` and adapters,
    a quarter of them and at most 8; with `balanced`, half of them below 20,000 training rows; else all."""
    feature_cache_budget: Annotated[int, Field(ge=0, lt=2**31)] = 4096
    """MiB on the disk, of all trainings together, for states of layers that do not train, so that other seeds, rates,
    heads and experiments need not compute them; 0 keeps none."""
    lora: Lora = Lora()
    """With `method: lora` and `qlora`."""
    head_initialization: Literal["auto", "regression", "random"] = "auto"
    """Initialize a `linear` head with a logistic regression on the base model's states of 256 training rows, or 32 for
    each label if that is more, or at random; `auto`: a regression, unless the head is Transformers' own with a
    pooler."""
    head_dropout: Fraction = 0.1
    """Dropout inside the `mlp` head."""
    epochs: Annotated[float, Field(gt=0, le=10_000)] | Literal["auto"] = 2.0
    """Passes over the training rows; `auto`: by `effort` and the number of rows, 1 to 5."""
    batch_size: Positive = 16
    """Rows per forward pass."""
    batches: Literal["random", "by_length"] = "random"
    """Which rows make a batch; `by_length` wastes no padding, but where length tells the class, so do its batches."""
    packing: Literal["auto"] | bool = "auto"
    """Pack several rows of a batch into a sequence, after one copy of the prompt's prefix, instead of padding them:
    networks with a classifier head, encoders with `pooling` first, last or mean. `auto`: on a CPU, where it is measured
    to be faster."""
    accumulation: Positive = 1
    """Batches per optimiser step."""
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = "auto"
    """`auto`: AdamW in fp32; with `method: qlora` in 8 bits and paged."""
    learning_rate: Rate | dict[Method, Rate] = Field(default_factory=lambda: dict(RATES))
    """Peak learning rate of AdamW, or {method: rate}: adapters take rates that would ruin all the weights."""
    scheduler: Literal["linear", "cosine", "polynomial", "inverse_sqrt", "constant"] = "linear"
    """Course of the learning rate after the warm-up."""
    warmup: Fraction = 0.1
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Gradients are clipped to this norm."""
    label_smoothing: Fraction = 0.0
    """Share of the target's probability that is spread over all labels."""
    class_weights: Literal["none", "balanced"] | dict[str, Rate] = "none"
    """Weight of each label in the training loss: 1, rows / (labels · rows of the label), or {label: weight}."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    eval_steps: Positive | Literal["auto"] = "auto"
    """Optimiser steps between two validations; `auto`: about two per epoch, and two in all if there is no whole one."""
    keep_best: Literal["loss", "accuracy", "macro_f1"] = "loss"
    """Validation figure by which the best model is kept; `loss` is the training loss, class weights included."""
    early_stopping: Positive | None = None
    """Stop after this many validations without a better one; null never stops early."""
    checkpoints: Positive = 2
    """Most checkpoints on disk, besides the best one's."""
    resume: str = "auto"
    """`auto`: go on from the newest checkpoint of the same training; `none`: begin anew; else a checkpoint's path."""
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "dvclive"]] = Field(default_factory=list)
    """Trackers that get the curves, beside plots/curves."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the arithmetic, and of frozen weights; `auto`: bf16 where the hardware is faster in it."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel; `auto`: eager on a CPU, where it is 1.3 to 1.4 times as fast, else sdpa."""
    kernels: Literal["auto", "fused", "transformers"] = "auto"
    """How the layers of Llama, Mistral and Qwen 2 are computed: by labeltune's fused kernels, where they can be, or by
    Transformers'; `auto`: fused on a CPU, where a training step then takes four fifths of the time."""
    threads: Annotated[int, Field(gt=0, le=1024)] | Literal["auto"] = "auto"
    """CPU threads; `auto`: the cores, shared between the queue's running workers."""

    @property
    def rate(self) -> float:
        """Peak learning rate of the method."""
        return self.learning_rate[self.method] if isinstance(self.learning_rate, dict) else self.learning_rate

    @model_validator(mode="after")
    def _fits_together(self) -> "Train":
        if isinstance(self.learning_rate, dict) and self.method not in self.learning_rate:
            raise ValueError(f"learning_rate has {sorted(self.learning_rate)}, and none for method: {self.method}")
        if self.lora.bias == "all" and self.layers != "all" and self.method != "full":
            raise ValueError("lora.bias: all trains biases in every layer; set layers: all, or lora.bias: lora_only")
        if self.head == "label_scoring" and self.pooling not in ("auto", "last"):
            raise ValueError(f"head: label_scoring reads the last token; pooling: {self.pooling} does not fit it")
        if self.head_initialization == "regression" and self.head != "linear":
            raise ValueError(f"head_initialization: regression is for head: linear, not {self.head}")
        return self


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
