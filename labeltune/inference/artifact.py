"""The trained classifier on disk: a folder in Hugging Face's formats that is complete, checked and reproducible."""

import copy
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import labeltune
from labeltune.config.base import current_names
from labeltune.config.data import Dataset
from labeltune.config.model import TOKENIZER_KINDS, Model, Prompt, Train
from labeltune.data.labels import LabelSet
from labeltune.data.normalization import UNCHANGED, Normalization
from labeltune.inference.calibration import NONE, Calibration
from labeltune.modeling import ngrams
from labeltune.modeling.ngrams import Blend, Ngrams, Weights
from labeltune.runtime.environment import Fingerprint, code_hashes, versions
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import digest, replacing, write_json

# PyTorch and Transformers take seconds, which a classifier of n-grams need not wait for: functions import them.
if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from labeltune.modeling.base_models import Base
    from labeltune.modeling.builder import NetworkSpec
    from labeltune.modeling.device import Machine
    from labeltune.modeling.network import Network

FORMAT = 4
CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
RECORD = "labeltune.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
"""Suffixes of files that can run code when Python opens them."""
KINDS = (".safetensors", ".md", ".npz", *TOKENIZER_KINDS)
"""Suffixes of the files that an artefact may hold: weights, settings, the tokenizer's files, the model card, and the
arrays of an n-gram model, which are read without pickle."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Content of labeltune.json: what prediction needs in addition to the weights, and their provenance."""

    labels: LabelSet
    """The classes."""
    prompt: Prompt
    """The prompt."""
    train: Train
    """Settings of the training: head, depth, adapters."""
    model: Model | None
    """Source of the base model; None where n-grams answer alone."""
    base_files: dict[str, str]
    """sha256 of the base model's files."""
    machine: "Machine | None"
    """What the training computed with; None where n-grams answer alone."""
    data: dict[str, str]
    """sha256 of each split."""
    rows: dict[str, int]
    """Number of rows of each split."""
    dataset: str
    """Name of the data set."""
    license: str | None
    """License of the data set."""
    source: dict[str, Any] = field(default_factory=dict)
    """Source of the rows, with the commit if it is the Hub."""
    chosen: dict[str, str] = field(default_factory=dict)
    """Setting that was `auto` -> value that was chosen, and why; `train` has the values."""
    prior: list[float] | None = None
    """Prior that is subtracted from each label's score, if `train.label_score` asks for it."""
    blend: Weights | None = None
    """Weights of the logits of the network and of the n-gram model; None without an n-gram model."""
    validation: dict[str, float] = field(default_factory=dict)
    """Figures of the classifier on the validation rows; empty before training."""
    calibration: Calibration = NONE
    """Calibration of the probabilities."""
    examples: list[str] = field(default_factory=list)
    """Example texts."""
    normalization: Normalization = UNCHANGED
    """Normalization of a text before it is put into the prompt; none in classifiers of labeltune 0.1.0."""

    @classmethod
    def of(cls, plan: "NetworkSpec", model: Model, prompt: Prompt, dataset: Dataset, **more: Any) -> "Record":
        """Return the record of a network before its training; `more` are further fields."""
        return cls(
            labels=plan.labels, prompt=prompt, train=plan.train, model=model, base_files=plan.base.files,
            machine=plan.machine, normalization=plan.encoder.normalization,
            dataset=dataset.name, license=dataset.license, **more,
        )  # fmt: skip

    def run_name(self, fingerprint: Fingerprint) -> str:
        """Name of this training in trackers."""
        train = self.train
        network = () if self.model is None else (self.model.name, train.method, train.head)
        return "-".join(map(str, (self.dataset, *(network or (train.method,)), train.seed, fingerprint.digest[:8])))


def save(
    folder: Path,
    network: "Network",
    tokenizer: "PreTrainedTokenizerBase",
    base: "Base",
    record: Record,
    blend: Blend | None = None,
) -> None:
    """Write the artefact completely or not at all; the same weights give the same bytes.

    Args:
        blend: the n-gram model and its weight; None without one.

    Raises:
        UserError: the tokenizer saves a file that `load_record` would refuse.
    """
    from safetensors.torch import save_file

    from labeltune.modeling.architectures import unwrap
    from labeltune.modeling.base_models import quiet
    from labeltune.modeling.classifiers import PooledClassification

    model = record.model
    assert model is not None, "a network has a base model"
    with replacing(folder) as partial, quiet():
        partial.mkdir()
        if record.train.method == "full":
            network.save_pretrained(partial)
        elif record.train.method == "probe":
            assert isinstance(network, PooledClassification), "a probe reads a pooled state"
            save_file(getattr(network, network.head_name).state_dict(), partial / HEAD, metadata={"format": "pt"})
            _save_config(network.config, partial)
        else:
            network.save_pretrained(partial, save_embedding_layers=False)
            _normalize_adapter_config(partial / ADAPTER_CONFIG, base)
            _save_config(unwrap(network).config, partial)
        _save_tokenizer(tokenizer, partial)
        if blend is not None:
            blend.model.save(partial)
            record = replace(record, blend=blend.weights)
        _describe(partial, replace(record, model=_pinned(model, base)))


