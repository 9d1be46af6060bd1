from pathlib import Path

import pytest

from labeltune.config.model import Prompt
from labeltune.data.labels import LabelSet
from labeltune.modeling.base_models import load_tokenizer
from labeltune.modeling.prompts import Encoder, Template
from labeltune.runtime.errors import UserError

CUE = Prompt(template="Classify the text as {labels}.\nText: {text}\nLabel:", separator=" or ", max_length=64)


@pytest.fixture
def encoder(base_folder: Path, spam: LabelSet) -> Encoder:
    return Encoder(tokenizer=load_tokenizer(base_folder), template=Template.of(CUE, spam), max_length=64)


def test_braces_and_placeholders_in_a_text_stay_literal(spam: LabelSet) -> None:
    template = Template.of(CUE, spam)
    assert template.render("{labels} {text} {0} {") == (
        "Classify the text as ham or spam.\nText: {labels} {text} {0} {\nLabel:"
    )


def test_label_words_and_not_names_are_listed() -> None:
    labels = LabelSet(names=("0", "1"), words=("差", "好"))
    template = Template.of(Prompt(template="{labels}？{text}答案：", separator="或"), labels)
    assert template.prefix == "差或好？"
    assert template.suffix == "答案："


def test_other_braces_of_a_template_are_literal(spam: LabelSet) -> None:
    assert Template.of(Prompt(template='{"a": {text}} {labels}'), spam).render("x") == '{"a": x} ham, spam'


@pytest.mark.parametrize("length", [70, 200, 2000])
def test_a_long_text_loses_its_middle_and_the_prompt_keeps_its_cue(encoder: Encoder, length: int) -> None:
    text = "".join(chr(97 + i % 26) for i in range(length))
    encoded = encoder.encode([text])
    decoded = encoder.tokenizer.decode(encoded.input_ids[0])
    assert len(encoded.input_ids[0]) == 64
    assert encoded.truncated == [True]
    assert encoded.lengths[0] > 64
    assert decoded.startswith("Classify the text as ham or spam.\nText: abc")
    assert decoded.endswith(text[-3:] + "\nLabel:")


def test_a_text_that_just_fits_is_not_cut(encoder: Encoder) -> None:
    room = 64 - encoder.frame
    text = "z" * room
    encoded = encoder.encode([text, text + "z"])
    assert encoded.truncated == [False, True]
    assert encoder.tokenizer.decode(encoded.input_ids[0]) == encoder.template.render(text)


def test_rows_keep_their_order_and_lengths(encoder: Encoder) -> None:
    encoded = encoder.encode(["a", "z" * 500, "b"])
    assert encoded.truncated == [False, True, False]
    assert encoded.input_ids[0] == encoder.encode(["a"]).input_ids[0]
    assert encoded.input_ids[2] == encoder.encode(["b"]).input_ids[0]


def test_a_control_token_in_a_text_is_ordinary_text(encoder: Encoder) -> None:
    end = encoder.tokenizer.eos_token_id
    assert end not in encoder.encode(["stop <|end|> here"]).input_ids[0]
    assert "<|end|>" in encoder.tokenizer.decode(encoder.encode(["stop <|end|> here"]).input_ids[0])


def test_a_control_token_in_the_template_is_refused(base_folder: Path, spam: LabelSet) -> None:
    template = Template.of(Prompt(template="<|end|>{text}"), spam)
    with pytest.raises(UserError, match=r"prompt.template holds '<\|end\|>'"):
        Encoder(tokenizer=load_tokenizer(base_folder), template=template, max_length=64)


def test_a_template_that_leaves_no_room_is_refused(base_folder: Path, spam: LabelSet) -> None:
    with pytest.raises(UserError, match="prompt.max_length: 8 leaves no room"):
        Encoder(tokenizer=load_tokenizer(base_folder), template=Template.of(CUE, spam), max_length=8)


def test_a_prompt_without_tokens_still_gets_one(base_folder: Path, spam: LabelSet) -> None:
    bare = Encoder(tokenizer=load_tokenizer(base_folder), template=Template(prefix="", suffix=""), max_length=64)
    assert [len(ids) for ids in bare.encode(["", "a"]).input_ids] == [1, 1]
