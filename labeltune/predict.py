"""Predicting with a trained classifier; the artefact folder is all that is needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel

from labeltune.artefact import Record, load_record
from labeltune.bases import Base, load_tokenizer, open_base, quiet
from labeltune.blueprint import Blueprint
from labeltune.calibration import Calibration
from labeltune.errors import UserError
from labeltune.front import Front, shared_front
from labeltune.hardware import device, inference_tokens
from labeltune.inference import compute_logits
from labeltune.methods import transposed
from labeltune.prompts import Encoder
from labeltune.quantisation import fill_from

ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the classifier says of one text."""

    label: str
    """The likeliest label."""
    confidence: float
    """Its calibrated probability."""
    probabilities: dict[str, float]
    """Label -> calibrated probability, in the order of the label set; they add up to 1."""
    abstained: bool
    """Whether the answer is too unsure to be relied on."""
    truncated: bool
    """Whether the model saw less than the whole text."""


@dataclass(frozen=True, kw_only=True)
class Predictions(Sequence[Answer]):
    """Answers for several texts, in their order: a sequence of `Answer`, and arrays over all of them."""

    names: tuple[str, ...]
    """The labels, in the order of the columns."""
    logits: NDArray[np.float32]
    """`[rows, num_labels]`, before calibration."""
    truncated: list[bool]
    """Whether the model saw less than the whole text."""
    calibration: Calibration
    """What the confidence is computed with."""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """`[rows, num_labels]`, calibrated, each row adding up to 1."""
        return self.calibration.probabilities(self.logits)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the label that is answered, `[rows]`."""
        return self.probabilities.max(axis=1)

    @property
    def abstained(self) -> list[bool]:
        """Whether an answer is too unsure to be relied on."""
        return (self.confidence < self.calibration.threshold).tolist()

    def __len__(self) -> int:
        return len(self.truncated)

    @overload
    def __getitem__(self, row: int) -> Answer: ...

    @overload
    def __getitem__(self, row: slice) -> "Predictions": ...

    def __getitem__(self, row: int | slice) -> "Answer | Predictions":
        if isinstance(row, slice):
            return replace(self, logits=self.logits[row], truncated=self.truncated[row])
        given = self.calibration.probabilities(self.logits[row][None])[0]
        confidence = float(given.max())
        return Answer(
            label=self.names[int(given.argmax())],
            confidence=confidence,
            probabilities=dict(zip(self.names, given.tolist(), strict=True)),
            abstained=confidence < self.calibration.threshold,
            truncated=self.truncated[row],
        )

    def table(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One row per text: id, text, label, prediction, confidence, abstained, truncated, p_NAME and logit_NAME."""
        given, names = self.probabilities, self.names
        columns = {f"p_{name}": given[:, i] for i, name in enumerate(names)}
        columns |= {f"logit_{name}": self.logits[:, i].astype(np.float64) for i, name in enumerate(names)}
        return rows[["id", "text", "label"]].assign(
            prediction=[names[guess] for guess in given.argmax(axis=1)],
            confidence=self.confidence,
            abstained=self.abstained,
            truncated=self.truncated,
            **columns,
        )


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained classifier in memory."""

    record: Record
    network: torch.nn.Module
    encoder: Encoder
    front: Front | None
    """What every prompt begins with."""
    folders: tuple[Path, ...]
    """Where its files lie: the artefact, and the base model where that is not a part of it."""

    @classmethod
    def load(cls, folder: Path, *, merge: bool = False) -> "Classifier":
        """Load an artefact.

        Args:
            merge: add the adapter into the weights, so that an ordinary Transformers model is left.

        Raises:
            UserError: a file is missing or was changed, or the base model is not the one it was trained on.
        """
        record = load_record(folder)
        full = record.train.method == "full"
        base = Base(name=str(folder), folder=folder, files={}) if full else _open_same_base(record, folder)
        encoder = Encoder.of(load_tokenizer(folder), record.prompt, record.labels)
        blueprint = Blueprint(
            base=base,
            labels=record.labels,
            train=record.train,
            encoder=encoder,
            machine=record.machine,
        )
        network: Any = blueprint.load(fresh=not full)
        if merge and record.train.method == "qlora":
            quantised, settings = network, record.train.model_copy(update={"method": "lora"})
            network = replace(blueprint, train=settings).load()
            fill_from(network, quantised)
        if record.prior is not None:
            network.prior = record.prior
        if full:
            _load_all(network, folder)
        else:
            with quiet():
                config = LoraConfig.from_pretrained(str(folder))
                config.fan_in_fan_out = transposed(network)  # GPT-2 in 4 bits isn't, merged it is again
                network = PeftModel.from_pretrained(network, str(folder), config=config)
            _require_loaded(network, folder)
            if merge:
                network = network.merge_and_unload(safe_merge=True)
        network = network.to(device()).eval()
        folders = (folder,) if full else (folder, base.folder)
        front = shared_front(network, encoder)
        return cls(record=record, network=network, encoder=encoder, front=front, folders=folders)

    def predict(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, progress: Callable[[int], None] | None = None
    ) -> Predictions:
        """Return the answers to every text, in their order."""
        encoded = self.encoder.encode(texts)
        pad_id = self.encoder.tokenizer.pad_token_id
        logits = compute_logits(
            self.network,
            encoded.input_ids,
            pad_id=pad_id,
            batch_tokens=batch_tokens or inference_tokens(),
            front=self.front,
            progress=progress,
        )
        return Predictions(
            names=self.record.labels.names,
            logits=logits,
            truncated=encoded.truncated,
            calibration=self.record.calibration,
        )


def _open_same_base(record: Record, folder: Path) -> Base:
    base = open_base(record.model)
    changed = sorted(name for name, value in record.base_files.items() if base.files.get(name) != value)
    if changed:
        raise UserError(
            f"{folder} was trained on another version of {base.name}: {', '.join(changed)} in {base.folder} "
            "differ; train again with `dvc repro`, or restore the base model"
        )
    return base


def _load_all(network: PreTrainedModel, folder: Path) -> None:
    """Put every saved weight into the network; a tied one is saved once."""
    saved = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    held = dict(network.named_parameters())
    if saved.keys() != held.keys():
        raise UserError(
            f"{folder} does not fit the model it describes: {sorted(saved.keys() ^ held.keys())[:3]}; train again"
        )
    with torch.no_grad():
        for name, weight in held.items():
            weight.copy_(saved[name])


def _require_loaded(network: PeftModel, folder: Path) -> None:
    """Refuse weights that did not all arrive in the network, bit for bit."""
    saved = load_file(folder / ADAPTER)
    held = get_peft_model_state_dict(network, save_embedding_layers=False)
    different = sorted(set(saved) ^ set(held)) + [
        name for name in saved.keys() & held.keys() if not torch.equal(saved[name], held[name])
    ]
    if different:
        raise UserError(f"{folder / ADAPTER} does not fit the model it describes: {different[:3]}")
