"""The model card: description, provenance, evaluation and limits of a classifier.

The card's text is templates/model_card.md.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from markupsafe import Markup

import labeltune
from labeltune.inference.artifact import Record
from labeltune.runtime.templates import environment

TEMPLATES = Path(__file__).with_name("templates")
LIBRARIES = {"lora": "peft", "qlora": "peft", "ngrams": "scikit-learn"}
"""Method -> the library of its folder, where that is not Transformers."""
MOST_SHARES = 4
"""Labels whose shares are named."""


def model_card(record: Record) -> str:
    """Return the card of a classifier as Markdown with the header that the Hugging Face Hub reads."""
    data = ModelCardData(
        base_model=record.model.title if record.model else None,
        library_name=LIBRARIES.get(record.train.method, "transformers"),
        pipeline_tag="text-classification",
        tags=["labeltune"],
    )
    return render("model_card.md", record, data)


def render(name: str, record: Record, data: ModelCardData, *, folder: Path = TEMPLATES, **facts: Any) -> str:
    """Fill in a template of a card.

    Args:
        name: of the template, which may extend model_card.md.
        data: the card's header.
        folder: of the template.
        facts: what the template names beyond the record.
    """
    templates = environment([folder, TEMPLATES], "en")
    templates.filters["literal"] = lambda text: Markup(literal(text))
    shares = record.calibration.shares
    return templates.get_template(
        name
    ).render(
        header=Markup(data.to_yaml()),  # it quotes its values itself
        version=labeltune.__version__,
        dataset=record.dataset,
        license=record.license,
        model=record.model,
        train=record.train,
        chosen=record.chosen,
        blend=record.blend,
        labels=list(zip(record.labels.names, record.labels.words, strict=True)),
        rows=record.rows,
        validation=record.validation,
        calibration=record.calibration,
        shares=sorted(shares.items(), key=lambda share: -share[1])[:MOST_SHARES],
        examples=record.examples or ["a text"],
        max_length=record.prompt.max_length,
        prompt=record.prompt.template,
        **facts,
    )


def literal(text: str) -> str:
    r"""Write a text as a Python string on one line, in which hidden characters are escaped.

    >>> literal('say "hi"\u202e')
    '"say \\"hi\\"\\u202e"'
    """
    shown = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in shown)
