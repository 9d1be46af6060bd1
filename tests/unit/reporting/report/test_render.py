"""HTML and Markdown: users' words stay text, and a page loads nothing."""

import re
import shutil
from pathlib import Path

from markdown_it import MarkdownIt

from labeltune.reporting.report.render import answers, html, markdown, size
from labeltune.reporting.report.results import RunResults
from labeltune.runtime.markdown import code, escape
from tests.findings import PICTURES, png
from tests.unit.reporting.report.conftest import HOSTILE, Page, compose


def test_a_page_loads_nothing(evidence: RunResults) -> None:
    text = html(compose(evidence))
    page = Page(text)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert not {"script", "iframe", "object", "embed", "base", "form", "video", "audio"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "srcset", "href", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"@import|url\(", text)
    assert sum(tag == "img" for tag, _ in page.tags) == len(PICTURES)
    assert all(attributes["alt"] and attributes["width"] for tag, attributes in page.tags if tag == "img")


def test_a_table_has_its_caption_and_note_a_picture_its_reading_and_other_paragraphs_are_none(
    evidence: RunResults,
) -> None:
    page = html(compose(evidence))
    figures = re.findall(r'<figure class="table">.*?</figure>', page, flags=re.DOTALL)
    captions = [re.findall(r"<figcaption>\s*<strong>(.*?)</strong>\s*</figcaption>", figure) for figure in figures]
    assert all(len(caption) == 1 for caption in captions)
    assert ["Overall"] in captions
    assert ["All models on the same test rows"] in captions
    (overall,) = (figure for figure, caption in zip(figures, captions, strict=True) if caption == ["Overall"])
    assert re.search(r'<p class="note">\s*Intervals: exact', overall)
    assert '<th scope="row">Accuracy</th>' in re.sub(r">\s+", ">", overall)
    assert '<th class="number" scope="col">value</th>' in re.sub(r">\s+", ">", overall)
    cards = re.findall(
        r"<figure[^>]*>\s*<div class=\"card\">\s*<img [^>]*>\s*</div>\s*<figcaption>(.*?)</fig", page, re.S
    )
    assert len(cards) == len(PICTURES)
    assert "errors: " in cards[0]
    assert page.count("<table>") == page.count('<div class="scroll"') == len(figures) + 3  # without a caption: facts
    assert re.search(r"<p>\s*The versions and the system are those", page)


def test_a_wide_picture_has_a_row_for_itself(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "plots/robustness.png").write_bytes(png(1200, 600))
    page = html(compose(RunResults.read(tmp_path)))
    (wide,) = re.findall(r'<figure class="wide">.*?alt="(.*?)"', page, flags=re.DOTALL)
    assert wide == "Accuracy after each perturbation"


def test_a_figure_in_a_cell_has_its_interval_in_small_print(evidence: RunResults) -> None:
    page = html(compose(evidence))
    low, high = (100 * evidence.metrics["intervals"]["accuracy"][end] for end in ("low", "high"))
    assert "<small>" in page
    assert re.search(r'<td class="number">\s*[\d.]+% <small>[\d.]+ to [\d.]+</small>\s*</td>', page)
    assert f"{low:.1f}% to {high:.1f}%" in page


def test_users_words_are_text_on_the_page(hostile: RunResults) -> None:
    calm = {tag for tag, _ in Page(html(compose(hostile))).tags}
    assert not {"script", "b", "i"} & calm
    page = Page(html(compose(hostile, mistakes=60)))
    assert all((a["src"] or "").startswith("data:") for tag, a in page.tags if tag == "img")
    for text in ("<script>document.title='run'</script>", "onerror=alert(1)>", "**bold** $x$ &lt; &#60; \\"):
        assert text in page.text
    assert ("span", {"class": "point"}) in page.tags
    for point in ("U+202E", "U+202C", "U+001B", "U+0000", "U+200B"):
        assert point in page.text


def test_users_words_are_text_in_markdown(hostile: RunResults) -> None:
    text = markdown(compose(hostile, mistakes=60))
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    found: dict[str, list[str]] = {}
    for token in reader.parse(text):
        for part in [token, *(token.children or [])]:
            found.setdefault(part.type, []).append(part.content or str(part.attrs.get("src", "")))
    assert "link_open" not in found
    assert "html_inline" not in found
    assert all(re.fullmatch(r"</?details>(<summary>.*</summary>)?\n?", markup) for markup in found["html_block"])
    sources = re.findall(r'<img src="([^"]+)"', reader.render(text))
    assert sorted(sources) == sorted(f"{name}.png" for name in PICTURES)
    assert any("<script>" in part for part in found["fence"])
    # A bar in a name parts no cells: every row of every table is as wide as its header.
    for table in re.findall(r"<table>.*?</table>", reader.render(text), flags=re.DOTALL):
        widths = {len(re.findall(r"<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", table, flags=re.DOTALL)}
        assert len(widths) == 1


def test_nothing_hidden_is_left_in_either_file(hostile: RunResults) -> None:
    document = compose(hostile, mistakes=60)
    for text in (html(document), markdown(document), *(answer for _, answer in answers(document))):
        assert not set("\u202e\u202c\x1b\x00\u200b") & set(text)


def test_markdown_specials_lose_their_meaning() -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for text in (*HOSTILE, "a_b_c *d* ~~e~~ [f]: g", "<!-- x -->", "&copy;", "http://example.com"):
        spoken = re.sub(
            r"<[^>]+>", "", reader.renderInline(escape(text)).replace("&lt;", "\ue000").replace("&gt;", ">")
        )
        tags = set(re.findall(r"<(\w+)", reader.renderInline(escape(text))))
        assert not tags, text
        assert spoken
        assert re.fullmatch(r"(?s)<code>.*</code>", reader.renderInline(code(text)))
        assert reader.renderInline(code(text)).count("<code>") == 1


def test_the_size_of_a_picture_is_read_from_its_header(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(png(900, 600))
    assert size(file, 150) == (576, 384)
