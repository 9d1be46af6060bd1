"""Normalization: a text's prepared form and what a classifier makes of the raw text are the same."""

import unicodedata

import numpy as np
import pytest

from labeltune.data.normalization import UNCHANGED, Normalization, is_blank
from labeltune.export.bundle import predict

RAW = (
    "free\n\nentry\tnow ",
    "\ufeffcafe\u0301  \u200bopens",
    "\u00b4a\u00b4 \ufdfa \u2460",
    "\u1112\u1161\u11ab\u3000\u0085\u001c",
    "e\u200b\u0301",
    "",
    " \u200b ",
)


@pytest.mark.parametrize("unicode", ["NFC", "NFKC", "none"])
@pytest.mark.parametrize("whitespace", ["collapse", "strip", "keep"])
def test_normalizing_twice_changes_nothing_and_an_export_normalizes_alike(unicode: str, whitespace: str) -> None:
    normalize = Normalization(unicode=unicode, whitespace=whitespace)
    exported = predict.Classifier.__new__(predict.Classifier)
    exported.settings = {"normalization": {"unicode": unicode, "whitespace": whitespace}}
    rng = np.random.default_rng(0)
    spaces = " \t\n\r\u00a0\u2028\u200b\ufeff\u001c\u0301\u00b4ae\uac00\u11a8"
    drawn = ["".join(rng.choice(list(spaces), 12)) for _ in range(500)]
    for text in (*RAW, *drawn):
        once = normalize(text)
        assert normalize(once) == once
        assert exported.normalized(text) == once
        if unicode != "none":
            assert unicodedata.is_normalized(unicode, once)


def test_runs_of_white_space_become_one_space_and_forms_become_one() -> None:
    normalize = Normalization(unicode="NFC", whitespace="collapse")
    assert normalize(RAW[0]) == "free entry now"
    assert normalize(RAW[1]) == "caf\u00e9 opens"
    assert [UNCHANGED(text) for text in RAW] == list(RAW)


def test_zero_width_characters_alone_are_blank() -> None:
    assert [is_blank(text) for text in RAW] == [False] * 5 + [True] * 2
