"""Blueprints: all that decides a network, so that training and predicting build the same one."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from labeltune.bases import Base
from labeltune.hardware import Machine, device
from labeltune.labels import LabelSet
from labeltune.methods import adapt
from labeltune.models import load_network
from labeltune.networks import LabelScoring
from labeltune.params import Train
from labeltune.priors import measure_prior
from labeltune.prompts import Encoder


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A base model, and what to make of it."""

    base: Base
    """The base model, or the folder of a classifier of which every weight was trained."""
    labels: LabelSet
    """The classes."""
    train: Train
    """Method, head, depth."""
    encoder: Encoder
    """Tokenizer and prompt."""
    machine: Machine
    """What it computes with."""

    def load(self, *, fresh: bool = True) -> PreTrainedModel:
        """The network with a fresh head, not adapted; with `fresh: False` the caller loads every weight of it."""
        return load_network(
            self.base,
            self.labels,
            self.train,
            dtype=self.machine.dtype,
            attention=self.machine.attention,
            kernels=self.machine.kernels,
            tokenizer=self.encoder.tokenizer,
            cue=self.encoder.template.back,
            max_length=self.encoder.max_length,
            fresh=fresh,
        )

    def build(self) -> nn.Module:
        """The network on its device, with exactly those weights to train that the method names."""
        network: Any = self.load().to(device())
        if isinstance(network, LabelScoring):
            network.prior = measure_prior(network, self.encoder, self.train.label_score)
        return adapt(network, self.train, self.base.name).to(device())
