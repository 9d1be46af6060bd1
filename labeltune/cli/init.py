"""`labeltune init`: the files under conf/ that describe a user's data, with values that suit it."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeltune.cli import inspect_data
from labeltune.cli.inspect_data import Inspection
from labeltune.config.data import Dataset
from labeltune.config.resolve import CONF
from labeltune.console import terminal
from labeltune.data.loading import hub_splits, read_split
from labeltune.modeling.device import device
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import replacing, write_text

RAW = Path("data/raw")
MANY = 20
"""Labels from which their words are no longer listed in a prompt."""
FEW_ROWS, MANY_ROWS = 2_000, 20_000
UNEQUAL = 1.5
"""Rows of the most frequent label by those of the rarest, from which labels are weighted."""
SPARE = 24
"""Tokens of a prompt around its text."""
LONGEST = 512
VALIDATION = ("validation", "dev", "valid", "val")
"""What the Hub's data sets call their validation rows."""
UNTELLING = ("data", "raw", "train", "all")
"""Names of files and folders that say nothing of what is in them."""
NAME = re.compile(r"[^\W_][\w.-]*")
LONGEST_NAME = 80
WORD = re.compile(r"[^\W\d_]{2,}(?:[ -][^\W\d_]+)*|[\u4e00-\u9fff]+")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A value of a recipe, and why."""

    key: str
    """Where it stands: `model`, `train.head`."""
    value: Any
    """It."""
    why: str
    """The reason, a few words."""


def write_settings_files(
    what: str, *, name: str | None, text: str | None, label: str | None, model: str | None, force: bool
) -> tuple[Path, Path]:
    """Look at a file, a folder or a data set of the Hub, and write its data set file and a recipe.

    Args:
        what: a path, or `owner/name`.
        name: what to call it; None goes by the file.
        text: its text column; None finds it.
        label: its label column; None finds it.
        model: base model of the recipe; None chooses.
        force: overwrite files that are there.

    Returns:
        The two files.

    Raises:
        UserError: nothing readable is there, or the files exist.
    """
    place = Path(what)
    on_hub = not place.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", what) is not None
    name = _checked(name) if name else _name(what)
    files = CONF / "datasets" / f"{name}.yaml", CONF / "recipes" / f"{name}.yaml"
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        raise UserError(f"{' and '.join(there)} exist: choose another --name, or overwrite with --force")
    if not place.exists() and not on_hub:
        raise UserError(f"{what}: no such file or folder, and no owner/name of the Hub")
    if on_hub:
        found = _of_hub(what, name, text, label)
    else:
        with _placed(place, name, force=force) as (inside, folder):
            found = inspect_data.inspect(inside, name, folder, text=text, label=label)
    inspect_data.show(found)
    choices = suggest_settings(found, model)
    write_text(files[0], _dataset(name, what, found))
    write_text(files[1], _recipe(name, found, choices))
    return files


def suggest_settings(found: Inspection, model: str | None = None) -> list[Choice]:
    """Values of a recipe that suit the data and this machine."""
    rows, labels = sum(found.classes.values()), list(found.classes)
    small = device().type == "cpu"
    english = found.language == "en"
    light = english and small and (rows > MANY_ROWS or found.tokens[1] > LONGEST / 2)
    if model is None:
        model = "minilm" if light else "smollm2-135m" if english else "gemma3-270m"
    why = {
        "minilm": "small and fast: many rows or long texts, no GPU",
        "smollm2-135m": "English",
        "gemma3-270m": "reads many languages",
    }.get(model, "as asked")
    words = len(labels) <= MANY and all(WORD.fullmatch(label) for label in labels)
    scoring = words and not english and model != "minilm"
    length = min(LONGEST, max(64, -(-(found.tokens[2] + SPARE) // 32) * 32))
    epochs = 3 if rows < FEW_ROWS else 2 if rows < MANY_ROWS else 1
    choices = [
        Choice(key="model", value=model, why=why),
        Choice(key="prompt.max_length", value=length, why=f"99% of the texts: {found.tokens[2]} tokens or fewer"),
        Choice(key="train.method", value="full" if model == "minilm" else "lora",
               why="a small model" if model == "minilm" else "small adapters, fast and as good as a rule"),
        Choice(key="train.head", value="label_scoring" if scoring else "linear",
               why="the labels are words that the model knows" if scoring else "learns from the rows alone"),
        Choice(key="train.epochs", value=epochs, why=f"{rows:,} rows"),
        Choice(key="train.batch_size", value=16 if rows >= FEW_ROWS else 8, why="larger for more rows"),
        Choice(key="train.learning_rate", value={"full": 1.0e-4, "lora": 1.0e-3, "qlora": 1.0e-3}, why="by method"),
    ]  # fmt: skip
    if not scoring:
        choices.append(Choice(key="train.pooling", value="mean", why="the text's tokens on average"))
    if model != "minilm" and small and scoring:
        choices.append(Choice(key="train.layers", value=4, why="only the top trains, which a CPU manages"))
    elif model != "minilm" and small:
        choices.append(Choice(key="train.depth", value="auto", why="cut where a layer tells the labels apart as well"))
        choices.append(Choice(key="train.layers", value="auto", why="only the top trains, which a CPU manages"))
    if found.unlabelled:
        why = f"{found.unlabelled:,} rows have none"
        choices.append(Choice(key="prepare.missing_label", value="drop", why=why))
    if found.imbalance >= UNEQUAL:
        choices.append(
            Choice(key="train.class_weights", value="balanced", why=f"the labels are {found.imbalance:.1f} to 1")
        )
    return choices


def _name(what: str) -> str:
    path = Path(what).resolve()
    own = next(part for part in (path.stem, *(parent.name for parent in path.parents)) if part not in UNTELLING)
    stem = re.sub(r"[^a-z0-9]+", "-", own.lower()).strip("-")
    if not stem:
        raise UserError(f"{what}: can't make a name of it; give one with --name")
    return stem


def _checked(name: str) -> str:
    """A name that the user gave: it becomes the name of files and of a folder, and never a path."""
    if not NAME.fullmatch(name) or ".." in name or len(name) > LONGEST_NAME:
        raise UserError(
            f"--name: {name[:LONGEST_NAME]!r} is no name: give at most {LONGEST_NAME} letters, digits, hyphens, "
            "underscores and dots, a letter or digit first"
        )
    return name


@contextmanager
def _placed(place: Path, name: str, *, force: bool) -> Iterator[tuple[Path, Path]]:
    """Where the data lies in the project, copied there if it lay outside, and the data set's folder.

    If the block fails, the copy is removed, and what it took the place of is put back; nothing else is touched.
    """
    try:
        inside = place.resolve().relative_to(RAW.resolve())
    except ValueError:
        folder = RAW / name
    else:
        yield place, RAW / (inside if place.is_dir() else inside.parent)
        return
    target = folder / place.name if place.is_file() else folder
    if target.exists() and not (force and target.is_file() and place.is_file()):
        raise UserError(f"{target} exists already: run `labeltune init {target}`, or choose another --name")
    before, fresh = target.with_name(f".{target.name}.before"), not folder.exists()
    if target.exists():
        os.replace(target, before)
    try:
        with replacing(target) as partial:
            (shutil.copytree if place.is_dir() else shutil.copyfile)(place, partial)
        yield target, folder
    except BaseException:
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if before.exists():
            os.replace(before, target)
        elif fresh and folder.is_dir():
            folder.rmdir()
        raise
    before.unlink(missing_ok=True)
    terminal.say(f"copied to {target}: queued experiments see what lies in the project; `dvc add {folder}` versions it")


def _of_hub(what: str, name: str, text: str | None, label: str | None) -> Inspection:
    """Look at a data set of the Hub; where the labels of its test rows are hidden, others are taken."""
    settings: dict[str, Any] = {"source": "hub", "hub": what}
    settings |= {key: value for key, value in (("text", text), ("label", label)) if value}
    there = hub_splits(Dataset(name=name, **settings, all="train"))
    train = "train" if "train" in there else there[0]
    tests = [split for split in ("test", *VALIDATION) if split in there and split != train]
    for test in tests:
        validation = next((split for split in VALIDATION if split in there and split != test), None)
        splits = {"train": train, "validation": validation, "test": test}
        split = settings | {key: value for key, value in splits.items() if value}
        dataset = Dataset(name=name, **split)
        if read_split(dataset, "test")["label"].notna().any():
            return inspect_data.describe(dataset, split)
        terminal.say(f"{what}: {test} has no labels, as where they are hidden")
    return inspect_data.describe(Dataset(name=name, **settings, all=train), settings | {"all": train})


def _dataset(name: str, what: str, found: Inspection) -> str:
    lines = [f"about: {_quoted(f'{name}: {sum(found.rows.values()):,} rows, {len(found.classes)} labels')}"]
    for key, value in found.settings.items():
        note = "  # guessed: look at it" if key in found.guessed else ""
        lines.append(f"{key}: {_quoted(value)}{note}")
    lines.append("labels:  # raw value -> name, in the order of the classes: give names that say what is meant")
    lines += [f"  {_quoted(label)}: {_quoted(label)}" for label in sorted(found.classes)]
    return "\n".join(lines) + "\n"


def _recipe(name: str, found: Inspection, choices: list[Choice]) -> str:
    model = next(choice.value for choice in choices if choice.key == "model")
    instruct = {"en": "classify", "zh": "chinese-classify"}.get(found.language, "plain")
    prompt = instruct if model != "minilm" and len(found.classes) <= MANY else "plain"
    lines = [f"about: {_quoted(f'{name} with {model}, written by labeltune init')}", f"dataset: {name}"]
    sections: dict[str, list[str]] = {"prompt": [f"  name: {prompt}"]}
    for choice in choices:
        line = f"{choice.key.split('.')[-1]}: {_quoted(choice.value)}  # {choice.why}"
        if "." in choice.key:
            sections.setdefault(choice.key.split(".")[0], []).append("  " + line)
        else:
            lines.append(line)
    for section, inner in sections.items():
        lines += [f"{section}:", *inner]
    return "\n".join(lines) + "\n"


def _quoted(value: Any) -> str:
    """A value as YAML, which JSON is a part of; plain words stay plain."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and value.lower() not in (
        "yes", "no", "on", "off", "true", "false", "null", "y", "n",
    ):  # fmt: skip
        return value
    if isinstance(value, float):
        return f"{value:.1e}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_quoted(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
