"""Logistic regression on TF-IDF of n-grams: the baseline that needs no language model."""

import time
from collections.abc import Sequence
from typing import Any

from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from labeltune.baselines import Baseline, Costs, Splits
from labeltune.labels import LabelSet
from labeltune.regression import Regression, figures, lowest, size

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
FIRST = 10.0
"""C with which the kinds of n-grams are compared."""
MOST = 50_000
"""Most n-grams of a kind, the frequent ones."""
KINDS = {"words": ("words",), "characters": ("characters",), "words and characters": ("words", "characters")}


def vectorisers() -> dict[str, TfidfVectorizer]:
    """What turns texts into n-grams of words and of characters.

    Scripts without spaces, such as Chinese, have their words among the characters' n-grams; in others these are parts
    of words, which a misspelt word has too.
    """
    options: dict[str, Any] = {"sublinear_tf": True, "max_features": MOST}
    return {
        # Punctuation makes words of its own, so that no text with a character is without one.
        "words": TfidfVectorizer(token_pattern=r"\w+|[^\w\s]+", ngram_range=(1, 2), **options),
        "characters": TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), **options),
    }


def tfidf(splits: Splits, labels: LabelSet) -> Baseline:
    """Choose the kind of n-grams, then C, by the log-loss of the validation rows; fitted to the training rows alone."""
    train, validation, test = (splits[split] for split in ("train", "validation", "test"))
    started = time.perf_counter()
    makers = vectorisers()
    fitted = {name: maker.fit_transform(train.texts) for name, maker in makers.items()}
    seen = {name: maker.transform(validation.texts) for name, maker in makers.items()}
    tried: dict[tuple[str, float], tuple[Regression, dict[str, float]]] = {}

    def loss(kind: str, c: float) -> float:
        if (kind, c) not in tried:
            model = Regression.fit(_joined(fitted, kind), train.labels, len(labels), c=c)
            given = model.probabilities(_joined(seen, kind))
            tried[kind, c] = model, figures(validation.labels, given)
        return tried[kind, c][1]["log_loss"]

    kind = lowest((kind, loss(kind, FIRST)) for kind in KINDS)
    c = lowest((c, loss(kind, c)) for c in STRENGTHS)
    model, validated = tried[kind, c]
    spent = time.perf_counter() - started
    started = time.perf_counter()
    given = model.probabilities(_joined({name: makers[name].transform(test.texts) for name in KINDS[kind]}, kind))
    seconds = time.perf_counter() - started
    used = [makers[name] for name in KINDS[kind]]
    return Baseline(
        name="tfidf",
        probabilities=given,
        chosen={
            "ngrams": kind,
            "features": sum(len(maker.vocabulary_) for maker in used),
            "C": c,
            "rows": len(train),
            "validation": validated,
        },
        costs=Costs.of(train_seconds=spent, rows=len(test), seconds=seconds, size=size(model, *used)),
    )


def matrix(texts: Sequence[str], kind: str) -> Any:
    """TF-IDF of texts over the n-grams of a kind of `KINDS`, `[rows, n-grams]`, sparse."""
    makers = vectorisers()
    return _joined({name: makers[name].fit_transform(texts) for name in KINDS[kind]}, kind)


def _joined(matrices: dict[str, Any], kind: str) -> Any:
    """The features of a kind side by side, `[rows, n-grams]`."""
    return sparse.hstack([matrices[name] for name in KINDS[kind]], format="csr")
