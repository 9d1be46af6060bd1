"""Fine-tune the base model and keep the best of it as an artefact."""

from dataclasses import replace
from pathlib import Path

import torch

from labeltune.config.base import section
from labeltune.config.data import Dataset
from labeltune.config.model import Model, Prompt, Train
from labeltune.console import terminal
from labeltune.data.labels import LabelSet
from labeltune.data.normalization import Normalization
from labeltune.inference import artifact
from labeltune.inference.artifact import Record
from labeltune.modeling import adapters, base_models, device
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.prompts import Encoder, encode
from labeltune.runtime import errors, files
from labeltune.training import blending, checkpoints, finetune, probe, tracking
from labeltune.training.layer_selection import choose_capacity

PREPARED, TRAINED, CURVES = Path("data/prepared"), Path("models/trained"), Path("plots/curves")
METRICS, COSTS = Path("metrics/train.json"), Path("costs/train.json")


def main() -> None:
    """Write models/trained/, metrics/train.json, costs/train.json and plots/curves/."""
    settings, prompt = section("train", Train), section("prompt", Prompt)
    model, dataset = section("model", Model), section("dataset", Dataset)
    machine = device.choose(settings)
    torch.set_num_threads(machine.threads)
    terminal.say(f"training {model.name} on {machine}")
    paths = {split: PREPARED / f"{split}.csv" for split in ("train", "validation")}
    with checkpoints.workspace(), files.unchanged(paths) as data:
        labels, base = LabelSet.load(PREPARED / "labels.json"), base_models.open_base(model)
        encoder = Encoder.of(base_models.load_tokenizer(base.folder), prompt, labels, Normalization.load(PREPARED))
        splits = {split: encode(files.read_prepared(path), encoder, labels) for split, path in paths.items()}
        plan = NetworkSpec(base=base, labels=labels, train=settings, encoder=encoder, machine=machine)
        plan, choice = choose_capacity(plan, **splits)
        source = files.read_json(PREPARED / "source.json")
        rows = {split: len(rows) for split, rows in splits.items()}
        record = Record.of(plan, model, prompt, dataset, data=data, rows=rows, source=source, chosen=choice.reasons)
        fingerprint = artifact.fingerprint(record)
        with (
            checkpoints.open_store(fingerprint, keep=settings.checkpoints) as store,
            tracking.tracking(settings.report_to, record.run_name(fingerprint), fingerprint.configuration) as told,
        ):
            if settings.method == "probe":
                network, tuned = probe.fit_probe(plan, **splits, callbacks=told)
            else:
                network, tuned = finetune.fine_tune(plan, **splits, store=store, curves=CURVES, callbacks=told)
            blended = blending.choose_blend(tuned.logits, settings, **blending.labelled(paths, labels))
            record = replace(record, prior=adapters.label_prior(network), validation=tracking.validated(tuned, blended))
            artifact.save(TRAINED, network, encoder.tokenizer, base, record, blended.blend)
            tracking.save_history(tuned, choice, blended, METRICS, COSTS, CURVES)
            store.remove()
    tracking.show_history(tuned, choice, blended, TRAINED)


if __name__ == "__main__":
    errors.run(main)
