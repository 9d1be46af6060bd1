"""labeltune's side of the comparison, in a process of its own: `python -m benchmarks.ours SEED`, in a project's folder.

Runs the train stage with another seed, and predicts with the classifier. The seconds of training start before the
weights are loaded, and include layer selection, the pass through the frozen layers and every validation; those of
inference include tokenizing. Prints a line of JSON.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.peers import Measured
from labeltune.config import base, resolve
from labeltune.config.resolve import Resolved
from labeltune.console import terminal
from labeltune.inference.classifier import Classifier
from labeltune.runtime import environment, errors
from labeltune.runtime.files import read_prepared, write_text
from stages import train


def measure(seed: int) -> Measured:
    """Train with a seed, then answer the test rows."""
    resolved = Resolved.model_validate(base.read_yaml(base.RESOLVED))
    seeded = resolved.model_copy(update={"train": resolved.train.model_copy(update={"seed": seed})})
    write_text(base.RESOLVED, resolve.write_resolved(seeded))
    train.main()
    costs = json.loads(Path("costs/train.json").read_text(encoding="utf-8"))
    texts = read_prepared(Path("data/prepared/test.csv"))["text"].tolist()
    classifier = Classifier.load("models/trained")
    started = time.perf_counter()
    answers = classifier.predict(texts)
    return Measured(
        train_seconds=costs["seconds"],
        inference_seconds=time.perf_counter() - started,
        answers=[answer.label for answer in answers],
        peak_mib=environment.peak_memory(),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("seed", type=int)
    found = measure(parser.parse_args().seed)
    terminal.say(json.dumps(asdict(found)))


if __name__ == "__main__":
    errors.run(main)
