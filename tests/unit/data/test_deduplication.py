import random

import numpy as np
import pytest

from labeltune.data.deduplication import find_near_duplicates


def grams(text: str) -> set[str]:
    """5-grams by the definition, independent of the module's hashes."""
    folded = " ".join(text.casefold().split()).ljust(5, "\0")
    return {folded[i : i + 5] for i in range(len(folded) - 4)}


def jaccard(left: str, right: str) -> float:
    a, b = grams(left), grams(right)
    return len(a & b) / len(a | b)


def noisy_texts(count: int, seed: int) -> list[str]:
    """Random texts of which many repeat an earlier one with a few letters changed."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        if texts and rng.random() < 0.5:
            letters = list(rng.choice(texts))
            for _ in range(rng.randrange(4)):
                letters[rng.randrange(len(letters))] = rng.choice("abcdefgh ")
            texts.append("".join(letters))
        else:
            texts.append("".join(rng.choice("abcdefgh ") for _ in range(rng.randrange(3, 60))))
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_inside_finds_exactly_what_comparing_every_pair_finds(threshold: float, seed: int) -> None:
    texts = noisy_texts(150, seed)
    leaders: list[int] = []
    expected = []
    for row, text in enumerate(texts):
        matched = any(jaccard(text, texts[leader]) >= threshold for leader in leaders)
        expected.append(matched)
        if not matched:
            leaders.append(row)
    matches = find_near_duplicates(texts, [0] * len(texts), threshold, inside=True)
    assert sum(expected) > 10
    assert (matches >= 0).tolist() == expected


@pytest.mark.parametrize("seed", range(3))
def test_across_finds_exactly_the_rows_near_an_earlier_split(seed: int) -> None:
    texts = noisy_texts(150, seed)
    groups = [0] * 50 + [1] * 50 + [2] * 50
    expected = [
        any(groups[other] < groups[row] and jaccard(text, texts[other]) >= 0.7 for other in range(row))
        for row, text in enumerate(texts)
    ]
    matches = find_near_duplicates(texts, groups, 0.7, inside=False)
    assert sum(expected) > 10
    assert (matches >= 0).tolist() == expected
    assert all(groups[matches[row]] < groups[row] for row in np.flatnonzero(matches >= 0))


def test_case_width_and_white_space_do_not_hide_a_repeat() -> None:
    texts = ["Win a FREE prize!", "win  a free\nprize!", "Ｗｉｎ a free prize!", "something else entirely"]
    assert find_near_duplicates(texts, [0] * 4, 0.9, inside=True).tolist() == [-1, 0, 0, -1]


@pytest.mark.parametrize("text", ["", "a", "好", "好评", "\ud800 lone surrogate"])
def test_texts_shorter_than_a_shingle_match_only_their_equal(text: str) -> None:
    assert find_near_duplicates([text, text, "zzz"], [0] * 3, 0.8, inside=True).tolist() == [-1, 0, -1]


def test_progress_counts_every_row() -> None:
    done: list[int] = []
    find_near_duplicates(noisy_texts(30, 0), [0] * 30, 0.8, inside=True, progress=done.append)
    assert sum(done) == 30
