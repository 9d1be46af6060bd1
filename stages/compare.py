"""Say whether something cheaper is as good as the fine-tuned model."""

from pathlib import Path

from labeltune.config import base
from labeltune.config.evaluation import Evaluate
from labeltune.data.labels import LabelSet
from labeltune.evaluation import comparison
from labeltune.runtime import errors, files

LABELS = Path("data/prepared/labels.json")
PREDICTIONS, ANSWERS = Path("data/predictions/test.csv"), Path("data/baselines/predictions.csv")
CHOSEN = Path("metrics/baselines.json")
COMPARISON = Path("metrics/baseline_comparison.json")
COSTS = Path("costs/baselines.json"), Path("costs/evaluate.json"), Path("costs/train.json")


def main() -> None:
    """Write metrics/baseline_comparison.json."""
    settings = base.section("evaluate", Evaluate)
    with files.unchanged({"predictions": PREDICTIONS, "baselines": ANSWERS}):
        labels = LabelSet.load(LABELS)
        ours, others = comparison.read_answers(PREDICTIONS, ANSWERS, labels)
        chosen = files.read_json(CHOSEN)
        found = comparison.compare(
            ours, others, labels, chosen=chosen, seed=settings.seed, resamples=settings.resamples
        )
        files.write_metrics(COMPARISON, found)
    # Costs are printed and never written, so that the comparison depends on answers alone.
    comparison.show(found, comparison.costs(*COSTS), COMPARISON)


if __name__ == "__main__":
    errors.run(main)
