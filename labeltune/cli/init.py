"""`labeltune init`: write the files under conf/ that describe a user's data, with suitable values."""

import json
import math
import os
import re
import shlex
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import try_to_load_from_cache

from labeltune.cli import inspect_data
from labeltune.cli.inspect_data import Inspection
from labeltune.config.base import read_yaml
from labeltune.config.data import Dataset
from labeltune.config.model import Model, Prompt
from labeltune.config.resolve import CONF, catalogue, project_top, unknown
from labeltune.console import terminal
from labeltune.data.encodings import COMPRESSED
from labeltune.data.loading import hub_splits, read_split
from labeltune.modeling.device import device
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import replacing, write_text

RAW = Path("data/raw")
MANY = 20
"""Number of labels from which the prompt no longer lists their words."""
FEW_ROWS = 2_000
MUCH = 4e6
"""Total number of tokens from which the larger encoder takes hours on a CPU."""
RATES = {"full": 1.0e-4, "lora": 1.0e-3, "qlora": 1.0e-3}
"""Learning rates of models whose files under conf/models do not set one."""
UNEQUAL = 1.5
"""Ratio of the rows of the most frequent label to those of the rarest, from which labels are weighted."""
SPARE = 24
"""Tokens reserved for the prompt around a text."""
LONGEST = 512
MOST_AROUND = 128
"""Maximum number of tokens of a prompt without the text; labels are not listed if they take more."""
REPORTED_SHARE = 0.02
"""Share of truncated texts from which the truncation is reported."""
RARE, FEW = 3, 10
"""Number of rows of a class below which it can't be split, and below which it is hardly learned."""
SHOWN = 8
LONGEST_NOTE = 200
LONGEST_KEY = 1000
"""Characters of a YAML key that may stand on a line with its value; 1,024 by the specification."""
VALIDATION = ("validation", "dev", "valid", "val")
"""Names of validation splits on the Hub."""
UNTELLING = ("data", "raw", "train", "all")
"""Names of files and folders that do not describe their content."""
NAME = re.compile(r"[^\W_][\w.-]*")
DVC_WORDS = ("true", "false", "null", "nan", "inf", "yes", "no", "on", "off", "y", "n")
"""Names that DVC or a YAML reader parses as values."""
LONGEST_NAME = 80
WORD = re.compile(r"[^\W\d_]{2,}(?:[ -][^\W\d_]+)*|[\u4e00-\u9fff]+")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A value of a recipe and the reason for it."""

    key: str
    """Dotted key of the setting: `model`, `train.head`."""
    value: Any
    """Value of the setting."""
    why: str
    """Reason for the value, in a few words."""


def write_settings_files(
    what: str, *, name: str | None, text: str | None, label: str | None, model: str | None, force: bool
) -> tuple[Path, Path]:
    """Inspect a file, a folder or a data set of the Hub, and write its data set file and a recipe.

    The files are written to the project that contains the current folder.

    Args:
        what: a path, or `owner/name`.
        name: name of the data set; None takes the name of the file.
        text: name of the text column; None detects it.
        label: name of the label column; None detects it.
        model: base model of the recipe; None chooses one.
        force: whether to overwrite existing files.

    Returns:
        The two files, relative to the project.

    Raises:
        UserError: there is nothing to read, the files exist, the model is unknown, or the folder is not in a project.
    """
    place = Path(what).absolute()
    on_hub = not place.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", what) is not None
    name = _checked(name) if name else _name(what)
    with chdir(project_top()):
        models = catalogue("models")
        if model is not None and model not in models:
            raise UserError(
                f"--model: {unknown('model', model, models)}; for another one write {CONF / 'models'}/NAME.yaml, as "
                "docs/extending.md shows"
            )
        files = CONF / "datasets" / f"{name}.yaml", CONF / "recipes" / f"{name}.yaml"
        there = [str(file) for file in files if file.exists()]
        if there and not force:
            raise UserError(f"{' and '.join(there)} exist: choose another --name, or overwrite with --force")
        if not place.exists() and not on_hub:
            raise UserError(f"{what}: no such file or folder, and no owner/name of the Hub")
        with _unwritten(files[0]):
            if on_hub:
                found = _of_hub(what, name, text, label)
            else:
                with _placed(_relative(place), name, force=force) as (inside, folder):
                    found = inspect_data.inspect(inside, name, folder, text=text, label=label)
        inspect_data.show(found)
        choices = suggest_settings(found, model)
        _say_unread(found, choices)
        write_text(files[0], _dataset(name, what, found))
        write_text(files[1], _recipe(name, found, choices))
    return files


def next_step(recipe: str) -> str:
    r"""Return the command that runs a recipe, quoted for the shell and for DVC's own grammar of values.

    >>> next_step("reviews"), next_step("评论"), next_step("2024")
    ('dvc exp run -S recipe=reviews', 'dvc exp run -S \'recipe="评论"\'', 'dvc exp run -S \'recipe="2024"\'')
    """
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", recipe) and recipe.lower() not in DVC_WORDS
    return "dvc exp run -S " + (f"recipe={recipe}" if plain else f"'recipe=\"{recipe}\"'")


def advice(dataset: Path, recipe: Path) -> list[str]:
    """Return the next steps after `init`, one per line; the last one is a command."""
    top = project_top()
    lines = [f"wrote {dataset} and {recipe}: look at them, then run"]
    if top != Path.cwd():
        lines = [f"wrote {dataset} and {recipe} in {top}: look at them, then run", f"cd {shlex.quote(str(top))}"]
    if not any((folder / ".git").exists() for folder in (top, *top.parents)):
        lines[0] = f"{lines[0]} (DVC's experiments need Git, and there is none here)"
        lines += ["git init && dvc config core.no_scm false", "git add . && git commit -m start"]
    return [*lines, next_step(recipe.stem)]


def suggest_settings(found: Inspection, model: str | None = None) -> list[Choice]:
    """Return values of a recipe that suit the data and this machine."""
    rows, labels = sum(found.classes.values()), list(found.classes)
    small = device().type == "cpu"
    english = found.language == "en"
    much = small and float(np.minimum(found.lengths, LONGEST).sum()) > MUCH
    why = "as asked"
    if model is None:
        model = "gemma3-270m" if not english else "minilm" if much else "mpnet"
        why = {
            "minilm": f"a small English encoder: no GPU, and more than {MUCH / 1e6:g} million tokens",
            "mpnet": "an English encoder of 109 million weights",
            "gemma3-270m": "reads many languages",
        }[model]
    words = len(labels) <= MANY and all(WORD.fullmatch(label) for label in labels)
    prompt = {"en": "classify", "zh": "chinese-classify"}.get(found.language, "plain")
    around = _template_tokens(prompt, labels)
    scoring = words and not english and around <= MOST_AROUND and is_language_model(model)
    if not scoring:
        prompt, around = "plain", SPARE
    length = min(LONGEST, max(64, -(-(found.tokens[2] + around) // 32) * 32))
    beyond = found.cut(length - around)[0]
    choices = [
        Choice(key="model", value=model, why=why),
        Choice(key="prompt.name", value=prompt,
               why="it names the labels, whose words are scored" if scoring else "the text alone"),
        Choice(key="prompt.max_length", value=length,
               why=f"{beyond:.0%} of the texts are longer and lose their middle" if beyond >= REPORTED_SHARE
               else f"99% of the texts: {found.tokens[2]} tokens or fewer"),
        Choice(key="train.method", value="full" if model == "minilm" else "lora",
               why="a small model" if model == "minilm" else "small adapters"),
        Choice(key="train.head", value="label_scoring" if scoring else "linear",
               why="the labels are words that the model knows" if scoring else "learned from the rows alone"),
        Choice(key="train.effort", value="balanced", why="decides what auto takes; fast spends less, best more"),
        Choice(key="train.depth", value="auto", why="how many layers are kept"),
        Choice(key="train.layers", value="auto", why="how many of them train"),
        Choice(key="train.epochs", value="auto", why="by the number of training rows"),
        Choice(key="train.lora", value={"rank": "auto", "alpha": "auto"}, why="by the number of training rows"),
        Choice(key="train.batch_size", value=16 if rows >= FEW_ROWS else 8, why="larger for more rows"),
    ]  # fmt: skip
    if "learning_rate" not in read_yaml(CONF / "models" / f"{model}.yaml").get("train", {}):
        choices.append(Choice(key="train.learning_rate", value=RATES, why="by method"))
    if not scoring:
        choices.append(Choice(key="train.pooling", value="mean", why="the text's tokens on average"))
    if found.unlabelled:
        why = f"{found.unlabelled:,} rows have none"
        choices.append(Choice(key="prepare.missing_label", value="drop", why=why))
    if _leaves_out(found):
        why = f"too few rows to be split: {', '.join(f'{name} ({count})' for name, count in found.rare(RARE).items())}"
        choices.append(Choice(key="prepare.rare_classes", value="drop", why=why[:LONGEST_NOTE]))
    if found.imbalance >= UNEQUAL:
        choices.append(
            Choice(key="train.class_weights", value="balanced", why=f"the labels are {found.imbalance:.1f} to 1")
        )
    return choices


def _leaves_out(found: Inspection) -> bool:
    """Return whether some labels are too rare to be split while enough others remain."""
    return 0 < len(found.rare(RARE)) < len(found.classes) - 1


def is_language_model(name: str) -> bool:
    """Return whether a model of conf/models is known to be a causal language model, which can score label words.

    The model is not downloaded: a GGUF file contains a causal language model, and a configuration on this machine names
    the class of any other.
    """
    content = read_yaml(CONF / "models" / f"{name}.yaml")
    model = Model.model_validate({"name": name} | {key: content[key] for key in Model.model_fields if key in content})
    if model.source == "package":
        return any(".gguf" in Path(member).name for member in model.members or [])
    if model.source == "files":
        folder = Path(model.folder or "").expanduser()
        if folder.suffix == ".gguf" or any(folder.glob("*.gguf")):
            return True
        config = folder / "config.json"
    else:
        config = Path(str(try_to_load_from_cache(str(model.hub), "config.json", revision=model.revision)))
    if not config.is_file():
        return False
    stored = json.loads(config.read_text(encoding="utf-8")).get("architectures") or [""]
    return str(stored[0]).endswith(("ForCausalLM", "LMHeadModel"))


def _template_tokens(prompt: str, labels: list[str]) -> int:
    """Estimate the tokens of a prompt around its text, generously."""
    content = Prompt.model_validate(
        {k: v for k, v in read_yaml(CONF / "prompts" / f"{prompt}.yaml").items() if k != "about"}
    )
    listed = content.separator.join(labels) * content.template.count("{labels}")
    fixed = content.template.replace("{labels}", "").replace("{text}", "")
    return SPARE // 2 + math.ceil(sum(1.0 if character > "\x7f" else 0.4 for character in listed + fixed))


def _say_unread(found: Inspection, choices: list[Choice]) -> None:
    """Report the tokens that will not be read and the labels that will be left out, before anything is trained."""
    values = {choice.key: choice.value for choice in choices}
    length = values["prompt.max_length"]
    texts, tokens = found.cut(length - SPARE)
    if texts >= REPORTED_SHARE:
        terminal.say(
            f"{texts:.0%} of the texts are longer than prompt.max_length: {length} and lose their middle: about "
            f"{tokens:.0%} of all tokens are not read. A larger max_length reads more and takes longer"
        )
    few = found.rare(FEW)
    if few:
        shown = ", ".join(f"{name!r} ({count})" for name, count in list(few.items())[:SHOWN])
        more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
        out = f"; those with fewer than {RARE} are left out" if _leaves_out(found) else ""
        terminal.say(
            f"labels with too few rows to be learned or tested well: {shown}{more}{out}. Add rows, or set "
            "prepare.rare_rows and prepare.rare_classes: drop to leave such labels out, merge to make one of them"
        )


@contextmanager
def _unwritten(file: Path) -> Iterator[None]:
    """Make error messages name the options of this command instead of keys of a file that does not exist yet."""
    try:
        yield
    except UserError as error:
        message = str(error)
        if file.exists():
            raise
        for key in ("text", "label"):
            message = message.replace(f"{key}: in {file}", f"--{key}")
        if str(file) in message:
            message += f"\n{file} is not written yet: correct the data, or write the file yourself (docs/extending.md)"
        raise UserError(message) from None


def _relative(place: Path) -> Path:
    """Return a path relative to the project if it is inside, otherwise as it is."""
    top = Path.cwd()
    return place.relative_to(top) if place.is_relative_to(top) else place


def _name(what: str) -> str:
    """Derive a name from the file, or from its folder if the file's name is generic; letters of any script are kept."""
    path = Path(what).resolve()
    stem = path.name.removesuffix("".join(path.suffixes[-2:])) if _packed(path) else path.stem
    own = next(
        (part for part in (stem, *(parent.name for parent in path.parents)) if part.lower() not in UNTELLING), ""
    )
    name = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", own).lower()).strip("-")[:60].rstrip("-")
    if not name:
        raise UserError(f"{what}: can't derive a name from it; give one with --name")
    return name


