"""Classifiers that an earlier release wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from labeltune.config.base import RENAMED
from labeltune.inference import artifact
from labeltune.inference.classifier import Classifier
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import digest
from tests.tuning import TEXTS, plan, record, saved

Bases = Callable[..., Path]


def test_a_classifier_with_the_old_names_of_settings_is_loaded_and_gives_the_same_answers(
    tiny_base: Bases, tmp_path: Path
) -> None:
    options = {"probe_rows": 64, "head_initialization": "random", "feature_cache_budget": 7, "head": "linear"}
    folder = saved(tiny_base("llama"), tmp_path / "classifier", **options)
    before = artifact.load_record(folder)
    logits = Classifier.load(folder).predict(TEXTS).logits
    path, manifest = folder / artifact.RECORD, folder / artifact.MANIFEST
    content, hashes = json.loads(path.read_bytes()), json.loads(manifest.read_bytes())
    for old, new in RENAMED.items():
        content["train"][old.partition(".")[2]] = content["train"].pop(new.partition(".")[2])
    path.write_text(json.dumps(content), encoding="utf-8")
    hashes["sha256"][path.name] = digest(path)
    manifest.write_text(json.dumps(hashes), encoding="utf-8")
    assert artifact.load_record(folder) == before
    assert (Classifier.load(folder).predict(TEXTS).logits == logits).all()


class Tokenizer:
    """A tokenizer that saves files of these names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def save_pretrained(self, folder: Path) -> None:
        for name in self.names:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"content of {name}")


FILES = ("vocab.txt", "vocab.json", "merges.txt", "dict.txt", "spiece.model", "source.spm", "bpe.codes")
"""Files of vocabularies that tokenizers of Transformers save beside, or instead of, tokenizer.json."""


def test_a_classifier_with_a_tokenizers_own_files_is_saved_and_loaded(base_folder: Path, tmp_path: Path) -> None:
    made = plan(base_folder, layers=2)
    network = made.build()
    artifact.save(tmp_path / "plain", network, made.encoder.tokenizer, made.base, record(made))
    own: Any = AutoTokenizer.from_pretrained(tmp_path / "plain", trust_remote_code=False)

    class Both(Tokenizer):
        def save_pretrained(self, folder: Path) -> None:
            own.save_pretrained(folder)
            super().save_pretrained(folder)

    tokenizer: Any = Both(*FILES, "prophetnet.tokenizer", "additional_chat_templates/tool.jinja")
    artifact.check_tokenizer(tokenizer)
    artifact.save(tmp_path / "more", network, tokenizer, made.base, record(made))
    assert artifact.load_record(tmp_path / "more") == artifact.load_record(tmp_path / "plain")
    assert set(FILES) <= {path.name for path in (tmp_path / "more").iterdir()}


@pytest.mark.parametrize("name", ["vocab.pkl", "tokenizer.py", "vocabulary", "more/vocab.txt", ".vocab"])
def test_a_tokenizer_whose_files_no_classifier_may_hold_is_refused_before_the_training_and_when_saved(
    base_folder: Path, tmp_path: Path, name: str
) -> None:
    made = plan(base_folder, layers=2)
    tokenizer: Any = Tokenizer("vocab.txt", name)
    named = name.split("/", maxsplit=1)[0]
    with pytest.raises(UserError, match=rf"its tokenizer \(Tokenizer\) saves {named}, .* choose another base model"):
        artifact.check_tokenizer(tokenizer)
    with pytest.raises(UserError, match=rf"saves {named}"):
        artifact.save(tmp_path / "refused", made.build(), tokenizer, made.base, record(made))
    assert not (tmp_path / "refused").exists()
