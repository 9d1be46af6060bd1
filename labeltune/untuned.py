"""The untuned base model, at its full depth."""

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig

from labeltune.bases import Base
from labeltune.errors import UserError
from labeltune.front import Front, shared_front
from labeltune.hardware import Machine, device
from labeltune.labels import LabelSet
from labeltune.models import is_encoder, load_network
from labeltune.params import Train
from labeltune.prompts import Encoder


@dataclass(frozen=True, kw_only=True)
class Untuned:
    """A base model that nothing was trained of."""

    network: Any
    """It, on its device."""
    pad_id: int
    """Token that fills up batches."""
    files: dict[str, str]
    """File of it -> sha256."""
    size: int
    """Bytes of its files."""
    front: Front | None
    """What every prompt begins with."""
    missing: str | None
    """Why it can't score label words; None where it can."""


def load(base: Base, labels: LabelSet, encoder: Encoder, machine: Machine, *, scoring: bool) -> Untuned:
    """Load a base model at its full depth.

    Args:
        scoring: whether label words are to be scored; else, and where the model can't, it has a head that is not used.

    Raises:
        UserError: the model can't read prompts of this length, or is of no use as a classifier.
    """

    def loaded(head: str) -> Any:
        return load_network(
            base,
            labels,
            Train.model_validate({"seed": 0, "head": head}),
            dtype=machine.dtype,
            attention=machine.attention,
            kernels=machine.kernels,
            tokenizer=encoder.tokenizer,
            cue=encoder.template.back,
            max_length=encoder.max_length,
        )

    network: Any = None
    missing: str | None = "baselines.zero_shot is false"
    if scoring and is_encoder(AutoConfig.from_pretrained(base.folder)):
        missing = f"{base.name} is an encoder: it was never trained to say what follows a prompt"
    elif scoring:
        try:
            network, missing = loaded("label_scoring"), None
        except UserError as error:  # not for these labels or this model; its states can be read all the same
            missing = str(error)
    network = (loaded("linear") if network is None else network).to(device()).eval()
    network.every_state = True
    return Untuned(
        network=network,
        pad_id=encoder.tokenizer.pad_token_id,
        files=base.files,
        size=sum((base.folder / name).stat().st_size for name in base.files),
        front=shared_front(network, encoder),
        missing=missing,
    )
