"""Draw `docs/images/architecture.svg`, the packages of labeltune and who imports whom, from the code itself.

The order of the rows and their layers are those of the contracts in `.importlinter`; numbers and arrows come from the
files under `labeltune/`. Run it after a package, a module or an import between packages was added or removed:

    python tools/draw_architecture.py
"""

import ast
import configparser
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/architecture.svg"

# All in pixels. A box is wider than a column: below the diagonal there is nothing that it could cover.
COLUMN, ROW, BOX, HEIGHT, GAP, MARGIN, TOP = 54, 50, 132, 36, 14, 24, 64

STYLE = """
svg { color-scheme: light dark; }
text { font: 14px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2933; }
.title { font-weight: 600; font-size: 16px; } .name { font-weight: 600; } .dim { font-size: 12px; fill: #52606d; }
.page { fill: #ffffff; stroke: #cbd2d9; } .layer { fill: #f1f4f8; } .box { fill: #dbe9f8; stroke: #2f6fad; }
.line { stroke: #7b8794; stroke-width: 1.25; fill: none; } .dot, .head { fill: #2f6fad; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e7eb; } .dim { fill: #aab4be; }
  .page { fill: #161b22; stroke: #3e4c59; } .layer { fill: #1f2730; } .box { fill: #1d3a57; stroke: #7db5ec; }
  .line { stroke: #7b8794; } .dot, .head { fill: #7db5ec; }
}
"""


@dataclass(frozen=True)
class Architecture:
    """What the picture shows.

    `layers` has the packages from the highest layer to the lowest one, `modules` the number of modules of each, and
    `imports` for each package those that a module of it imports.
    """

    layers: list[list[str]]
    modules: dict[str, int]
    imports: dict[str, list[str]]


def main() -> None:
    """Draw the picture."""
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw(read(ROOT)), encoding="utf-8", newline="\n")
    print(f"{PICTURE.relative_to(ROOT)} is drawn.")


def read(root: Path) -> Architecture:
    """Read the layers from `.importlinter`, and modules and imports from the files under `labeltune/`."""
    contracts = configparser.ConfigParser()
    contracts.read(root / ".importlinter", encoding="utf-8")
    lines = contracts["importlinter:contract:layers"]["layers"].split("\n")
    layers = [[name.strip().removeprefix("labeltune.") for name in line.split("|")] for line in lines if line.strip()]
    modules = {}
    imports = {}
    for package in (package for layer in layers for package in layer):
        files = sorted((root / "labeltune" / package).rglob("*.py"))
        modules[package] = sum(path.name != "__init__.py" for path in files)
        found = {name for path in files for name in imported(path)} - {package}
        imports[package] = [other for layer in layers for other in layer if other in found]
    return Architecture(layers, modules, imports)


def imported(path: Path) -> set[str]:
    """Packages of labeltune that a file imports, also inside its functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("labeltune.")}


def draw(architecture: Architecture) -> str:
    """Draw the packages down a diagonal as SVG, with what the picture shows as JSON in its metadata.

    A package's line runs to the right of its box. Where it has a dot, an arrow leads down to the package that is
    imported, so that no arrow needs to cross a box.
    """
    packages = [package for layer in architecture.layers for package in layer]
    right = {name: MARGIN + BOX + COLUMN * index for index, name in enumerate(packages)}  # edge of the box
    middle = {}
    bands = []
    y = TOP
    for layer in architecture.layers:
        bands.append((right[layer[0]] - BOX - MARGIN // 2, y, ROW * len(layer)))
        for name in layer:
            middle[name] = y + ROW // 2
            y += ROW
        y += GAP
    width, height = right[packages[-1]] + MARGIN, y - GAP + MARGIN // 2
    page = [f'<rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>']
    page += [
        f'<rect class="layer" x="{left}" y="{y}" width="{width - MARGIN // 2 - left}" height="{size}" rx="6"/>'
        for left, y, size in bands
    ]
    for name in packages:  # the arrows, from the highest package that imports it down to the box
        importers = [other for other in packages if name in architecture.imports[other]]
        if importers:
            x, tip = right[name] - COLUMN // 2, middle[name] - HEIGHT // 2
            page.append(f'<path class="line" d="M{x} {middle[importers[0]]}V{tip - 7}"/>')
            page.append(f'<path class="head" d="M{x - 5} {tip - 8}h10l-5 8z"/>')
    for name in packages:
        if architecture.imports[name]:
            columns = [right[other] - COLUMN // 2 for other in architecture.imports[name]]
            page.append(f'<path class="line" d="M{right[name]} {middle[name]}H{max(columns)}"/>')
            page += [f'<circle class="dot" cx="{x}" cy="{middle[name]}" r="4.5"/>' for x in columns]
    for name in packages:
        left, count = right[name] - BOX, architecture.modules[name]
        page.append(
            f'<rect class="box" x="{left}" y="{middle[name] - HEIGHT // 2}" width="{BOX}" height="{HEIGHT}" rx="5"/>'
        )
        page.append(f'<text class="name" x="{left + 10}" y="{middle[name] + 5}">{escape(name)}</text>')
        page.append(f'<text class="dim" x="{right[name] - 10}" y="{middle[name] + 4}" text-anchor="end">{count}</text>')
    total = sum(architecture.modules.values())
    title = f"labeltune: {len(packages)} packages, {total} modules"
    legend = [
        "A box: a package, with its number of modules.",
        "A dot: the package to the left imports the package",
        "that the arrow points to.",
        "A band: a layer. Packages import lower layers only.",
    ]
    page.append(f'<text class="title" x="{MARGIN}" y="{TOP // 2 + 8}">{title}</text>')
    page += [
        f'<text class="dim" x="{MARGIN}" y="{height - MARGIN - 12 - 18 * (len(legend) - 1 - index)}">{line}</text>'
        for index, line in enumerate(legend)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' role="img" aria-labelledby="title">',
            f'<title id="title">{title}, and which of them import which</title>',
            f"<metadata>{escape(json.dumps(asdict(architecture)))}</metadata>",
            f"<style>{STYLE}</style>",
            *page,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    main()
