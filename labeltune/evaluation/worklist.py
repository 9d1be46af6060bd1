"""The worklist: likely label errors by confident learning, confident mistakes, and near duplicates."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray

from labeltune.console.terminal import say, table
from labeltune.data.deduplication import Progress, find_near_duplicates
from labeltune.data.labels import Indices, LabelSet, Probabilities
from labeltune.evaluation.metrics import Flags
from labeltune.modeling.ngrams import matrix
from labeltune.probing.regression import Features, Regression
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import read_predictions


def near_duplicate_groups(texts: Sequence[str], threshold: float) -> Indices:
    """Return a group number for each text, shared with its first near duplicate among the earlier texts, `[rows]`."""
    matches = find_near_duplicates(texts, range(len(texts)), threshold, inside=False)
    family = np.arange(len(texts))
    for row in np.flatnonzero(matches >= 0):
        family[row] = family[matches[row]]
    return family


def assign_folds(labels: Indices, groups: Indices, *, folds: int, seed: int) -> Indices:
    """Return the fold of each row, `[rows]`; a group is in one fold, and each label's groups are distributed evenly.

    >>> assign_folds(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 2, 2, 4, 5]), folds=2, seed=0).tolist()
    [1, 0, 0, 0, 0, 1]
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % folds
    return fold[group]


def out_of_fold(
    features: Any, labels: Indices, fold: Indices, num_labels: int, *, c: float, standardise: bool
) -> tuple[Probabilities, Flags]:
    """Predict each fold by a logistic regression that is fitted to the others.

    Args:
        features: `[rows, size]`, dense or sparse.
        labels: index of each row's label, `[rows]`.
        fold: fold of each row, `[rows]`.
        c: inverse strength of the regression's penalty.
        standardise: whether to scale every feature to mean 0 and deviation 1; not for sparse ones.

    Returns:
        Probabilities, `[rows, num_labels]`, and the rows for which they are meaningful, `[rows]`: those whose label
        also occurs in the other folds.
    """
    given, judged = np.zeros((len(labels), num_labels)), np.zeros(len(labels), dtype=bool)
    for part in np.unique(fold):
        inside = fold == part
        if not inside.all():
            model = Regression.fit(features[~inside], labels[~inside], num_labels, c=c, standardise=standardise)
            given[inside] = model.probabilities(features[inside])
            judged[inside] = np.isin(labels[inside], labels[~inside])
    return given, judged


def likely_label_errors(labels: Indices, given: Probabilities) -> Flags:
    """Return which labels are likely wrong, `[rows]`, by confident learning (Northcutt et al. 2021, arXiv:1911.00068).

    For each pair of labels, as many rows are returned as the confident joint counts, those with the largest margin
    first; a row whose own label is the most probable one is never returned. The counts assume that the probabilities
    come from models that were not trained on the row.

    Args:
        labels: index of each row's label, `[rows]`.
        given: `[rows, num_labels]`.
    """
    if len(np.unique(labels)) < 2:  # with one label there is no other one to predict
        return np.zeros(len(labels), dtype=bool)
    with warnings.catch_warnings():
        # It warns so for labels with at most one row; such a row is never returned.
        warnings.filterwarnings("ignore", "May not flag all label issues in class", UserWarning)
        found = find_label_issues(labels, given, filter_by="prune_by_noise_rate", n_jobs=1)
    return np.asarray(found)


COLUMNS = ["kind", "split", "id", "label", "suggested", "confidence", "other_id", "text"]
"""`suggested` and `confidence` are a model's prediction; for a near duplicate, the other row's label if it differs."""
ACROSS = "across"
Frames = Mapping[str, pd.DataFrame]


