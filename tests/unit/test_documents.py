"""The documents against the code: a path or a link that leads nowhere costs every reader a search."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md")
    for path in sorted(ROOT.glob(pattern))
    if path.name != "log.md"  # what was measured then, with the names of then
]
KEPT = ("labeltune", "stages", "conf", "tests", "tools", "benchmarks", "docs")
"""Folders whose files are all in Git; what lies in the others is written by a run."""
NAMED = re.compile(rf"(?<![\w/.-])(?:{'|'.join(KEPT)})/[\w./-]*[\w/]")
EXAMPLES = {
    "conf/datasets/reviews.yaml",
    "conf/recipes/reviews.yaml",
    "conf/datasets/tickets.yaml",
    "conf/recipes/tickets.yaml",
}
"""Files that a reader writes."""


def named(text: str) -> set[str]:
    """Paths of the project that a text names; those with a capitalised placeholder are patterns."""
    return {path for path in NAMED.findall(text) if not re.search(r"[A-Z]{2}", path.removesuffix(".md"))}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    missing = {path for path in named(document.read_text(encoding="utf-8")) if not (ROOT / path).exists()}
    assert missing <= EXAMPLES


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_document_leads_to_a_file_and_a_heading(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                target
            )


def test_paths_are_told_from_patterns_and_other_words() -> None:
    text = "`labeltune/data/readers.py`, tests/unit/PACKAGE/test_MODULE.py, conf/datasets, `docs/x/`, ~/labeltune/x."
    assert named(text) == {"labeltune/data/readers.py", "conf/datasets", "docs/x/"}


def test_the_readme_names_every_package() -> None:
    packages = {path.parent.name for path in (ROOT / "labeltune").glob("*/__init__.py")}
    for name in ("README.md", "README.zh-CN.md"):
        assert (
            set(re.findall(r"^labeltune/(\w+)/ ", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE))
            == packages
        )
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/design.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(table) == packages
