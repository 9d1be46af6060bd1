from pathlib import Path

import pytest
from ruamel.yaml import YAML

from labeltune.config import base
from labeltune.config.base import RENAMED, Section
from labeltune.config.resolve import KINDS, Resolved, catalogue, resolve, stage_settings, write_resolved
from labeltune.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
RECIPES = sorted(path.stem for path in (ROOT / "conf/recipes").glob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small conf/ in which every layer sets something."""
    files = {
        "conf/datasets/rows.yaml": "about: rows\nsource: files\nfolder: data/raw/rows\nall: rows.csv\n"
        "labels: {'0': no, '1': yes}\nprepare: {balance: smallest}\nprompt: {max_length: 99}\n",
        "conf/models/small.yaml": "about: small\nsource: hub\nhub: a/b\ntrain: {epochs: 6, learning_rate: 5e-4}\n",
        "conf/prompts/ask.yaml": "about: ask\ntemplate: 'Q: {text} A:'\nseparator: /\n",
        "conf/recipes/default.yaml": "about: first\ndataset: rows\nmodel: small\n"
        "prompt: {name: ask, separator: ;}\ntrain: {epochs: 5, head: linear}\n",
        "params.yaml": "recipe: default\ndataset: null\nmodel: null\nprepare: {seed: 1}\n"
        "train: {seed: 2, epochs: null, head: mlp}\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def resolved_in(folder: Path) -> Resolved:
    return resolve(folder / "params.yaml", folder / "conf")


def test_later_layers_win_and_null_leaves_a_key_alone(folder: Path) -> None:
    resolved = resolved_in(folder)
    assert resolved.train.epochs == 5
    assert resolved.train.head == "mlp"
    assert resolved.train.learning_rate == 5e-4
    assert resolved.prepare.balance == "smallest"
    assert (resolved.prompt.template, resolved.prompt.separator) == ("Q: {text} A:", ";")
    assert resolved.prompt.max_length == 99
    assert resolved.dataset.labels == {"0": "no", "1": "yes"}


def test_resolved_reads_back_as_it_was_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = resolved_in(folder)
    path = folder / "resolved.yaml"
    path.write_text(write_resolved(resolved), encoding="utf-8")
    for name, field in Resolved.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            assert base.section(name, field.annotation, path) == getattr(resolved, name)
    assert write_resolved(resolved_in(folder)) == path.read_text(encoding="utf-8")


def test_a_setting_changes_the_files_of_the_stages_that_read_it(folder: Path) -> None:
    """DVC reruns what depends on a file that changed: so must seeds share baselines, and no example retrain."""

    def changed(section: str, key: str, value: object) -> set[str]:
        content = getattr(resolved, section).model_copy(update={key: value})
        again = stage_settings(resolved.model_copy(update={section: content}))
        return {stage for stage, text in again.items() if text != before[stage]}

    resolved = resolved_in(folder)
    before = stage_settings(resolved)
    assert changed("train", "seed", 7) == {"train"}
    assert changed("train", "dtype", "fp32") == {"train", "baselines"}
    assert changed("dataset", "examples", ["hello"]) == {"collect", "calibrate"}
    assert changed("dataset", "text", "body") == {"collect"}
    assert changed("prepare", "seed", 7) == {"prepare", "worklist"}
    assert changed("prepare", "corrections", "data/raw/c.jsonl") == {"collect", "prepare", "worklist"}
    assert changed("report", "language", "zh") == set()
    for text in before.values():
        assert text.startswith("# Written by the configure stage")


def test_everything_wrong_is_said_at_once_with_file_and_key(folder: Path) -> None:
    (folder / "params.yaml").write_text(
        "recipe: default\nmodle: x\nprepare: {seed: 1, split: {train: 0.9}}\n"
        "train: {seed: two, heads: null, layers: al, lora: {rank: 0}}\n",
        encoding="utf-8",
    )
    (folder / "conf/models/small.yaml").write_text("about: x\nsource: hbu\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        resolved_in(folder)
    message = str(caught.value)
    for expected in (
        "params.yaml: modle: no key in this file 'modle'. Did you mean 'model'?",
        "params.yaml: prepare.split: train + validation + test must be 1, not 1.2",
        "params.yaml: train.seed: got 'two', should be a valid integer",
        "params.yaml: train.heads: no key in train 'heads'. Did you mean 'head'? There are: seed,",
        "params.yaml: train.layers: got 'al', should be a valid integer or 'all' or 'auto'. Did you mean 'all'?",
        "params.yaml: train.lora.rank: got 0, should be greater than 0",
        "small.yaml: source: got 'hbu', should be 'files', 'package' or 'hub'. Did you mean 'hub'?",
    ):
        assert expected in message


@pytest.mark.parametrize("kind", ["recipe", "dataset", "model"])
def test_an_unknown_choice_lists_what_exists(folder: Path, kind: str) -> None:
    existing = {"recipe": "default", "dataset": "rows", "model": "small"}[kind]
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(f"{kind}:")]
    wrong = existing[:-1] + "x"
    (folder / "params.yaml").write_text("\n".join([*lines, f"{kind}: {wrong}"]), encoding="utf-8")
    with pytest.raises(
        UserError, match=f"{kind}: no {kind} '{wrong}'. Did you mean '{existing}'. There are: {existing}"
    ):
        resolved_in(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: default\nrecipe: other\n", "params.yaml: not valid YAML.*line 2"),
        ("recipe: [default\n", "params.yaml: not valid YAML.*line"),
        ("- recipe\n", "params.yaml: expected keys and values, found list"),
        ("recipe: default\ntrain: {seed: 1}\n", "params.yaml: prepare.seed: this key is missing"),
        ("recipe: default\nprepare: {seed: 1}\ntrain: 5\n", "params.yaml: train: got 5, should be"),
    ],
)
def test_broken_params_are_one_clear_message(folder: Path, text: str, message: str) -> None:
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        resolved_in(folder)


def test_an_impossible_data_set_is_refused_by_its_file(folder: Path) -> None:
    (folder / "conf/datasets/rows.yaml").write_text("source: hub\nhub: a/b\ntrain: t\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.yaml: 'train' needs 'test' beside it"):
        resolved_in(folder)


def test_a_template_without_the_text_is_refused(folder: Path) -> None:
    (folder / "conf/prompts/ask.yaml").write_text("template: no text\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"prompt: template must contain \{text\} exactly once"):
        resolved_in(folder)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_shipped_recipe_resolves(recipe: str) -> None:
    assert resolve(ROOT / "params.yaml", ROOT / "conf", recipe=recipe).recipe == recipe


@pytest.mark.parametrize("kind", KINDS)
def test_every_shipped_choice_says_what_it_is(kind: str) -> None:
    for name, about in catalogue(kind, ROOT / "conf").items():
        assert about, f"conf/{kind}/{name}.yaml has no 'about'"


def test_params_lists_every_key_so_that_each_can_be_set_with_s() -> None:
    """`dvc exp run -S` refuses a key that params.yaml does not have."""
    listed = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))

    def keys(section: type[Section]) -> dict:
        inner = {name: field.annotation for name, field in section.model_fields.items()}
        return {
            name: keys(kind) if isinstance(kind, type) and issubclass(kind, Section) else None
            for name, kind in inner.items()
        }

    def shape(values: dict) -> dict:
        return {name: shape(value) if isinstance(value, dict) else None for name, value in values.items()}

    expected = keys(Resolved) | {"dataset": None, "model": None}
    assert shape(listed) == expected


@pytest.mark.parametrize(
    ("key", "recipe", "given", "expected"),
    [
        ("learning_rate", "{full: 1e-5, lora: 1e-3}", "{lora: 2e-3}", {"lora": 2e-3}),
        ("learning_rate", "{full: 1e-5, lora: 1e-3}", "3e-4", 3e-4),
        ("learning_rate", "3e-4", "{lora: 2e-3}", {"lora": 2e-3}),
        ("learning_rate", "{full: 1e-5, lora: 1e-3}", "null", {"full": 1e-5, "lora": 1e-3}),
        ("class_weights", "{yes: 2, no: 1}", "{perhaps: 3, certainly: 1}", {"perhaps": 3.0, "certainly": 1.0}),
        ("class_weights", "{yes: 2, no: 1}", "balanced", "balanced"),
    ],
)
def test_a_mapping_is_replaced_whole_and_never_merged(
    folder: Path, key: str, recipe: str, given: str, expected: object
) -> None:
    path = folder / "conf/recipes/default.yaml"
    path.write_text(path.read_text().replace("head: linear", f"{key}: {recipe}"), encoding="utf-8")
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("head: mlp", f"{key}: {given}"), encoding="utf-8")
    assert getattr(resolved_in(folder).train, key) == expected


def test_a_rate_for_another_method_alone_is_refused(folder: Path) -> None:
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("head: mlp", "method: qlora, learning_rate: {lora: 1e-3}"))
    with pytest.raises(UserError, match=r"train: learning_rate has \['lora'\], and none for method: qlora"):
        resolved_in(folder)


OLD_VALUES = {"train.depth_rows": 64, "train.head_start": "random", "train.trunk_budget": 7}


@pytest.mark.parametrize("file", ["params.yaml", "conf/recipes/default.yaml", "conf/models/small.yaml"])
@pytest.mark.parametrize("old", RENAMED)
def test_a_setting_is_read_by_its_old_name_with_a_line_that_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, file: str
) -> None:
    key, value = old.partition(".")[2], OLD_VALUES[old]
    path = folder / file
    path.write_text(
        path.read_text(encoding="utf-8").replace("train: {", f"train: {{{key}: {value}, "), encoding="utf-8"
    )
    train = resolved_in(folder).train
    assert getattr(train, RENAMED[old].partition(".")[2]) == value
    said = capsys.readouterr().out
    assert said.count("is now called") == 1
    assert f"{path}: {old} is now called {RENAMED[old]}" in said


def test_an_old_name_that_is_null_takes_nothing_away(folder: Path) -> None:
    params = folder / "params.yaml"
    changed = params.read_text(encoding="utf-8").replace(
        "train: {", "train: {trunk_budget: null, feature_cache_budget: 9, "
    )
    params.write_text(changed, encoding="utf-8")
    assert resolved_in(folder).train.feature_cache_budget == 9


def test_an_old_and_a_new_name_at_once_are_refused(folder: Path) -> None:
    params = folder / "params.yaml"
    changed = params.read_text(encoding="utf-8").replace(
        "train: {", "train: {trunk_budget: 7, feature_cache_budget: 9, "
    )
    params.write_text(changed, encoding="utf-8")
    with pytest.raises(UserError, match="train.trunk_budget is the old name of train.feature_cache_budget, and both"):
        resolved_in(folder)
