"""Merging defaults, the files under conf/ and params.yaml into `resolved.yaml`."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from labeltune.config.base import RENAMED, Section, current_names, read_yaml
from labeltune.config.data import Dataset, Prepare
from labeltune.config.evaluation import Baselines, Calibrate, Evaluate, Plot, Report, Robustness, Worklist
from labeltune.config.model import Model, Prompt, Train
from labeltune.console.terminal import say
from labeltune.runtime.errors import UserError, bullet


class Resolved(Section):
    """Everything about a run, as `resolved.yaml` holds it."""

    recipe: str
    """The recipe's name."""
    dataset: Dataset
    """The rows."""
    model: Model
    """The base model."""
    prepare: Prepare
    """The prepare stage."""
    prompt: Prompt
    """The prompt."""
    train: Train
    """The train stage."""
    calibrate: Calibrate
    """The calibrate stage."""
    evaluate: Evaluate
    """The evaluate stage."""
    robustness: Robustness
    """The robustness stage."""
    baselines: Baselines
    """The baselines stage."""
    worklist: Worklist
    """The worklist stage."""
    plot: Plot
    """The plot stage."""
    report: Report
    """The report stage."""


PARAMS = Path("params.yaml")
CONF = Path("conf")
KINDS = ("recipes", "datasets", "models", "prompts")
STAGES = tuple(name for name in Resolved.model_fields if name not in ("recipe", "dataset", "model"))
READ_BY: dict[str, tuple[str, ...]] = {
    "collect": ("dataset", "prepare.corrections"),
    "prepare": ("dataset.labels", "dataset.verbalizer", "model", "prepare", "prompt"),
    "train": ("dataset.name", "dataset.license", "model", "prompt", "train"),
    "calibrate": ("calibrate", "dataset.examples"),
    "evaluate": ("evaluate",),
    "robustness": ("robustness",),
    # Of training only what decides how the same layers are read, so that seeds and methods share the baselines.
    "baselines": (
        "baselines", "model", "prompt", "train.attention", "train.dtype", "train.effort", "train.kernels",
        "train.probe_rows", "train.threads",
    ),
    "compare": ("evaluate",),
    "worklist": ("prepare", "worklist"),
    "plot": ("plot",),
}  # fmt: skip
"""Stage -> the settings that its outs depend on; `report` shows them all, so it depends on resolved.yaml."""
BRINGS = {"dataset": ("prepare", "prompt"), "model": ("prompt", "train")}
HEADER = "# Written by the configure stage from params.yaml and conf/; edit those.\n"


def project_top() -> Path:
    """Return the nearest folder, from the current one upwards, that holds a project's settings.

    Raises:
        UserError: There is none.
    """
    here = Path.cwd()
    top = next((one for one in (here, *here.parents) if (one / PARAMS).is_file() and (one / CONF).is_dir()), None)
    if top is None:
        raise UserError(
            f"{here} lies in no project: neither it nor a folder above holds {PARAMS} and {CONF}/; run this in the "
            "folder that you cloned or unpacked"
        )
    return top


def catalogue(kind: str, conf: Path = CONF) -> dict[str, str]:
    """Return name -> one-line description of every recipe, data set or model."""
    files = sorted((conf / kind).glob("*.yaml"))
    return {path.stem: " ".join(str(read_yaml(path).get("about", "")).split()) for path in files}


def _say_renamed(values: Mapping[str, Any], path: Path) -> None:
    """Tell of settings with an old name."""
    for old, new in RENAMED.items():
        section, _, key = old.partition(".")
        if isinstance(values.get(section), Mapping) and key in values[section]:
            say(f"{path}: {old} is now called {new}; this release still reads the old name, the next will refuse it")


