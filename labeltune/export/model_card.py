"""The card of an export: the Hub's header, how to use the folder without labeltune, and test figures.

The card's text is templates/export_card.md, which extends that of a classifier.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from labeltune.evaluation.robustness.editing import language
from labeltune.inference.artifact import Record
from labeltune.inference.model_card import render
from labeltune.modeling.prompts import Template

TEMPLATES = Path(__file__).with_name("templates")
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


def export_card(
    record: Record,
    *,
    onnx: bool,
    own: bool,
    texts: Sequence[str],
    compared: str,
    figures: dict[str, Any] | None,
) -> str:
    """Return the card of an export as Markdown with the header that the Hugging Face Hub reads.

    Args:
        onnx: whether the export is an ONNX graph and not a Transformers folder.
        own: whether the Transformers folder contains a custom class.
        texts: texts of the verification, from which the language is detected.
        compared: result of the verification, as a sentence.
        figures: figures of `metrics.summarise` and, as `intervals`, of `metrics.intervals`, on labelled rows.
    """
    template = Template.of(record.prompt, record.labels)
    return render(
        "export_card.md",
        record,
        _header(record, onnx=onnx, texts=texts, figures=figures),
        folder=TEMPLATES,
        onnx=onnx,
        own=own,
        compared=compared,
        before=Markup(repr(template.prefix)),  # Python text within a block of code
        after=Markup(repr(template.suffix)),
        figures=figures,
        measured=[
            (NAMES[key], figures[key], figures["intervals"][key])
            for key in HUB_METRICS
            if figures and figures[key] is not None
        ],
    )


def _header(record: Record, *, onnx: bool, texts: Sequence[str], figures: dict[str, Any] | None) -> ModelCardData:
    hub = record.source.get("hub")
    assert record.model is not None, "only networks are exported"
    license, other = _license(record.model.license)
    return ModelCardData(
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
    """Return the name of a license on the Hub, or its own name if the Hub has none.

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
    """Return the ISO code of the texts' language if it is English or Chinese, otherwise None.

    >>> spoken(["call the doctor", "win a prize"]), spoken(["房间太小"]), spoken(["rufen Sie uns an"])
    ('en', 'zh', None)
    """
    found = Counter(language(text) for text in texts).most_common(1)[0][0]
    if found == "en" and sum(bool(COMMON.search(text)) for text in texts) < ENGLISH * len(texts):
        return None
    return None if found == "other" else found