def label_errors(
    frames: Frames,
    features: Mapping[str, Features],
    answers: pd.DataFrame,
    labels: LabelSet,
    chosen: Mapping[str, Any],
    *,
    folds: int,
    seed: int,
    threshold: float,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return rows whose label is likely wrong, the most confident suggestion first, and the number of rows per split.

    Training and validation rows are predicted by regressions that are fitted to the other folds, on the hidden states
    of the base model if a row has them, otherwise on TF-IDF; near duplicates are in one fold. Test rows are predicted
    by the fine-tuned model, which was not trained on them.

    Args:
        frames: split -> rows with the columns id, label and text.
        features: split -> states of rows.
        answers: the fine-tuned model's predictions of the test rows.
        chosen: content of metrics/baselines.json.
        folds: number of folds.
        seed: seed of the folds.
        threshold: similarity from which texts are near duplicates.
    """
    learnt = pd.concat([frames[split].assign(split=split) for split in ("train", "validation")], ignore_index=True)
    given = np.array(labels.index(learnt["label"].tolist()))
    texts = learnt["text"].tolist()
    fold = assign_folds(given, near_duplicate_groups(texts, threshold), folds=folds, seed=seed)

    places, states = _states(learnt, features)
    likely, known = np.zeros((len(learnt), len(labels))), np.zeros(len(learnt), dtype=bool)
    likely[places], known[places] = out_of_fold(
        states, given[places], fold[places], len(labels), c=chosen["hidden_states"]["C"], standardise=True
    )
    rest = np.setdiff1d(np.arange(len(learnt)), places)
    if len(rest):
        ngrams, c = matrix(texts, chosen["tfidf"]["ngrams"]), chosen["tfidf"]["C"]
        read, seen = out_of_fold(ngrams, given, fold, len(labels), c=c, standardise=False)
        likely[rest], known[rest] = read[rest], seen[rest]

    held = frames["test"].assign(split="test")
    told = answers[[f"p_{name}" for name in labels.names]].to_numpy(np.float64)
    parts = [
        _suspected(learnt.iloc[places], likely[places], known[places], labels),
        _suspected(learnt.iloc[rest], likely[rest], known[rest], labels),
        _suspected(held, told, np.ones(len(held), dtype=bool), labels),
    ]
    found = pd.concat([rows for rows, _ in parts]).sort_values("confidence", ascending=False, kind="stable")
    judged = pd.concat([rows["split"] for _, rows in parts]).value_counts()
    return found, {split: int(judged.get(split, 0)) for split in frames}


def read_answers(path: Path, test: pd.DataFrame) -> pd.DataFrame:
    """Read the fine-tuned model's predictions of the test rows.

    Raises:
        UserError: they are for other rows.
    """
    answers = read_predictions(path)
    if answers["id"].tolist() != test["id"].tolist() or answers["label"].tolist() != test["label"].tolist():
        raise UserError(f"{path} is not of the rows in data/prepared/test.csv; run `dvc repro`")
    return answers


def confident_mistakes(answers: pd.DataFrame, confident: float) -> pd.DataFrame:
    """Return misclassified test rows with at least this confidence, the most confident first."""
    wrong = answers[(answers["prediction"] != answers["label"]) & (answers["confidence"] >= confident)]
    rows = wrong.assign(kind="confident_mistake", split="test", suggested=wrong["prediction"], other_id="")
    return rows.sort_values("confidence", ascending=False, kind="stable")[COLUMNS]


def near_duplicates(
    frames: Frames, threshold: float, progress: Progress | None = None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return near duplicates of an earlier row, those with another label first, and their numbers.

    Within a split, the first of two rows is the earlier one; across splits, the test row and then the validation row.

    Returns:
        The rows, and split -> number within it; the number across splits is under `across`.
    """
    ranked = pd.concat([frames[split].assign(split=split) for split in reversed(list(frames))], ignore_index=True)
    groups = pd.factorize(ranked["split"])[0].tolist()
    texts = ranked["text"].tolist()
    found, counts = [], dict.fromkeys([*frames, ACROSS], 0)
    for inside in (True, False):
        matches = find_near_duplicates(texts, groups, threshold, inside=inside, progress=progress)
        rows, others = ranked[matches >= 0], ranked.iloc[matches[matches >= 0]]
        differs = rows["label"].to_numpy() != others["label"].to_numpy()
        found.append(
            rows.assign(
                kind="near_duplicate",
                suggested=np.where(differs, others["label"], ""),
                confidence=np.nan,
                other_id=others["id"].to_numpy(),
                agrees=~differs,
            )
        )
        for split in rows["split"] if inside else [ACROSS] * len(rows):
            counts[split] += 1
    return pd.concat(found).sort_values("agrees", kind="stable")[COLUMNS], counts


def figures(
    errors: pd.DataFrame, judged: dict[str, int], mistakes: pd.DataFrame, copies: dict[str, int], frames: Frames
) -> dict[str, Any]:
    """Return the content of worklist.json; label errors are counted among the rows that were checked."""
    suspected = errors["split"].value_counts()
    return {
        "label_errors": {split: int(suspected.get(split, 0)) for split in frames},
        "confident_mistakes": len(mistakes),
        "near_duplicates": copies,
        "rows": {split: len(frame) for split, frame in frames.items()},
        "rows_judged": judged,
    }


def show(found: dict[str, Any], path: Path) -> None:
    """Print the summary of `worklist`."""
    rows = [
        [split, total, found["rows_judged"][split], found["label_errors"][split], found["near_duplicates"][split]]
        for split, total in found["rows"].items()
    ]
    table("to review", ["split", "rows", "judged", "likely label errors", "near duplicates"], rows)
    say(
        f"{found['confident_mistakes']:,} confident mistakes in test, {found['near_duplicates'][ACROSS]:,} near "
        f"duplicates across splits; all rows to review are in {path}"
    )


def _states(learnt: pd.DataFrame, features: Mapping[str, Features]) -> tuple[Indices, NDArray[np.float64]]:
    """Return which rows have states, `[rows]`, and the states, `[rows, size]`."""
    place = {(split, id_): row for row, (split, id_) in enumerate(zip(learnt["split"], learnt["id"], strict=True))}
    keys = [(split, id_) for split in ("train", "validation") for id_ in features[split].ids]
    if not set(keys) <= place.keys():
        raise UserError("data/baselines/features.npz is not of the rows in data/prepared; run `dvc repro`")
    states = np.concatenate([features[split].states for split in ("train", "validation")])
    return np.array([place[key] for key in keys]), states.astype(np.float64)


def _suspected(
    rows: pd.DataFrame, likely: NDArray[np.float64], known: Flags, labels: LabelSet
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows whose label is likely wrong, and those that were checked."""
    rows, likely = rows[known], likely[known]
    given = np.array(labels.index(rows["label"].tolist()), dtype=np.int64)
    if len(np.unique(given)) < 2:
        rows, likely, given = rows[:0], likely[:0], given[:0]
    wrong = likely_label_errors(given, likely)
    named = [labels.names[guess] for guess in likely[wrong].argmax(axis=1)]
    found = rows[wrong].assign(kind="label_error", suggested=named, confidence=likely[wrong].max(axis=1), other_id="")
    return found[COLUMNS], rows
