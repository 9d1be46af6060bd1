"""The network, its head and its adapters, on a tiny Llama."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from labeltune import heads, models, trunk
from labeltune.bases import Base, load_tokenizer, open_base
from labeltune.errors import UserError
from labeltune.inference import compute_logits, pad, token_batches
from labeltune.labels import LabelSet
from labeltune.origins import Model
from labeltune.params import Train

CUE = "\nLabel:"
ROWS = [[5, 9, 17], [40], [8, 8, 8, 8, 8, 8, 8, 8, 8], [300, 2, 0], [11, 12, 13, 14, 15, 16]]


def settings(**changes: Any) -> Train:
    return Train.model_validate({"seed": 1, **changes})


@pytest.fixture
def base(tiny_model: Model) -> Base:
    return open_base(tiny_model)


def build(base: Base, labels: LabelSet, given: Train, dtype: str = "fp32") -> Any:
    tokenizer = load_tokenizer(base.folder)
    network = models.load_network(base, labels, given, dtype=dtype, attention="eager", tokenizer=tokenizer, cue=CUE)
    return models.add_adapters(network, given)


def stir(network: torch.nn.Module) -> None:
    """Give the adapters weights as if they had been trained; LoRA's B starts at zero."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)


def test_label_scoring_is_the_language_models_own_score_of_the_label_words(base: Base, spam: LabelSet) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(base.folder)
    network = build(base, spam, settings())
    causal = AutoModelForCausalLM.from_pretrained(base.folder).eval()
    words = [tokenizer(" ham")["input_ids"][0], tokenizer(" spam")["input_ids"][0]]
    ours = compute_logits(network, ROWS, pad_id=0, batch_tokens=1000)
    for row, ids in enumerate(ROWS):
        with torch.no_grad():
            full = causal(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(torch.tensor(ours[row]), full[words], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", ["label_scoring", "linear", "mlp"])
@pytest.mark.parametrize("layers", ["all", 2])
def test_exactly_the_adapters_and_a_trainable_head_train(base: Base, spam: LabelSet, head: str, layers: Any) -> None:
    network = build(base, spam, settings(head=head, layers=layers))
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    adapted = range(2, 4) if layers == 2 else range(4)
    expected = {
        f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{side}.default.weight"
        for layer in adapted
        for name in ("q_proj", "k_proj", "v_proj", "o_proj")
        for side in "AB"
    }
    score = "base_model.model.score.modules_to_save.default"
    if head == "linear":
        expected |= {f"{score}.weight"}
    if head == "mlp":
        expected |= {f"{score}.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")}
    assert trained == expected


def test_the_mlp_head_has_the_published_shape() -> None:
    head = heads.mlp_head(32, 3, 0.2, torch.Generator().manual_seed(0))
    linear = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(32, 512), (512, 256), (256, 3)]
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert all(float(layer.bias.detach().abs().sum()) == 0 for layer in linear)
    bound = (6 / (32 + 512)) ** 0.5  # Glorot and Bengio 2010, equation 16
    assert 0.95 * bound < float(linear[0].weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("head", ["label_scoring", "linear", "mlp"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_one_row_alone_equals_the_same_row_in_a_padded_batch(
    base: Base, spam: LabelSet, head: str, pooling: str
) -> None:
    network = build(base, spam, settings(head=head, pooling=pooling))
    stir(network)
    together = compute_logits(network, ROWS, pad_id=0, batch_tokens=1000)
    for row, ids in enumerate(ROWS):
        alone = compute_logits(network, [ids], pad_id=0, batch_tokens=1000)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=2e-6)


def test_a_real_token_equal_to_the_pad_token_counts_on_either_side() -> None:
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    right = torch.tensor([[1, 1, 0], [1, 1, 1]])
    left = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert heads.pool(hidden, right, "last").tolist() == [[2, 3], [10, 11]]
    assert heads.pool(hidden, left, "last").tolist() == [[4, 5], [10, 11]]
    assert heads.pool(hidden, right, "mean").tolist() == [[1, 2], [8, 9]]


def test_depth_cuts_the_model_and_keeps_the_layers_below(base: Base, spam: LabelSet) -> None:
    cut = build(base, spam, settings(head="linear", depth=2))
    assert len(cut.get_base_model().model.layers) == 2
    saved = load_file(base.folder / "model.safetensors")
    kept = cut.get_base_model().model.layers[1].mlp.up_proj.weight
    assert torch.equal(kept, saved["model.layers.1.mlp.up_proj.weight"])


@pytest.mark.parametrize("below", [1, 3])
def test_starting_from_trunk_states_is_the_whole_forward_pass(base: Base, spam: LabelSet, below: int) -> None:
    network = build(base, spam, settings(layers=4 - below))
    stir(network)
    states = trunk.states(network.get_base_model().model, below, ROWS, pad_id=0)
    assert [tuple(state.shape) for state in states] == [(len(ids), 32) for ids in ROWS]
    direct = compute_logits(network, ROWS, pad_id=0, batch_tokens=1000)
    resumed = compute_logits(network, ROWS, pad_id=0, batch_tokens=1000, states=states)
    assert (direct == resumed).all()


def test_the_seed_alone_decides_the_initial_weights(base: Base, spam: LabelSet) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)
        network = build(base, spam, settings(head="mlp", seed=seed))
        return torch.cat([p.detach().flatten() for p in network.parameters() if p.requires_grad])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 9}, "train.depth: 9 .* has 4 layers"),
        ({"depth": 2, "layers": 3}, "train.layers: 3 do not fit"),
        ({"lora": {"targets": ["q_prj"]}}, "q_prj"),
        ({"lora": {"targets": ["q_proj", "wrong"]}}, r"no layer of this model is called \['wrong'\]"),
    ],
)
def test_settings_that_the_model_cannot_do_are_refused(base: Base, spam: LabelSet, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(base, spam, settings(**changes))


def test_all_linear_adapts_every_projection_but_not_the_head(base: Base, spam: LabelSet) -> None:
    network = build(base, spam, settings(head="linear", lora={"targets": "all-linear"}))
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in network.named_parameters() if ".lora_" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("words", "first", "message"),
    [
        (("ham", "xyzzy"), False, "label words of one token.*xyzzy"),
        (("spam", "spamx"), True, "can't tell labels with the same first token apart"),
    ],
)
def test_label_words_that_cannot_be_scored_are_refused(
    base: Base, words: tuple[str, str], first: bool, message: str
) -> None:
    labels = LabelSet(names=words, words=words)
    with pytest.raises(UserError, match=message):
        heads.label_tokens(load_tokenizer(base.folder), labels, CUE, first_token_labels=first)