def save_ngrams(folder: Path, model: Ngrams, record: Record) -> None:
    """Write the artefact of a classifier of n-grams whole or not at all; the same model gives the same bytes."""
    with replacing(folder) as partial:
        partial.mkdir()
        model.save(partial)
        _describe(partial, record)


def _save_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    # A tokenizer with several chat templates has a folder of them, which the classifier's prompt does not use.
    shutil.rmtree(folder / "additional_chat_templates", ignore_errors=True)
    other = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() or entry.suffix not in KINDS)
    if other:
        raise UserError(
            f"model: its tokenizer ({type(tokenizer).__name__}) saves {', '.join(other)}, and a classifier may hold "
            f"nothing but files that end with {', '.join(KINDS)}: choose another base model"
        )


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> None:
    """See before a training that its tokenizer can be saved in an artefact.

    Raises:
        UserError: it saves a file that `load_record` would refuse.
    """
    with tempfile.TemporaryDirectory() as folder:
        _save_tokenizer(tokenizer, Path(folder))


def save_calibrated(folder: Path, source: Path, record: Record, card: str) -> None:
    """Write the artefact of `source` under another record, with its model card; weights are hard links if possible."""
    with replacing(folder) as partial:
        partial.mkdir()
        for name in _read(source / MANIFEST)["sha256"]:
            if name not in (RECORD, CARD):
                _link(source / name, partial / name)
        (partial / CARD).write_bytes(card.encode())
        _describe(partial, record)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _describe(folder: Path, record: Record) -> None:
    """Write the record and the manifest to the folder of the weights."""
    write_json(
        folder / RECORD,
        {
            "format": FORMAT,
            "labeltune": labeltune.__version__,
            "labels": {"names": list(record.labels.names), "words": list(record.labels.words)},
            "prompt": record.prompt.model_dump(),
            "normalization": asdict(record.normalization),
            "train": record.train.model_dump(),
            "base": {"model": record.model and record.model.model_dump(), "files": record.base_files},
            "machine": record.machine and asdict(record.machine),
            "chosen": record.chosen,
            "prior": record.prior,
            "blend": None if record.blend is None else asdict(record.blend),
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
    files = sorted(file for file in folder.iterdir() if file.is_file())
    write_json(folder / MANIFEST, {"sha256": {file.name: digest(file) for file in files}})


def fingerprint(record: Record) -> Fingerprint:
    """Return everything that the result of this training depends on; call it after all imports."""
    train = record.train.model_dump(
        exclude={"resume", "checkpoints", "report_to", "probe_rows", "feature_cache_budget", "blend", "select"}
    )
    return Fingerprint(
        configuration={
            "train": train,
            "prompt": record.prompt.model_dump(),
            "normalization": asdict(record.normalization),
            "labels": {"names": record.labels.names, "words": record.labels.words},
        },
        data=record.data,
        base=record.base_files,
        code=code_hashes(),
        versions=versions(),
        hardware={} if record.machine is None else _hardware(record.machine),
    )


def load_record(folder: Path) -> Record:
    """Check every file of an artefact against its manifest and read its record.

    Raises:
        UserError: the folder is no artefact, a file is missing or was changed, or the folder holds anything that the
            manifest does not name, or a file of another kind than `KINDS`.
    """
    hashes = _read(folder / MANIFEST).get("sha256")
    if not isinstance(hashes, dict) or not any(name.endswith((".safetensors", ngrams.WEIGHTS)) for name in hashes):
        raise UserError(f"{folder / MANIFEST} is damaged: it names no weights; train again with `dvc repro`")
    held = sorted(entry.name for entry in folder.iterdir())
    pickled = [name for name in held if Path(name).suffix.lower() in PICKLES]
    if pickled:
        raise UserError(
            f"{folder} holds {', '.join(pickled)}: pickles, which can run code when they are opened, are never loaded; "
            "a classifier's weights are .safetensors files. Get it from whom you trust, or train again with `dvc repro`"
        )
    plain = [name for name in held if Path(name).suffix in KINDS and (folder / name).is_file()]
    found = {
        "of a kind that no classifier has": [name for name in held if name not in plain],
        "missing": [name for name in hashes if name not in held],
        "changed": [name for name in hashes if name in plain and digest(folder / name) != hashes[name]],
        "not a part of it": [name for name in plain if name not in {*hashes, MANIFEST}],
    }
    what = [f"{how}: {', '.join(names)}" for how, names in found.items() if names]
    if what:
        raise UserError(
            f"{folder} is damaged ({'; '.join(what)}); restore it without what does not belong to it, or train again "
            "with `dvc repro`"
        )
    content = _read(folder / RECORD)
    if content["format"] != FORMAT:
        raise UserError(f"{folder / RECORD}: format {content['format']}; this version of labeltune reads {FORMAT}")
    return Record(
        labels=LabelSet(names=tuple(content["labels"]["names"]), words=tuple(content["labels"]["words"])),
        prompt=Prompt.model_validate(content["prompt"]),
        normalization=Normalization(**content.get("normalization", {})),
        train=Train.model_validate(current_names("train", content["train"], str(folder / RECORD))),
        model=None if content["base"]["model"] is None else Model.model_validate(content["base"]["model"]),
        base_files=content["base"]["files"],
        machine=None if content["machine"] is None else _machine(content["machine"]),
        data=content["data"]["sha256"],
        rows=content["data"]["rows"],
        dataset=content["data"]["name"],
        license=content["data"]["license"],
        source=content["data"].get("source", {}),
        chosen=content.get("chosen", {}),
        prior=content["prior"],
        blend=Weights(**content["blend"]) if content.get("blend") else None,
        validation=content["validation"],
        calibration=Calibration.read(content["calibration"]),
        examples=content["examples"],
    )


def _hardware(machine: "Machine") -> dict[str, Any]:
    from labeltune.modeling.device import hardware

    return hardware(machine)


def _machine(content: dict[str, Any]) -> "Machine":
    from labeltune.modeling.device import Machine

    return Machine(**content)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} is no trained classifier: {path.name} is missing; run `dvc repro`") from None
    except ValueError:
        raise UserError(f"{path} is damaged: not valid JSON; restore it, or train again with `dvc repro`") from None


def _pinned(model: Model, base: "Base") -> Model:
    """Return the source pinned to the commit of the training, since a branch may have moved when it is loaded."""
    return model.model_copy(update={"revision": base.revision}) if base.revision else model


def _save_config(config: "PretrainedConfig", folder: Path) -> None:
    """Save a configuration without quantization, because Transformers would expect 4-bit weights on disk."""
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)


