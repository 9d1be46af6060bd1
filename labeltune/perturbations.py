"""The ways in which a text is changed, and what each does to its label."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from labeltune import additions, spelling, typography, words
from labeltune.edits import Draw
from labeltune.labels import LabelSet
from labeltune.languages import Language, language

Kind = Literal["label_preserving", "label_agnostic"]
NAMED = ("synonym_replace", "typo_insertion", "punctuation_change")
"""Done to every test row, and at every severity to a sample."""

EVERY: tuple[Language, ...] = get_args(Language)
BOTH: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """A way of changing texts."""

    change: Callable[[str, Draw], str]
    """From a text to what becomes of it; the same text where there is nothing to change."""
    languages: tuple[Language, ...] = EVERY
    """Those that it can change; texts in others stay as they are."""
    graded: bool = False
    """Whether it changes a share of the text, the severity."""
    kind: Kind = "label_preserving"
    """Whether a reader gives the changed text the same label, or perhaps another one."""


PERTURBATIONS: dict[str, Perturbation] = {
    "synonym_replace": Perturbation(change=words.replace_synonyms, languages=BOTH, graded=True),
    "typo_insertion": Perturbation(change=spelling.typos, languages=BOTH, graded=True),
    "punctuation_change": Perturbation(change=typography.change_punctuation, graded=True),
    "character_width": Perturbation(change=typography.change_width, graded=True),
    "emoji": Perturbation(change=typography.add_emoji),
    "homophones": Perturbation(change=spelling.sound_alikes, languages=("zh",), graded=True),
    "instruction": Perturbation(change=additions.instruct, languages=BOTH),
    "letter_case": Perturbation(change=typography.change_case),
    "look_alikes": Perturbation(change=spelling.look_alikes, languages=BOTH, graded=True),
    "padding": Perturbation(change=additions.pad_text, languages=BOTH),
    "prompt_injection": Perturbation(change=additions.inject, languages=BOTH),
    "traditional_simplified": Perturbation(change=typography.change_script, languages=("zh",)),
    "white_space": Perturbation(change=typography.change_space, graded=True),
    "word_deletion": Perturbation(change=words.delete_words, graded=True, kind="label_agnostic"),
    "word_swap": Perturbation(change=words.swap_words, graded=True, kind="label_agnostic"),
}
"""In the order in which they are reported: the named ones first."""


def perturb(name: str, text: str, *, row: str, label: int, labels: LabelSet, severity: float, seed: int) -> str:
    """Change a text; it stays as it is in a language that the perturbation is not for, and never becomes empty.

    The change depends on nothing but the arguments: neither on other rows nor on other perturbations. What a higher
    severity changes holds what a lower one does.

    Args:
        row: its id.
        label: its index in the labels.
    """
    perturbation, spoken = PERTURBATIONS[name], language(text)
    if spoken not in perturbation.languages:
        return text
    draw = Draw(
        rng=random.Random(f"{seed} {name} {row}"),
        severity=severity,
        language=spoken,
        wrong=[word for place, word in enumerate(labels.words) if place != label],
    )
    changed = perturbation.change(text, draw)
    return changed if changed.strip() else text