def test_label_words_follow_the_cue_as_they_would_in_a_text(base: Base) -> None:
    tokenizer = load_tokenizer(base.folder)
    spaced, glued = tokenizer(" spam")["input_ids"], tokenizer("spam")["input_ids"]
    labels = LabelSet(names=("ham", "spam"), words=("ham", "spam"))
    assert heads.label_tokens(tokenizer, labels, "Label:", first_token_labels=True)[1] == spaced[0]
    assert heads.label_tokens(tokenizer, labels, "Label: ", first_token_labels=True)[1] == glued[0]


def test_an_unsupported_architecture_names_the_supported_ones(tmp_path: Path, spam: LabelSet, base: Base) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox"}')
    other = Base(name="other", folder=tmp_path, files={})
    with pytest.raises(UserError, match="architecture 'gpt_neox' of other is not supported; supported are llama"):
        models.classifier_config(other, spam, settings(), load_tokenizer(base.folder))


@pytest.mark.parametrize("seed", range(3))
def test_token_batches_hold_every_row_once_within_the_budget(seed: int) -> None:
    lengths = torch.randint(1, 50, (80,), generator=torch.Generator().manual_seed(seed)).tolist()
    batches = token_batches(lengths, 64)
    assert sorted(row for batch in batches for row in batch) == list(range(80))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 64


def test_padding_is_on_the_right_and_masked() -> None:
    batch = pad([[7, 8, 9], [5]], pad_id=3)
    assert batch["input_ids"].tolist() == [[7, 8, 9], [5, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