@dataclass(kw_only=True)
class Layers:
    """Settings merged from several files, with the file that set each key."""

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Path] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        """Lay `values` over what is there; null leaves a key as it is.

        Raises:
            UserError: a setting is given by its old and by its new name.
        """
        _say_renamed(values, path)
        values = {
            name: current_names(name, section, str(path)) if isinstance(section, Mapping) else section
            for name, section in values.items()
        }
        self._merge(self.values, values, path, prefix)

    def _merge(self, target: dict[str, Any], values: Mapping[str, Any], path: Path, prefix: str) -> None:
        for key, value in values.items():
            dotted = f"{prefix}{key}"
            self.origin[dotted] = path if value is not None else self.origin.get(dotted, path)
            if isinstance(value, Mapping) and isinstance(target.get(key, {}), dict) and not _is_map(dotted):
                self._merge(target.setdefault(key, {}), value, path, f"{dotted}.")
            elif value is not None or key not in _fields(tuple(prefix.split(".")[:-1])):
                target[key] = value  # an unknown key is kept even if null, for the check to find it


def _is_map(dotted: str) -> bool:
    """Whether a key's value is data rather than a group of settings, so that a later layer replaces it whole."""
    origin = dotted.startswith(("dataset.", "model.")) and dotted.count(".") == 1
    return origin or dotted in ("train.class_weights", "train.learning_rate")


def resolve(params: Path = PARAMS, conf: Path = CONF, recipe: str | None = None) -> Resolved:
    """Merge data set < model < prompt < recipe < params.yaml and check every key.

    Args:
        recipe: taken instead of the one that params.yaml names.

    Raises:
        UserError: everything that is wrong, in one message that names the file and key of each.
    """
    explicit = read_yaml(params)
    problems: list[str] = []
    layers = Layers()
    recipe_name = recipe or explicit.get("recipe")
    base, recipe_path = _choice("recipes", recipe_name, f"{params}: recipe", conf, problems)
    if base is None:
        raise UserError(bullet(problems))
    for kind, key in (("datasets", "dataset"), ("models", "model")):
        chosen_by = params if explicit.get(key) is not None else recipe_path
        name = explicit.get(key) or base.get(key)
        chosen, path = _choice(kind, name, f"{chosen_by}: {key}", conf, problems)
        if chosen is not None:
            own = {k: v for k, v in chosen.items() if k not in (*BRINGS[key], "about")}
            layers.add({key: {"name": name, **own}}, path)
            layers.add({k: v for k, v in chosen.items() if k in BRINGS[key]}, path)
    prompt_name, chosen_by = _prompt_name(explicit, params, base, recipe_path)
    if prompt_name is not None:
        chosen, path = _choice("prompts", prompt_name, f"{chosen_by}: prompt.name", conf, problems)
        layers.add({"prompt": {k: v for k, v in (chosen or {}).items() if k != "about"}}, path)
    selectors = ("about", "recipe", "dataset", "model")
    layers.add({key: value for key, value in base.items() if key not in selectors}, recipe_path)
    layers.add({key: value for key, value in explicit.items() if key not in selectors[1:]}, params)
    layers.values["recipe"] = recipe_name
    for stage in STAGES:
        layers.values.setdefault(stage, {})
    try:
        resolved = Resolved.model_validate(layers.values)
    except ValidationError as error:
        chosen_keys = {key for key in ("dataset", "model") if key in layers.values}
        problems += _explain(error, layers, params, missing_choice={"dataset", "model"} - chosen_keys)
        raise UserError(bullet(problems)) from None
    return resolved


def write_resolved(resolved: Resolved) -> str:
    """Return the text of resolved.yaml."""
    return _as_yaml(resolved.model_dump())


def stage_settings(resolved: Resolved) -> dict[str, str]:
    """Return stage -> the text of settings/STAGE.yaml: those settings of resolved.yaml that the stage reads.

    Stages depend on these files instead of on resolved.yaml as DVC parameters: DVC always shows the parameters of
    params.yaml, so that `dvc exp show` would list every setting twice, and mostly such as nobody set.
    """
    return {stage: _as_yaml(_selected(resolved.model_dump(), keys)) for stage, keys in READ_BY.items()}


