"""The worklist, on rows whose errors are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from labeltune.data.labels import LabelSet
from labeltune.evaluation import worklist
from labeltune.probing.regression import Features
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import write_table

NAMES = ("a", "b", "c")
LABELS = LabelSet(names=NAMES, words=NAMES)
CHOSEN = {"hidden_states": {"C": 0.01}, "tfidf": {"ngrams": "words", "C": 10.0}}
OPTIONS = {"chosen": CHOSEN, "folds": 5, "seed": 0, "threshold": 0.8}


def planted(rows: int, share: float, seed: int = 0, num_labels: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features `[rows, 40]` in well separated clouds, labels of which a share is wrong, and which are."""
    rng = np.random.default_rng(seed)
    centres = 5 * np.linalg.qr(np.random.default_rng(99).normal(size=(40, num_labels)))[0].T
    true = rng.integers(0, num_labels, rows)
    features = (centres[true] + rng.normal(size=(rows, 40))).astype(np.float32)
    wrong = rng.permutation(rows) < round(share * rows)
    return features, np.where(wrong, (true + rng.integers(1, num_labels, rows)) % num_labels, true), wrong


def table(split: str, labels: np.ndarray, texts: list[str] | None = None) -> pd.DataFrame:
    """Rows whose texts have nothing in common, unless they are given."""
    rng = np.random.default_rng(len(split))
    texts = texts or ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz "), 60)) for _ in labels]
    return pd.DataFrame(
        {"id": [f"{split} {i}" for i in range(len(labels))], "label": [NAMES[i] for i in labels], "text": texts}
    )


def predictions(frame: pd.DataFrame, given: np.ndarray) -> pd.DataFrame:
    columns = {f"p_{name}": given[:, i] for i, name in enumerate(NAMES)}
    guesses = [NAMES[i] for i in given.argmax(axis=1)]
    return frame.assign(prediction=guesses, confidence=given.max(axis=1), **columns)


def test_planted_label_errors_are_found_in_every_split() -> None:
    frames, features, wrong = {}, {}, {}
    for seed, (split, rows) in enumerate((("train", 400), ("validation", 100), ("test", 200))):
        states, labels, wrong[split] = planted(rows, 0.08, seed)
        frames[split] = table(split, labels)
        features[split] = Features(ids=frames[split]["id"].tolist(), states=states)
    clean_states, clean, _ = planted(300, 0.0, seed=7)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(clean_states, clean)
    answers = predictions(frames["test"], model.predict_proba(features["test"].states))

    found, judged = worklist.label_errors(frames, features, answers, LABELS, **OPTIONS)
    assert judged == {"train": 400, "validation": 100, "test": 200}
    assert list(found["confidence"]) == sorted(found["confidence"], reverse=True)
    assert (found["suggested"] != found["label"]).all()
    for split, frame in frames.items():
        planted_ids = set(frame["id"][wrong[split]])
        named = set(found[found["split"] == split]["id"])
        assert len(named & planted_ids) >= 0.8 * len(planted_ids), f"recall in {split}"
        assert len(named & planted_ids) >= 0.8 * len(named), f"precision in {split}"
    # What is suggested is what the row was before its label was spoilt.
    truth = {split: planted(len(frames[split]), 0.0, seed)[1] for seed, split in enumerate(frames)}
    right = [
        NAMES[truth[row.split][int(row.id.split()[1])]] == row.suggested
        for row in found.itertuples()
        if wrong[row.split][int(row.id.split()[1])]
    ]
    assert np.mean(right) > 0.95


def test_rows_without_states_are_judged_by_their_words() -> None:
    rng = np.random.default_rng(3)
    true = rng.integers(0, 3, 300)
    wrong = rng.permutation(300) < 20
    given = np.where(wrong, (true + 1) % 3, true)
    words = [[f"{name}{i}" for i in range(8)] for name in NAMES]
    texts = [" ".join([*rng.choice(words[i], 5), f"x{row}y"]) for row, i in enumerate(true)]
    frames = {"train": table("train", given, texts), "validation": table("validation", np.arange(3))}
    frames["test"] = table("test", np.arange(3))
    states = planted(3, 0.0)[0]
    features = {split: Features(ids=frames[split]["id"].tolist()[:1], states=states[:1]) for split in frames}

    found, judged = worklist.label_errors(
        frames, features, predictions(frames["test"], np.eye(3)), LABELS, **OPTIONS | {"threshold": 1.0}
    )
    assert judged["train"] == 299  # the one with states has no other to be judged by
    named = set(found[found["split"] == "train"]["id"])
    assert named == {f"train {row}" for row in np.flatnonzero(wrong) if row}


