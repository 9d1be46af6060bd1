"""The trained classifier on disk: a folder in Hugging Face's formats that is complete, checked and reproducible."""

import copy
import json
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

import labeltune
from labeltune.bases import Base, quiet
from labeltune.calibration import NONE, Calibration
from labeltune.cards import Exported, card
from labeltune.errors import UserError
from labeltune.fingerprint import Fingerprint, code_hashes, versions
from labeltune.hardware import Machine
from labeltune.labels import LabelSet
from labeltune.methods import plain
from labeltune.origins import Model
from labeltune.outputs import digest, replacing, write_json
from labeltune.params import Prompt, Train

FORMAT = 4
CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
RECORD = "labeltune.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
"""Ends of names of files that Python may run code from."""


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
    machine: Machine
    """What the training computed with."""
    data: dict[str, str]
    """sha256 of each split that was trained with."""
    rows: dict[str, int]
    """How many rows each split has."""
    dataset: str
    """Name of the data set."""
    license: str | None
    """Licence of the data set."""
    source: dict[str, Any] = field(default_factory=dict)
    """Where its rows came from, with the commit where that is the Hub."""
    chosen: dict[str, str] = field(default_factory=dict)
    """Setting that was left open -> what was taken, and why; `train` holds the numbers."""
    prior: list[float] | None = None
    """What is taken off each label's score, where `train.label_score` asks for it."""
    validation: dict[str, float] = field(default_factory=dict)
    """Figures of the kept model on the validation rows, once there is one."""
    calibration: Calibration = NONE
    """What its confidence means."""
    examples: list[str] = field(default_factory=list)
    """Texts to try it with."""


def save(folder: Path, network: Any, tokenizer: PreTrainedTokenizerBase, base: Base, record: Record) -> None:
    """Write the artefact whole or not at all; the same weights give the same bytes."""
    with replacing(folder) as partial, quiet():
        partial.mkdir()
        if record.train.method == "full":
            network.save_pretrained(partial)
        else:
            network.save_pretrained(partial, save_embedding_layers=False)
            _settle_adapter_config(partial / ADAPTER_CONFIG, base)
            _save_config(plain(network).config, partial)
        tokenizer.save_pretrained(partial)
        _describe(partial, replace(record, model=_pinned(record.model, base)))


def save_calibrated(folder: Path, source: Path, record: Record) -> None:
    """Write the artefact of `source` under another record; the weights are linked where the disk can do that."""
    with replacing(folder) as partial:
        partial.mkdir()
        for name in _read(source / MANIFEST)["sha256"]:
            if name not in (RECORD, CARD):
                _link(source / name, partial / name)
        _describe(partial, record)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one that has no links
        shutil.copyfile(source, target)


def _describe(folder: Path, record: Record) -> None:
    """Write record, model card and manifest beside the weights."""
    write_json(
        folder / RECORD,
        {
            "format": FORMAT,
            "labeltune": labeltune.__version__,
            "labels": {"names": list(record.labels.names), "words": list(record.labels.words)},
            "prompt": record.prompt.model_dump(),
            "train": record.train.model_dump(),
            "base": {"model": record.model.model_dump(), "files": record.base_files},
            "machine": asdict(record.machine),
            "chosen": record.chosen,
            "prior": record.prior,
            "data": {
                "name": record.dataset,
                "license": record.license,
                "rows": record.rows,
                "sha256": record.data,
                "source": record.source,
            },
            "validation": record.validation,
            "calibration": asdict(record.calibration),
            "examples": record.examples,
        },
    )
    (folder / CARD).write_bytes(model_card(record).encode())
    files = sorted(file for file in folder.iterdir() if file.is_file())
    write_json(folder / MANIFEST, {"sha256": {file.name: digest(file) for file in files}})


def model_card(record: Record, exported: Exported | None = None) -> str:
    """The card of a classifier, or of an export of it."""
    return card(
        model=record.model, labels=record.labels, train=record.train, chosen=record.chosen, prompt=record.prompt,
        dataset=record.dataset, license=record.license, rows=record.rows, validation=record.validation,
        calibration=record.calibration, examples=record.examples, exported=exported,
    )  # fmt: skip


def fingerprint(record: Record) -> Fingerprint:
    """What the result of this training depends on; to be asked for once everything is imported."""
    train = record.train.model_dump(exclude={"resume", "checkpoints", "report_to", "depth_rows", "trunk_budget"})
    return Fingerprint(
        configuration={
            "train": train,
            "prompt": record.prompt.model_dump(),
            "labels": {"names": record.labels.names, "words": record.labels.words},
        },
        data=record.data,
        base=record.base_files,
        code=code_hashes(),
        versions=versions(),
        hardware={"machine": str(record.machine)},
    )


def load_record(folder: Path) -> Record:
    """Check every file of an artefact against its manifest and read its record.

    Raises:
        UserError: the folder is no artefact, or a file is missing or was changed.
    """
    hashes = _read(folder / MANIFEST).get("sha256")
    if not isinstance(hashes, dict) or not any(name.endswith(".safetensors") for name in hashes):
        raise UserError(f"{folder / MANIFEST} is damaged: it names no weights; train again with `dvc repro`")
    held = sorted(file.name for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    pickled = [name for name in held if Path(name).suffix.lower() in PICKLES]
    if pickled:
        raise UserError(
            f"{folder} holds {', '.join(pickled)}: pickles, which can run code when they are opened, are never loaded; "
            "a classifier's weights are .safetensors files. Get it from whom you trust, or train again with `dvc repro`"
        )
    found = {
        "missing": [name for name in hashes if name not in held],
        "changed": [name for name in hashes if name in held and digest(folder / name) != hashes[name]],
        "not a part of it": [name for name in held if name not in hashes and name != MANIFEST],
    }
    what = [f"{how}: {', '.join(names)}" for how, names in found.items() if names]
    if what:
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
        machine=Machine(**content["machine"]),
        data=content["data"]["sha256"],
        rows=content["data"]["rows"],
        dataset=content["data"]["name"],
        license=content["data"]["license"],
        source=content["data"].get("source", {}),
        chosen=content.get("chosen", {}),
        prior=content["prior"],
        validation=content["validation"],
        calibration=Calibration(**content["calibration"]),
        examples=content["examples"],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} is no trained classifier: {path.name} is missing; run `dvc repro`") from None
    except ValueError:
        raise UserError(f"{path} is damaged: not valid JSON; restore it, or train again with `dvc repro`") from None


def _pinned(model: Model, base: Base) -> Model:
    """The source with the commit that was trained on: a branch may have moved when the classifier is loaded."""
    return model.model_copy(update={"revision": base.revision}) if base.revision else model


def _save_config(config: PretrainedConfig, folder: Path) -> None:
    """Save a configuration for the base model as it is stored: Transformers would take 4 bits for what lies on disk."""
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)


def _settle_adapter_config(path: Path, base: Base) -> None:
    """PEFT writes its sets in the order of the process's hash seed, and the path of this machine's cache."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = base.name
    for key, value in content.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            content[key] = sorted(value)
    write_json(path, content)
