"""The card of an export: the Hub's header, how to use the folder without labeltune, and test figures."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from labeltune.evaluation.robustness.editing import language
from labeltune.inference.artifact import Record
from labeltune.inference.model_card import Exported
from labeltune.modeling.prompts import Template
from labeltune.runtime.markdown import escape

NAMES = {"accuracy": "Accuracy", "macro_f1": "F1, macro", "roc_auc": "ROC-AUC"}
HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1", "roc_auc": "roc_auc"}
"""Metric -> name on the Hub."""
HUB_LICENSES = {"llama-3.2-community-license": "llama3.2", "gemma-terms-of-use": "gemma"}
"""License without an SPDX identifier -> name on the Hub."""
SPDX = re.compile(r"(apache|mit|bsd|gpl|lgpl|agpl|mpl|cc|isc|openrail|unlicense|zlib|artistic|afl|epl)\b[a-z0-9.+-]*")
COMMON = re.compile(r"\b(the|and|of|you|that|with|this|your)\b", re.IGNORECASE)
"""Words that are frequent in English and rare in related languages."""
ENGLISH = 0.2
"""Minimum share of texts with such a word at which texts in Latin letters are considered English."""


def exported_card(
    record: Record,
    *,
    onnx: bool,
    own: bool,
    texts: Sequence[str],
    compared: str,
    figures: dict[str, Any] | None,
) -> Exported:
    """Return the parts of the model card that describe an export.

    Args:
        onnx: whether it is a graph, not a Transformers folder.
        own: whether the Transformers folder brings its class along.
        texts: that it was verified with; the language is told by them.
        figures: of `metrics.summarise` and, as `intervals`, of `metrics.intervals`, on labelled rows.
    """
    return Exported(
        header=_header(record, onnx=onnx, texts=texts, figures=figures),
        use=_use(record, onnx=onnx, own=own, compared=compared),
        figures=_figures(record, figures),
    )


def _header(record: Record, *, onnx: bool, texts: Sequence[str], figures: dict[str, Any] | None) -> str:
    hub = record.source.get("hub")
    license, other = _license(record.model.license)
    data = ModelCardData(
        base_model=record.model.title,
        datasets=[hub] if hub else None,
        language=spoken(texts),
        library_name="onnx" if onnx else "transformers",
        license=license,
        license_name=other,
        license_link=record.model.url if other else None,
        metrics=sorted(HUB_METRICS.values()) if figures else None,
        model_name=f"{record.dataset}-{record.model.name}" if figures else None,
        pipeline_tag="text-classification",
        tags=["labeltune"],
        eval_results=_results(record, hub, figures) if figures else None,
    )
    return f"{data.to_yaml()}\n"


def _results(record: Record, hub: str | None, figures: dict[str, Any]) -> list[EvalResult]:
    results = []
    for key, metric in HUB_METRICS.items():
        interval = figures["intervals"][key]
        if figures[key] is not None:
            results.append(
                EvalResult(
                    task_type="text-classification",
                    dataset_type=hub or record.dataset,
                    dataset_name=record.dataset,
                    dataset_split="test",
                    metric_type=metric,
                    metric_value=round(figures[key], 4),
                    metric_name=NAMES[key],
                    metric_args={"interval_95": _rounded(interval), "rows": figures["n"]} if interval else None,
                )
            )
    return results


def _rounded(interval: dict[str, Any]) -> list[float]:
    return [round(interval["low"], 4), round(interval["high"], 4)]


def _license(name: str | None) -> tuple[str, str | None]:
    """The Hub's name of a licence, and its own name where the Hub has none.

    >>> _license("Apache-2.0"), _license("LicenseRef-Gemma-Terms-of-Use"), _license("LicenseRef-Mine")
    (('apache-2.0', None), ('gemma', None), ('other', 'mine'))
    """
    if name is None:
        return "unknown", None
    plain = name.removeprefix("LicenseRef-").lower()
    if plain in HUB_LICENSES:
        return HUB_LICENSES[plain], None
    return (plain, None) if SPDX.fullmatch(plain) else ("other", plain.replace(" ", "-"))


def spoken(texts: Sequence[str]) -> str | None:
    """ISO code of the texts' language where it is English or Chinese, else None.

    >>> spoken(["call the doctor", "win a prize"]), spoken(["房间太小"]), spoken(["rufen Sie uns an"])
    ('en', 'zh', None)
    """
    found = Counter(language(text) for text in texts).most_common(1)[0][0]
    if found == "en" and sum(bool(COMMON.search(text)) for text in texts) < ENGLISH * len(texts):
        return None
    return None if found == "other" else found


def _use(record: Record, *, onnx: bool, own: bool, compared: str) -> str:
    template = Template.of(record.prompt, record.labels)
    prompt = f'{template.prefix!r} + "a text" + {template.suffix!r}'
    shown = _onnx_snippet(prompt) if onnx else _transformers_snippet(prompt, own)
    trust = (
        "Transformers has no class with this head: `pooled.py`, 60 lines to read first, is loaded by "
        "`trust_remote_code=True`.\n\n"
        if own
        else ""
    )
    weighted = (
        "\nIt was trained with class weights, so that the label of least cost need not be the likeliest one printed "
        "here: `predict.py` answers with it, the largest of the logits less `bias` in `labeltune.json`.\n"
        if record.calibration.bias
        else ""
    )
    blended = (
        "\nThis network answers together with an n-gram model, `ngrams.json` and `ngrams.npz`, whose logits only "
        "`predict.py` adds: what is printed here is the network's share.\n"
        if record.blend
        else ""
    )
    return f"""Exported by labeltune, which is not needed to use it. `verification.json`: {compared}.

