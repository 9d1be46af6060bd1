"""The files of a whole run, as the stages leave them behind, from rows and logits that a test makes up."""

import struct
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import labeltune
from labeltune.config import resolve
from labeltune.config.evaluation import Calibrate
from labeltune.evaluation import calibration, confidence, metrics
from labeltune.evaluation.comparison import decide
from labeltune.evaluation.metrics import paired_test
from labeltune.inference.classifier import Predictions
from labeltune.modeling import device
from labeltune.runtime.files import write_json, write_metrics, write_table, write_text

ROOT = Path(__file__).parent.parent
PICTURES = (
    "accuracy", "loss", "confusion_matrix", "roc", "precision_recall", "reliability", "risk_coverage", "robustness",
    "severity",
)  # fmt: skip
BOOTSTRAP = {"seed": 0, "resamples": 200}


def rows_and_logits(names: tuple[str, ...], count: int = 60, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Made-up rows, about one in eight of which is answered wrongly."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(names)
    logits = rng.normal(0, 1.2, (count, len(names))) + 3.0 * np.eye(len(names))[labels]
    ids = [f"rows.csv:{place}" for place in range(count)]
    texts = [f"text {place}: {names[label]}?" for place, label in enumerate(labels)]
    rows = pd.DataFrame({"id": ids, "text": texts, "label": [names[label] for label in labels]})
    return rows, logits.astype(np.float32)


def write_run(folder: Path, names: tuple[str, ...], rows: pd.DataFrame, logits: np.ndarray) -> None:
    """Write every file that the report reads; `rows` has id, text and label, `logits` is `[rows, num_labels]`."""
    labels = np.array([names.index(label) for label in rows["label"]])
    spread, spread_logits = rows_and_logits(names, count=200, seed=1)
    fitted = calibration.calibrate(
        spread_logits, np.array([names.index(label) for label in spread["label"]]), Calibrate()
    )
    answers = Predictions(names=names, logits=logits, truncated=[False] * len(rows), calibration=fitted)
    figures = metrics.summarise(labels, answers.probabilities, names, answers.guesses)
    figures["intervals"] = metrics.intervals(labels, answers.probabilities, answers.guesses, **BOOTSTRAP)
    figures["prevalence"] = None
    write_table(folder / "data/predictions/test.csv", answers.table(rows))
    write_metrics(folder / "metrics/metrics.json", figures)
    write_metrics(folder / "metrics/confidence_analysis.json", confidence.analyse(logits, labels, fitted, names))
    write_metrics(folder / "metrics/robustness_result.json", robustness(figures["accuracy"], len(rows)))
    write_table(folder / "data/robustness/flips.csv", flips(rows, names))
    write_metrics(folder / "metrics/baseline_comparison.json", comparison(figures))
    write_metrics(folder / "metrics/baselines.json", {"tfidf": {"C": 10, "ngrams": "words 1-2, characters 2-5"}})
    write_metrics(folder / "metrics/worklist.json", WORKLIST)
    write_metrics(folder / "metrics/data.json", data(names))
    write_metrics(folder / "metrics/train.json", TRAINING)
    write_metrics(folder / "costs/train.json", {"seconds": 104.9, "rows_per_second": 7.4, "peak_memory_mib": 1850})
    spent = {"seconds": 5.25, "rows_per_second": 42.85, "peak_memory_mib": 1240, "size_mib": 0.96}
    write_metrics(folder / "costs/evaluate.json", spent)
    write_metrics(folder / "costs/baselines.json", BASELINE_COSTS)
    resolved = resolve.resolve(ROOT / "params.yaml", ROOT / "conf")
    write_text(folder / "resolved.yaml", resolve.write_resolved(resolved))
    record = {
        "labels": {"names": list(names), "words": list(names)},
        "data": {"rows": {"train": 781, "validation": 112}},
        "labeltune": labeltune.__version__,
        "machine": asdict(device.Machine(dtype="fp32", attention="eager", kernels="fused", threads=2)),
        "base": {"model": {"name": "smollm2-135m"}, "files": {}},
        "train": {"method": "lora", "head": "label_scoring"},
    }
    write_json(folder / "models/classifier/labeltune.json", record)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        (folder / f"plots/{name}.png").write_bytes(png(900, 600))


def png(width: int, height: int) -> bytes:
    """A light blue picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = (b"\0" + b"\xd5\xe3\xf2" * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def around(value: float, width: float = 0.06, method: str = "bootstrap") -> dict[str, Any]:
    """An interval that holds the value."""
    return {"low": value - width, "high": min(value + width, 1.0), "method": method}


def perturbed(before: float, after: float, flipped: float, rows: int, kind: str = "label_preserving") -> dict[str, Any]:
    """The record of one perturbation."""
    return {
        "kind": kind, "rows": rows, "changed": rows - 2, "severity": 0.1, "original_accuracy": before,
        "accuracy": after, "accuracy_interval": around(after), "flip_rate": flipped,
        "flip_rate_interval": around(flipped, 0.03, "exact"), "confidence_drop": (before - after) / 2,
        "confidence_drop_interval": around((before - after) / 2, 0.02),
        "paired": paired_test(np.arange(rows) < round(before * rows), np.arange(rows) < round(after * rows)).record(),
    }  # fmt: skip


def robustness(accuracy: float, rows: int) -> dict[str, Any]:
    """What metrics/robustness_result.json holds."""
    tests = {
        "synonym_replace": perturbed(accuracy, accuracy - 0.02, 0.027, rows),
        "typo_insertion": perturbed(accuracy, accuracy - 0.09, 0.102, rows),
        "punctuation_change": perturbed(accuracy, accuracy, 0.0, rows),
        "case": perturbed(0.9583, 0.9167, 0.0417, 24) | {"severity": None},
        "word_deletion": perturbed(0.9583, 0.875, 0.0833, 24, "label_agnostic"),
    }
    curve = [
        perturbed(0.9583, 0.9583 - cost, cost, 24) | {"severity": severity}
        for severity, cost in ((0.05, 0.0417), (0.1, 0.0833), (0.2, 0.1667))
    ]
    return {
        "original_accuracy": accuracy, "perturbed_accuracy": accuracy - 0.11 / 3,
        "robustness_score": (accuracy - 0.11 / 3) / accuracy, "rows": rows, "sample": 24,
        "severity_sample": 24, "seed": 0,
        "perturbation_tests": tests, "severities": {"typo_insertion": curve},
    }  # fmt: skip


def flips(rows: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """What data/robustness/flips.csv holds: two answers that turned from right to wrong."""
    first = rows.head(2)
    wrong = [next(name for name in names if name != label) for label in first["label"]]
    return pd.DataFrame(
        {
            "perturbation": ["typo_insertion", "synonym_replace"], "id": first["id"], "label": first["label"],
            "text": first["text"], "changed_text": [text.replace("e", "3") for text in first["text"]],
            "prediction": first["label"], "changed_prediction": wrong, "confidence": [0.9712, 0.8834],
            "changed_confidence": [0.8123, 0.6411],
        }
    )  # fmt: skip


def comparison(figures: dict[str, Any]) -> dict[str, Any]:
    """What metrics/baseline_comparison.json holds: TF-IDF as good, the base model and the majority not."""

    def measured(lost: float) -> dict[str, Any]:
        accuracy, f1 = figures["accuracy"] - lost, figures["macro_f1"] - lost
        return {
            "accuracy": accuracy, "accuracy_interval": around(accuracy), "macro_f1": f1,
            "macro_f1_interval": around(f1), "roc_auc": 0.9, "n": figures["n"], "training_rows": 781,
        }  # fmt: skip

    def against(lost: float, p_value: float) -> dict[str, Any]:
        gained = round(lost * figures["n"])
        paired = {
            "difference": lost, "interval": around(lost, 0.03), "only_first": gained + 2, "only_second": 2,
            "p_value": p_value,
        }  # fmt: skip
        return measured(lost) | {"paired": paired}

    zero_shot = against(0.38, 1.2e-14) | {"training_rows": 0}
    models = {
        "majority": against(0.45, 3.1e-21), "tfidf": against(0.0089, 0.727), "hidden_states": against(0.04, 0.022),
        "zero_shot": zero_shot,
    }  # fmt: skip
    return {
        "fine_tuned_model": measured(0.0),
        "baseline_model": {"name": "zero_shot"} | {key: zero_shot[key] for key in zero_shot if key != "paired"},
        "improvement": {"absolute": 0.38, "relative": 0.38 / zero_shot["accuracy"]},
        "models": models, "verdict": decide(models, figures["n"]).record(),
        "as_good": ["tfidf"],
    }  # fmt: skip


def data(names: tuple[str, ...]) -> dict[str, Any]:
    """What metrics/data.json holds."""
    kept = {"train": 781, "validation": 112, "test": 225}
    rows = {split: {"total": total} | {name: total // len(names) for name in names} for split, total in kept.items()}
    gates = ("missing_text", "missing_label", "conflicts", "exact_inside", "near_inside", "exact_across", "near_across")
    found = dict.fromkeys(gates, 0) | {"exact_inside": 328, "near_inside": 85, "near_across": 4}
    dropped = found | {"near_inside": 0, "balance": 3412, "train_rows": 0, "validation_rows": 0}
    lengths = {"p50": 50.0, "p95": 84.45, "max": 153, "truncated": 0.0}
    return {
        "rows_read": {"all": 4862}, "rows": rows, "found": found, "dropped": dropped, "moved": 33,
        "leaks_left": {"exact_across": 0, "near_across": 0}, "tokens": dict.fromkeys(kept, lengths),
    }  # fmt: skip


TRAINING = {
    "best_step": 98, "steps": 98, "batch": {"size": 8, "accumulation": 1},
    "parameters": {"total": 134_761_920, "trainable": 245_760}, "train": {"accuracy": 0.9231, "loss": 0.075},
    "validation": {"accuracy": 0.9821, "loss": 0.0791, "macro_f1": 0.9821},
}  # fmt: skip
WORKLIST = {
    "label_errors": {"train": 9, "validation": 1, "test": 3}, "confident_mistakes": 2,
    "near_duplicates": {"train": 24, "validation": 2, "test": 5, "across": 1},
    "rows": {"train": 781, "validation": 112, "test": 225}, "rows_judged": {"train": 781, "test": 225},
}  # fmt: skip
BASELINE_COSTS = {
    name: {"train_seconds": train, "rows_per_second": speed, "peak_memory_mib": memory, "size_mib": size}
    for name, train, speed, memory, size in (
        ("majority", 0.0, 1e6, 210, 0.0), ("tfidf", 1.9, 5200.0, 260, 1.4), ("hidden_states", 48.0, 31.0, 1100, 257.1),
        ("zero_shot", 0.0, 25.0, 1180, 257.1),
    )
}  # fmt: skip
