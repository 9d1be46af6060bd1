"""The recipes of published systems: each trains the published kind of model, on exactly the published parts of it."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from labeltune.config import base, resolve
from labeltune.config.data import Prepare
from labeltune.config.resolve import Resolved
from labeltune.data import cleaning, splitting
from labeltune.data.deduplication import find_near_duplicates
from labeltune.data.labels import LabelSet
from labeltune.modeling.adapters import parameter_counts, transposed
from labeltune.modeling.architectures import adapter_targets, unwrap
from labeltune.modeling.base_models import quiet
from labeltune.modeling.prompts import Template
from labeltune.runtime.errors import UserError
from tests import published
from tests.tuning import logits, plan, reloaded, rows, tune

Bases = Callable[..., Path]
ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "data/raw/questions"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ADAPTED: dict[str, tuple[str, ...]] = {
    # The last names of the layers that the publications adapt.
    "sst2-full": (),
    "r8-full": (),
    "sst2-lora": (*ATTENTION, "gate_proj", "up_proj", "down_proj"),
    "r8-lora": (*ATTENTION, "gate_proj", "up_proj", "down_proj"),
    "chinese-sentiment-head": ATTENTION,
    "chinese-sentiment-qlora": ATTENTION,
    "chinese-sentiment-scoring": ATTENTION,
    "sms-gpt2": ("c_attn", "c_proj"),
    "questions-bert": ("query", "key", "value", "dense"),
}
PARAMETERS = {
    "gpt2": 124_439_808,
    "bert-base-chinese": 102_290_312,
    "qwen2.5-1.5b": 1_543_714_304,
    "llama-3.2-1b-instruct": 1_235_814_400,
}
"""Of the published class, with its language model's head."""
CHINESE = ["房间太小，服务也不好", "书很好看，推荐大家买", "不会再来", "你好呀", "怎么申请表的权限", "推荐", "小"]
EASY = {"smollm2-135m": "llama", "gemma3-270m": "gemma3_text", "minilm": "bert"}
"""The models of the package index, and their families."""


@cache
def resolved(recipe: str) -> Resolved:
    return resolve.resolve(ROOT / "params.yaml", ROOT / "conf", recipe=recipe)


