"""HTML and Markdown: users' words stay text, and a page loads nothing."""

import re
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