def _normalize_adapter_config(path: Path, base: "Base") -> None:
    """Sort the sets, which PEFT writes in an order that depends on the hash seed, and remove this machine's path."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = base.name
    for key, value in content.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            content[key] = sorted(value)
    write_json(path, content)


ADAPTER = "adapter_model.safetensors"
HEAD = "head.safetensors"
"""Weights of a probe; those of its base model are not saved with it."""


def open_same_base(record: Record, folder: Path) -> "Base":
    """Open the base model that a classifier was trained on.

    Raises:
        UserError: its files have changed.
    """
    from labeltune.modeling.base_models import open_base

    assert record.model is not None, "n-grams have no base model"
    base = open_base(record.model)
    changed = sorted(name for name, value in record.base_files.items() if base.files.get(name) != value)
    if changed:
        raise UserError(
            f"{folder} was trained on another version of {base.name}: {', '.join(changed)} in {base.folder} "
            "differ; train again with `dvc repro`, or restore the base model"
        )
    return base


def load_all(network: "PreTrainedModel", folder: Path) -> None:
    """Load all saved weights into the network; a tied weight is saved once.

    Raises:
        UserError: the folder has other weights than the network.
    """
    import torch
    from safetensors.torch import load_file

    saved = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    held = dict(network.named_parameters())
    if saved.keys() != held.keys():
        raise UserError(
            f"{folder} does not fit the model it describes: {sorted(saved.keys() ^ held.keys())[:3]}; train again"
        )
    with torch.no_grad():
        for name, weight in held.items():
            weight.copy_(saved[name])


def load_head(network: Any, folder: Path) -> None:
    """Put the saved weights of a probe into the network's head.

    Raises:
        UserError: the folder has other weights than the head.
    """
    from safetensors.torch import load_file

    head, saved = getattr(network, network.head_name), load_file(folder / HEAD)
    held = dict(head.named_parameters())
    different = sorted(set(saved) ^ set(held)) or [name for name in saved if saved[name].shape != held[name].shape]
    if different:
        raise UserError(f"{folder / HEAD} does not fit the model it describes: {different}; train again")
    head.load_state_dict(saved)


def load_adapter(network: "PreTrainedModel", folder: Path) -> "PeftModel":
    """Return the network with the saved adapter.

    Raises:
        UserError: a loaded weight differs from the saved one.
    """
    import torch
    from peft import (
        LoraConfig,
        PeftModel,
        get_peft_model_state_dict,
    )  # takes a second
    from safetensors.torch import load_file

    from labeltune.modeling.adapters import transposed
    from labeltune.modeling.base_models import quiet

    with quiet():
        config = LoraConfig.from_pretrained(str(folder))
        config.fan_in_fan_out = transposed(network)  # not for GPT-2 in 4 bits, but again after merging
        try:
            adapted = PeftModel.from_pretrained(network, str(folder), config=config)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            what = next(line.strip() for line in str(error).splitlines() if "size mismatch" in line)
            raise UserError(f"{folder / ADAPTER} does not fit the model it describes: {what}") from None
    saved = load_file(folder / ADAPTER)
    held = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    different = sorted(set(saved) ^ set(held)) + [
        name for name in saved.keys() & held.keys() if not torch.equal(saved[name], held[name])
    ]
    if different:
        raise UserError(f"{folder / ADAPTER} does not fit the model it describes: {different[:3]}")
    return adapted
