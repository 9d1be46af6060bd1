"""The weights of a classifier: from its folder into a network, every one of them or none."""

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel

from labeltune.artefact import Record
from labeltune.bases import Base, open_base
from labeltune.errors import UserError

ADAPTER = "adapter_model.safetensors"


def open_same_base(record: Record, folder: Path) -> Base:
    """Open the base model that a classifier was trained on.

    Raises:
        UserError: its files are others than they were.
    """
    base = open_base(record.model)
    changed = sorted(name for name, value in record.base_files.items() if base.files.get(name) != value)
    if changed:
        raise UserError(
            f"{folder} was trained on another version of {base.name}: {', '.join(changed)} in {base.folder} "
            "differ; train again with `dvc repro`, or restore the base model"
        )
    return base


def load_all(network: PreTrainedModel, folder: Path) -> None:
    """Put every saved weight into the network; a tied one is saved once.

    Raises:
        UserError: the folder has other weights than the network.
    """
    saved = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    held = dict(network.named_parameters())
    if saved.keys() != held.keys():
        raise UserError(
            f"{folder} does not fit the model it describes: {sorted(saved.keys() ^ held.keys())[:3]}; train again"
        )
    with torch.no_grad():
        for name, weight in held.items():
            weight.copy_(saved[name])


def require_loaded(network: PeftModel, folder: Path) -> None:
    """Refuse weights of an adapter that did not all arrive in the network, bit for bit.

    Raises:
        UserError: some did not.
    """
    saved = load_file(folder / ADAPTER)
    held = get_peft_model_state_dict(network, save_embedding_layers=False)
    different = sorted(set(saved) ^ set(held)) + [
        name for name in saved.keys() & held.keys() if not torch.equal(saved[name], held[name])
    ]
    if different:
        raise UserError(f"{folder / ADAPTER} does not fit the model it describes: {different[:3]}")
