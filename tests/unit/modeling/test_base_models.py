"""Base models on disk: no code of theirs is run."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from labeltune.modeling.base_models import load_config, load_tokenizer
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import write_json
from tests.conftest import ROOT

WITHOUT_CODE = {"LoraConfig", "PeftModel"}
"""Classes whose from_pretrained has no such argument: PEFT loads no class that a file names."""


def test_every_from_pretrained_refuses_code_that_comes_with_a_model() -> None:
    trusting = []
    files = [file for folder in ("labeltune", "stages", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    for file in files:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr != "from_pretrained" or ast.unparse(call.func.value) in WITHOUT_CODE:
                continue
            trust = {key.arg: ast.unparse(key.value) for key in call.keywords}.get("trust_remote_code")
            # The script of an export lies beside the class that it loads: whoever runs the one trusts the other.
            allowed = {"False"} | ({"own"} if file.match("export/bundle/predict.py") else set())
            if trust not in allowed:
                trusting.append(f"{file.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}")
    assert trusting == []


@pytest.mark.parametrize("known", [False, True])
def test_a_base_model_with_code_is_refused_or_read_without_it_and_nobody_is_asked(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base_folder, folder)
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    changes = {"auto_map": {"AutoConfig": "code.Config"}} | ({} if known else {"model_type": "strange"})
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | changes)
    if known:  # Transformers has this architecture itself
        assert load_config(folder).model_type == "llama"
    else:
        with pytest.raises(UserError, match=r"config.json: auto_map: this model needs Python code from its folder"):
            load_config(folder)
    load_tokenizer(folder)  # a class that Transformers has
    assert asked == []
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("text", ["{", '{"model_type": "strange"}', "{}"])
def test_a_configuration_that_cannot_be_read_is_named(base_folder: Path, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base_folder, folder)
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"base/config.json: Transformers [\d.]+ can't read it: .+"):
        load_config(folder)
