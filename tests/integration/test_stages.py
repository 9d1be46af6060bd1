"""The stages in the order of the pipeline, in one process, on a tiny model."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from labeltune.inference.classifier import Classifier
from labeltune.runtime import errors
from labeltune.runtime.errors import UserError
from stages import (
    baselines,
    calibrate,
    collect,
    compare,
    configure,
    evaluate,
    plot,
    prepare,
    report,
    robustness,
    train,
    worklist,
)

STAGES: list[Callable[[], None]] = [
    module.main
    for module in (
        configure, collect, prepare, train, calibrate, evaluate, robustness, baselines, compare, worklist, plot, report,
    )
]  # fmt: skip
OUTS = ("resolved.yaml", "settings", "data", "models", "metrics", "plots")
REPORTS = ("plots/report.html", "plots/report.md")
"""They tell run times."""


def run_all() -> None:
    for stage in STAGES:
        stage()


def fingerprint(folder: Path) -> dict[str, str]:
    """Hash of every file that the stages wrote, costs apart: they are run times."""
    files = [
        path for out in OUTS for path in ([folder / out] if (folder / out).is_file() else (folder / out).rglob("*"))
    ]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()
    }


def change(path: str, old: str, new: str) -> None:
    file = Path(path)
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_the_stages_write_what_they_promise(project: Path) -> None:
    run_all()
    written = set(fingerprint(project)) | {"costs/train.json"}
    for name in (
        "resolved.yaml", "settings/train.yaml", "data/collected/all.jsonl", "data/collected/source.json",
        "data/prepared/train.csv", "data/prepared/validation.csv", "data/prepared/test.csv",
        "data/prepared/labels.json", "metrics/data.json", "models/classifier/adapter_model.safetensors",
        "models/classifier/adapter_config.json", "models/classifier/config.json", "models/classifier/tokenizer.json",
        "models/classifier/labeltune.json", "models/classifier/manifest.json", "models/classifier/README.md",
        "metrics/train.json", "costs/train.json", "plots/curves/train.csv", "plots/curves/validation.csv",
        "metrics/metrics.json", "metrics/summary.json", "data/predictions/test.csv", "models/trained/labeltune.json",
        "data/predictions/validation.csv", "metrics/confidence_analysis.json", "metrics/robustness_result.json",
        "data/robustness/rows.csv", "data/robustness/flips.csv", "data/baselines/predictions.csv",
        "metrics/baselines.json", "metrics/baseline_comparison.json", "metrics/worklist.json",
        "data/worklist/worklist.csv", "plots/reliability.png", "plots/reliability.csv", "plots/risk_coverage.png",
        "plots/risk_coverage.csv", "plots/robustness.png", "plots/severity.png", "plots/report.html",
        "plots/report.md", "plots/accuracy.png", "plots/loss.png",
        "plots/training_metrics.pdf", "plots/confusion_matrix.png", "plots/roc.png", "plots/precision_recall.png",
        "plots/roc.csv", "plots/precision_recall.csv", "plots/confusion.csv",
    ):  # fmt: skip
        assert name in written
    assert not list(project.rglob("*.part"))

    prepared = pd.read_csv("data/prepared/train.csv", dtype=str)
    assert list(prepared.columns) == ["id", "label", "text", "prompt"]
    first = prepared.iloc[0]
    assert first["prompt"] == f"Classify the text as ham or spam.\nText: {first['text']}\nLabel:"
    rows = json.loads(Path("metrics/data.json").read_text())["rows"]
    assert (rows["train"]["total"], rows["validation"]["total"], rows["test"]["total"]) == (42, 6, 12)

    predictions = pd.read_csv("data/predictions/test.csv")
    figures = json.loads(Path("metrics/metrics.json").read_text())
    assert list(predictions.columns) == [
        "id", "text", "label", "prediction", "confidence", "abstained", "truncated", "p_ham", "p_spam", "logit_ham",
        "logit_spam",
    ]  # fmt: skip
    assert figures["accuracy"] == pytest.approx((predictions["label"] == predictions["prediction"]).mean())
    assert figures["n"] == 12
    np.testing.assert_allclose(predictions["p_ham"] + predictions["p_spam"], 1)

    source = json.loads(Path("models/classifier/labeltune.json").read_text())["data"]["source"]
    assert source == {"source": "files", "folder": "data/raw/messages", "all": "messages.csv"}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(project: Path) -> None:
    run_all()
    first = fingerprint(project)
    run_all()
    again = fingerprint(project)
    assert {name for name in first if again[name] != first[name]} <= set(REPORTS)
    change("params.yaml", "train:\n  seed: 42", "train:\n  seed: 123")
    run_all()
    changed = {name for name, digest in fingerprint(project).items() if first[name] != digest}
    assert "models/classifier/adapter_model.safetensors" in changed
    assert not any(name.startswith(("data/prepared", "data/baselines")) for name in changed)


@pytest.mark.slow
def test_training_learns_and_keeps_its_best_validation(project: Path) -> None:
    change("conf/recipes/test.yaml", "epochs: 2", "epochs: 12, learning_rate: 3e-3, head: linear, pooling: mean")
    run_all()
    curve = pd.read_csv("plots/curves/validation.csv")
    figures = json.loads(Path("metrics/train.json").read_text())
    assert figures["validation"]["loss"] == pytest.approx(curve["loss"].min())
    assert figures["best_step"] == curve.loc[curve["loss"].idxmin(), "step"]
    assert json.loads(Path("metrics/metrics.json").read_text())["accuracy"] > 0.7

    kept = Classifier.load(Path("models/classifier"))
    rows = pd.read_csv("data/prepared/validation.csv", dtype=str)
    answers = softmax(kept.predict(rows["text"].tolist()).logits.astype(np.float64), axis=1)
    given = answers[np.arange(len(rows)), kept.record.labels.index(rows["label"].tolist())]
    assert -np.log(given).mean() == pytest.approx(figures["validation"]["loss"], rel=1e-4)


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.slow
def test_a_reloaded_classifier_answers_as_the_trained_one(project: Path, head: str) -> None:
    change("conf/recipes/test.yaml", "epochs: 2", f"epochs: 2, head: {head}, pooling: mean, depth: 3")
    run_all()
    predictions = pd.read_csv("data/predictions/test.csv")
    again = Classifier.load(Path("models/classifier")).predict(predictions["text"].tolist())
    np.testing.assert_array_equal(again.probabilities[:, 1], predictions["p_spam"])
    assert again.abstained == predictions["abstained"].tolist()


def test_what_is_left_open_is_resolved_recorded_and_needs_no_second_look(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change("conf/recipes/test.yaml", "layers: 2", "head: linear, depth: auto, layers: auto")
    for stage in STAGES[:5]:
        stage()
    figures = json.loads(Path("metrics/train.json").read_text())["depth"]
    content = json.loads(Path("models/classifier/labeltune.json").read_text())
    assert figures["probes"]["layers"] == [0, 1, 2, 3, 4]
    assert (figures["probes"]["rows"], figures["probes"]["validation_rows"]) == (42, 6)
    assert isinstance(content["train"]["depth"], int)
    assert {name: content["train"][name] for name in ("depth", "layers")} == {
        name: figures[name] for name in ("depth", "layers")
    }
    assert content["chosen"] == figures["reasons"]
    assert figures["reasons"]["depth"] in Path("models/classifier/README.md").read_text()
    monkeypatch.setattr("labeltune.probing.layer_probes.probe_layers", lambda *_, **__: pytest.fail("read again"))
    loaded = Classifier.load(Path("models/classifier"))
    assert len(loaded.network.model.layers) == figures["depth"]
    assert loaded.record.chosen == figures["reasons"]


@pytest.mark.slow
def test_calibrating_changes_the_confidence_and_copies_the_weights(project: Path) -> None:
    change("conf/recipes/test.yaml", "epochs: 2", "epochs: 6, learning_rate: 3e-3")
    run_all()
    trained, whole = (Classifier.load(Path("models") / name) for name in ("trained", "classifier"))
    texts = pd.read_csv("data/predictions/test.csv", keep_default_na=False)["text"].tolist()
    before, after = trained.predict(texts), whole.predict(texts)
    np.testing.assert_array_equal(before.logits, after.logits)
    fitted = whole.record.calibration
    validation = pd.read_csv("data/predictions/validation.csv", keep_default_na=False)
    assert fitted.rows == len(validation) == 6
    np.testing.assert_allclose(
        validation["p_spam"], fitted.probabilities(validation[["logit_ham", "logit_spam"]].to_numpy())[:, 1]
    )
    assert fitted.coverage == (~validation["abstained"]).mean()
    np.testing.assert_array_equal(before.probabilities, softmax(before.logits.astype(np.float64), axis=1))
    np.testing.assert_array_equal(after.probabilities, fitted.probabilities(after.logits))
    assert trained.record.calibration.rows == 0
    weights = "adapter_model.safetensors"
    assert Path("models/trained", weights).stat().st_ino == Path("models/classifier", weights).stat().st_ino


@pytest.mark.slow
def test_early_stopping_stops_and_accumulation_counts_steps(project: Path) -> None:
    change("conf/recipes/test.yaml", "epochs: 2", "epochs: 30, accumulation: 3, learning_rate: 0.5, early_stopping: 1")
    run_all()
    figures = json.loads(Path("metrics/train.json").read_text())
    assert figures["steps"] < 60
    assert figures["best_step"] < figures["steps"]


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "config.json", "labeltune.json", "tokenizer.json"])
def test_a_changed_or_missing_file_of_the_artefact_is_refused(project: Path, file: str) -> None:
    for stage in STAGES[:5]:
        stage()
    path = Path("models/classifier") / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"models/classifier is damaged \\(changed: {file}\\)"):
        Classifier.load(Path("models/classifier"))
    path.unlink()
    with pytest.raises(UserError, match=f"models/classifier is damaged \\(missing: {file}\\)"):
        Classifier.load(Path("models/classifier"))


def test_another_base_model_is_refused(project: Path, base_folder: Path) -> None:
    copy = project / "base"
    shutil.copytree(base_folder, copy)
    change("conf/models/tiny.yaml", str(base_folder), str(copy))
    for stage in STAGES[:5]:
        stage()
    config = copy / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match="was trained on another version of tiny: generation_config.json"):
        Classifier.load(Path("models/classifier"))


def test_a_folder_that_is_no_classifier_says_so(project: Path) -> None:
    with pytest.raises(UserError, match="models/classifier is no trained classifier: manifest.json is missing"):
        Classifier.load(Path("models/classifier"))


CSV = "data/raw/messages/messages.csv"
FAULTS = [
    ("a missing file", lambda: Path(CSV).unlink(), "messages.csv"),
    ("a missing column", lambda: change(CSV, "label,text", "label,body_of_it"), "body_of_it|label"),
    ("a ragged line", lambda: change(CSV, "ham,see you", "ham,x,see you"), "messages.csv"),
    ("a wrong encoding", lambda: Path(CSV).write_bytes("label,text\nham,差评\n".encode("gb18030")), "encoding"),
    ("a single class", lambda: Path(CSV).write_text("label,text\nham,a b c d\nham,e f g h\n"), "two classes"),
    ("an unknown key", lambda: change("params.yaml", "  head:", "  haed:"), "train.haed.*Did you mean 'head'"),
    ("a wrong type", lambda: change("params.yaml", "  epochs: null", "  epochs: many"), "train.epochs: got 'many'"),
    ("an unknown recipe", lambda: change("params.yaml", "recipe: test", "recipe: tset"), "Did you mean 'test'"),
    ("an unknown model", lambda: change("params.yaml", "model: null", "model: tinny"), "no model 'tinny'"),
    ("an unknown data set", lambda: change("params.yaml", "dataset: null", "dataset: mesages"), "no dataset"),
    ("a missing base model", lambda: change("conf/models/tiny.yaml", "tiny-llama", "gone"), "gone"),
]


@pytest.mark.parametrize(("fault", "message"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_bad_input_is_one_clear_message_and_leaves_nothing_behind(
    project: Path, fault: Callable[[], object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fault()
    with pytest.raises(SystemExit) as stopped:
        for stage in STAGES[:3]:
            errors.run(stage)
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert re.search(message, error, flags=re.DOTALL)
    assert not Path("data/prepared").exists()
    assert not Path("metrics").exists()


def test_rows_prepared_with_another_prompt_are_refused(project: Path) -> None:
    configure.main()
    prepare.main()
    change("conf/recipes/test.yaml", "name: classify", "name: plain")
    configure.main()
    with pytest.raises(UserError, match="data/prepared was made with another prompt"):
        train.main()
