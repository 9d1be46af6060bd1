"""Classifiers that an earlier release wrote."""

import json
from collections.abc import Callable
from pathlib import Path

from labeltune.config.base import RENAMED
from labeltune.inference import artifact
from labeltune.inference.classifier import Classifier
from labeltune.runtime.files import digest
from tests.tuning import TEXTS, saved

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
