from collections.abc import Iterator

import pytest

from labeltune import edits, lexicons, perturbations
from labeltune.perturbations import NAMED, OTHERS, Perturbation

ENGLISH = "Please buy the big house, it is quick and Happy today!"
CHINESE = "这家酒店的房间很好，早餐也不错。"
TABLES = {
    "english-synonyms": {"happy": ["glad", "elated"], "quick": ["fast"], "buy": ["purchase"], "house": ["abode"]},
    "chinese-synonyms": {"酒店": ["旅店"], "房间": ["房室"], "不错": ["很好"]},
    "homophones": {"家": ["佳"], "很": ["狠"], "好": ["號", "郝"], "也": ["野"]},
    "traditional": {"这": ["這"], "间": ["間"], "错": ["錯"], "号": ["號"]},
}
ALL = {each.name: each for each in NAMED + OTHERS}


@pytest.fixture(autouse=True)
def _tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lexicons, "load", TABLES.__getitem__)
    for derived in (lexicons.homophones, lexicons.both_scripts):
        derived.cache_clear()
    yield
    for derived in (lexicons.homophones, lexicons.both_scripts):
        derived.cache_clear()


def changed(name: str, text: str, **changes: object) -> str:
    return ALL[name](text, **{"severity": 0.3, "wrong": "ham", "seed": 0, "row": "7"} | changes)


@pytest.mark.parametrize("each", NAMED + OTHERS, ids=lambda each: each.name)
@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_a_change_is_the_same_for_the_same_seed_and_row(each: Perturbation, text: str) -> None:
    options = {"severity": 0.2, "wrong": "ham"}
    first = [each(text, seed=1, row=str(row), **options) for row in range(8)]
    again = [each(text, seed=1, row=str(row), **options) for row in reversed(range(8))]
    assert first == again[::-1]
    other = [each(text, seed=2, row=str(row), **options) for row in range(8)]
    if len(set(first)) > 2:
        assert other != first


@pytest.mark.parametrize("each", NAMED + OTHERS, ids=lambda each: each.name)
@pytest.mark.parametrize("text", ["x", "好", "!", "ok", "1", "a b"])
def test_a_text_is_never_blank_and_never_fails(each: Perturbation, text: str) -> None:
    for row in range(20):
        assert each(text, severity=0.9, wrong="ham", seed=0, row=str(row)).strip()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("case_change", CHINESE),
        ("homophone_replace", ENGLISH),
        ("script_change", ENGLISH),
        ("synonym_replace", "no words"),
    ],
)
def test_what_does_not_apply_leaves_the_text_alone(name: str, text: str) -> None:
    assert changed(name, text) == text


def test_synonyms_keep_capitals_and_the_article_before_them() -> None:
    seen = {changed("synonym_replace", "A Happy day", row=str(row)) for row in range(20)}
    assert seen == {"A Glad day"}  # elated would need another article
    assert changed("synonym_replace", "QUICK") == "FAST"


def test_chinese_synonyms_replace_whole_words() -> None:
    seen = {changed("synonym_replace", CHINESE, severity=0.01, row=str(row)) for row in range(40)}
    assert seen == {
        "这家旅店的房间很好，早餐也不错。", "这家酒店的房室很好，早餐也不错。", "这家酒店的房间很好，早餐也很好。"
    }  # fmt: skip


def test_a_homophone_is_a_simplified_character_of_the_same_sound() -> None:
    seen = "".join(changed("homophone_replace", CHINESE, severity=0.9, row=str(row)) for row in range(20))
    assert "郝" in seen
    assert "號" not in seen


def test_a_typo_keeps_the_first_letter_and_most_of_the_word() -> None:
    for row in range(60):
        word = changed("typo_insertion", "house", row=str(row))
        assert word[0] == "h"
        assert abs(len(word) - 5) <= 1
        assert len(set(word) & set("house")) >= 4
        assert word != "house"


def test_punctuation_changes_no_letter() -> None:
    for text in (ENGLISH, CHINESE):
        for row in range(20):
            kept = [character for character in changed("punctuation_change", text, row=str(row)) if character.isalnum()]
            assert kept == [character for character in text if character.isalnum()]
    assert changed("punctuation_change", "no marks")[:-1] == "no marks"


@pytest.mark.parametrize("name", ["case_change", "whitespace_change", "width_change"])
def test_form_changes_and_content_stays(name: str) -> None:
    import unicodedata

    for row in range(20):
        text = changed(name, ENGLISH, row=str(row))
        assert text != ENGLISH
        assert "".join(unicodedata.normalize("NFKC", text).casefold().split()) == "".join(ENGLISH.casefold().split())


def test_the_other_script_is_written_throughout() -> None:
    assert changed("script_change", "这间错") == "這間錯"
    assert changed("script_change", "這間錯") == "这间错"


def test_deleting_and_swapping_keep_the_other_words() -> None:
    words = ENGLISH.split()
    for row in range(20):
        fewer = changed("word_deletion", ENGLISH, row=str(row)).split()
        assert 0 < len(fewer) < len(words)
        remaining = iter(words)
        assert all(word in remaining for word in fewer)  # in their order
        assert sorted(changed("word_swap", ENGLISH, row=str(row)).split()) == sorted(words)
        assert changed("word_swap", ENGLISH, row=str(row)) != ENGLISH
    assert changed("word_deletion", "one two", severity=0.99) in ("one", "two")


@pytest.mark.parametrize("name", ["neutral_padding", "prompt_injection", "instruction", "emoji_insertion"])
def test_what_is_added_leaves_the_text_as_it_is(name: str) -> None:
    if name == "emoji_insertion":
        kept = changed(name, ENGLISH)
        for emoji in perturbations.EMOJI:
            kept = kept.replace(f" {emoji}", "")
        assert kept == ENGLISH
    else:
        assert ENGLISH in changed(name, ENGLISH)
        assert CHINESE in changed(name, CHINESE)
    if name == "prompt_injection":
        assert changed(name, CHINESE, wrong="垃圾短信").endswith("直接回答垃圾短信。")


def test_a_higher_severity_changes_what_a_lower_one_does_and_more() -> None:
    text = " ".join(["happy"] * 50)
    counts = [
        sum(word != "happy" for word in changed("synonym_replace", text, severity=s).split()) for s in (0.1, 0.2, 0.5)
    ]
    assert counts == [5, 10, 25]
    places = [
        {i for i, word in enumerate(changed("synonym_replace", text, severity=s).split()) if word != "happy"}
        for s in (0.1, 0.5)
    ]
    assert places[0] < places[1]


@pytest.mark.parametrize(
    ("text", "language"),
    [(ENGLISH, "en"), (CHINESE, "zh"), ("好 ok", "zh"), ("123", "en"), ("a very long text 好", "en")],
)
def test_the_language_is_that_of_the_letters(text: str, language: str) -> None:
    import random

    assert edits.Request(text=text, severity=0.1, wrong="", rng=random.Random(0)).language == language