def test_clean_labels_are_hardly_suspected() -> None:
    states, labels, _ = planted(500, 0.0)
    fold = worklist.assign_folds(labels, np.arange(500), folds=5, seed=0)
    given, known = worklist.out_of_fold(states, labels, fold, 3, c=0.01, standardise=True)
    assert known.all()
    assert worklist.likely_label_errors(labels, given).sum() <= 5


def test_confident_learning_by_hand() -> None:
    # Thresholds, the mean confidence in a label of the rows that have it: (3 * 0.9 + 0.2) / 4 = 0.725 for the first,
    # (3 * 0.8 + 0.1) / 4 = 0.625 for the second. Row 3 is above the second's, row 7 above the first's.
    first = np.array([0.9, 0.9, 0.9, 0.2, 0.2, 0.2, 0.2, 0.9])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = worklist.likely_label_errors(labels, np.column_stack([first, 1 - first]))
    assert found.tolist() == [False, False, False, True, False, False, False, True]


def test_one_label_alone_and_a_rare_label_are_never_suspected() -> None:
    given = np.random.default_rng(0).dirichlet([1, 1, 1], 20)
    assert not worklist.likely_label_errors(np.full(20, 2), given).any()
    labels = np.array([0] * 10 + [1] * 9 + [2])
    given[19] = [0.98, 0.01, 0.01]
    assert not worklist.likely_label_errors(labels, given)[19]


def test_a_copy_of_a_copy_belongs_to_the_family() -> None:
    text = table("x", np.zeros(1, dtype=int))["text"][0]
    chain = [text, "completely different words", text[8:], text[16:]]
    assert worklist.near_duplicate_groups(chain, 0.8).tolist() == [0, 1, 0, 0]
    assert worklist.near_duplicate_groups([chain[0], chain[3]], 0.8).tolist() == [0, 1]  # not alike by themselves


def test_out_of_fold_probabilities_are_of_models_that_never_saw_the_row() -> None:
    states, labels, _ = planted(90, 0.1)
    fold = worklist.assign_folds(labels, np.arange(90), folds=3, seed=1)
    given, known = worklist.out_of_fold(states, labels, fold, 3, c=0.1, standardise=True)
    for part in range(3):
        inside = fold == part
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        model.fit(states[~inside], labels[~inside])
        np.testing.assert_allclose(given[inside], model.predict_proba(states[inside]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(given.sum(axis=1), 1, rtol=1e-6)
    assert known.all()


def test_folds_hold_groups_together_and_labels_apart() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    groups = rng.integers(0, 150, 300)
    fold = worklist.assign_folds(labels, groups, folds=5, seed=0)
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))
    alone = worklist.assign_folds(labels, np.arange(300), folds=5, seed=0)
    counts = np.array([np.bincount(labels[alone == part], minlength=3) for part in range(5)])
    assert (counts.max(axis=0) - counts.min(axis=0) <= 1).all()
    assert (worklist.assign_folds(labels, groups, folds=5, seed=0) == fold).all()
    assert (worklist.assign_folds(labels, groups, folds=5, seed=1) != fold).any()


def test_a_row_whose_label_no_other_fold_has_is_not_judged() -> None:
    states, labels, _ = planted(61, 0.0, num_labels=2)
    labels[60] = 2
    fold = worklist.assign_folds(labels, np.arange(61), folds=5, seed=0)
    given, known = worklist.out_of_fold(states, labels, fold, 3, c=0.01, standardise=True)
    assert known.tolist() == [True] * 60 + [False]
    assert given[60, 2] == 0


