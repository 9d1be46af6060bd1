"""Predicting with a trained classifier; the artefact folder is all that is needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file

from labeltune.artefact import Record, load_record
from labeltune.bases import load_tokenizer, open_base, quiet
from labeltune.errors import UserError
from labeltune.hardware import device, inference_tokens
from labeltune.inference import compute_logits, probabilities
from labeltune.models import load_network
from labeltune.prompts import Encoder, Template

ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Answers for several texts, in their order."""

    probabilities: NDArray[np.float64]
    """`[rows, num_labels]`, each row adding up to 1."""
    truncated: list[bool]
    """Whether the model saw less than the whole text."""

    def table(self, rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """One row per text: id, text, label, prediction, `p_NAME` for every label, truncated."""
        guesses = self.probabilities.argmax(axis=1)
        columns = {f"p_{name}": self.probabilities[:, i] for i, name in enumerate(names)}
        return rows[["id", "text", "label"]].assign(
            prediction=[names[guess] for guess in guesses], **columns, truncated=self.truncated
        )


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained classifier in memory."""

    record: Record
    network: torch.nn.Module
    encoder: Encoder

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Load an artefact.

        Raises:
            UserError: a file is missing or was changed, or the base model is not the one it was trained on.
        """
        record = load_record(folder)
        base = open_base(record.model)
        changed = sorted(name for name, value in record.base_files.items() if base.files.get(name) != value)
        if changed:
            raise UserError(
                f"{folder} was trained on another version of {base.name}: {', '.join(changed)} in {base.folder} "
                "differ; train again with `dvc repro`, or restore the base model"
            )
        tokenizer = load_tokenizer(folder)
        template = Template.of(record.prompt, record.labels)
        network = load_network(
            base,
            record.labels,
            record.train,
            dtype=record.dtype,
            attention=record.attention,
            tokenizer=tokenizer,
            cue=template.back,
        )
        with quiet():
            adapted = PeftModel.from_pretrained(network, str(folder))
        _require_loaded(adapted, folder)
        encoder = Encoder(tokenizer=tokenizer, template=template, max_length=record.prompt.max_length)
        return cls(record=record, network=adapted.to(device()).eval(), encoder=encoder)

    def predict(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, progress: Callable[[int], None] | None = None
    ) -> Predictions:
        """Return the probabilities of every label for every text."""
        encoded = self.encoder.encode(texts)
        pad_id = self.encoder.tokenizer.pad_token_id
        logits = compute_logits(
            self.network,
            encoded.input_ids,
            pad_id=pad_id,
            batch_tokens=batch_tokens or inference_tokens(),
            progress=progress,
        )
        return Predictions(probabilities=probabilities(logits), truncated=encoded.truncated)


def _require_loaded(network: PeftModel, folder: Path) -> None:
    """Refuse weights that did not all arrive in the network, bit for bit."""
    saved = load_file(folder / ADAPTER)
    held = get_peft_model_state_dict(network, save_embedding_layers=False)
    different = sorted(set(saved) ^ set(held)) + [
        name for name in saved.keys() & held.keys() if not torch.equal(saved[name], held[name])
    ]
    if different:
        raise UserError(f"{folder / ADAPTER} does not fit the model it describes: {different[:3]}")
