"""dvc.yaml against the code: a forgotten dependency would let a stale result pass for a fresh one."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent.parent
STAGES = (
    "configure", "prepare", "train", "calibrate", "evaluate", "robustness", "baselines", "compare", "worklist", "plot",
    "report",
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
    waiting, seen = [ROOT / f"stages/{stage}.py"], set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imported(path)
    return {str(path.relative_to(ROOT)) for path in seen}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_that_it_imports_and_on_no_other(pipeline: dict, stage: str) -> None:
    listed = {dependency for dependency in pipeline["stages"][stage]["deps"] if dependency.endswith(".py")}
    # Every module lies in the package, whose own file only states the version: what writes the version names it.
    assert listed - {"labeltune/__init__.py"} == closure(stage) - {"labeltune/__init__.py"}
    if "labeltune/artefact.py" in listed:
        assert "labeltune/__init__.py" in listed


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_depends_on_every_section_that_it_reads(pipeline: dict, stage: str) -> None:
    source = (ROOT / f"stages/{stage}.py").read_text(encoding="utf-8")
    read = set(re.findall(r'conf\.section\("(\w+)"', source))
    (listed,) = (entry["resolved.yaml"] for entry in pipeline["stages"][stage]["params"])
    assert {key.split(".")[0] for key in listed} == read


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_script_is_short_and_main_is_its_only_function(stage: str) -> None:
    path = ROOT / f"stages/{stage}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] == ["main"]
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


def test_every_path_that_a_stage_names_is_in_the_pipeline(pipeline: dict) -> None:
    known = {"plots", "data/prepared"}
    for stage in pipeline["stages"].values():
        for kind in ("deps", "outs", "metrics"):
            for entry in stage.get(kind, []):
                known.add(entry if isinstance(entry, str) else next(iter(entry)))
    for stage in STAGES:
        source = (ROOT / f"stages/{stage}.py").read_text(encoding="utf-8")
        for path in re.findall(r'Path\("([^"]+)"\)', source):
            assert any(path == other or path.startswith(f"{other}/") for other in known), f"{stage}: {path}"
