"""The chat as people use it: the command, its page in headless Chromium, and what is left behind."""

import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest

from labeltune.inference import artifact
from labeltune.inference.calibration import Calibration
from labeltune.inference.classifier import Classifier
from labeltune.serving.chat.messages import LONGEST
from tests.conftest import ROOT
from tests.tuning import plan, record

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here"),
    # Importing it would make its folders here.
    pytest.mark.skipif(importlib.util.find_spec("chainlit") is None, reason="no Chainlit here"),
]
HOSTILE = "<b>spam</b> ![x](http://127.0.0.1:9/label.png)"
HOSTILE_TEXTS = (
    "<script>document.title = 'run'</script><img src=http://127.0.0.1:9/a.png onerror=alert(1)>",
    "![x](http://127.0.0.1:9/b.png) [x](javascript:alert(1)) # no *heading*",
)
ELSEWHERE = "http://127.0.0.1:9/"
WAIT = 20_000
"""Milliseconds in which the page has to do what it is asked."""
STARTING = "from labeltune.cli import entry; entry()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Callable[..., Path]) -> Path:
    """A classifier that was never trained, with a label that would be markup."""
    made = plan(tiny_base("bert"), words=("ham", HOSTILE), head="linear", method="full")
    out = tmp_path_factory.mktemp("models") / "classifier"
    given = replace(record(made), examples=["an <i>example</i>"], calibration=Calibration(fitted=True))
    artifact.save(out, made.load(), made.encoder.tokenizer, made.base, given)
    return out


class Chat:
    """The running command and where it runs."""

    def __init__(self, folder: Path, home: Path, *options: str) -> None:
        self.home, self.temporary = home / "work", home / "tmp"
        self.home.mkdir()
        self.temporary.mkdir()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        environment |= {"LITERAL_API_KEY": "none", "DATABASE_URL": f"postgresql://{ELSEWHERE}"}  # neither may matter
        self.process = subprocess.Popen(
            [sys.executable, "-c", STARTING, "chat", str(folder), "--port", "0", *options],
            cwd=self.home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " chats at " in line, line + self.process.stdout.read()
        self.address = line.split(" chats at ")[1].split()[0]

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        """Status and body of one request without a browser."""
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=30)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode()
        connection.close()
        return found

    def stop(self) -> tuple[int, str]:
        """End it as Ctrl-C does: its status and the rest of what it printed."""
        self.process.send_signal(signal.SIGINT)
        printed, _ = self.process.communicate(timeout=60)
        return self.process.returncode, printed

    def close(self) -> None:
        """End it whatever it does, and leave nothing of it."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


class Page:
    """One tab, and everything that it reports."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.asked: list[str] = []
        self.reported: list[str] = []
        tab.on("request", lambda request: self.asked.append(request.url))
        tab.on("websocket", lambda socket: self.asked.append(socket.url))
        tab.on("console", lambda message: self.reported.append(message.text))
        tab.on("pageerror", lambda error: self.reported.append(str(error)))

    def open(self, address: str) -> str:
        """Go there and return the greeting."""
        self.tab.goto(address)
        return self.answer(0)

    def answer(self, number: int) -> str:
        """What the page shows as the chat's answer of that number."""
        shown = self.tab.locator(".ai-message").nth(number)
        shown.wait_for(timeout=WAIT)
        return str(shown.inner_text())

    def send(self, text: str) -> str:
        """Type a message and return the answer."""
        count = int(self.tab.locator(".ai-message").count())
        self.tab.locator("#chat-input").fill(text)
        self.tab.locator("#chat-submit:not([disabled])").click()
        return self.answer(count)


@pytest.fixture(scope="module")
def chat(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    started = Chat(folder, tmp_path_factory.mktemp("home"))
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, chat: Chat) -> Iterator[Page]:
    """The page, which asks nothing of anybody else and reports nothing, whatever is typed."""
    context = browser.new_context()
    context.set_default_timeout(WAIT)
    made = Page(context.new_page())
    yield made
    own = urlsplit(chat.address).netloc
    assert {urlsplit(address).netloc for address in made.asked if not address.startswith(("data:", "blob:"))} == {own}
    assert made.reported == []
    context.close()


def test_it_greets_and_answers(page: Page, chat: Chat, folder: Path) -> None:
    greeting = page.open(chat.address)
    assert HOSTILE in greeting
    assert "7 validation rows" in greeting
    text = "win a free prize"
    answer = Classifier.load(folder).predict([text])[0]
    shown = page.send(text)
    assert shown.startswith(f"{answer.label}, with a confidence of {answer.confidence:.1%}")
    for label, share in answer.probabilities.items():
        assert label in shown
        assert f"{share:.1%}" in shown
    assert page.tab.locator(".ai-message b, .ai-message img[src*='label.png']").count() == 0


def test_what_is_typed_is_text(page: Page, chat: Chat) -> None:
    page.open(chat.address)
    page.tab.get_by_role("button", name="an <i>example</i>").click()
    assert "with a confidence of" in page.answer(1)
    for text in HOSTILE_TEXTS:
        assert "with a confidence of" in page.send(text)
    for text in ("an <i>example</i>", *HOSTILE_TEXTS):
        assert page.tab.locator("pre", has_text=text).count() == 1
    assert page.tab.title() == "labeltune"
    sources = page.tab.locator("img").evaluate_all("images => images.map(image => image.src)")
    assert all(source.startswith(chat.address) for source in sources)
    assert page.tab.locator("a[href^='javascript']").count() == 0


