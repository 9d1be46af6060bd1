"""Change the test rows' texts, and see which answers hold."""

from pathlib import Path

import torch

from labeltune import conf, hardware, outputs, robustness, terminal
from labeltune.evaluation import Robustness
from labeltune.predict import Classifier

TEST = Path("data/prepared/test.csv")
PREDICTIONS = Path("data/predictions/test.csv")
CLASSIFIER = Path("models/classifier")
METRICS = Path("metrics/robustness_result.json")
ROBUSTNESS = Path("data/robustness")


def main() -> None:
    """Write metrics/robustness_result.json, and data/robustness/ with every changed text and the worst flips."""
    settings = conf.section("robustness", Robustness)
    classifier = Classifier.load(CLASSIFIER)
    labels = classifier.record.labels
    torch.set_num_threads(hardware.choose_threads(classifier.record.train.threads))
    with outputs.unchanged({"test": TEST}):
        rows, given = outputs.read_predictions(PREDICTIONS, labels.names)
        trials = robustness.plan(rows, labels, settings)
        texts = robustness.to_predict(trials, rows)
        with terminal.progress("predicting changed texts", len(texts)) as progress:
            answers = dict(zip(texts, classifier.predict(texts, progress=progress).probabilities, strict=True))
        table = robustness.tabulate(trials, rows, given, answers, labels.names)
        figures = robustness.summarise(table, trials, rows, given, labels.names, settings)
        outputs.write_table(ROBUSTNESS / "rows.csv", table)
        outputs.write_table(ROBUSTNESS / "flips.csv", robustness.worst_flips(table, settings.worst))
        outputs.write_json(METRICS, figures)
    robustness.show(figures, METRICS, ROBUSTNESS / "flips.csv")


if __name__ == "__main__":
    terminal.run(main)
