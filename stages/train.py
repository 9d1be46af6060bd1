"""Fine-tune the base model and keep the best of it as an artefact."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from labeltune import artefact, bases, checkpoints, conf, fit, hardware, history, methods, outputs, terminal, tracking
from labeltune.blueprint import Blueprint
from labeltune.depth import settle
from labeltune.labels import LabelSet
from labeltune.origins import Dataset, Model
from labeltune.params import Prompt, Train
from labeltune.prompts import Encoder
from labeltune.rows import encode

PREPARED = Path("data/prepared")
TRAINED, CURVES = Path("models/trained"), Path("plots/curves")
METRICS, COSTS = Path("metrics/train.json"), Path("costs/train.json")


def main() -> None:
    """Write models/trained/, metrics/train.json, costs/train.json and plots/curves/."""
    settings, prompt = conf.section("train", Train), conf.section("prompt", Prompt)
    model, dataset = conf.section("model", Model), conf.section("dataset", Dataset)
    machine = hardware.choose(settings)
    torch.set_num_threads(machine.threads)
    terminal.say(f"training {model.name} on {machine}")
    files = {split: PREPARED / f"{split}.csv" for split in ("train", "validation")}

    with checkpoints.workspace(), outputs.unchanged(files) as data:
        labels, base = LabelSet.load(PREPARED / "labels.json"), bases.open_base(model)
        encoder = Encoder.of(bases.load_tokenizer(base.folder), prompt, labels)
        splits = {split: encode(outputs.read_prepared(path), encoder, labels) for split, path in files.items()}
        plan = Blueprint(base=base, labels=labels, train=settings, encoder=encoder, machine=machine)
        plan, choice = settle(plan, *splits.values())
        record = artefact.Record(
            labels=labels, prompt=prompt, train=plan.train, model=model, base_files=base.files, machine=machine,
            data=data, rows={split: len(rows) for split, rows in splits.items()}, dataset=dataset.name,
            license=dataset.license, source=json.loads((PREPARED / "source.json").read_text(encoding="utf-8")),
            chosen=choice.reasons,
        )  # fmt: skip
        fingerprint = artefact.fingerprint(record)
        name = f"{dataset.name}-{model.name}-{settings.method}-{settings.head}-{settings.seed}-{fingerprint.digest[:8]}"
        with (
            checkpoints.open_store(fingerprint, keep=settings.checkpoints) as store,
            tracking.tracking(settings.report_to, name, fingerprint.configuration) as told,
        ):
            network, trained = fit.fine_tune(plan, *splits.values(), passed=choice.passed, store=store, callbacks=told)
            record = replace(record, prior=methods.prior(network), validation=trained.best)
            artefact.save(TRAINED, network, encoder.tokenizer, base, record)
            history.save(trained, choice, METRICS, COSTS, CURVES)
            store.remove()
    history.show(trained, choice, TRAINED)


if __name__ == "__main__":
    terminal.run(main)
