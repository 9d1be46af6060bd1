"""Rebuild `.dvc/plots/offline.html`, the page that `dvc plots show` and `dvc plots diff` fill in.

DVC's own page loads Vega from the web and stays blank without it. This one carries the libraries inside, so
it draws anywhere. Run it again after changing a version or the page below (it needs npm, nothing else):

    python tools/offline_plots.py

DVC replaces `{refresh_tag}` and `{plot_divs}` (dvc_render/html.py). Its third placeholder, `{scripts}`, is
the links to the web, and left out.
"""

import argparse
import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

# Vega 5, because DVC's plot templates are written for the schema vega-lite/v5.
# package -> (version, sha256 of build/PACKAGE.min.js)
LIBRARIES = {
    "vega": ("5.33.1", "463f3db6a40b20e9747b4ed38f37ed0add508838f9141b1cf8366784b07b30c8"),
    "vega-lite": ("5.23.0", "58c27358e26f2d319cf62f45bc17a4c8362f08645001df2ec8d341eee4097c7f"),
    "vega-embed": ("6.29.0", "12d02acfbe3ec59ef9a37dd4822a2e04e2961b5bbb671bbe661d2221715b99da"),
}

# What the three bundles contain; npm also installs the command line parts, which they leave out.
BUNDLED = re.compile(
    r"(vega|d3-|topojson-|internmap$|delaunator$|robust-predicates$|fast-json-patch$|semver$|tslib$"
    r"|json-stringify-pretty-compact$)"
)

