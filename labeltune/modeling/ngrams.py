"""A linear n-gram model, TF-IDF and logistic regression, and its blend with a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import softmax

from labeltune.data.labels import Indices
from labeltune.runtime.files import read_json, replacing, write_json

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
FIRST = 10.0
"""Value of C at which the kinds of n-grams are compared."""
MOST = 50_000
"""Maximum number of n-grams of a kind; the most frequent ones are kept. 100,000 were not better on SMS Spam
(docs/log.md), and the weights of a dozen labels take 5 MB."""
KINDS = {"words": ("words",), "characters": ("characters",), "words and characters": ("words", "characters")}
ROUNDS = 1000
"""Maximum number of iterations of the solver, many more than it needs."""
ABSENT = -50.0
"""Logit of a label that no training row has."""
VOCABULARY, WEIGHTS = "ngrams.json", "ngrams.npz"
"""The files of a saved model."""

Logits = NDArray[np.float32]


def vectorizers(vocabularies: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """Return the vectorizers of word and character n-grams.

    In scripts without spaces, such as Chinese, character n-grams include the words; in others they are parts of words,
    which a misspelt word has too.

    Args:
        vocabularies: kind of n-gram -> the n-grams, in the order of their columns; None leaves them to be fitted.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes two seconds

    options: dict[str, Any] = {"sublinear_tf": True, "max_features": MOST}
    given = vocabularies or {}
    return {
        # Punctuation marks are words, so that every text that is not blank has one.
        "words": TfidfVectorizer(
            token_pattern=r"\w+|[^\w\s]+", ngram_range=(1, 2), vocabulary=given.get("words"), **options
        ),
        "characters": TfidfVectorizer(
            analyzer="char_wb", ngram_range=(1, 4), vocabulary=given.get("characters"), **options
        ),
    }