def _packed(path: Path) -> bool:
    return len(path.suffixes) > 1 and path.suffix.lower() in COMPRESSED


def _checked(name: str) -> str:
    """Check a name that the user gave, which must not be a path: files and a folder are named by it."""
    if not NAME.fullmatch(name) or ".." in name or len(name) > LONGEST_NAME:
        raise UserError(
            f"--name: {name[:LONGEST_NAME]!r} is not a valid name: give at most {LONGEST_NAME} letters, digits, "
            "hyphens, underscores and dots, a letter or digit first"
        )
    return name


@contextmanager
def _placed(place: Path, name: str, *, force: bool) -> Iterator[tuple[Path, Path]]:
    """Context with the path of the data in the project, copied there if it was outside, and the data set's folder.

    If the block fails, the copy is removed and what it replaced is restored; nothing else is changed.
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
    terminal.say(
        f"copied to {target}: queued experiments see only files in the project; `dvc add {folder}` versions it"
    )


def _of_hub(what: str, name: str, text: str | None, label: str | None) -> Inspection:
    """Inspect a data set of the Hub; if the labels of its test rows are hidden, another split is used for testing."""
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
        terminal.say(f"{what}: {test} has no labels; they are probably hidden")
    return inspect_data.describe(Dataset(name=name, **settings, all=train), settings | {"all": train})


def _dataset(name: str, what: str, found: Inspection) -> str:
    lines = [f"about: {_quoted(f'{name}: {sum(found.rows.values()):,} rows, {len(found.classes)} labels')}"]
    for key, value in found.settings.items():
        note = "  # guessed: check it" if key in found.guessed else ""
        lines.append(f"{key}: {_quoted(value)}{note}")
    lines.append("labels:  # raw value -> name, in the order of the classes: give descriptive names")
    for raw in sorted(found.spellings, key=lambda raw: (found.spellings[raw], raw)):
        key = _quoted(raw)
        lines += [f"  {key}: {_quoted(found.spellings[raw])}"] if len(key) <= LONGEST_KEY else [
            f"  ? {key}", f"  : {_quoted(found.spellings[raw])}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _recipe(name: str, found: Inspection, choices: list[Choice]) -> str:
    model = next(choice.value for choice in choices if choice.key == "model")
    lines = [f"about: {_quoted(f'{name} with {model}, written by labeltune init')}", f"dataset: {_quoted(name)}"]
    sections: dict[str, list[str]] = {}
    for choice in choices:
        line = f"{choice.key.split('.')[-1]}: {_quoted(choice.value)}  # {_printable(choice.why)}"
        if "." in choice.key:
            sections.setdefault(choice.key.split(".")[0], []).append("  " + line)
        else:
            lines.append(line)
    for section, inner in sections.items():
        lines += [f"{section}:", *inner]
    return "\n".join(lines) + "\n"


def _quoted(value: Any) -> str:
    """Write a value as YAML: plain words as they are, other text in quotes as JSON has them."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value, re.ASCII) and value.lower() not in (
        "yes", "no", "on", "off", "true", "false", "null", "y", "n",
    ):  # fmt: skip
        return value
    if isinstance(value, float):
        return f"{value:.1e}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_quoted(inner)}" for key, inner in value.items()) + "}"
    return _printable(json.dumps(value, ensure_ascii=False))


def _printable(line: str) -> str:
    r"""Escape what YAML does not allow in a file, such as control characters and the second end of a line.

    >>> _printable("a\x85b\U000e0001")
    'a\\x85b\\U000e0001'
    """
    return "".join(
        character if character.isprintable() else f"\\x{ord(character):02x}" if character < "\u0100"
        else f"\\u{ord(character):04x}" if character < "\U00010000" else f"\\U{ord(character):08x}"
        for character in line
    )  # fmt: skip
