"""`labeltune export`: write a classifier in a form that does not need labeltune, and verify its predictions."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

import labeltune
from labeltune.config.evaluation import Evaluate
from labeltune.console import terminal
from labeltune.data.normalization import is_blank
from labeltune.evaluation import metrics
from labeltune.export import formats
from labeltune.export.bundle import predict
from labeltune.export.model_card import export_card
from labeltune.inference.artifact import CARD, MANIFEST, RECORD
from labeltune.inference.calibration import Calibration
from labeltune.inference.classifier import Classifier, Predictions
from labeltune.modeling.base_models import load_tokenizer
from labeltune.runtime.environment import versions
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import digest, replacing, write_json, write_text
from labeltune.serving.tables import Table

PROGRAM = "predict.py"
ALONE = "import runpy, sys; sys.modules['labeltune'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
"""Program that runs a file in a process in which labeltune can't be imported."""
ENDING = 2000
"""Maximum number of characters to show of a failed process's output."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Tolerances of an export."""

    agreement: float
    """Minimum share of rows with the same prediction as the classifier's."""
    probability: float
    """Maximum difference of a probability."""


EXACT = Bounds(agreement=0.999, probability=1e-3)
"""Tolerances for the same arithmetic in another order, in which one row in a thousand may be a tie."""
HALF = Bounds(agreement=0.98, probability=0.1)
"""Tolerances for bf16 or fp16 on either side, in which logits near 20 are rounded to multiples of 0.125."""
INT8 = Bounds(agreement=0.98, probability=1.0)
"""Tolerances for 8-bit weights, for which only predictions are compared."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Comparison of an export with its classifier on the same rows."""

    rows: int
    """Number of rows."""
    changed: list[int]
    """Positions of the rows with another prediction, from 0."""
    logit: float
    """Largest difference of calibrated logits after subtracting each row's mean, to which softmax is invariant."""
    probability: float
    """Largest difference of a calibrated probability."""
    cut: list[int]
    """Positions of the rows that only one side truncated."""

    @property
    def agreement(self) -> float:
        """Share of rows with the same prediction."""
        return 1 - len(self.changed) / self.rows

    def keeps(self, bounds: Bounds) -> bool:
        """Return whether the differences are within the tolerances."""
        return self.agreement >= bounds.agreement and self.probability <= bounds.probability and not self.cut

    def record(self) -> dict[str, Any]:
        """Return the content of verification.json."""
        return {
            "rows": self.rows,
            "agreement": self.agreement,
            "changed_rows": self.changed,
            "largest_logit_difference": self.logit,
            "largest_probability_difference": self.probability,
        }

    def __str__(self) -> str:
        return (
            f"{self.rows - len(self.changed):,} of {self.rows:,} answers agree ({self.agreement:.2%}); largest "
            f"difference of a logit {self.logit:.2g}, of a probability {self.probability:.2g}"
        )


