"""Perturbations of words, in English and Chinese."""

import re

import pytest

from labeltune.evaluation.robustness import words
from tests.unit.evaluation.robustness.conftest import changed, many

pytestmark = pytest.mark.usefixtures("lexicons")


def test_words_are_deleted_or_swapped_whole() -> None:
    text = "one two, three four five six seven eight nine ten"
    for severity, count in ((0.1, 1), (0.3, 3), (0.99, 9)):
        kept = re.findall(r"\w+", changed("word_deletion", text, severity=severity))
        assert len(kept) == 10 - count
        iterator = iter(re.findall(r"\w+", text))
        assert all(word in iterator for word in kept), "the order is kept"
    for result in many("word_swap", text, 0.4):
        assert sorted(re.findall(r"\w+", result)) == sorted(re.findall(r"\w+", text))
        moved = sum(a != b for a, b in zip(re.findall(r"\w+", result), re.findall(r"\w+", text), strict=True))
        assert moved == 4
    assert changed("word_swap", "same same") == "same same"
    for result in many("word_swap", "老师的早餐很好", 0.4):
        assert sorted(result) == sorted("老师的早餐很好")
        assert "老师" in result
        assert "早餐" in result


def test_english_synonyms_agree_in_most_uses_of_both() -> None:
    assert words.synonyms("movie", "en") == ["film"]
    assert words.synonyms("begin", "en") == ["start"]
    assert words.synonyms("bank", "en") == [], "most of its uses are another sense"
    assert words.synonyms("depository", "en") == []
    assert words.synonyms("toilet", "en") == [], "its synonym is a name"
    assert words.synonyms("establish", "en") == [], "its synonym is a form of find"
    assert words.synonyms("operating", "en") == [], "inflected"
    assert words.synonyms("unheard", "en") == []


def test_synonyms_keep_capitals_articles_names_and_contractions() -> None:
    def replaced(text: str) -> str:
        return changed("synonym_replace", text, severity=0.99)

    assert replaced("MOVIE night. Movie night! the movie") == "FILM night. Film night! the film"
    assert replaced("at the Prize office") == "at the Prize office", "perhaps a name"
    assert replaced("an error") == "an error", "a mistake needs another article"
    assert replaced("a movie, an award") == "a film, an award"
    assert replaced("movie's re-start start2 @prize prize.com") == "movie's re-start start2 @prize prize.com"


def test_chinese_synonyms_share_a_character_and_a_meaning() -> None:
    assert words.synonyms("早餐", "zh") == ["早饭"]
    for word, why in (
        ("我们", "a pronoun"),
        ("进来", "opposites"),
        ("老师", "nothing shared"),
        ("桌子", "related only"),
    ):
        assert words.synonyms(word, "zh") == [], why
    assert changed("synonym_replace", "老师的早餐很好", severity=0.99) == "老师的早饭很好"
    assert changed("synonym_replace", "早餐快乐", severity=0.99) == "早饭欢乐"
