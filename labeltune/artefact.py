"""The trained classifier on disk: a folder in Hugging Face's formats that is complete, checked and reproducible."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

import labeltune
from labeltune.bases import Base
from labeltune.errors import UserError
from labeltune.labels import LabelSet
from labeltune.outputs import digest, replacing, write_json
from labeltune.params import Model, Prompt, Train

FORMAT = 1
CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
RECORD = "labeltune.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What labeltune.json holds: all that predicting needs beside the weights, and where they come from."""

    labels: LabelSet
    """The classes."""
    prompt: Prompt
    """The prompt."""
    train: Train
    """Head, depth and adapters as they were trained."""
    model: Model
    """Source of the base model."""
    base_files: dict[str, str]
    """sha256 of the base model's files."""
    dtype: str
    """Type of the frozen weights."""
    attention: str
    """Attention kernel."""
    threads: int
    """CPU threads of the training; another number gives other last bits."""
    data: dict[str, str]
    """sha256 of each split that was trained with."""
    dataset: str
    """Name of the data set."""
    license: str | None
    """Licence of the data set."""
    validation: dict[str, float]
    """Figures of the kept model on the validation rows."""


def save(folder: Path, network: PeftModel, tokenizer: PreTrainedTokenizerBase, base: Base, record: Record) -> None:
    """Write the artefact whole or not at all; the same weights give the same bytes."""
    with replacing(folder) as partial:
        partial.mkdir()
        network.save_pretrained(partial, save_embedding_layers=False)
        _settle_adapter_config(partial / ADAPTER_CONFIG, base)
        network.get_base_model().config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_json(
            partial / RECORD,
            {
                "format": FORMAT,
                "labeltune": labeltune.__version__,
                "labels": {"names": list(record.labels.names), "words": list(record.labels.words)},
                "prompt": record.prompt.model_dump(),
                "train": record.train.model_dump(),
                "base": {"model": record.model.model_dump(), "files": record.base_files},
                "dtype": record.dtype,
                "attention": record.attention,
                "threads": record.threads,
                "data": {"name": record.dataset, "license": record.license, "sha256": record.data},
                "validation": record.validation,
            },
        )
        (partial / CARD).write_bytes(_card(base, record).encode())
        files = sorted(file for file in partial.iterdir() if file.is_file())
        write_json(partial / MANIFEST, {"sha256": {file.name: digest(file) for file in files}})


def load_record(folder: Path) -> Record:
    """Check every file of an artefact against its manifest and read its record.

    Raises:
        UserError: the folder is no artefact, or a file is missing or was changed.
    """
    hashes = _read(folder / MANIFEST)["sha256"]
    missing = [name for name in hashes if not (folder / name).is_file()]
    changed = [name for name in hashes if name not in missing and digest(folder / name) != hashes[name]]
    if missing or changed:
        what = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"changed: {', '.join(changed)}"] * bool(changed)
        raise UserError(f"{folder} is damaged ({'; '.join(what)}); restore it, or train again with `dvc repro`")
    content = _read(folder / RECORD)
    if content["format"] != FORMAT:
        raise UserError(f"{folder / RECORD}: format {content['format']}; this version of labeltune reads {FORMAT}")
    return Record(
        labels=LabelSet(names=tuple(content["labels"]["names"]), words=tuple(content["labels"]["words"])),
        prompt=Prompt.model_validate(content["prompt"]),
        train=Train.model_validate(content["train"]),
        model=Model.model_validate(content["base"]["model"]),
        base_files=content["base"]["files"],
        dtype=content["dtype"],
        attention=content["attention"],
        threads=content["threads"],
        data=content["data"]["sha256"],
        dataset=content["data"]["name"],
        license=content["data"]["license"],
        validation=content["validation"],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} is no trained classifier: {path.name} is missing; run `dvc repro`") from None
    except ValueError:
        raise UserError(f"{path} is damaged: not valid JSON; restore it, or train again with `dvc repro`") from None


def _settle_adapter_config(path: Path, base: Base) -> None:
    """PEFT writes its sets in the order of the process's hash seed, and the path of this machine's cache."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = base.name
    for key, value in content.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            content[key] = sorted(value)
    write_json(path, content)


def _card(base: Base, record: Record) -> str:
    """The model card: what it is, how to use it, what it was made from."""
    labels = "\n".join(f"- {name}" for name in record.labels.names)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in sorted(record.validation.items()))
    return f"""---
base_model: {base.name}
library_name: peft
pipeline_tag: text-classification
tags:
- labeltune
---

# {record.dataset}: a text classifier made from {base.name}

Fine-tuned with labeltune {labeltune.__version__}: method {record.train.method}, head {record.train.head}, seed
{record.train.seed}. `labeltune.json` holds every setting, the hashes of the base model and of the data;
`manifest.json` the hashes of these files.

Labels:

{labels}

Data: {record.dataset} (licence: {record.license or "unknown"}). On the validation rows: {figures}. The base model's
licence ({record.model.license or "unknown"}) applies to this model as well.

The prompt, with `{{text}}` standing for the text, at most {record.prompt.max_length} tokens:

```
{record.prompt.template}
```
"""
