"""dvc.yaml against the code: a forgotten dependency would let a stale result pass for a fresh one."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from labeltune.config.resolve import READ_BY

ROOT = Path(__file__).parents[2]
STAGES = (
    "configure", "collect", "prepare", "train", "calibrate", "evaluate", "robustness", "baselines", "compare",
    "worklist", "plot", "report",
)  # fmt: skip


@pytest.fixture(scope="module")
def pipeline() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


def imported(path: Path) -> set[Path]:
    """Files of this project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            file = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            package = ROOT.joinpath(*name.split("."), "__init__.py")
            found |= {candidate for candidate in (file, package) if candidate.is_file()}
    return found


def closure(stage: str) -> set[str]:
    """Library files that a stage's result can depend on: its imports but for messages and packages' docstrings."""
    waiting, seen = [ROOT / f"stages/{stage}.py"], set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imported(path)
    found = {str(path.relative_to(ROOT)) for path in seen}
    return {name for name in found if not name.startswith("labeltune/console/") and not only_words(ROOT / name)}


def only_words(path: Path) -> bool:
    """Whether a file is a package's `__init__.py` with nothing but a docstring."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return path.name == "__init__.py" and all(isinstance(node, ast.Expr) for node in body)


def listed(entries: list[Any]) -> set[str]:
    """Python files of the library and the stages that dependencies name, one by one or by their folder."""
    found: set[Path] = set()
    for entry in entries:
        if entry.startswith(("labeltune", "stages")):
            path = ROOT / entry
            found |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return {str(path.relative_to(ROOT)) for path in found if not only_words(path)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_that_it_imports_and_on_no_other(pipeline: dict, stage: str) -> None:
    runtime = {str(path.relative_to(ROOT)) for path in (ROOT / "labeltune/runtime").glob("*.py")}  # always whole
    given = listed(pipeline["stages"][stage]["deps"])
    assert given - runtime == closure(stage) - runtime
    assert {name for name in runtime if not only_words(ROOT / name)} <= given


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_is_named_instead_of_all_its_modules(pipeline: dict, stage: str) -> None:
    entries = [entry for entry in pipeline["stages"][stage]["deps"] if entry.startswith("labeltune/")]
    for folder in {path.parent for path in (ROOT / "labeltune").rglob("*.py")} - {ROOT / "labeltune"}:
        modules = {str(path.relative_to(ROOT)) for path in folder.rglob("*.py") if not only_words(path)}
        named = modules & set(entries)
        assert not named or named < modules, folder


@pytest.mark.parametrize("stage", STAGES)
def test_no_result_depends_on_what_others_are_shown(pipeline: dict, stage: str) -> None:
    leaves = ("labeltune/serving", "labeltune/export", "labeltune/cli", "labeltune/console")
    assert not [entry for entry in pipeline["stages"][stage]["deps"] if entry.startswith(leaves)]
    reporting = [e for e in pipeline["stages"][stage]["deps"] if e.startswith("labeltune/reporting")]
    assert not reporting or stage in ("plot", "report")


@pytest.mark.parametrize("stage", STAGES[1:-1])
def test_a_stage_depends_on_every_section_that_it_reads(pipeline: dict, stage: str) -> None:
    source = (ROOT / f"stages/{stage}.py").read_text(encoding="utf-8")
    read = set(re.findall(r'\bsection\("(\w+)"', source))
    assert {key.split(".")[0] for key in READ_BY[stage]} == read
    assert f"settings/{stage}.yaml" in pipeline["stages"][stage]["deps"]


def test_every_stage_has_settings_but_the_report_which_shows_them_all(pipeline: dict) -> None:
    assert set(READ_BY) == set(STAGES[1:-1]) == set(pipeline["stages"]) - {"configure", "report"}
    assert "resolved.yaml" in pipeline["stages"]["report"]["deps"]


def test_dvc_shows_a_setting_once_and_few_figures(pipeline: dict) -> None:
    """A table with every setting twice and every detail of metrics/ has 916 columns."""
    stages = pipeline["stages"].items()
    assert {name: stage["params"] for name, stage in stages if "params" in stage} == {
        "configure": [{"params.yaml": None}]
    }
    assert {name: stage["metrics"] for name, stage in stages if "metrics" in stage} == {
        "evaluate": [{"metrics/summary.json": {"cache": False}}]
    }


def test_every_stage_says_what_it_does_and_the_classifier_is_listed(pipeline: dict) -> None:
    assert all(stage["desc"].endswith(".") for stage in pipeline["stages"].values())
    classifier = pipeline["artifacts"]["classifier"]
    assert classifier["path"] in pipeline["stages"]["calibrate"]["outs"]
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) < 350


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_script_is_short_and_main_is_its_only_function(stage: str) -> None:
    path = ROOT / f"stages/{stage}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] == ["main"]
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


def test_every_path_that_a_stage_names_is_in_the_pipeline(pipeline: dict) -> None:
    known = {"plots", "data/prepared"}  # folders of several outs
    for stage in pipeline["stages"].values():
        for kind in ("deps", "outs", "metrics", "plots"):
            for entry in stage.get(kind, []):
                known.add(entry if isinstance(entry, str) else next(iter(entry)))
    for stage in STAGES:
        source = (ROOT / f"stages/{stage}.py").read_text(encoding="utf-8")
        for path in re.findall(r'Path\("([^"]+)"\)', source):
            assert any(path == other or path.startswith(f"{other}/") for other in known), f"{stage}: {path}"
