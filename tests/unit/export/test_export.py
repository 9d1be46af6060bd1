"""Exports against the classifier that they were made from; what answers is Transformers or onnxruntime alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from labeltune.export import export
from labeltune.export.export import EXACT, Comparison, as_written
from labeltune.inference import artifact
from labeltune.runtime.errors import UserError
from tests import tuning
from tests.tuning import ANSWERS
from tests.unit.export.conftest import TEMPERATURE, trained

Bases = Callable[..., Path]
SEVERAL = {"words": ("ham", "free prize")}


def test_label_words_of_several_tokens_have_no_form_in_transformers(
    tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no prepared rows are
    trained(tiny_base("llama"), tmp_path / "classifier", **SEVERAL)
    with pytest.raises(UserError, match="--to onnx, or set a verbalizer"):
        export.export(tmp_path / "classifier", to="merged", out=tmp_path / "out", rows=None)
    assert [path.name for path in tmp_path.iterdir()] == ["classifier"]


def rows_file(folder: Path, labels: tuple[str, str] = ("ham", "spam")) -> Path:
    path = folder / "rows.csv"
    rows = [f'{labels[answer]},"{text}"' for text, answer in zip(tuning.TEXTS, ANSWERS, strict=True)]
    path.write_text("\n".join(["label,text", *rows]) + "\n")
    return path


@pytest.mark.slow
def test_an_export_runs_where_there_is_no_labeltune(
    tiny_base: Bases, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = trained(tiny_base("llama"), tmp_path / "classifier", head="linear", pooling="mean")
    out = tmp_path / "out"
    export.export(tmp_path / "classifier", to="hub-folder", out=out, rows=rows_file(tmp_path))
    printed = capsys.readouterr().out
    assert "14 of 14 answers agree (100.00%)" in printed
    assert "trust_remote_code=True" in printed
    assert "temperature 1.700" in printed
    checked = json.loads((out / "verification.json").read_text())
    assert (checked["rows"], checked["agreement"], checked["changed_rows"]) == (14, 1.0, [])
    assert 0 < checked["largest_logit_difference"] < 1e-5

    card = ModelCard.load(out / "README.md")
    assert card.data.base_model == "tiny"
    accuracy = next(result for result in card.data.eval_results or [] if result.metric_type == "accuracy")
    right = [answer.label == "hs"[truth] + ("am", "pam")[truth]
             for answer, truth in zip(classifier.predict(tuning.TEXTS), ANSWERS, strict=True)]  # fmt: skip
    assert accuracy.metric_value == pytest.approx(sum(right) / 7, abs=1e-4)
    assert "This export on 7 test rows" in card.text

    snippet = card.text.split("```python\n")[1].split("```")[0].replace("a text", tuning.TEXTS[0])
    code = f"import sys; sys.modules['labeltune'] = None\n{snippet}"
    environment = {"HF_MODULES_CACHE": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=out, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith(classifier.predict(tuning.TEXTS[:1])[0].label)


def wrong(expected: list[dict[str, Any]]) -> Callable[..., list[dict[str, Any]]]:
    """Answers as they are, but with the labels' probabilities exchanged in one of them."""
    values = expected[0]["probabilities"]
    expected[0]["probabilities"] = dict(zip(values, reversed(values.values()), strict=True))
    expected[0]["label"] = next(name for name in values if name != expected[0]["label"])
    return lambda folder, texts, progress: expected


def test_an_export_that_answers_otherwise_is_not_kept(
    tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = trained(tiny_base("llama"), tmp_path / "classifier")
    given = [
        {
            "label": answer.label,
            "probabilities": answer.probabilities,
            "logits": row,
            "truncated": answer.truncated,
        }
        for predictions in [classifier.predict([*tuning.TEXTS, *map(as_written, tuning.TEXTS)])]
        for answer, row in zip(predictions, (predictions.logits / TEMPERATURE).tolist(), strict=True)
    ]
    monkeypatch.setattr(export, "answers", wrong(given))
    with pytest.raises(UserError, match="not kept: 13 of 14 answers agree"):
        export.export(tmp_path / "classifier", to="merged", out=tmp_path / "out", rows=rows_file(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier", "rows.csv"]


def test_an_export_whose_program_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "predict.py").write_text("raise SystemExit('no such operator')\n")
    with pytest.raises(UserError, match="no such operator"):
        export.answers(tmp_path, ["a"], lambda rows: None)


def test_what_an_export_can_not_be_made_with_is_refused(
    tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "classifier"
    trained(tiny_base("llama"), folder)
    monkeypatch.chdir(tmp_path)

    def refused(message: str, to: str = "merged", out: Path = tmp_path / "out", rows: Path | None = None) -> None:
        with pytest.raises(UserError, match=message):
            export.export(folder, to=to, out=out, rows=rows)

    refused("is no export; name another folder", out=folder)
    refused("no label of this classifier is called \\['eggs'\\]", rows=rows_file(tmp_path, ("eggs", "spam")))
    refused("the classifier's examples has no column `label`", to="hub-folder")
    content = json.loads((folder / "labeltune.json").read_text())
    artifact.save_calibrated(tmp_path / "bare", folder, replace(artifact.load_record(folder), examples=[]), "")
    assert content["examples"]
    with pytest.raises(UserError, match="give a file of texts with --rows"):
        export.export(tmp_path / "bare", to="merged", out=tmp_path / "out", rows=None)
    assert not (tmp_path / "out").exists()


def test_a_comparison_counts_answers_and_ignores_what_softmax_does_not_see() -> None:
    compared = Comparison(rows=1000, changed=[3], logit=0.5, probability=0.0005, cut=[])
    assert compared.keeps(EXACT)
    assert not replace(compared, changed=[3, 4]).keeps(EXACT)
    assert not replace(compared, probability=0.002).keeps(EXACT)
    assert not replace(compared, cut=[7]).keeps(EXACT)
