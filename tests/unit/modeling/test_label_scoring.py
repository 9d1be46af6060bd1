"""Label words of several tokens: one packed forward pass against one plain forward pass per label."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from labeltune.data.labels import LabelSet
from labeltune.modeling import label_scoring
from labeltune.modeling.forward import pad
from labeltune.modeling.label_scoring import (
    CONTENT_FREE_TEXTS,
    LabelWords,
    contextual_prior,
    label_words,
    log_probabilities,
    normalise,
    pack_tree,
    pmi_prior,
    pmi_prompt,
    vocabulary_logits,
)
from labeltune.modeling.packing import model_masks
from labeltune.runtime.errors import UserError

VOCABULARY = 60
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # attention and logits far from uniform, or a wrong mask would not show
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]
WINDOWED = {"use_sliding_window": True, "sliding_window": 4, "layer_types": MIXED}
FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=64, initializer_range=0.3
    ),
    "gemma3_text": lambda: Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=4, layer_types=MIXED, final_logit_softcapping=5.0
    ),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen2 windowed": lambda: Qwen2Config(**SIZES, **WINDOWED),
    "qwen3 windowed": lambda: Qwen3Config(**SIZES, **WINDOWED, head_dim=8),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=None),
    "mistral windowed": lambda: MistralConfig(**SIZES, sliding_window=4),
}
LABELS = {
    "one token": [[5], [6], [7]],
    "several tokens": [[5, 6, 7], [8, 9], [10]],
    "shared beginnings": [[5, 6, 7], [5, 6, 8], [5, 9], [10, 6, 7]],
    "three levels": [[5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 10], [5, 5, 5, 5, 5], [11, 12], [11, 13, 14]],
    "prefixes with an end token": [[5, 0], [5, 6, 0], [5, 6, 7, 0], [8, 0]],
}
ROWS = [[20, 21, 22], [33], [40, 41, 42, 43, 44, 45, 46, 47, 48], [5, 6, 7], [50, 0, 52, 0]]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def build(family: str, attention: str = "eager") -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation=attention).eval()


def packed_scores(causal: Any, rows: list[list[int]], labels: LabelWords) -> torch.Tensor:
    batch = pad(rows, pad_id=0)
    packed = pack_tree(batch["input_ids"], batch["attention_mask"], labels, pad_id=0)
    hidden = causal.base_model(
        packed.input_ids,
        attention_mask=model_masks(causal.config, packed.visible, packed.position_ids, torch.float32),
        position_ids=packed.position_ids,
        use_cache=False,
    ).last_hidden_state
    assert bool(hidden.isfinite().all())
    cap = getattr(causal.config, "final_logit_softcapping", None)
    return log_probabilities(packed.states(hidden), vocabulary_logits(causal.lm_head.weight, cap), labels)


def plain_scores(causal: Any, rows: list[list[int]], tokens: list[list[int]]) -> torch.Tensor:
    """The definition: every prompt with every label by itself, without padding or a mask."""
    scores = []
    for row in rows:
        for label in tokens:
            logits = causal(torch.tensor([row + label]), use_cache=False).logits[0].float()
            steps = logits.log_softmax(-1)[len(row) - 1 : -1]
            scores.append(steps.gather(1, torch.tensor(label)[:, None]).sum())
    return torch.stack(scores).reshape(len(rows), len(tokens))


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_packed_pass_gives_what_one_pass_per_label_gives(family: str, attention: str, labels: str) -> None:
    causal = build(family, attention)
    with torch.no_grad():
        ours = packed_scores(causal, ROWS, LabelWords.of(LABELS[labels]))
        torch.testing.assert_close(ours, plain_scores(causal, ROWS, LABELS[labels]), rtol=1e-5, atol=1e-5)
        alone = torch.cat([packed_scores(causal, [row], LabelWords.of(LABELS[labels])) for row in ROWS])
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_one_pass_per_label(family: str, attention: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(label_scoring, "STATES_AT_ONCE", 12)  # the batch is scored in parts
    causal = build(family, attention)
    tokens = LABELS["three levels"]
    answers = torch.tensor([0, 3, 5, 1, 2])

    def gradients(scores: torch.Tensor) -> dict[str, torch.Tensor]:
        causal.zero_grad()
        torch.nn.functional.cross_entropy(scores, answers).backward()
        return {name: parameter.grad.clone() for name, parameter in causal.named_parameters()}

    ours = gradients(packed_scores(causal, ROWS, LabelWords.of(tokens)))
    plain = gradients(plain_scores(causal, ROWS, tokens))
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        assert float(gradient.abs().max()) > 0
        scale = float(gradient.abs().max())
        torch.testing.assert_close(ours[name] / scale, gradient / scale, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("family", ["gemma3_text", "qwen2 windowed", "qwen3 windowed", "mistral windowed"])
def test_the_window_of_these_models_really_cuts(family: str) -> None:
    causal = build(family)
    labels = LabelWords.of(LABELS["three levels"])
    with torch.no_grad():
        cut = packed_scores(causal, ROWS, labels)
        causal.config.sliding_window = 1000
        assert float((packed_scores(causal, ROWS, labels) - cut)[2].abs().max()) > 0.1


@pytest.mark.parametrize("deep", [False, True])
def test_the_probabilities_of_all_continuations_sum_to_one(deep: bool) -> None:
    tokens = [[token] for token in range(VOCABULARY)]
    if deep:  # instead of the token 7, everything that can follow it; likewise for 7 3
        tokens = [ids for ids in tokens if ids != [7]] + [[7, token] for token in range(VOCABULARY) if token != 3]
        tokens += [[7, 3, token] for token in range(VOCABULARY)]
    with torch.no_grad():
        scores = packed_scores(build("llama"), ROWS, LabelWords.of(tokens))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(ROWS)), rtol=1e-5, atol=0)


def test_scores_do_not_depend_on_the_size_of_the_parts(monkeypatch: Any) -> None:
    causal, labels = build("llama"), LabelWords.of(LABELS["three levels"])
    with torch.inference_mode():
        whole = packed_scores(causal, ROWS, labels)
        monkeypatch.setattr(label_scoring, "STATES_AT_ONCE", 1)
        torch.testing.assert_close(packed_scores(causal, ROWS, labels), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_half_precision_gives_finite_scores_near_those_of_fp32(attention: str, dtype: torch.dtype) -> None:
    causal, labels = build("gemma3_text", attention), LabelWords.of(LABELS["shared beginnings"])
    batch = pad(ROWS, pad_id=0)
    packed = pack_tree(batch["input_ids"], batch["attention_mask"], labels, pad_id=0)
    with torch.no_grad():
        expected = packed_scores(causal, ROWS, labels)
        masks = model_masks(causal.config, packed.visible, packed.position_ids, dtype)
        hidden = causal.base_model.to(dtype)(
            packed.input_ids, attention_mask=masks, position_ids=packed.position_ids
        ).last_hidden_state
        scores = log_probabilities(packed.states(hidden), vocabulary_logits(causal.lm_head.weight.float(), 5.0), labels)
    assert bool(hidden.isfinite().all())
    assert scores.dtype == torch.float32
    assert float((scores - expected).abs().max()) < 0.5


def test_each_query_sees_what_comes_before_it_in_its_own_text() -> None:
    labels = LabelWords.of(LABELS["three levels"])
    batch = pad(ROWS, pad_id=0)
    packed = pack_tree(batch["input_ids"], batch["attention_mask"], labels, pad_id=0)
    for row, prompt in enumerate(ROWS):
        texts = {}
        for place in range(packed.input_ids.shape[1]):
            seen = packed.visible[row, place].nonzero()[:, 0].tolist()
            texts[place] = packed.input_ids[row, seen].tolist()
            if place < len(prompt) + len(labels.nodes):
                assert packed.position_ids[row, seen].tolist() == list(range(len(seen)))
            else:
                assert seen == [place]
        states = [texts[place] for place in packed.state_positions[row].tolist()]
        for ids, steps in zip(labels.tokens, labels.steps, strict=True):
            assert [states[state] for state, _ in steps] == [prompt + list(ids[:i]) for i in range(len(ids))]


def test_left_padding_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="padded on the right"):
        pack_tree(torch.tensor([[0, 5]]), torch.tensor([[0, 1]]), LabelWords.of([[5], [6]]), pad_id=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_attn_implementation": "flash_attention_2"}, "train.attention: flash_attention_2 can't .* set it to sdpa"),
        ({"model_type": "mamba"}, "several tokens with 'mamba'; it can with gemma3_text, gpt2, llama"),
    ],
)
def test_what_cannot_take_such_masks_is_refused(changes: dict[str, str], message: str) -> None:
    config = build("llama").config
    for name, value in changes.items():
        setattr(config, name, value)
    one = torch.ones(1, 1, dtype=torch.long)
    with pytest.raises(UserError, match=message):
        model_masks(config, one.bool().unsqueeze(0), one, torch.float32)


def test_the_mean_divides_by_the_tokens_with_the_end() -> None:
    labels = LabelWords.of([[5, 0], [5, 6, 7, 0]], ended=True)
    scores = torch.tensor([[-4.0, -6.0], [-1.0, -8.0]])
    assert normalise(scores, labels, "sum").equal(scores)
    assert normalise(scores, labels, "mean").tolist() == [[-2.0, -1.5], [-0.5, -2.0]]


CORPUS = ["Sort the message. Label: refund late"] * 4 + ["Sort the message. Label: refund not shown"] * 4
CORPUS += ["请判断情感。答案：正面"] * 3 + ["请判断情感。答案：负面"] * 3


def bpe(**options: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that splits most words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return bpe(eos_token="<|end|>")


def words(*given: str) -> LabelSet:
    return LabelSet(names=tuple(f"label {i}" for i in range(len(given))), words=given)


@pytest.mark.parametrize(
    ("given", "cue", "ended"),
    [
        (("refund late", "refund not shown", "spam"), "Label:", False),
        (("refund late", "spam"), "Label: ", False),
        (("refund", "refund late", "refund late not shown", "spam"), "Label:", True),
        (("正面", "负面", "中性"), "答案：", False),
        (("正", "正面", "refund"), "答案：", True),
    ],
)
def test_label_words_are_tokenized_as_in_a_text_and_scored_as_the_causal_model_does(
    tokenizer: Any, given: tuple[str, ...], cue: str, ended: bool
) -> None:
    labels = label_words(tokenizer, words(*given), cue)
    assert labels.ended == ended
    assert max(map(len, labels.tokens)) > 2
    end = "<|end|>" if ended else ""
    for word, ids in zip(given, labels.tokens, strict=True):
        space = "" if cue.endswith(" ") or word in "正面负面中性" else " "
        assert tokenizer.decode(ids) == f"{space}{word}{end}"
    torch.manual_seed(0)
    causal = AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, "vocab_size": 290})).eval()
    rows = [tokenizer(text + cue)["input_ids"] for text in ("Sort the message. ", "请判断", "")]
    with torch.no_grad():
        ours = packed_scores(causal, rows, labels)
        plain = plain_scores(causal, rows, [list(ids) for ids in labels.tokens])
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_shared_beginnings_are_one_node(tokenizer: Any) -> None:
    labels = label_words(tokenizer, words("refund late", "refund not shown"), "Label:")
    prefixes = {ids[:depth] for ids in labels.tokens for depth in range(1, len(ids))}
    assert len(labels.nodes) == len(prefixes) < sum(len(ids) - 1 for ids in labels.tokens)


def test_a_longer_label_can_win_over_the_label_that_begins_it() -> None:
    causal = build("llama")
    without, ended = LabelWords.of([[5], [5, 6]]), LabelWords.of([[5, 0], [5, 6, 0]], ended=True)
    rows = [[a, b] for a in range(15) for b in range(5)]
    with torch.no_grad():
        assert bool((packed_scores(causal, rows, without).argmax(1) == 0).all())
        assert packed_scores(causal, rows, ended).argmax(1).unique().tolist() == [0, 1]


def test_a_control_token_in_a_word_is_ordinary_text(tokenizer: Any) -> None:
    labels = label_words(tokenizer, words("<|end|>", "spam"), "Label:")
    assert tokenizer.eos_token_id not in labels.tokens[0]


def test_a_tokenizer_that_puts_a_space_in_front_of_every_text_adds_none_to_a_word() -> None:
    vocabulary = {"<unk>": 0, "▁Label:": 1, "▁": 2, "▁ham": 3, "▁spam": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert fast(" ham")["input_ids"] == [2, 3]
    assert label_words(fast, words("ham", "spam"), "Label:").tokens == ((3,), (4,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("red", "blue"),
            "the same tokens: 'label 0': .*unk.*; 'label 1': .*unk.*; set 'verbalizer' in the data set's",
        ),
        (("ham", " "), r"no tokens: 'label 1': \[\]; set 'verbalizer' .* or train.head: linear"),
        (("ham", "ham radio"), r"no end-of-text token: 'label 0': \['ham'\] begins 'label 1': \['ham', 'radio'\]; set"),
    ],
)
def test_words_that_cannot_be_told_apart_are_refused(given: tuple[str, ...], message: str) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "ham": 1, "radio": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match=message):
        label_words(PreTrainedTokenizerFast(tokenizer_object=tokenizer), words(*given), "Label:")


def test_the_contextual_prior_is_the_log_of_the_mean_probability() -> None:
    scores = torch.tensor([[math.log(0.03), math.log(0.01)], [math.log(0.2), math.log(0.2)], [0.0, math.log(3)]])
    mean = torch.tensor([(0.75 + 0.5 + 0.25) / 3, (0.25 + 0.5 + 0.75) / 3])
    assert len(scores) == len(CONTENT_FREE_TEXTS)
    torch.testing.assert_close(contextual_prior(scores), mean.log())


def test_a_text_as_uninformative_as_the_prior_leaves_the_labels_even() -> None:
    scores = torch.tensor([[-9.0, -2.0, -4.0]])
    assert (scores - contextual_prior(scores)).softmax(1).tolist()[0] == pytest.approx([1 / 3] * 3)


def test_the_pmi_prior_is_the_score_after_the_cue_itself() -> None:
    scores = torch.tensor([[-9.0, -2.0]])
    assert pmi_prior(scores).tolist() == [-9.0, -2.0]
    assert (torch.tensor([[-7.0, -3.0]]) - pmi_prior(scores)).tolist() == [[2.0, -1.0]]


def test_the_pmi_prompt_is_the_end_of_the_template() -> None:
    assert pmi_prompt("\nLabel:") == "\nLabel:"
    for back in ("", " \n"):
        with pytest.raises(UserError, match="prompt.template has nothing after {text}"):
            pmi_prompt(back)
