import random
import re
import unicodedata
from itertools import pairwise

import pytest

from labeltune.evaluation.robustness import characters
from labeltune.evaluation.robustness.editing import language
from labeltune.evaluation.robustness.evaluate import PERTURBATIONS
from tests.unit.evaluation.robustness.conftest import LABELS, changed, many

ENGLISH = [
    "Win a free PRIZE now, the movie will begin at 9.30!",
    "see you at lunch; bring the film to www.example.com/a.b or call 08001234567",
    "It was an error... sorry?",
    "ok",
    "a",
]
CHINESE = ["房间太小，早餐很好。", "老师的缺点：很小！星期天晴", "银行的服务很好", "好"]
OTHERS = ["Это очень хорошо, правда", "メールを送ります。", "12 + 30 = 42", "?!", "🙂", " \n"]
TEXTS = ENGLISH + CHINESE + OTHERS
GRADED = [name for name in PERTURBATIONS if PERTURBATIONS[name].graded]


pytestmark = pytest.mark.usefixtures("lexicons")


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_change_depends_on_seed_name_and_row_alone(name: str) -> None:
    first = {text: changed(name, text) for text in TEXTS}
    random.seed(3)
    assert {text: changed(name, text) for text in reversed(TEXTS)} == {text: first[text] for text in reversed(TEXTS)}
    applied = [text for text in TEXTS if first[text] != text]
    if name not in ("traditional_simplified", "character_width", "homophones", "letter_case"):
        assert any(len({changed(name, text, seed=seed) for seed in range(20)}) > 1 for text in applied)
        assert any(len(set(many(name, text))) > 1 for text in applied)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_no_text_becomes_empty_and_none_in_a_foreign_language_is_touched(name: str) -> None:
    for text in TEXTS:
        for severity in (0.05, 0.5, 0.99):
            for row in range(5):
                result = changed(name, text, row=str(row), severity=severity)
                assert result == text or result.strip()
                if language(text) not in PERTURBATIONS[name].languages:
                    assert result == text


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_changes_something_in_each_of_its_languages(name: str) -> None:
    for spoken, texts in (("en", ENGLISH), ("zh", CHINESE)):
        if spoken in PERTURBATIONS[name].languages and (name, spoken) != ("letter_case", "zh"):
            assert any(result != text for text in texts for result in many(name, text)), spoken


@pytest.mark.parametrize("name", [name for name in GRADED if name != "word_swap"])
def test_a_higher_severity_changes_more_and_what_the_lower_one_did(name: str) -> None:
    text = "the film and the movie begin, start, error, mistake; prize and award; lunch then luncheon"
    text = text if "en" in PERTURBATIONS[name].languages else "晴很航的好末未行" * 3
    results = [changed(name, text, severity=severity) for severity in (0.05, 0.2, 0.6)]
    distances = [_distance(text, result) for result in results]
    assert 0 < distances[0] < distances[1] < distances[2]
    for milder, severer in pairwise(results):
        assert _distance(milder, severer) <= _distance(text, severer), "it is on the way"


def _distance(first: str, second: str) -> int:
    """Levenshtein."""
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        last, row = row, [i]
        for j, other in enumerate(second, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (one != other)))
    return row[-1]


def letters(text: str) -> str:
    return "".join(character for character in text if character.isalnum())


@pytest.mark.parametrize("name", ["punctuation_change", "white_space"])
def test_marks_and_spaces_leave_every_letter_and_digit_where_it_is(name: str) -> None:
    for text in TEXTS:
        for result in many(name, text, severity=0.5):
            assert letters(result) == letters(text)
    assert all(
        "9.30" in result and "begin at" in re.sub(r"[,; -]+", " ", result)
        for result in many("punctuation_change", ENGLISH[0], 0.9)
    )
    assert all("www.example.com/a.b" in result for result in many("punctuation_change", ENGLISH[1], 0.9))


def test_case_width_and_script_can_be_undone() -> None:
    for text in ENGLISH + CHINESE:
        assert changed("letter_case", text).lower() == text.lower()
        wide = changed("character_width", text)
        assert unicodedata.normalize("NFKC", wide) == unicodedata.normalize("NFKC", text)
    assert changed("character_width", "a1!") == "ａ１！"
    assert changed("character_width", "很好，ok", severity=0.99) == "很好,ｏｋ"
    assert changed("traditional_simplified", "头发发展，皇后在后面") == "頭髮發展，皇后在後面"
    assert changed("traditional_simplified", "頭髮發展，皇后在後面") == "头发发展，皇后在后面"


def test_additions_keep_the_text_and_an_injection_names_a_wrong_label() -> None:
    for text in ENGLISH + CHINESE:
        for name in ("padding", "instruction", "prompt_injection", "emoji"):
            assert all(text in result and len(result) > len(text) for result in many(name, text))
        for label in range(3):
            results = [changed("prompt_injection", text, row=str(row), label=label) for row in range(40)]
            dictated = {word for result in results for word in LABELS.words if word in result.removeprefix(text)}
            assert dictated == set(LABELS.words) - {LABELS.words[label]}


def test_a_slip_stays_near_the_word_and_keeps_its_first_letter() -> None:
    text = "Please forward tomorrow's message, number 08001234567, to http://www.free.com/now or a@bc.de"
    for result in many("typo_insertion", text):
        assert 1 <= _distance(text, result) <= 2
        words, slips = text.split(), result.split()
        assert [word[0] for word in words] == [slip[0] for slip in slips]
        differing = {word for word, slip in zip(words, slips, strict=True) if word != slip}
        assert differing <= {"Please", "forward", "message,", "number"}
    assert {slip for slip in many("typo_insertion", "cat") if len(slip) == 3} <= {
        "cst",
        "cqt",
        "cwt",
        "czt",
        "cta",
        "car",
        "cay",
        "caf",
        "cag",
    }


def test_neighbouring_keys_are_neighbours_both_ways() -> None:
    letters = "".join(characters.ROWS)
    for letter in letters:
        assert characters.neighbours(letter)
        assert all(letter in characters.neighbours(other) for other in characters.neighbours(letter))


def test_chinese_characters_are_taken_for_others_that_sound_or_look_alike() -> None:
    assert set(many("homophones", "很")) == {"狠"}
    assert set(many("look_alikes", "末")) == {"未"}
    assert set(many("look_alikes", "晴")) == {"睛"}
    assert set(many("typo_insertion", "很")) == {"狠"}
    assert characters.homophones("银行行走") == [[], ["航", "杭"], ["星"], []], "read in context"
    result = changed("homophones", "很ok航", severity=0.99)
    assert result == "狠ok杭"


def test_latin_letters_are_taken_for_others_of_the_same_look() -> None:
    for result in many("look_alikes", "free prize now"):
        (pair,) = [(a, b) for a, b in zip("free prize now", result, strict=True) if a != b]
        assert pair[1] in characters.LATIN[pair[0]]
