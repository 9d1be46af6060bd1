"""The tests mirror the tree: whoever knows a module knows where its tests are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def has_code(module: Path) -> bool:
    """Whether a module holds more than its docstring."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(module.read_text(encoding="utf-8")).body)


def modules_without_tests(package: Path, tests: Path) -> list[str]:
    """Return the modules of a package that have neither `test_MODULE.py` nor `test_MODULE_TOPIC.py` in their place.

    The place is the module's path below the package, below `tests`; `__init__` is tested as `test_PACKAGE.py`.
    """
    missing = []
    for module in sorted(package.rglob("*.py")):
        if module.name == "__init__.py" and not has_code(module):
            continue
        place = tests / module.relative_to(package).parent
        name = module.parent.name if module.name == "__init__.py" else module.stem
        if not [*place.glob(f"test_{name}.py"), *place.glob(f"test_{name}_*.py")]:
            missing.append(module.relative_to(package).as_posix())
    return missing


def test_every_module_has_tests_in_its_place() -> None:
    assert modules_without_tests(ROOT / "labeltune", ROOT / "tests/unit") == []


@pytest.mark.parametrize(
    ("module", "test", "missing"),
    [
        ("data/labels.py", "data/test_labels.py", []),
        ("data/labels.py", "data/test_labels_order.py", []),
        ("data/labels.py", "test_labels.py", ["data/labels.py"]),
        ("data/labels.py", "data/test_label.py", ["data/labels.py"]),
        ("__init__.py", "test_labeltune.py", []),
        ("__init__.py", "data/test_labels.py", ["__init__.py"]),
    ],
)
def test_a_module_whose_tests_lie_elsewhere_is_named(
    tmp_path: Path, module: str, test: str, missing: list[str]
) -> None:
    for path, content in ((f"labeltune/{module}", "A = 1\n"), (f"tests/{test}", "")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    (tmp_path / "labeltune/serving").mkdir()
    (tmp_path / "labeltune/serving/__init__.py").write_text('"""A package."""\n', encoding="utf-8")
    assert modules_without_tests(tmp_path / "labeltune", tmp_path / "tests") == missing