def _selected(content: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The sections, or keys of sections, that are named.

    >>> _selected({"train": {"seed": 1, "epochs": 2}, "plot": {"dpi": 150}}, ["train.seed", "plot"])
    {'train': {'seed': 1}, 'plot': {'dpi': 150}}
    """
    found: dict[str, Any] = {}
    for name in keys:
        section, _, key = name.partition(".")
        found.setdefault(section, {}).update({key: content[section][key]} if key else content[section])
    return found


def _as_yaml(content: Mapping[str, Any]) -> str:
    stream = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.allow_unicode = True
    yaml.width = 1000
    yaml.dump(content, stream)
    return HEADER + stream.getvalue()


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Say that `name` is unknown, what exists, and what may have been meant.

    >>> unknown("recipe", "defalt", ["default", "quick"])
    "no recipe 'defalt'. Did you mean 'default'? There are: default, quick"
    """
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"no {what} {name!r}.{hint} There are: {', '.join(names) or 'none'}"


def _prompt_name(explicit: Any, params: Path, recipe: Any, recipe_path: Path) -> tuple[object, Path]:
    """The prompt that params.yaml or else the recipe names, and which of them does."""
    for values, path in ((explicit, params), (recipe, recipe_path)):
        prompt = values.get("prompt")
        if isinstance(prompt, dict) and prompt.get("name") is not None:
            return prompt["name"], path
    return None, params


def _choice(kind: str, name: object, key: str, conf: Path, problems: list[str]) -> tuple[dict[str, Any] | None, Path]:
    path = conf / kind / f"{name}.yaml"
    names = sorted(file.stem for file in (conf / kind).glob("*.yaml"))
    if name not in names:
        problems.append(f"{key}: {unknown(kind.removesuffix('s'), name, names)}")
        return None, path
    try:
        return read_yaml(path), path
    except UserError as error:
        problems.append(str(error))
        return None, path


def _explain(error: ValidationError, layers: Layers, params: Path, missing_choice: set[str]) -> list[str]:
    """Turn pydantic's errors into one line a key: file, key, what is wrong, what is allowed."""
    grouped: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for detail in error.errors():
        grouped.setdefault(_key_path(detail["loc"]), []).append(dict(detail))
    lines = []
    for path, details in grouped.items():
        if path[0] in missing_choice:
            continue
        dotted = ".".join(path)
        parents = [".".join(path[:end]) for end in range(len(path), 0, -1)]
        file = next((layers.origin[parent] for parent in parents if parent in layers.origin), params)
        shown = ".".join(path[1:]) if path[0] in ("dataset", "model") and file != params else dotted
        first = details[0]
        if first["type"] == "extra_forbidden":
            known = _fields(path[:-1])
            where = ".".join(path[:-1]) or "this file"
            lines.append(f"{file}: {shown}: {unknown(f'key in {where}', path[-1], known)}")
        elif first["type"] == "value_error":
            lines.append(f"{file}: {shown}: {first['ctx']['error']}" if shown else f"{file}: {first['ctx']['error']}")
        elif first["type"] == "missing":
            file = file if path[0] in BRINGS else params
            lines.append(f"{file}: {shown}: this key is missing")
        else:
            allowed = dict.fromkeys(detail["msg"].removeprefix("Input should be ") for detail in details)
            got = first["input"]
            options = [str(v) for detail in details for v in _quoted(str(detail.get("ctx", {}).get("expected", "")))]
            close = difflib.get_close_matches(str(got), options, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            lines.append(f"{file}: {shown}: got {got!r}, should be {' or '.join(allowed)}.{hint}")
    return lines


def _quoted(expected: str) -> list[str]:
    return expected.split("'")[1::2]


def _key_path(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Keep the parts of pydantic's location that are keys in a file; the rest names members of a union."""
    path: list[str] = []
    for part in loc:
        known = _fields(tuple(path))
        if path and not known:
            break
        path.append(str(part))
    return tuple(path)


def _fields(path: tuple[str, ...]) -> list[str]:
    """Keys of the section at `path`, none where the path ends in a value."""
    kind: type[BaseModel] | None = Resolved
    for part in path:
        inner = kind.model_fields[part].annotation if kind and part in kind.model_fields else None
        kind = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    return list(kind.model_fields) if kind else []