PLACEHOLDERS = ("{scripts}", "{plot_divs}", "{refresh_tag}")

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --line: #dfe3e8; --ink: #1f2933; --dim: #5b6773;
  --font: system-ui, -apple-system, "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans SC", sans-serif;
}
@media (prefers-color-scheme: dark) {
  :root { --page: #15181c; --card: #1e2227; --line: #343b43; --ink: #e6eaee; --dim: #a3adb8; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem clamp(1rem, 3vw, 3rem) 3rem; max-width: 110rem;
  background: var(--page); color: var(--ink);
  font: 15px/1.45 var(--font);
}
h1 { margin: 0 0 1rem; font-size: 1.25rem; font-weight: 600; }
main { display: flex; flex-wrap: wrap; gap: 1.25rem; align-items: flex-start; }
main > div {
  max-width: 100%; padding: 1rem; overflow-x: auto; white-space: normal !important;
  background: var(--card); border: 1px solid var(--line) !important; border-radius: 10px;
}
main > div:empty { display: none; }
/* DVC writes each picture as: name, then for each revision a box with the revision's name and the image. */
main > div:has(> div > img) { display: flex; flex-wrap: wrap; gap: 0 1.25rem; text-align: left !important; }
main > div:has(> div > img) { flex: 1 1 30rem; max-width: 44rem; }
main > div:has(> div + div > img) { flex-basis: 100%; max-width: 90rem; }
main > div > p { flex: 1 1 100%; margin: 0 0 .4rem; font-weight: 600; }
main > div > div:has(> img) { flex: 1 1 24rem; max-width: 44rem; margin: 0 !important; border: 0 !important; }
main > div > div > p { margin: 0 0 .25rem; color: var(--dim); font-size: .85rem; }
img { display: block; max-width: 100%; height: auto; padding: .25rem; background: #fff; border-radius: 6px; }
.vega-embed { width: auto !important; }
.vega-embed canvas, .vega-embed svg { display: block; }
.vega-embed .vega-bindings { margin-top: .5rem; color: var(--dim); font-size: .85rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
"""

# DVC calls vegaEmbed(target, spec) for each plot: the wrapper adds the colours and font of the page, and draws
# anew when the reader turns to dark or light.
THEME = """
(() => {
  const embed = window.vegaEmbed, dark = matchMedia("(prefers-color-scheme: dark)"), drawn = [];
  const config = () => {
    const page = getComputedStyle(document.documentElement);
    const of = (name) => page.getPropertyValue(`--${name}`).trim();
    const [ink, dim, line, font] = ["ink", "dim", "line", "font"].map(of);
    return {
      background: "transparent", font, view: { stroke: "transparent" },
      title: { color: ink, fontSize: 15, fontWeight: 600, offset: 12 },
      axis: { labelColor: dim, titleColor: ink, titleFontWeight: 500, gridColor: line, domainColor: dim,
              tickColor: dim, labelFontSize: 11, titleFontSize: 12, labelLimit: 160 },
      legend: { labelColor: ink, titleColor: ink, titleFontWeight: 500, labelFontSize: 12, labelLimit: 220,
                symbolBaseFillColor: dim, symbolBaseStrokeColor: dim },
      header: { labelColor: ink, titleColor: ink, titleFontWeight: 500, labelFontSize: 12 },
      text: { color: ink },
    };
  };
  const draw = (plot) => embed(plot.target, JSON.parse(plot.spec), {
    config: config(), theme: undefined, tooltip: { theme: dark.matches ? "dark" : "light" },
    actions: { export: true, source: false, compiled: false, editor: false },
  });
  window.vegaEmbed = (target, spec) => {
    // What DVC hands over for a table without rows.
    if (!Object.keys(spec).length) {
      document.querySelector(target).textContent = `${target.slice(1)}: no rows to draw`;
      return;
    }
    const plot = { target, spec: JSON.stringify(spec) };
    drawn.push(plot);
    return draw(plot);
  };
  dark.addEventListener("change", () => drawn.forEach(draw));
})();
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self' file: data: blob:; \
script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'">
{refresh_tag}
<title>Plots</title>
<!-- Generated by tools/offline_plots.py: edit that, not this. -->
<style>@STYLE@</style>
@LIBRARIES@
<script>@THEME@</script>
</head>
<body>
<h1>Plots</h1>
<main>
{plot_divs}
</main>
<script type="text/plain" id="licences">
@LICENCES@
</script>
</body>
</html>
"""


def install(directory: Path) -> Path:
    """Install the pinned libraries with npm, running none of their scripts; returns `node_modules`."""
    (directory / "package.json").write_text('{"private": true}', encoding="utf-8")
    wanted = [f"{name}@{version}" for name, (version, _) in LIBRARIES.items()]
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", *wanted]
    subprocess.run(command, cwd=directory, check=True)
    return directory / "node_modules"


def script_of(modules: Path, name: str) -> str:
    """Turn one library into a script element; `ValueError` where its bytes are not the pinned ones."""
    version, expected = LIBRARIES[name]
    content = (modules / name / "build" / f"{name}.min.js").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(f"{name} {version}: sha256 is {found}, LIBRARIES in {__file__} says {expected}")
    # The browser would end the element at the text "</script", and the source map is not shipped.
    text = content.decode().replace("</script", r"<\/script")
    text = re.sub(r"\n//# sourceMappingURL=.*", "", text).strip()
    return f"<!-- {name} {version} -->\n<script>{text}</script>"


def licences_of(modules: Path) -> str:
    """Collect the licence texts of all bundled packages, each text once, under the names it covers."""
    covered: dict[str, list[str]] = {}
    for folder in sorted(modules.iterdir()):
        if not BUNDLED.match(folder.name):
            continue
        paths = sorted(folder.glob("LICEN[CS]E*"))
        if not paths and folder.name.startswith("vega"):
            # Some packages of Vega's one repository are published without its licence file: take a sister's.
            paths = sorted((modules / "vega-view").glob("LICENSE"))
        if not paths:
            raise ValueError(f"{folder.name} brings no licence file")
        text = "\n".join(path.read_text(encoding="utf-8") for path in paths).strip()
        covered.setdefault(text, []).append(folder.name)
    blocks = [", ".join(names) + "\n\n" + text for text, names in covered.items()]
    return ("\n\n" + "-" * 80 + "\n\n").join(blocks)


def build(modules: Path) -> str:
    """Put the whole page together; `ValueError` where a library's text would be taken for one of DVC's placeholders."""
    parts = {
        "@STYLE@": STYLE,
        "@LIBRARIES@": "\n".join(script_of(modules, name) for name in LIBRARIES),
        "@THEME@": THEME,
        "@LICENCES@": licences_of(modules),
    }
    page = PAGE
    for mark, text in parts.items():
        for placeholder in PLACEHOLDERS:
            if placeholder in text:
                raise ValueError(f"{mark} contains DVC's placeholder {placeholder}")
        page = page.replace(mark, text)
    return page


def main() -> None:
    """Write the page to `--output`."""
    parser = argparse.ArgumentParser(description="Rebuild the page template for `dvc plots` with Vega inside.")
    default = Path(__file__).resolve().parents[1] / ".dvc" / "plots" / "offline.html"
    parser.add_argument("--output", type=Path, default=default)
    output: Path = parser.parse_args().output
    with tempfile.TemporaryDirectory() as temporary:
        page = build(install(Path(temporary)))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8", newline="\n")
    print(f"{output}: {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