def test_near_copies_share_a_fold_across_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(40) % 2
    texts = [text + "!" * i for text in table("ten texts", np.zeros(10, dtype=int))["text"] for i in range(4)]
    assert worklist.near_duplicate_groups(texts, 0.8).tolist() == [4 * (i // 4) for i in range(40)]
    states = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    frames = {split: table(split, labels, texts) for split in ("train", "validation", "test")}
    features = {split: Features(ids=frames[split]["id"][:rows].tolist(), states=states[:rows])
                for split, rows in (("train", 16), ("validation", 40), ("test", 40))}  # fmt: skip
    answers = predictions(frames["test"], np.eye(3)[labels])
    dealt = []
    deal = worklist.assign_folds
    monkeypatch.setattr(
        worklist, "assign_folds", lambda *given, **options: dealt.append(deal(*given, **options)) or dealt[-1]
    )
    _, judged = worklist.label_errors(frames, features, answers, LABELS, **OPTIONS)
    (fold,) = dealt  # of 40 training and 40 validation rows: four copies of a text stand together in each
    for number in range(10):
        copies = [*range(4 * number, 4 * number + 4), *range(40 + 4 * number, 40 + 4 * number + 4)]
        assert len(set(fold[copies])) == 1
    assert len(set(fold)) > 1
    assert judged == {"train": 40, "validation": 40, "test": 40}
    lone = predictions(frames["test"].assign(label="a"), np.eye(3)[labels])
    _, judged = worklist.label_errors(frames | {"test": lone}, features, lone, LABELS, **OPTIONS)
    assert judged["test"] == 0  # nothing to be confident in


def test_states_of_other_rows_are_refused() -> None:
    labels = np.arange(6) % 2
    frames = {split: table(split, labels) for split in ("train", "validation", "test")}
    features = {split: Features(ids=["x"], states=np.zeros((1, 2), dtype=np.float32)) for split in frames}
    with pytest.raises(UserError, match="features.npz is not of the rows in data/prepared"):
        worklist.label_errors(frames, features, predictions(frames["test"], np.eye(3)[labels]), LABELS, **OPTIONS)


def test_confident_mistakes_are_wrong_and_confident_worst_first() -> None:
    frame = table("test", np.array([0, 0, 0, 1, 1]))
    given = np.array([[0.05, 0.95, 0], [0.9, 0.1, 0], [0.1, 0.89, 0.01], [0.97, 0.03, 0], [0.9, 0.1, 0]])
    found = worklist.confident_mistakes(predictions(frame, given), 0.9)
    assert found["id"].tolist() == ["test 3", "test 0", "test 4"]
    assert found["suggested"].tolist() == ["a", "b", "a"]
    assert found["label"].tolist() == ["b", "a", "b"]
    assert list(found.columns) == worklist.COLUMNS


def test_near_duplicates_inside_and_across_splits() -> None:
    common = "this message is long enough to be told apart from all of the others"
    train = [common + " now", "some other words that stand alone", "x" * 40]
    frames = {
        "train": table("train", np.array([0, 1, 0]), train),
        "validation": table(
            "validation", np.array([0, 0]), [f"quite another validation text{end}" for end in ("", "!")]
        ),
        "test": table("test", np.array([1]), [common]),
    }
    done: list[int] = []
    found, counts = worklist.near_duplicates(frames, 0.8, done.append)
    assert counts == {"train": 0, "validation": 1, "test": 0, "across": 1}
    assert sum(done) == 12
    assert found[["split", "id", "other_id", "suggested"]].to_numpy().tolist() == [
        ["train", "train 0", "test 0", "b"],  # under another label: first
        ["validation", "validation 1", "validation 0", ""],
    ]


def test_the_figures_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.arange(6) % 2
    frames = {split: table(split, labels) for split in ("train", "validation", "test")}
    answers = predictions(frames["test"], np.eye(3)[1 - labels])
    mistakes = worklist.confident_mistakes(answers, 0.9)
    copies, counts = worklist.near_duplicates(frames, 0.8)
    errors = mistakes.assign(kind="label_error")[:2]
    judged = {"train": 4, "validation": 6, "test": 6}
    found = worklist.figures(errors, judged, mistakes, counts, frames)
    assert found == {
        "label_errors": {"train": 0, "validation": 0, "test": 2},
        "confident_mistakes": 6,
        "near_duplicates": {"train": 0, "validation": 0, "test": 0, "across": 0},
        "rows": {"train": 6, "validation": 6, "test": 6},
        "rows_judged": judged,
    }
    worklist.show(found, Path("data/worklist/worklist.csv"))
    shown = capsys.readouterr().out
    assert "6 confident mistakes in test, 0 near duplicates across splits" in shown
    write_table(tmp_path / "a.csv", pd.concat([errors, mistakes, copies]))
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == ",".join(worklist.COLUMNS)


@pytest.mark.parametrize("change", ["id", "label"])
def test_predictions_of_other_rows_are_refused(tmp_path: Path, change: str) -> None:
    frame = table("test", np.arange(6) % 2)
    write_table(tmp_path / "test.csv", predictions(frame, np.eye(3)[np.arange(6) % 2]).assign(text="NA"))
    assert worklist.read_answers(tmp_path / "test.csv", frame)["text"].tolist() == ["NA"] * 6
    with pytest.raises(UserError, match="not of the rows in data/prepared/test.csv"):
        worklist.read_answers(tmp_path / "test.csv", frame.assign(**{change: "a"}))