def answers(folder: Path, texts: Sequence[str], progress: Callable[[int], None]) -> list[dict[str, Any]]:
    """Return the predictions of an export's own program, which runs in a separate process.

    Raises:
        UserError: it fails; the message has the end of its output.
    """
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        given, errors = Path(scratch) / "texts.jsonl", Path(scratch) / "errors"
        given.write_text("".join(f"{json.dumps(text)}\n" for text in texts), encoding="ascii")
        quietly = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": scratch, "TRANSFORMERS_VERBOSITY": "error"}
        with (
            given.open("rb") as stdin,
            errors.open("wb") as stderr,
            subprocess.Popen(
                [sys.executable, "-c", ALONE, str(folder / PROGRAM)],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ | quietly,
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                found.append(json.loads(line))
                progress(1)
        if process.returncode or len(found) != len(texts):
            told = errors.read_text(encoding="utf-8", errors="replace")[-ENDING:]
            raise UserError(f"the export does not run, so it was not kept (exit status {process.returncode}):\n{told}")
    return found


def compare(expected: Predictions, found: Sequence[dict[str, Any]]) -> Comparison:
    """Compare the predictions of an export with those of the classifier."""
    given, labels = expected.probabilities, np.array([answer["label"] for answer in found])
    other = np.array([list(answer["probabilities"].values()) for answer in found])
    apart = _centred(expected.calibration.scores(expected.logits)) - _centred(
        np.array([answer["logits"] for answer in found])
    )
    return Comparison(
        rows=len(found),
        changed=np.flatnonzero(np.array(expected.names)[expected.guesses] != labels).tolist(),
        logit=float(np.abs(apart).max()),
        probability=float(np.abs(given - other).max()),
        cut=[row for row, answer in enumerate(found) if answer["truncated"] != expected.truncated[row]],
    )


def _centred(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return logits - logits.mean(axis=1, keepdims=True)


TEST_ROWS = Path("data/prepared/test.csv")
CHECKED = "verification.json"
REWRITTEN = 32
"""Number of texts with which an export is also verified in another spelling."""


def as_written(text: str) -> str:
    """Return a text as it may be written in a form or an e-mail: with combining accents and wrapped lines."""
    return "\n" + unicodedata.normalize("NFD", text).replace(" ", "  \n") + "\u200b"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows on which an export is verified."""

    source: str
    """Description of their source."""
    texts: list[str]
    """Texts, at least one."""
    labels: list[str] | None
    """Labels of the texts; None if the file has no column `label`."""

    @classmethod
    def read(cls, path: Path | None, text: str | None, examples: Sequence[str]) -> "Rows":
        """Read the rows of a file; None takes the project's test rows or, without any, the classifier's examples.

        Args:
            text: the column with the text; None finds it by its usual names.
            examples: example texts of the classifier.

        Raises:
            UserError: there are no rows.
        """
        path = path or (TEST_ROWS if TEST_ROWS.is_file() else None)
        if path is None:
            if not examples:
                raise UserError(
                    f"nothing to verify the export with: {TEST_ROWS} is not here, and the classifier has no examples; "
                    "give a file of texts with --rows"
                )
            return cls(source="the classifier's examples", texts=list(examples), labels=None)
        table = Table.survey(path, text=text)
        labelled = "label" in table.columns
        found = [
            (text, label)
            for chunk in table.chunks()
            for text, label in zip(
                table.values(chunk, table.text),
                table.values(chunk, "label") if labelled else [None] * len(chunk),
                strict=True,
            )
            if text and not is_blank(text)
        ]
        if not found:
            raise UserError(f"{path}: there is no text in column {table.text}")
        return cls(
            source=str(path),
            texts=[text for text, _ in found],
            labels=[str(label) for _, label in found] if labelled else None,
        )


def export(folder: Path, *, to: str, out: Path, rows: Path | None, text_column: str | None = None) -> None:
    """Run `labeltune export`: write and verify an export; a folder that fails is not kept.

    Raises:
        UserError: the form is not supported for this classifier, the rows can't be used, or the predictions differ.
    """
    _require_free(out)
    if to.startswith("onnx"):
        formats.require_onnx()
    classifier = Classifier.load(folder)
    _require_network(classifier, folder)
    given = Rows.read(rows, text_column, classifier.record.examples)
    _require_labels(given, classifier, needed=to == "hub-folder")
    terminal.say(f"{len(given.texts):,} texts to verify with: {given.source}; the first also as people may write them")
    # Prepared rows are normalized already; rewritten ones test that the export normalizes texts too.
    texts = given.texts + [as_written(text) for text in given.texts[:REWRITTEN]]
    with terminal.progress("the classifier", len(texts)) as progress:
        expected = classifier.predict(texts, progress=progress)
    if classifier.record.train.method != "lora":
        classifier = Classifier.load(folder, merge=True)
    with replacing(out) as partial:
        partial.mkdir()
        terminal.say(f"writing {to}")
        own = write(classifier, folder, to, partial)
        with terminal.progress("the export", len(texts)) as progress:
            found = answers(partial, texts, progress)
        compared = compare(expected, found)
        assert classifier.record.machine is not None, "a network was trained on a machine"
        bounds = _bounds(to, classifier.record.machine.dtype)
        _require_kept(compared, bounds, to)
        checked: dict[str, Any] = {"versions": versions(), "to": to, "classifier": digest(folder / MANIFEST)}
        checked |= {"least_agreement": bounds.agreement, "most_probability_difference": bounds.probability}
        write_json(partial / CHECKED, compared.record() | checked | {"texts": given.source})
        figures = _figures(classifier, given, found[: len(given.texts)])
        card = export_card(
            classifier.record,
            onnx=to.startswith("onnx"),
            own=own,
            texts=given.texts,
            compared=str(compared),
            figures=figures,
        )
        write_text(partial / CARD, card)
    _show(out, compared, own=own, hub=to == "hub-folder", calibration=classifier.record.calibration)


def _require_network(classifier: Classifier, folder: Path) -> None:
    """A Transformers folder and an ONNX graph hold networks."""
    if classifier.network is None:
        raise UserError(
            f"{folder} is a classifier of n-grams (train.method: ngrams), which is neither a Transformers model nor an "
            "ONNX graph; it needs neither a base model nor a GPU: use it with `labeltune predict` or `labeltune serve`"
        )


def _require_free(out: Path) -> None:
    """Check that the target is a new folder or an earlier export, which may be replaced."""
    if out.exists() and not (out / CHECKED).is_file():
        raise UserError(f"{out} exists and is no export; name another folder with --out")


def _require_labels(rows: Rows, classifier: Classifier, *, needed: bool) -> None:
    if rows.labels is None:
        if needed:
            raise UserError(
                "--to hub-folder writes the results on test rows into the card, and "
                f"{rows.source} has no column `label`; give labelled rows with --rows, or export --to merged"
            )
        return
    strange = sorted(set(rows.labels) - set(classifier.record.labels.names))
    if strange:
        raise UserError(
            f"{rows.source}: no label of this classifier is called {strange[:3]}; it has "
            f"{', '.join(classifier.record.labels.names)}: give rows of its own data with --rows"
        )


def write(classifier: Classifier, source: Path, to: str, folder: Path) -> bool:
    """Write a loaded classifier, whose weights are modified, and everything that predicting needs, unverified.

    Args:
        source: folder of the classifier.

    Returns:
        Whether a custom class is part of the export.

    Raises:
        UserError: the form is not supported for this classifier.
    """
    _describe(classifier, source, to, folder)
    calibration = classifier.record.calibration
    if classifier.blend is not None:
        # The weight of the network's logits and the temperature are folded into the weights.
        scale = calibration.temperature / classifier.blend.weights.network
        calibration = replace(calibration, temperature=scale)
    if not to.startswith("onnx"):
        model = formats.merge(classifier.network, calibration)
        model.save(folder)
        return model.own
    formats.write(classifier.network, calibration, folder)
    if to == "onnx-int8":
        formats.quantise(folder)
    return False


def _describe(classifier: Classifier, source: Path, to: str, folder: Path) -> None:
    """Write everything but the weights: tokenizer, prompt, and the program that uses them."""
    tokenizer = load_tokenizer(source)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)
    shutil.copyfile(str(predict.__file__), folder / PROGRAM)
    record, encoder, blend = classifier.record, classifier.encoder, classifier.blend
    assert encoder is not None, "a network reads tokens"
    assert record.model is not None, "a network has a base model"
    if blend is not None:
        blend.model.save(folder)
    write_json(
        folder / RECORD,
        {
            "labeltune": labeltune.__version__,
            "export": to,
            "labels": list(record.labels.names),
            "front": encoder.template.prefix,
            "back": encoder.template.suffix,
            "max_length": encoder.max_length,
            "normalization": asdict(encoder.normalization),
            "pad_token_id": encoder.tokenizer.pad_token_id,
            "blank_token_id": encoder.filler(),
            "temperature": record.calibration.temperature,
            "bias": record.calibration.bias,
            "threshold": record.calibration.threshold,
            "ngrams": None if blend is None else blend.weights.ngrams / record.calibration.temperature,
            "base": record.model.title,
            "data": {"name": record.dataset, "rows": record.rows, "sha256": record.data},
        },
    )


def _bounds(to: str, dtype: str) -> Bounds:
    if to == "onnx-int8":
        return INT8
    return EXACT if dtype == "fp32" else HALF


def _require_kept(compared: Comparison, bounds: Bounds, to: str) -> None:
    if compared.keeps(bounds):
        return
    advice = "; export --to onnx keeps every digit" if to == "onnx-int8" else ""
    cut = f"; rows {compared.cut[:5]} are cut elsewhere" if compared.cut else ""
    raise UserError(
        f"the export was not kept: {compared}{cut}. Asked for are {bounds.agreement:.1%} and "
        f"{bounds.probability:g}{advice}"
    )


def _figures(classifier: Classifier, rows: Rows, found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What metrics.json holds, of the export's own answers: for the shares of the labels among the test rows.

    The export's answers are for those where it is used; taking the difference off its logits gives the others.
    """
    if rows.labels is None:
        return None
    labels = np.array(classifier.record.labels.index(rows.labels))
    used, measured = classifier.record.calibration, classifier.record.calibration.measured
    logits = np.array([answer["logits"] for answer in found])
    if rows.source == str(TEST_ROWS):
        logits = logits + np.subtract(measured.offset or 0.0, used.offset or 0.0)
    given = softmax(logits, axis=1)
    guesses = measured.answers(given)
    settings = Evaluate()
    between = metrics.intervals(labels, given, guesses, seed=settings.seed, resamples=settings.resamples)
    return metrics.summarise(labels, given, classifier.record.labels.names, guesses) | {"intervals": between}


def _show(out: Path, compared: Comparison, *, own: bool, hub: bool, calibration: Calibration) -> None:
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    terminal.say(str(compared))
    if calibration.temperature != 1:
        terminal.say(f"its logits are divided by the temperature {calibration.temperature:.3f} already")
    if own:
        terminal.say(
            "Transformers has no class with this head: pooled.py goes with the weights, and from_pretrained needs "
            "trust_remote_code=True"
        )
    terminal.say(f"written to {out} ({size / 1e6:,.0f} MB); README.md says how to use it")
    if hub:
        terminal.say(f"hf upload OWNER/NAME {out}")