@pytest.fixture(scope="module")
def published_base(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("published")
    return cache(lambda name: published.save_published(name, folder / name))


def settings_of(recipe: str) -> dict[str, Any]:
    """The recipe's section; the machine of a plan is given, not chosen."""
    return resolved(recipe).train.model_dump(exclude={"dtype"})


def layers_called(model: nn.Module, names: tuple[str, ...]) -> set[str]:
    """Linear layers inside the layers of a model whose last name is one of `names`."""
    return {
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and path.rsplit(".", 1)[-1] in names and any(map(str.isdigit, path))
    }


@pytest.mark.parametrize("recipe", ADAPTED)
def test_a_recipe_trains_a_model_of_its_kind(published_base: Bases, tmp_path: Path, recipe: str) -> None:
    whole = resolved(recipe)
    words = {2: ("负面", "正面"), 3: ("数据平台", "通用闲聊", "无关")}[3 if recipe == "questions-bert" else 2]
    made = plan(published_base(whole.model.name), words=words, cue="", max_length=96, **settings_of(recipe))
    given = rows(made, CHINESE, [i % len(words) for i in range(len(CHINESE))])
    before = logits(made, made.build(), CHINESE)
    network, history = tune(made, given)
    adapters = {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}
    with quiet():
        transformers_own = AutoModelForSequenceClassification.from_pretrained(published_base(whole.model.name))
    found = {name.removeprefix("base_model.model.") for name in adapters}
    assert found == layers_called(transformers_own, ADAPTED[recipe])
    assert {name.rsplit(".", 1)[-1] for name in found} == set(ADAPTED[recipe])
    for module in adapters.values():
        lora = whole.train.lora
        assert (module.r["default"], module.scaling["default"]) == (lora.rank, lora.alpha / lora.rank)
        assert isinstance(module.base_layer, Linear4bit) == (whole.train.method == "qlora")
    assert unwrap(network).is_activation_checkpointing == whole.train.gradient_checkpointing
    assert history.validation[-1]["step"] == whole.train.epochs  # seven rows are one step
    answers = logits(made, network, CHINESE)
    assert torch.from_numpy(answers).isfinite().all()
    assert abs(answers - before).max() > 0
    assert (logits(made, reloaded(made, network, tmp_path / "saved").network, CHINESE) == answers).all()


@pytest.mark.parametrize("model", PARAMETERS)
def test_the_configurations_are_the_published_ones(model: str) -> None:
    with torch.device("meta"):
        whole = published.network(model)
    assert sum(weight.numel() for weight in whole.parameters()) == PARAMETERS[model]
    chosen = base.read_yaml(ROOT / f"conf/models/{model}.yaml")
    assert chosen["source"] == "hub"
    assert len(chosen["revision"]) == 40


@pytest.mark.parametrize(
    ("recipe", "trainable"),
    [
        # rank · (inputs + outputs) of each adapted layer of a block, by the number of blocks
        ("sms-gpt2", 12 * 8 * ((768 + 2304) + (768 + 768) + (3072 + 768))),
        ("questions-bert", 12 * 8 * (4 * (768 + 768) + 2 * (768 + 3072))),
        ("chinese-sentiment-head", 28 * 8 * (2 * (1536 + 1536) + 2 * (1536 + 256))),
        ("sst2-lora", 16 * 64 * (2 * (2048 + 2048) + 2 * (2048 + 512) + 3 * (2048 + 8192))),
    ],
)
def test_adapters_of_the_published_size(recipe: str, trainable: int) -> None:
    whole = resolved(recipe)
    with torch.device("meta"):
        network = published.network(whole.model.name)
    lora = whole.train.lora
    targets = adapter_targets(network.base_model, lora.targets, whole.model.title)
    layers = list(range(network.config.num_hidden_layers))
    with quiet():
        config = LoraConfig(
            r=lora.rank, target_modules=targets, layers_to_transform=layers, fan_in_fan_out=transposed(network)
        )
        adapted = get_peft_model(network, config)
    assert parameter_counts(adapted)["trainable"] == trainable


@pytest.mark.parametrize("model", PARAMETERS)
def test_weights_are_read_under_their_published_names(published_base: Bases, model: str) -> None:
    folder = published_base(model)
    loaded = plan(folder, cue="", head="linear", method="full").build()
    stored = load_file(folder / "model.safetensors")
    named = {
        re.sub(r"^(bert|model|transformer)\.", "", key)
        .replace("norm.gamma", "norm.weight")
        .replace("LayerNorm.gamma", "LayerNorm.weight")
        .replace("LayerNorm.beta", "LayerNorm.bias"): weight
        for key, weight in stored.items()
    }
    backbone = getattr(loaded, loaded.base_model_prefix)
    weights = dict(backbone.named_parameters())
    assert len(weights) > 10
    for name, weight in weights.items():
        assert torch.equal(weight, named[name]), name


@pytest.mark.parametrize(
    ("model", "pad", "first", "last"),
    [
        ("gpt2", "<|endoftext|>", None, None),
        ("bert-base-chinese", "[PAD]", "[CLS]", "[SEP]"),
        ("qwen2.5-1.5b", "<|endoftext|>", None, None),
        ("llama-3.2-1b-instruct", "<|eot_id|>", "<|begin_of_text|>", None),
    ],
)
def test_the_published_tokenizers(
    published_base: Bases, model: str, pad: str, first: str | None, last: str | None
) -> None:
    """GPT-2 and Llama have no pad token, and pad with their end of text; one written in a text is only text."""
    made = plan(published_base(model), words=("正面", "负面"), cue="", max_length=12, head="linear")
    tokenizer = made.encoder.tokenizer
    assert tokenizer.pad_token == pad
    encoded = made.encoder.encode(["win a prize now", "房间太小，服务也不好，不会再来，书很好看，推荐大家买"])
    assert encoded.truncated[1]
    assert len(encoded.input_ids[1]) == 12
    for ids in encoded.input_ids:
        shown = [tokenizer.decode([token]) for token in ids]
        assert shown[0] == first if first else shown[0] not in tokenizer.all_special_tokens
        assert shown[-1] == last if last else shown[-1] not in tokenizer.all_special_tokens
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in [
        *encoded.input_ids[0],
        *encoded.input_ids[1],
    ]
    literal = made.encoder.encode([f"now {tokenizer.pad_token} now"]).input_ids[0]
    assert tokenizer.pad_token_id not in literal


@pytest.mark.parametrize("model", EASY)
@pytest.mark.parametrize("recipe", ADAPTED)
def test_a_model_of_the_package_index_stands_in(tiny_base: Bases, tmp_path: Path, recipe: str, model: str) -> None:
    """`-S model=...` adapts its layers, whatever they are called, and says what that model can't do."""
    params = tmp_path / "params.yaml"
    params.write_text((ROOT / "params.yaml").read_text(encoding="utf-8").replace("model: null", f"model: {model}"))
    whole = resolve.resolve(params, ROOT / "conf", recipe=recipe)
    assert (whole.model.name, whole.model.source) == (model, "package")
    made = plan(tiny_base(EASY[model]), **whole.train.model_dump(exclude={"dtype"}))
    if (model, whole.train.head) == ("minilm", "label_scoring"):
        with pytest.raises(UserError, match="set train.head: linear or mlp"):
            made.build()
    else:
        adapters = [module for module in made.build().modules() if isinstance(module, LoraLayer)]
        assert bool(adapters) == (whole.train.method != "full")


def test_the_prompt_of_system_a() -> None:
    """The publication's, in one line; its labels come from the data set."""
    whole = resolved("sst2-lora")
    template = Template.of(whole.prompt, LabelSet.of(["negative", "positive"]))
    assert template.render('a {text} of "quotes"') == (
        'Please carefully read the following reference text:"a {text} of "quotes"", and determine which of the '
        "following categories it belongs to:negative, positive,answer:"
    )
    assert resolved("chinese-sentiment-scoring").prompt.template == "评论：{text}\n情感倾向："


def test_the_published_split_of_system_d_to_the_row() -> None:
    """747 of 4,827 ham beside 747 spam, with the duplicates that the collection has: 1,045 / 149 / 300."""
    whole = resolved("sms-gpt2")
    # One message in eight repeats the one before it, one has no text, and one is ham and spam.
    table = pd.DataFrame({"text": [f"message {i - (i % 8 == 7)}" for i in range(5574)]})
    table["label"] = ["ham"] * 4827 + ["spam"] * 747
    table.loc[[0, 5000], "text"] = ["", "message 1"]
    table["id"] = [f"row {i}" for i in range(len(table))]
    statistics = cleaning.DataStatistics()
    cleaned = cleaning.clean({"all": table}, whole.prepare, whole.dataset.labels, statistics)
    splits = splitting.split_rows(cleaned, whole.prepare, statistics)
    assert {name: len(frame) for name, frame in splits.items()} == {"train": 1045, "validation": 149, "test": 300}
    together = pd.concat(list(splits.values()))
    assert together["label"].value_counts().to_dict() == {"ham": 747, "spam": 747}
    assert not together["id"].duplicated().any()
    assert sum(statistics.found["exact_across"].values()) > 0  # counted, and kept


def test_the_gates_of_system_d_can_be_brought_back() -> None:
    whole = resolved("sms-gpt2")
    rows_of = {"ham": 60, "spam": 20}
    texts = [
        (label, f"{label} {chr(97 + i % 26) * 9} {chr(97 + i // 26) * 9}")
        for label, n in rows_of.items()
        for i in range(n)
    ]
    table = pd.DataFrame([*texts, *texts[:6]], columns=["label", "text"])
    table["id"] = [str(i) for i in range(len(table))]
    gates = ("conflicts", "exact_inside", "exact_across", "near_across")
    settings = Prepare.model_validate(whole.prepare.model_dump() | dict.fromkeys(gates, "drop"))
    statistics = cleaning.DataStatistics()
    splits = splitting.split_rows(cleaning.clean({"all": table}, settings, None, statistics), settings, statistics)
    assert not pd.concat(list(splits.values()))["text"].duplicated().any()


def test_the_questions_of_system_e() -> None:
    """At least 110 a class, all different no two nearly the same, and as the data card says."""
    table = pd.read_csv(QUESTIONS / "questions.csv", dtype=str, keep_default_na=False)
    assert list(table.columns) == ["question", "category"]
    assert (
        find_near_duplicates(table["question"].tolist(), [0] * len(table), Prepare(seed=0).near_threshold, inside=True)
        < 0
    ).all()
    whole = resolved("questions-bert")
    assert list(dict.fromkeys(whole.dataset.labels.values())) == ["data_platform", "general_chat", "irrelevant"]
    card = (QUESTIONS / "README.md").read_text(encoding="utf-8")
    assert f"{len(table)} Chinese questions" in card
    for name, group in table.groupby("category"):
        assert len(group) >= 110
        lengths = group["question"].str.len()
        assert f"| `{name}` | {len(group)} | {lengths.min()}, {lengths.median():.0f}, {lengths.max()} |" in card, (
            f"{name}: {len(group)}, {lengths.min()}, {lengths.median()}, {lengths.max()}"
        )
        assert lengths.nunique() > 20  # not from a template
        assert group["question"].str[:3].value_counts().max() <= 6
    assert table["question"].str.contains("[A-Za-z]").sum() > 40
    assert resolved("questions-bert").prompt.max_length > table["question"].str.len().max()
