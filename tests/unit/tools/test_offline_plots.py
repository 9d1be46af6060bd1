"""DVC's pages draw without a network, and its plots keep the colours of the pictures."""

import json
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from dvc_render.html import HTML, render_html
from dvc_render.vega import VegaRenderer

from labeltune.reporting.plots import style

ROOT = Path(__file__).resolve().parents[3]
TEMPLATES = ROOT / ".dvc" / "plots"
PAGE = (TEMPLATES / "offline.html").read_text(encoding="utf-8")


class Loads(HTMLParser):
    """Collect the tags and attributes that make a browser load something, and the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[tuple[str, str | None]] = []
        self.policy = ""
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.loads += [(tag, value) for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.inside in self.texts:
            self.texts[self.inside].append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


@pytest.fixture
def parsed() -> Loads:
    loads = Loads()
    loads.feed(PAGE)
    return loads


def test_the_page_loads_nothing(parsed: Loads) -> None:
    assert parsed.loads == []
    assert not re.search(r"@import|url\(", "".join(parsed.texts["style"]))
    # What a script might still ask for is forbidden; the pictures beside the page are not.
    assert parsed.policy.startswith("default-src 'none'; img-src 'self' file: data: blob:;")
    assert "http" not in parsed.policy


def test_the_page_is_what_its_tool_builds() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "offline_plots.py"))
    for name, (version, _) in tool["LIBRARIES"].items():
        assert f"<!-- {name} {version} -->\n<script>" in PAGE
    assert tool["STYLE"] in PAGE
    assert tool["THEME"] in PAGE
    assert "University of Washington Interactive Data Lab" in PAGE


def test_dvc_fills_the_page_in(tmp_path: Path) -> None:
    renderer = VegaRenderer([{"rev": "a", "x": 1, "y": 2}], "dvc.yaml::plot", x="x", y="y", template="simple")
    page = Path(render_html([renderer], tmp_path / "index.html", TEMPLATES / "offline.html")).read_text("utf-8")
    assert "vegaEmbed('#dvc_yaml__plot', spec)" in page
    assert "cdn." not in page
    for placeholder in (HTML.PLOTS_PLACEHOLDER, HTML.SCRIPTS_PLACEHOLDER, HTML.REFRESH_PLACEHOLDER):
        assert f"{{{placeholder}}}" not in page


def fill(template: str, points: list[dict[str, Any]], x: str, y: str, files: list[str]) -> dict[str, Any]:
    """Fill a template as DVC does for a plot of these files."""
    definitions = [{"filename": name, "field": y} for name in files]
    renderer = VegaRenderer(
        points,
        "plot",
        template=template,
        template_dir=str(TEMPLATES),
        x=x,
        y=y,
        x_label="x axis",
        y_label="y axis",
        title="a title",
        anchors_y_definitions=definitions,
    )
    filled: dict[str, Any] = json.loads(renderer.partial_html())
    assert "<DVC_METRIC" not in json.dumps(filled)
    assert filled["title"]["text"] == "a title"
    assert filled["data"]["values"] == points
    return filled


def test_training_curves_keep_their_colours_and_dashes() -> None:
    files = ["train.csv", "validation.csv"]
    points = [
        {"step": "1", "loss": "0.5", "rev": rev, "filename": name, "field": "loss"}
        for rev in ("workspace", "HEAD")
        for name in files
    ]
    filled = fill("curves", points, "step", "loss", files)
    assert all(point["filename"] in files for point in filled["data"]["values"])
    colour = filled["encoding"]["color"]["scale"]
    assert dict(zip(colour["domain"], colour["range"], strict=True)) == {
        "training": style.BLUE,
        "validation": style.ORANGE,
    }
    dash = filled["layer"][0]["encoding"]["strokeDash"]["scale"]
    assert dash["domain"] == ["training", "validation"]
    solid, dashed = dash["range"]
    assert solid == [1, 0]
    assert dashed[1] > 0
    # Revisions: by the strength of the line and by the shape of the points.
    assert filled["encoding"]["opacity"]["field"] == "rev"
    assert filled["layer"][1]["encoding"]["shape"]["field"] == "rev"


@pytest.mark.parametrize(
    ("template", "x", "y"),
    [("roc", "false_positive_rate", "true_positive_rate"), ("precision_recall", "recall", "precision")],
)
def test_curves_of_labels_are_drawn_in_the_order_of_their_points(template: str, x: str, y: str) -> None:
    filled = fill(template, [{"label": "正面", x: "0", y: "1", "rev": "HEAD"}], x, y, ["points.csv"])
    encoding = filled.get("encoding") or filled["layer"][1]["encoding"]
    assert (encoding["x"]["field"], encoding["y"]["field"]) == (x, y)
    assert (encoding["color"]["field"], encoding["strokeDash"]["field"]) == ("label", "rev")
    # Sorted by x, as Vega does of itself, the points of a vertical part would be shuffled.
    assert encoding["order"] == {"value": None}
    assert encoding["color"]["scale"]["range"][:6] == list(style.PALETTE[:6])


def test_the_confusion_matrix_counts_per_revision() -> None:
    filled = fill(
        "confusion_matrix", [{"label": "a", "prediction": "b", "rev": "HEAD"}], "prediction", "label", ["c.csv"]
    )
    assert filled["transform"][0]["groupby"] == ["rev", "label", "prediction"]
    assert filled["facet"]["column"]["field"] == "rev"
    assert filled["spec"]["encoding"]["x"]["field"] == "prediction"
    assert filled["spec"]["encoding"]["y"]["field"] == "label"


def test_shares_have_a_line_for_each_revision() -> None:
    points = [{"coverage": "0.5", "risk": "0.1", "rev": rev} for rev in ("workspace", "HEAD")]
    filled = fill("shares", points, "coverage", "risk", ["risk_coverage.csv"])
    encoding = filled["encoding"]
    assert (encoding["x"]["field"], encoding["y"]["field"], encoding["color"]["field"]) == ("coverage", "risk", "rev")
    assert encoding["color"]["scale"]["range"][:2] == [style.BLUE, style.ORANGE]
