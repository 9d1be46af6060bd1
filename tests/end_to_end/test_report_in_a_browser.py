"""The report in headless Chromium, driven over its debugging pipe."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from labeltune.config.evaluation import Report
from labeltune.reporting.report import build
from labeltune.reporting.report.results import RunResults
from tests.findings import PICTURES, rows_and_logits, write_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]
# The browser reads commands from file descriptor 3 and writes to 4.
STARTER = """
import os, sys
reading, writing = (os.dup(int(end)) for end in sys.argv[1:3])
for target, end in ((3, reading), (4, writing)):
    os.dup2(end, target)
    os.set_inheritable(target, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "--hide-scrollbars",
)  # fmt: skip
HOSTILE = (
    "<script>console.error('run'); document.title = 'run'</script><img src=http://127.0.0.1:9/a.png onerror=alert(1)>",
    "<style>@import url(http://127.0.0.1:9/b.css)</style><link rel=stylesheet href=http://127.0.0.1:9/c.css>",
    "</p></blockquote><iframe src=http://127.0.0.1:9></iframe> abc\u202efdp.exe " + "W" * 900,
    "![x](http://127.0.0.1:9/d.png) 房间很干净 " + "e\u0301\u0323" * 50,
)


class Browser:
    """One page of a browser, and everything that it reports."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO) -> None:
        self.commands = commands
        self.answers = answers
        self.events: list[dict[str, Any]] = []
        self.last = 0
        self.session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.last += 1
        message: dict[str, Any] = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.last:
            self.events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def read(self) -> dict[str, Any]:
        """The next message."""
        content = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser ended"
            content += byte
        return dict(json.loads(content))

    def open(self, file: Path) -> None:
        """Go to a file and wait until all of it is loaded."""
        self.events.clear()
        self.ask("Page.navigate", url=file.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def evaluate(self, script: str) -> Any:
        """The value of a script in the page."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def seen(self, *methods: str) -> list[dict[str, Any]]:
        """What was reported of these kinds."""
        return [event["params"] for event in self.events if event["method"] in methods]


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """Start a browser, and end it."""
    assert BROWSER is not None
    reading, commands = os.pipe()
    answers, writing = os.pipe()
    command = [sys.executable, "-c", STARTER, str(reading), str(writing), BROWSER, f"--user-data-dir={profile}", *FLAGS]
    with (profile.parent / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(reading, writing), stdout=log, stderr=log)
    os.close(reading)
    os.close(writing)
    with os.fdopen(commands, "wb", buffering=0) as sink, os.fdopen(answers, "rb") as source, process:
        try:
            browser = Browser(sink, source)
            yield browser
            browser.session = None
            browser.ask("Browser.close")
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser") / "profile") as started:
        yield started


@pytest.fixture(scope="module", params=["en", "zh"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    names = ("<b>正面</b>", "负面\u202e" + "w" * 60, "سلبي")
    rows, logits = rows_and_logits(names)
    rows["text"] = [HOSTILE[place % len(HOSTILE)] for place in range(len(rows))]
    write_run(folder, names, rows, -logits)  # nearly every answer is wrong, and so shown
    document = build.compose(RunResults.read(folder), Report(language=request.param, mistakes=60))
    build.save(document, folder / "plots")
    return folder / "plots/report.html"


def test_it_opens_without_an_error_or_a_request(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.seen("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []
    addresses = [sent["request"]["url"] for sent in browser.seen("Network.requestWillBeSent")]
    assert addresses[0] == page.as_uri()
    assert all(address.startswith("data:") for address in addresses[1:]), [a[:80] for a in addresses]
    assert browser.evaluate("document.title").endswith(("evaluation report", "评估报告"))
    assert browser.evaluate("document.scripts.length + document.querySelectorAll('iframe, object, embed').length") == 0
    pictures = browser.evaluate("Array.from(document.images, image => image.complete && image.naturalWidth)")
    assert pictures == [900] * len(PICTURES)


def test_the_browser_would_tell(browser: Browser, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = page.read_text(encoding="utf-8")
    broken.write_text(text.replace("</main>", "<img src=http://127.0.0.1:9/a.png><script>1</script></main>"), "utf-8")
    browser.open(broken)
    assert len(browser.seen("Log.entryAdded", "Runtime.consoleAPICalled")) >= 2  # the policy forbids both
    free = tmp_path / "free.html"
    free.write_text("<img src=http://127.0.0.1:9/a.png><script>console.error(1)</script>", encoding="utf-8")
    browser.open(free)
    assert "http://127.0.0.1:9/a.png" in [e["request"]["url"] for e in browser.seen("Network.requestWillBeSent")]
    assert browser.seen("Runtime.consoleAPICalled")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, page: Path, width: int) -> None:
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(page)
    assert browser.evaluate("window.innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.ask("Emulation.clearDeviceMetricsOverride")


def test_it_follows_the_reader_s_light_or_dark_and_keeps_the_pictures_light(browser: Browser, page: Path) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(page)
        for part in ("body", ".card", ".tiles li"):
            colour = browser.evaluate(f"getComputedStyle(document.querySelector('{part}')).backgroundColor")
            brightness[scheme, part] = sum(int(value) for value in colour[4:-1].split(",")) / 3
    browser.ask("Emulation.setEmulatedMedia", features=[])
    for part in ("body", ".tiles li"):
        assert brightness["light", part] > 230
        assert brightness["dark", part] < 60
    assert brightness["light", ".card"] == brightness["dark", ".card"] == 255


def test_it_prints_black_on_white_with_everything_open(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert not browser.evaluate("document.querySelector('details pre').checkVisibility()")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.ask("Emulation.setEmulatedMedia", media="print", features=dark)
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.evaluate("document.querySelector('details pre').checkVisibility()")
    printed = browser.ask("Page.printToPDF", printBackground=True)["data"]
    browser.ask("Emulation.setEmulatedMedia", media="", features=[])
    assert len(printed) > 20_000


def test_bidirectional_texts_stay_in_their_places(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.evaluate("document.querySelectorAll('.point').length") > 0
    wide = "Array.from(document.querySelectorAll('blockquote')).filter(q => q.scrollWidth > q.clientWidth + 1).length"
    assert browser.evaluate(wide) == 0