@dataclass(frozen=True, kw_only=True)
class Ngrams:
    """A fitted model of n-grams."""

    kind: str
    """One of `KINDS`."""
    c: float
    """Inverse strength of the regression's L2 penalty."""
    vocabularies: dict[str, list[str]]
    """Kind of n-gram -> the n-grams, in the order of their columns."""
    idf: NDArray[np.float32]
    """Inverse document frequency of each n-gram, `[n-grams]`."""
    weights: NDArray[np.float32]
    """Weights of the regression, `[n-grams, num_labels]`."""
    intercept: NDArray[np.float32]
    """Intercept of the regression, `[num_labels]`."""

    @cached_property
    def _vectorizers(self) -> list[Any]:
        made = vectorizers(self.vocabularies)
        names = KINDS[self.kind]
        ends = list(accumulate(len(self.vocabularies[name]) for name in names))
        for name, end in zip(names, ends, strict=True):
            made[name].idf_ = self.idf[end - len(self.vocabularies[name]) : end].astype(np.float64)
        return [made[name] for name in names]

    def logits(self, texts: Sequence[str]) -> Logits:
        """Return the logits of texts, `[rows, num_labels]`; those of a row do not depend on the other rows."""
        features = sparse.hstack([one.transform(texts) for one in self._vectorizers], format="csr")
        return self._scored(features)

    def _scored(self, features: Any) -> Logits:
        return np.asarray(features.astype(np.float32) @ self.weights + self.intercept, dtype=np.float32)

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the probabilities of texts, `[rows, num_labels]`."""
        return probabilities(self.logits(texts))

    def save(self, folder: Path) -> None:
        """Write the model as JSON and arrays without pickle; the same model gives the same bytes."""
        write_json(folder / VOCABULARY, {"kind": self.kind, "c": self.c, "vocabularies": self.vocabularies})
        with replacing(folder / WEIGHTS) as temporary, temporary.open("wb") as stream:
            np.savez(stream, idf=self.idf, weights=self.weights, intercept=self.intercept)

    @property
    def nbytes(self) -> int:
        """Size of the model on disk in bytes, without the markup of its files."""
        words = sum(len(word.encode()) for known in self.vocabularies.values() for word in known)
        return words + self.idf.nbytes + self.weights.nbytes + self.intercept.nbytes

    @classmethod
    def load(cls, folder: Path) -> "Ngrams":
        """Read the model that `save` wrote."""
        settings = read_json(folder / VOCABULARY)
        with np.load(folder / WEIGHTS) as arrays:
            return cls(**settings, **{name: arrays[name] for name in ("idf", "weights", "intercept")})


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Factors of the logits of both models in the blend."""

    network: float
    """Weight of the network's logits."""
    ngrams: float
    """Weight of the n-gram model's logits."""

    def __call__(self, network: Logits, ngrams: Logits) -> Logits:
        """Return the blended logits of two models, `[rows, num_labels]`."""
        return np.asarray(self.network * network + self.ngrams * ngrams, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Blend:
    """An n-gram model whose logits are added to those of a network."""

    weights: Weights
    """Weights of both models."""
    model: Ngrams
    """The n-gram model."""

    def __call__(self, logits: Logits, texts: Sequence[str]) -> Logits:
        """Return the blended logits, `[rows, num_labels]`.

        Args:
            logits: logits of the network, `[rows, num_labels]`.
            texts: texts of the rows, normalized as the training texts.
        """
        return self.weights(logits, self.model.logits(texts))


def probabilities(logits: Logits) -> NDArray[np.float64]:
    """Return the softmax of logits, `[rows, num_labels]`, in double precision."""
    given: NDArray[np.float64] = softmax(logits.astype(np.float64), axis=1)
    return given


@dataclass(frozen=True, kw_only=True)
class Search:
    """The n-gram models that were fitted to the same training rows, and their answers to the validation rows."""

    model: Ngrams
    """The one with the lowest validation log-loss."""
    place: int
    """Its place in `logits`."""
    logits: list[Logits]
    """Logits of the validation rows by each model, `[rows, num_labels]`."""


def fit(
    texts: Sequence[str], labels: Indices, validation: Sequence[str], validation_labels: Indices, num_labels: int
) -> Ngrams:
    """Return the model that `search` finds; the arguments are the same."""
    return search(texts, labels, validation, validation_labels, num_labels).model


def search(
    texts: Sequence[str], labels: Indices, validation: Sequence[str], validation_labels: Indices, num_labels: int
) -> Search:
    """Fit to training rows; the kind of n-grams, then C, have the lowest log-loss on the validation rows.

    From `FIRST`, C is raised, or otherwise lowered, as long as that lowers the log-loss. Vocabulary, frequencies and
    regression depend on training rows only.

    Args:
        texts: texts of the training rows.
        labels: index of each row's label, `[rows]`.
        validation: texts of the validation rows.
        validation_labels: index of each validation row's label, `[rows]`.
        num_labels: number of labels.
    """
    from sklearn.metrics import log_loss

    makers = vectorizers()
    fitted = {name: maker.fit_transform(texts) for name, maker in makers.items()}
    seen = {name: maker.transform(validation) for name, maker in makers.items()}
    vocabularies = {name: maker.get_feature_names_out().tolist() for name, maker in makers.items()}
    tried: dict[tuple[str, float], tuple[Ngrams, Logits, float]] = {}

    def loss(kind: str, c: float) -> float:
        if (kind, c) not in tried:
            weights, intercept = _regression(_joined(fitted, kind), labels, num_labels, c)
            model = Ngrams(
                kind=kind,
                c=c,
                vocabularies={name: vocabularies[name] for name in KINDS[kind]},
                idf=np.concatenate([makers[name].idf_ for name in KINDS[kind]]).astype(np.float32),
                weights=weights,
                intercept=intercept,
            )
            logits = model._scored(_joined(seen, kind))
            lost = float(log_loss(validation_labels, probabilities(logits), labels=range(num_labels)))
            tried[kind, c] = model, logits, lost
        return tried[kind, c][2]

    kind = min(KINDS, key=lambda kind: loss(kind, FIRST))
    place = STRENGTHS.index(FIRST)
    for step in (1, -1):  # the solver converges slowest with the largest C
        while 0 <= place + step < len(STRENGTHS) and loss(kind, STRENGTHS[place + step]) < loss(kind, STRENGTHS[place]):
            place += step
    best = kind, STRENGTHS[place]
    return Search(
        model=tried[best][0], place=list(tried).index(best), logits=[logits for _, logits, _ in tried.values()]
    )


def _regression(
    features: Any, labels: Indices, num_labels: int, c: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weights, `[n-grams, num_labels]`, and intercept, `[num_labels]`, of a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    weights = np.zeros((features.shape[1], num_labels), dtype=np.float32)
    intercept = np.full(num_labels, ABSENT, dtype=np.float32)
    known = np.unique(labels)
    if len(known) == 1:  # a single label, which the solver refuses
        intercept[known] = 0.0
        return weights, intercept
    model = LogisticRegression(C=c, max_iter=ROUNDS).fit(features, labels)
    coefficients, constant = model.coef_, model.intercept_
    if len(coefficients) == 1:  # for two labels scikit-learn returns only the difference
        coefficients, constant = np.concatenate([-coefficients, coefficients]) / 2, np.append(-constant, constant) / 2
    weights[:, model.classes_] = coefficients.T
    intercept[model.classes_] = constant
    return weights, intercept


def matrix(texts: Sequence[str], kind: str) -> Any:
    """Return the TF-IDF of texts over their own n-grams of a kind of `KINDS`, `[rows, n-grams]`, sparse."""
    makers = vectorizers()
    return _joined({name: makers[name].fit_transform(texts) for name in KINDS[kind]}, kind)


def _joined(matrices: dict[str, Any], kind: str) -> Any:
    """Return the concatenated features of a kind, `[rows, n-grams]`."""
    return sparse.hstack([matrices[name] for name in KINDS[kind]], format="csr")
