"""The model card: what a classifier is, what it was made from, how well it did, and where not to trust it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import labeltune
from labeltune.config.model import Model, Prompt, Train
from labeltune.data.labels import LabelSet
from labeltune.inference.artifact import Record
from labeltune.inference.calibration import Calibration
from labeltune.modeling.ngrams import Weights
from labeltune.runtime.markdown import code_block, escape

METHODS = {
    "full": "every weight was trained",
    "lora": "low-rank adapters (LoRA) were trained",
    "qlora": "low-rank adapters were trained over weights in 4 bits (QLoRA)",
}
HEADS = {
    "label_scoring": "the label words are scored with the language model's own output embedding",
    "linear": "a linear classifier was trained on top",
    "mlp": "a classifier of three layers, 512 and 256 wide, was trained on top",
}
USE = """\
`labeltune.json` holds every setting and the hashes of the base model and of the data, `manifest.json` those of these
files.

```python
from labeltune import Classifier

texts = [
{listing}
]
for answer in Classifier.load("models/classifier").predict(texts):
    print(answer.label, answer.confidence, answer.abstained)
```
"""
MOST_SHARES = 4
"""Labels whose shares are named."""
ELSEWHERE = "Figures on test rows stand in the project's `metrics/metrics.json`."


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What the card of an export has in other words."""

    header: str
    """YAML that the Hub reads."""
    use: str
    """What lies in the folder, and how it is used."""
    figures: str
    """How well it does on test rows."""


def card(
    *,
    model: Model,
    labels: LabelSet,
    train: Train,
    chosen: dict[str, str],
    prompt: Prompt,
    dataset: str,
    license: str | None,
    rows: dict[str, int],
    validation: dict[str, float],
    calibration: Calibration,
    blend: Weights | None,
    examples: Sequence[str],
    exported: Exported | None = None,
) -> str:
    """Return the card as Markdown with the header that the Hugging Face Hub reads."""
    listing = "\n".join(f"    {json.dumps(text, ensure_ascii=False)}," for text in examples or ["a text"])
    listed = "\n".join(
        f"- {escape(name)}" + (f" (as “{escape(word)}” in the prompt)" if word != name else "")
        for name, word in zip(labels.names, labels.words, strict=True)
    )
    settings = "\n".join(f"| {name} | {escape(str(value))} |" for name, value in _settings(train).items())
    reasons = "".join(f"\n\nChosen for `train.{name}: auto` was {escape(reason)}." for name, reason in chosen.items())
    figures = "\n".join(f"| {name} | {validation[name]:.3f} |" for name in ("accuracy", "macro_f1", "loss"))
    count = rows["validation"]
    header = exported.header if exported else _header(model, train)
    return f"""---
{header}---

# {escape(dataset)}: a text classifier made from {escape(model.title)}

Made with labeltune {labeltune.__version__}: {METHODS[train.method]};
{HEADS[train.head]}.{_blended(blend)}
{exported.use if exported else USE.format(listing=listing)}
## Labels

{listed}

## Data

{escape(dataset)} (licence: {escape(license or "unknown")}): {rows["train"]:,} rows to train, {count:,} to validate.
The base model's licence ({escape(model.license or "unknown")}) applies to this model as well.

## Training

| setting | value |
|---|---|
{settings}{reasons}

## Figures

On the {count:,} validation rows, by which the kept step was chosen, so that they flatter it a little:

| figure | value |
|---|---|
{figures}

One row is {100 / count:.2f} points of accuracy. {exported.figures if exported else ELSEWHERE}

## Limits

- It always answers with one of these {len(labels)} labels, also where none fits.
- It knows texts like those it was trained on; on others, in other languages above all, measure before you trust it.
- Of a text that makes the prompt longer than {prompt.max_length} tokens it does not see the middle.
- {_confidence(calibration)}
- What the base model learnt of people and places, it may repeat.

## Prompt

`{{text}}` stands for the text:

{code_block(prompt.template)}
"""


def _header(model: Model, train: Train) -> str:
    return f"""base_model: {json.dumps(model.title)}
library_name: {"transformers" if train.method == "full" else "peft"}
pipeline_tag: text-classification
tags:
- labeltune
"""


def _blended(blend: Weights | None) -> str:
    """What answers beside the network."""
    if blend is None:
        return ""
    return (
        "\nAn n-gram model of words and characters answers beside it: "
        f"{blend.network:.3f} times the network's logits and {blend.ngrams:.3f} times the n-gram model's are added."
    )


def _settings(train: Train) -> dict[str, object]:
    """The settings that a reader asks for first."""
    shown: dict[str, object] = {
        "seed": train.seed,
        "layers": train.layers,
        "depth": train.depth,
        "epochs": train.epochs,
        "rows per step": train.batch_size * train.accumulation,
        "learning rate": train.rate,
    }
    if train.method != "full":
        lora = train.lora
        shown["adapters"] = f"rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout}, on {lora.targets}"
    return shown


def _confidence(calibration: Calibration) -> str:
    """What its probabilities are worth, and when it abstains."""
    biased = " and a bias of each label" if calibration.bias else ""
    if calibration.fitted:
        text = (
            f"Its probabilities are calibrated: a temperature of {calibration.temperature:.3f}{biased}, fitted on "
            f"{calibration.rows:,} validation rows."
        )
        if calibration.bias:
            text += (
                " It was trained with class weights: its answer is the label of least cost, whose confidence may be "
                "less than a half."
            )
    else:
        text = "Its probabilities are the model's own, uncalibrated."
    if calibration.on_rows:
        most = sorted(calibration.shares, key=lambda name: -calibration.shares[name])[:MOST_SHARES]
        listed = ", ".join(f"{name} {calibration.shares[name]:.1%}" for name in most)
        text += (
            f" Probabilities and answers are for texts among which labels have these shares: {listed}"
            f"{' and so on' if len(calibration.shares) > MOST_SHARES else ''}. Figures on validation and test rows, "
            "whose shares are others, are for the rows' own."
        )
    if calibration.threshold:
        rows = "the validation rows, weighted to those shares" if calibration.on_rows else "the validation rows"
        text += (
            f" It abstains below a confidence of {calibration.threshold:.3f}: it answered {calibration.coverage:.1%} "
            f"of {rows}."
        )
    return text


def model_card(record: Record, exported: Exported | None = None) -> str:
    """The card of a classifier, or of an export of it."""
    return card(
        model=record.model, labels=record.labels, train=record.train, chosen=record.chosen, prompt=record.prompt,
        dataset=record.dataset, license=record.license, rows=record.rows, validation=record.validation,
        calibration=record.calibration, blend=record.blend, examples=record.examples, exported=exported,
    )  # fmt: skip