{trust}A text stands in a prompt, padding on the right; what comes out is calibrated, for temperature and biases are
applied to the logits already:

```python
{shown}```
{weighted}{blended}
A prompt of more than {record.prompt.max_length} tokens must lose them from the middle of its text, and control tokens
that are written in a text must be split. `predict.py` does both, and gives label, confidence, probabilities, and
whether it abstains:

```
python predict.py "a text" "another text"
```
"""


def _transformers_snippet(prompt: str, own: bool) -> str:
    trust = ", trust_remote_code=True" if own else ""
    return f"""import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."  # or the name on the Hub
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
model = AutoModelForSequenceClassification.from_pretrained(folder{trust}).eval()
inputs = tokenizer([{prompt}], padding=True, return_tensors="pt")
with torch.inference_mode():
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
print(model.config.id2label[int(logits[0].argmax())], logits.softmax(-1))
"""


def _onnx_snippet(prompt: str) -> str:
    return f"""import json
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

labels = json.load(open("labeltune.json", encoding="utf-8"))["labels"]
tokens = Tokenizer.from_file("tokenizer.json").encode({prompt}).ids
session = onnxruntime.InferenceSession("model.onnx")
inputs = {{"input_ids": np.array([tokens]), "attention_mask": np.ones((1, len(tokens)), dtype=np.int64)}}
logits, probabilities = session.run(["logits", "probabilities"], inputs)
print(labels[int(logits[0].argmax())], probabilities)
"""


def _figures(record: Record, figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "No labelled test rows were at hand when it was exported."
    lines = [
        f"| {NAMES[key].lower()} | {figures[key]:.3f} | {_between(figures['intervals'][key])} |"
        for key in HUB_METRICS
        if figures[key] is not None
    ]
    return "\n".join(
        [
            f"\n\nThis export on {figures['n']:,} test rows of {escape(record.dataset)}:\n",
            "| figure | value | 95% interval |",
            "|---|---|---|",
            *lines,
        ]
    )


def _between(interval: dict[str, Any] | None) -> str:
    return f"{interval['low']:.3f} to {interval['high']:.3f}" if interval else ""
