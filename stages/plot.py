"""Draw the figures, and the tables that DVC's own plots are drawn from."""

from pathlib import Path

import numpy as np
import pandas as pd

from labeltune.config import base
from labeltune.config.evaluation import Plot
from labeltune.console import terminal
from labeltune.data.labels import LabelSet
from labeltune.reporting.plots import curves, figures
from labeltune.runtime import errors, files

LABELS = Path("data/prepared/labels.json")
PREDICTIONS = Path("data/predictions/test.csv")
TRAINING = Path("metrics/train.json")
CONFIDENCE = Path("metrics/confidence_analysis.json")
ROBUSTNESS = Path("metrics/robustness_result.json")
CURVES = Path("plots/curves")
PLOTS = Path("plots")


def main() -> None:
    """Write the pictures and tables under plots/."""
    settings = base.section("plot", Plot)
    names = list(LabelSet.load(LABELS).names)
    rows = files.read_predictions(PREDICTIONS)
    probabilities = files.probabilities(rows, names)
    labels = np.array([names.index(label) for label in rows["label"]])
    guesses = np.array([names.index(label) for label in rows["prediction"]])
    training, trust, robust = map(files.read_json, (TRAINING, CONFIDENCE, ROBUSTNESS))
    train, validation = (pd.read_csv(CURVES / f"{split}.csv") for split in ("train", "validation"))

    figures.draw_training(train, validation, training["best_step"], PLOTS, dpi=settings.dpi)
    figures.draw_confusion(labels, guesses, names, PLOTS / "confusion_matrix.png", dpi=settings.dpi)
    figures.draw_roc(labels, probabilities, names, PLOTS / "roc.png", dpi=settings.dpi)
    figures.draw_precision_recall(labels, probabilities, names, PLOTS / "precision_recall.png", dpi=settings.dpi)
    confidence, threshold = rows["confidence"].to_numpy(), trust["abstention"]["threshold"]
    figures.draw_reliability(trust["calibration"], PLOTS / "reliability.png", dpi=settings.dpi)
    figures.draw_risk_coverage(confidence, labels == guesses, threshold, PLOTS / "risk_coverage.png", dpi=settings.dpi)
    figures.draw_robustness(robust, PLOTS / "robustness.png", dpi=settings.dpi)
    figures.draw_severity(robust, PLOTS / "severity.png", dpi=settings.dpi)
    files.write_table(PLOTS / "reliability.csv", curves.reliability_points(trust["calibration"]))
    files.write_table(PLOTS / "risk_coverage.csv", curves.risk_points(confidence, labels == guesses))
    files.write_table(PLOTS / "confusion.csv", curves.confusion_rows(labels, guesses, names))
    files.write_table(PLOTS / "roc.csv", curves.roc_points(labels, probabilities, names))
    files.write_table(PLOTS / "precision_recall.csv", curves.precision_recall_points(labels, probabilities, names))
    terminal.say(f"figures in {PLOTS}/ and {PLOTS}/training_metrics.pdf; `dvc plots show` opens them all in a page")


if __name__ == "__main__":
    errors.run(main)
