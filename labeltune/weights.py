"""The weights of a classifier: from its folder into a network, every one of them or none."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from labeltune.artefact import Record
from labeltune.bases import Base, open_base, quiet
from labeltune.errors import UserError
from labeltune.methods import transposed

if TYPE_CHECKING:
    from peft import PeftModel

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


def load_adapter(network: PreTrainedModel, folder: Path) -> "PeftModel":
    """Put the saved adapter around the network.

    Raises:
        UserError: some of its weights did not arrive, bit for bit.
    """
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict  # a second, which a full model need not wait for

    with quiet():
        config = LoraConfig.from_pretrained(str(folder))
        config.fan_in_fan_out = transposed(network)  # GPT-2 in 4 bits isn't, merged it is again
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
