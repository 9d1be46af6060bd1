"""How a label word is scored, from the plan to the reloaded classifier, against the causal model by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from labeltune.inference import artifact
from labeltune.modeling import adapters, architectures
from labeltune.modeling.base_models import quiet
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.label_scoring import CONTENT_FREE_TEXTS
from labeltune.runtime.errors import UserError
from tests.tuning import CUE, TEXTS, logits, plan, reloaded, tune

Bases = Callable[..., Path]
WORDS = ("ham", "spam link")  # one token, and several


def by_hand(made: NetworkSpec, prompts: list[list[int]], words: list[list[int]]) -> torch.Tensor:
    """log p(word | prompt), `[prompts, words]`: one plain pass each, of the base model as Transformers loads it."""
    with quiet():
        causal = AutoModelForCausalLM.from_pretrained(made.base.folder, attn_implementation="eager").eval()
    scores = torch.empty(len(prompts), len(words))
    for i, prompt in enumerate(prompts):
        for j, word in enumerate(words):
            with torch.no_grad():
                steps = causal(torch.tensor([prompt + word])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
            scores[i, j] = steps.gather(1, torch.tensor(word)[:, None]).sum()
    return scores


def tokens(made: NetworkSpec, *texts: str) -> list[list[int]]:
    return [made.encoder.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def base_scores(made: NetworkSpec) -> torch.Tensor:
    return torch.from_numpy(logits(made, made.build()))


@pytest.mark.parametrize("how", ["sum", "mean", "pmi", "contextual"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_a_plan_scores_words_as_its_setting_says(tiny_base: Bases, architecture: str, how: str) -> None:
    made = plan(tiny_base(architecture), words=WORDS, label_score=how)
    words = tokens(made, " ham", " spam link")
    assert [len(ids) > 1 for ids in words] == [False, True]
    scores = by_hand(made, made.encoder.encode(TEXTS).input_ids, words)
    if how == "mean":
        scores /= torch.tensor([len(ids) for ids in words])
    if how == "pmi":
        scores -= by_hand(made, tokens(made, CUE), words)
    if how == "contextual":
        nothing = by_hand(made, made.encoder.encode(CONTENT_FREE_TEXTS).input_ids, words)
        scores -= nothing.softmax(1).mean(0).log()
    torch.testing.assert_close(base_scores(made), scores, rtol=1e-5, atol=2e-5)


def test_the_first_token_stands_for_its_word(tiny_base: Bases) -> None:
    made = plan(tiny_base("llama"), words=WORDS, label_score="first_token")
    words = [ids[:1] for ids in tokens(made, " ham", " spam link")]
    scores = by_hand(made, made.encoder.encode(TEXTS).input_ids, words)
    torch.testing.assert_close(base_scores(made).log_softmax(1), scores.log_softmax(1), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="the same tokens: .*ham.*; set 'verbalizer'"):
        plan(tiny_base("llama"), words=("ham it up", "ham on rye"), label_score="first_token").build()


@pytest.mark.parametrize(
    ("method", "how", "words"),
    [
        ("full", "pmi", WORDS),
        ("full", "contextual", ("ham", "spam")),
        ("lora", "pmi", ("ham", "spam")),
        ("lora", "contextual", WORDS),
        ("qlora", "pmi", WORDS),
        ("qlora", "contextual", ("ham", "spam")),
    ],
)
def test_the_untuned_models_prior_is_kept_and_applied_after_reload(
    tiny_base: Bases, tmp_path: Path, method: str, how: str, words: tuple[str, str]
) -> None:
    made = plan(tiny_base("llama"), words=words, label_score=how, method=method)
    prior = adapters.label_prior(made.build())
    network, _ = tune(made)
    assert adapters.label_prior(network) == prior  # measured before training, and never again
    answers = logits(made, network)
    loaded = reloaded(made, network, tmp_path / "saved")
    assert artifact.load_record(tmp_path / "saved").prior == prior
    assert (logits(made, loaded.network) == answers).all()
    architectures.unwrap(network).prior = None
    assert logits(made, network) - answers == pytest.approx(torch.tensor([prior] * len(TEXTS)).numpy(), abs=1e-5)
    assert max(prior) - min(prior) > 0.05  # it matters


def test_scores_without_a_prior_keep_none(tiny_base: Bases, tmp_path: Path) -> None:
    made = plan(tiny_base("llama"), words=WORDS, label_score="mean")
    network, _ = tune(made)
    answers = logits(made, network)
    loaded = reloaded(made, network, tmp_path / "saved")
    assert loaded.record.prior is None
    assert (logits(made, loaded.network) == answers).all()


def test_texts_that_say_nothing_get_equal_probabilities_on_average(tiny_base: Bases) -> None:
    raw, made = (plan(tiny_base("llama"), words=WORDS, label_score=how) for how in ("sum", "contextual"))
    texts = list(CONTENT_FREE_TEXTS)
    before = torch.from_numpy(logits(raw, raw.build(), texts)).softmax(1)
    assert abs(float(before.mean(0)[0]) - 0.5) > 0.1
    # The calibrated scores, as far above or below the raw probability of their label as the correction took them.
    after = before.log() + torch.from_numpy(logits(made, made.build(), texts) - logits(raw, raw.build(), texts))
    assert after.exp().mean(0).tolist() == pytest.approx([1, 1], rel=1e-5)


def test_pmi_needs_a_cue(tiny_base: Bases) -> None:
    with pytest.raises(UserError, match="prompt.template has nothing after {text}"):
        plan(tiny_base("llama"), words=WORDS, label_score="pmi", cue="").build()


def test_a_word_that_begins_another_ends_with_the_end_token(tiny_base: Bases, tmp_path: Path) -> None:
    made = plan(tiny_base("qwen2"), words=("ham", "ham it up"))
    words = [[*ids, made.encoder.tokenizer.eos_token_id] for ids in tokens(made, " ham", " ham it up")]
    assert words[1][: len(words[0]) - 1] == words[0][:-1]
    scores = by_hand(made, made.encoder.encode(TEXTS).input_ids, words)
    torch.testing.assert_close(base_scores(made), scores, rtol=1e-5, atol=2e-5)
    network, _ = tune(made)
    answers = logits(made, network)
    assert (logits(made, reloaded(made, network, tmp_path / "saved").network) == answers).all()


@pytest.mark.parametrize("how", ["sum", "mean", "pmi"])
def test_chinese_words_of_several_tokens(tiny_base: Bases, tmp_path: Path, how: str) -> None:
    made = plan(tiny_base("qwen2"), words=("正面", "负面"), cue="\n答案：", label_score=how)
    words = tokens(made, "正面", "负面")
    assert all(len(ids) > 2 for ids in words)
    scores = by_hand(made, made.encoder.encode(TEXTS).input_ids, words)
    if how == "mean":
        scores /= torch.tensor([len(ids) for ids in words])
    if how == "pmi":
        scores -= by_hand(made, tokens(made, "\n答案："), words)
    torch.testing.assert_close(base_scores(made), scores, rtol=1e-5, atol=2e-5)
    network, _ = tune(made)
    answers = logits(made, network)
    loaded = reloaded(made, network, tmp_path / "saved")
    assert loaded.record.labels.names == ("正面", "负面")
    assert (logits(made, loaded.network) == answers).all()
