"""Fine-tune the base model and keep the best of it as an artefact."""

from pathlib import Path

import pandas as pd
import torch

from labeltune import artefact, bases, conf, fit, hardware, history, models, outputs, prompts, terminal
from labeltune.labels import LabelSet
from labeltune.params import Dataset, Model, Prompt, Train

PREPARED = Path("data/prepared")
CLASSIFIER = Path("models/classifier")
METRICS = Path("metrics/train.json")
COSTS = Path("costs/train.json")
CURVES = Path("plots/curves")


def main() -> None:
    """Write models/classifier/, metrics/train.json, costs/train.json and plots/curves/."""
    settings, prompt = conf.section("train", Train), conf.section("prompt", Prompt)
    model, dataset = conf.section("model", Model), conf.section("dataset", Dataset)
    dtype, threads = hardware.choose_dtype(settings.dtype), hardware.choose_threads(settings.threads)
    attention = hardware.choose_attention(settings.attention)
    torch.set_num_threads(threads)
    terminal.say(f"training {model.name} on {hardware.describe(dtype, threads)}, {attention} attention")

    labels = LabelSet.load(PREPARED / "labels.json")
    base = bases.open_base(model)
    tokenizer = bases.load_tokenizer(base.folder)
    template = prompts.Template.of(prompt, labels)
    encoder = prompts.Encoder(tokenizer=tokenizer, template=template, max_length=prompt.max_length)
    files = {split: PREPARED / f"{split}.csv" for split in ("train", "validation")}
    train, validation = (fit.encode(outputs.read_prepared(path), encoder, labels) for path in files.values())

    network = models.load_network(
        base, labels, settings, dtype=dtype, attention=attention, tokenizer=tokenizer, cue=template.back
    )
    adapted = models.add_adapters(network, settings).to(hardware.device())
    trained = fit.fine_tune(adapted, train, validation, settings, pad_id=tokenizer.pad_token_id, dtype=dtype)

    record = artefact.Record(
        labels=labels, prompt=prompt, train=settings, model=model, base_files=base.files, dtype=dtype,
        attention=attention, threads=threads, data={split: outputs.digest(path) for split, path in files.items()},
        dataset=dataset.name, license=dataset.license, validation=trained.best,
    )  # fmt: skip
    artefact.save(CLASSIFIER, adapted, tokenizer, base, record)
    outputs.write_table(CURVES / "train.csv", pd.DataFrame(trained.train))
    outputs.write_table(CURVES / "validation.csv", pd.DataFrame(trained.validation))
    outputs.write_json(METRICS, history.figures(trained, adapted))
    outputs.write_json(COSTS, history.costs(trained))
    history.show(trained, adapted, CLASSIFIER)


if __name__ == "__main__":
    terminal.run(main)
