import json
import re
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree as ET

from tools import draw_architecture

SVG = "{http://www.w3.org/2000/svg}"
ROOT = Path(__file__).parents[3]


def test_the_committed_picture_shows_the_packages_and_imports_of_the_code() -> None:
    drawn = json.loads(ET.parse(draw_architecture.PICTURE).findtext(f"{SVG}metadata"))
    assert drawn == asdict(draw_architecture.read(ROOT)), "run `python tools/draw_architecture.py`"


def test_every_package_is_drawn() -> None:
    folders = {path.parent.name for path in (ROOT / "labeltune").glob("*/__init__.py")}
    assert set(draw_architecture.read(ROOT).modules) == folders


def written(root: Path, files: dict[str, str]) -> draw_architecture.Architecture:
    (root / ".importlinter").write_text(
        "[importlinter:contract:layers]\ntype = layers\nlayers =\n    labeltune.top\n"
        "    labeltune.left | labeltune.right\n    labeltune.base\n"
    )
    for name, text in files.items():
        path = root / "labeltune" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return draw_architecture.read(root)


def test_imports_are_found_in_every_form_and_place(tmp_path: Path) -> None:
    files = {
        "top/__init__.py": "",
        "top/one.py": "import labeltune.base.files\nfrom labeltune import __version__, left\nimport labeltuned.right",
        "top/deep/__init__.py": "",
        "top/deep/two.py": "def late():\n    from labeltune.right.x import y\n    from labeltune.top.one import z",
        "left/one.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from labeltune.base import files",
        "base/files.py": "",
    }
    read = written(tmp_path, files)
    assert read.layers == [["top"], ["left", "right"], ["base"]]
    assert read.modules == {"top": 2, "left": 1, "right": 0, "base": 1}
    assert read.imports == {"top": ["left", "right", "base"], "left": ["base"], "right": [], "base": []}


def test_each_import_is_a_dot_above_an_arrow_and_no_dot_lies_on_a_box(tmp_path: Path) -> None:
    read = written(tmp_path, {"top/a.py": "import labeltune.base.b\nimport labeltune.left.c", "left/c.py": ""})
    picture = ET.fromstring(draw_architecture.draw(read))
    dots = [(int(dot.get("cx")), int(dot.get("cy"))) for dot in picture.iter(f"{SVG}circle")]
    boxes = [
        tuple(int(box.get(key)) for key in ("x", "y", "width", "height"))
        for box in picture.iter(f"{SVG}rect")
        if box.get("class") == "box"
    ]
    heads = [path.get("d") for path in picture.iter(f"{SVG}path") if path.get("class") == "head"]
    assert len(boxes) == 4
    assert len(dots) == len(heads) == 2
    assert not [
        dot for dot in dots for x, y, width, height in boxes if x <= dot[0] <= x + width and y <= dot[1] <= y + height
    ]
    tips = {int(re.match(r"M(\d+)", head)[1]) + 5 for head in heads}
    assert tips == {x for x, _ in dots}


def test_the_same_code_gives_the_same_bytes() -> None:
    assert draw_architecture.draw(draw_architecture.read(ROOT)) == draw_architecture.draw(draw_architecture.read(ROOT))
