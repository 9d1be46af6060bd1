import ast
from collections.abc import Sequence
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from ruamel.yaml import YAML

from labeltune.config.model import Model, Prompt, Train
from labeltune.data.labels import LabelSet
from labeltune.inference.artifact import Record
from labeltune.inference.calibration import NONE, Calibration
from labeltune.inference.model_card import model_card
from labeltune.modeling.device import Machine
from labeltune.modeling.ngrams import Weights


def text(
    calibration: Calibration = NONE,
    chosen: dict[str, str] | None = None,
    examples: Sequence[str] = (),
    blend: Weights | None = None,
    name: str = "",
    **train: object,
) -> str:
    """A card; `name` is whatever a stranger may have called a thing."""
    record = Record(
        calibration=calibration,
        blend=blend,
        examples=list(examples),
        model=Model(name="base", source="files", folder="x", hub=name or "org/base", license=name or "Apache-2.0"),
        labels=LabelSet(names=(name or "负面", "spam"), words=("差评", "spam")),
        train=Train.model_validate({"seed": 7, **train}),
        chosen=chosen or {},
        prompt=Prompt(template=f"{{labels}}? {{text}} {name} Label:", max_length=99),
        dataset=name or "messages",
        license=None,
        rows={"train": 1234, "validation": 200},
        validation={"accuracy": 0.9751, "macro_f1": 0.5, "loss": 0.25, "step": 98, "epoch": 1.0},
        base_files={},
        data={},
        machine=Machine(dtype="fp32", attention="eager", kernels="fused", threads=2),
    )
    return model_card(record)


def flat(shown: str) -> str:
    """A card without its line breaks."""
    return " ".join(shown.split())


def test_a_card_tells_data_method_figures_and_limits() -> None:
    shown = text(lora={"rank": 3})
    for line in (
        "base_model: org/base", "library_name: peft", "- 负面 (as “差评” in the prompt)\n- spam\n", "| seed | 7 |",
        "messages (licence: unknown): 1,234 rows to train,\n200 to validate.", "licence (Apache-2.0) applies",
        "adapters | rank 3", "| accuracy | 0.975 |", "One row is 0.50 points", "longer than 99 tokens",
        "{text}  Label:", "one of these 2 labels",
    ):  # fmt: skip
        assert line in shown, line
    assert "| step |" not in shown


def test_a_card_of_full_tuning_names_no_adapters() -> None:
    shown = text(method="full", head="mlp")
    assert "library_name: transformers" in shown
    assert "every weight was trained" in shown
    assert "adapters |" not in shown


def test_a_card_says_what_its_confidence_is_worth() -> None:
    assert "the model's own, uncalibrated." in text()
    fitted = Calibration(temperature=1.5, fitted=True, rows=1200, threshold=0.75, coverage=0.95)
    shown = flat(text(fitted))
    assert "a temperature of 1.500, fitted on 1,200 validation rows" in shown
    assert "abstains below a confidence of 0.750: it answered 95.0%" in shown
    weighted = flat(text(replace(fitted, bias=[0.5, -0.5])))
    assert "1.500 and a bias of each label, fitted on 1,200" in weighted
    assert "class weights: its answer is the label of least cost" in weighted
    used = flat(text(replace(fitted, shares={"a": 0.5, "b": 0.3, "c": 0.1, "d": 0.06, "e": 0.04}, on_rows=fitted)))
    assert "these shares: a 50.0%, b 30.0%, c 10.0%, d 6.0% and so on." in used
    assert "95.0% of the validation rows, weighted to those shares." in used


def test_a_card_names_the_n_gram_model_that_answers_as_well() -> None:
    assert "0.800 times the network's logits and 0.300 times" in flat(text(blend=Weights(network=0.8, ngrams=0.3)))
    assert "n-gram" not in text()


def test_a_card_tells_what_was_left_open_and_why() -> None:
    shown = text(depth=4, chosen={"depth": "4 of 30: because"})
    assert "| depth | 4 |" in shown
    assert "Chosen for `train.depth: auto` was 4 of 30: because." in shown
    assert "Chosen for" not in text()


def test_a_card_tries_the_examples() -> None:
    for examples in ([], ['say "hi"\\n', "你好"]):
        code = text(examples=examples).split("```python\n")[1].split("```")[0]
        (texts,) = (node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Assign))
        assert ast.literal_eval(texts) == (examples or ["a text"])


HOSTILE = (
    "<script>alert(1)</script>",
    "![x](http://127.0.0.1:9/a.png)",
    "[x](javascript:alert(1)) *a* _b_ `c` | d",
    "a\n\n# heading\n\n```\n<img src=x>",
    "x\ny: !!python/object:os.system\n---\n\u202ea",
    "# heading",
    "1. {{ 7 * 7 }}",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_strangers_call_things_becomes_neither_markup_nor_settings(name: str) -> None:
    def parts(shown: str) -> tuple[dict[str, object], list[str]]:
        """The header's values, and the kinds of markup in the order of the page."""
        header, body = shown.removeprefix("---\n").split("\n---\n\n", 1)
        tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(body)
        kinds = [inner.type for token in tokens for inner in token.children or [token]]
        return YAML(typ="safe").load(header), [kind for kind in kinds if kind != "text"]

    (expected, plain), (header, kinds) = parts(text(name="plain")), parts(text(name=name))
    assert kinds == plain
    assert header == expected | {"base_model": name}
