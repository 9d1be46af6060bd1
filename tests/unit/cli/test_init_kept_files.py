"""The files that `labeltune init` never touches."""

from pathlib import Path

import pytest

from labeltune.cli import main
from labeltune.runtime.errors import UserError


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["..", ".", "../..", "a/b", "a/../b", "/etc", ".hidden", "a\nb", "-x", "x" * 200])
def test_a_name_is_never_a_path_and_nothing_is_touched(project: Path, notes: Path, name: str) -> None:
    before = files_below(project)
    with pytest.raises(UserError, match="--name: .* is not a valid name"):
        main.main(["init", str(notes), f"--name={name}", "--force"])
    assert files_below(project) == before


@pytest.mark.parametrize("kept", ["last-year.csv", "desk notes.csv"])
def test_what_a_failing_init_did_not_write_stays(project: Path, notes: Path, kept: str) -> None:
    """A column that is not there: last year's file in the folder stays, also one of the same name."""
    folder = project / "data/raw/reviews"
    folder.mkdir()
    (folder / kept).write_text("nr,said,kind\n1,old,ham\n", encoding="utf-8")
    before = files_below(project)
    with pytest.raises(UserError):
        main.main(["init", str(notes), "--name", "reviews", "--force", "--text", "bdy", "--model", "tiny"])
    assert files_below(project) == before


def test_a_failing_init_leaves_no_copy(project: Path, notes: Path) -> None:
    before = files_below(project)
    with pytest.raises(UserError):
        main.main(["init", str(notes), "--text", "bdy", "--model", "tiny"])
    assert files_below(project) == before
    assert not (project / "data/raw/desk-notes").exists()


def test_the_same_init_works_twice_with_force(project: Path, notes: Path) -> None:
    command = ["init", str(notes), "--model", "tiny"]
    main.main(command)
    first = files_below(project)
    with pytest.raises(UserError, match="overwrite with --force"):
        main.main(command)
    main.main([*command, "--force"])
    assert files_below(project) == first