def test_empty_and_long_messages(page: Page, chat: Chat) -> None:
    page.open(chat.address)
    page.tab.locator("#chat-input").fill("  \n ")
    assert page.tab.locator("#chat-submit").is_disabled()
    assert page.send("\u200b") == "That message is empty: type a text to label."
    assert "Only a part was read" in page.send("free prize " * (50_000 // 11))
    assert f"{LONGEST + 1:,} characters" in page.send("x" * (LONGEST + 1))
    assert "with a confidence of" in page.send("and it goes on")


def test_corrections_are_kept(page: Page, chat: Chat, folder: Path) -> None:
    page.open(chat.address)
    predicted = Classifier.load(folder).predict(["lunch?"])[0]
    (other,) = {"ham", HOSTILE} - {predicted.label}
    page.send("lunch?")
    page.tab.get_by_role("button", name=f"Should be {other}").click()
    assert "1 correction so far" in page.answer(2)
    assert page.tab.get_by_role("button", name=f"Should be {other}").count() == 0
    assert "2 corrections so far" in page.send(f"this should be {predicted.label}")
    lines = (chat.home / "data/raw/corrections.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["text"], row["label"]) for row in rows] == [("lunch?", other), ("lunch?", predicted.label)]
    assert all(row["predicted"] == predicted.label for row in rows)
    assert rows[0]["confidence"] == pytest.approx(predicted.confidence, abs=1e-6)


def test_a_file_comes_back_with_the_answers_to_its_conversation_alone(
    page: Page, chat: Chat, folder: Path, tmp_path: Path
) -> None:
    rows = pd.DataFrame({"id": ["007", "b"], "text": ["win, free", "<b>lunch</b>\n?"]})
    rows.to_csv(tmp_path / "some texts.csv", index=False)
    page.open(chat.address)
    page.tab.set_input_files("#upload-button-input", tmp_path / "some texts.csv")
    page.tab.locator("#chat-submit:not([disabled])").click()
    link = page.tab.locator(".ai-message a[download]")
    link.wait_for()
    assert "2 rows answered." in page.answer(1)
    with page.tab.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "some texts-answers.csv"
    download.value.save_as(tmp_path / "answers.csv")
    answers = pd.read_csv(tmp_path / "answers.csv", dtype={"id": str})
    assert answers[["id", "text"]].to_dict("list") == rows.to_dict("list")
    expected = Classifier.load(folder).predict(rows["text"])
    assert answers["label"].tolist() == [answer.label for answer in expected]
    assert answers["confidence"].tolist() == pytest.approx(expected.confidence.tolist(), abs=1e-6)

    name, session = urlsplit(link.get_attribute("href")).path, urlsplit(link.get_attribute("href")).query
    cookie = "; ".join(f"{one['name']}={one['value']}" for one in page.tab.context.cookies())
    assert chat.ask("GET", f"{name}?{session}", Cookie=cookie)[0] == 200
    assert chat.ask("GET", f"{name}?{session}")[0] == 403
    for other in ("", "?session_id=", "?session_id=00000000-0000-4000-8000-000000000000"):
        assert chat.ask("GET", name + other, Cookie=cookie)[0] in (400, 401, 422)
    for escape in ("/project/file/..%2f..%2f..%2fetc%2fpasswd", "/assets/..%2f..%2f..%2fconfig.py", "/public/../.env"):
        assert chat.ask("GET", f"{escape}?{session}")[0] in (400, 404)


def test_what_the_page_does_not_need_is_shut(chat: Chat) -> None:
    assert chat.ask("GET", "/")[0] == 200
    assert chat.ask("POST", "/mcp", b"{}")[0] == 404
    assert chat.ask("GET", "/project/thread/1")[0] == 404
    assert chat.ask("GET", "/", Origin="http://example.com")[0] == 403
    assert chat.ask("GET", "/", Host="example.com")[0] == 400


def test_the_browser_would_tell(browser: Any, chat: Chat) -> None:
    context = browser.new_context()
    page = Page(context.new_page())
    page.open(chat.address)
    page.tab.evaluate(f"document.body.append(Object.assign(new Image(), {{src: '{ELSEWHERE}'}}))")
    page.tab.wait_for_event("console", lambda message: True, timeout=WAIT) if not page.reported else None
    assert "Content Security Policy" in page.reported[0]
    context.close()


def test_it_ends_without_a_trace_but_the_corrections(chat: Chat) -> None:
    assert any(chat.temporary.iterdir())
    status, printed = chat.stop()
    assert status == 0, printed
    assert printed.strip() == "kept 2 corrections in data/raw/corrections.jsonl"
    assert [str(path.relative_to(chat.home)) for path in chat.home.rglob("*") if path.is_file()] == [
        "data/raw/corrections.jsonl"
    ]
    assert list(chat.temporary.iterdir()) == []
