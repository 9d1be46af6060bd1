"""The chat: Chainlit's page around a classifier, by itself or inside a server."""

import contextlib
import errno
import importlib.util
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labeltune import terminal
from labeltune.corrections import KEPT
from labeltune.errors import UserError
from labeltune.fence import LARGEST, Fence
from labeltune.predict import Classifier
from labeltune.replies import Replies
from labeltune.talk import Talk

if TYPE_CHECKING:
    from starlette.applications import Starlette

FILES = Path(__file__).with_name("chat_page")
TRANSLATIONS = {"en": "en-US", "zh": "zh-CN"}
"""Chainlit's names of the languages."""
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine: under another one a page that a browser was lured to could speak to the chat."""


def run(folder: Path, *, host: str, port: int, language: str, corrections: Path) -> None:
    """Serve the chat until it is stopped.

    Raises:
        UserError: Chainlit is not installed, the artefact can't be used, or the address is not to be had.
    """
    import uvicorn
    from starlette.applications import Starlette

    _require_chainlit()
    with _listening(host, port) as listener:
        classifier = Classifier.load(folder)
        app = Starlette()
        hosts = LOCAL | {host} if host in LOCAL else None
        talk = mount(app, classifier, path="/", language=language, corrections=corrections, hosts=hosts)
        address = f"[{host}]" if ":" in host else host
        terminal.say(
            f"{folder} chats at http://{address}:{listener.getsockname()[1]}/ and keeps corrections in {corrections}; "
            "Ctrl-C ends it"
        )
        settings = uvicorn.Config(app, log_level="warning", ws_max_size=LARGEST, timeout_graceful_shutdown=3)
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again once everything is closed
            uvicorn.Server(settings).run(sockets=[listener])
    count = len(talk.corrections)
    terminal.say(f"kept {count:,} corrections in {corrections}" if count else "ended; nothing was corrected")


def mount(
    app: "Starlette",
    classifier: Classifier,
    *,
    path: str = "/chat",
    language: str = "en",
    corrections: Path = KEPT,
    hosts: Collection[str] | None = None,
) -> Talk:
    """Put the chat into a Starlette or FastAPI application, once in a process: Chainlit's settings are the process's.

    Chainlit's own `mount_chainlit` is not used: it takes a script's path, through which no classifier can be handed
    over, and serves Chainlit's whole interface, with links and requests to other origins.

    Args:
        path: where the page is, "/" for all of the application.
        hosts: names under which the page may be asked for; None takes any.
    """
    _require_chainlit()
    if "chainlit.config" in sys.modules:
        raise RuntimeError("Chainlit is in this process already: mount one chat, and import Chainlit nowhere else")
    base = path.rstrip("/")
    folder = tempfile.TemporaryDirectory(prefix="labeltune-chat-")
    replies = Replies.of(classifier.record, language)
    settings = _furnished(Path(folder.name), base, language, replies)
    import chainlit
    from chainlit import server

    talk = Talk(classifier=classifier, replies=replies, kept=corrections, folder=Path(folder.name))
    chainlit.on_chat_start(talk.greet)
    chainlit.on_message(talk.read)
    chainlit.action_callback("example")(talk.example)
    chainlit.action_callback("correct")(talk.correct)
    settings.code.data_layer = lambda: None  # nothing is stored, whatever keys of other services are set
    server.sio.eio.max_http_buffer_size = LARGEST
    app.mount(base or "/", Fence(server.app, server.get_html_template(base), hosts))

    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: Any) -> AsyncIterator[Any]:
        with folder:
            async with inner(started) as state:
                yield state

    app.router.lifespan_context = lifespan
    return talk


def _require_chainlit() -> None:
    if importlib.util.find_spec("chainlit") is None:
        raise UserError("the chat needs Chainlit: pip install 'labeltune[chat]'")


def _listening(host: str, port: int) -> socket.socket:
    """A socket on the address; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        why = "is taken; choose another --port" if error.errno == errno.EADDRINUSE else f"is not to be had: {error}"
        raise UserError(f"{host}:{port} {why}") from None


def _furnished(folder: Path, base: str, language: str, replies: Replies) -> Any:
    """Lay out a folder for Chainlit instead of the user's, import it there, and return its settings.

    Chainlit reads its folder and the environment as it is imported, and writes into the folder.
    """
    settings_folder, public = folder / ".chainlit", folder / "public"
    settings_folder.mkdir()
    public.mkdir()
    shutil.copyfile(FILES / "config.toml", settings_folder / "config.toml")
    for name in ("chat.css", "theme.js", "theme.json"):
        shutil.copyfile(FILES / name, public / name)
    for name in ("favicon.svg", "logo_light.svg", "logo_dark.svg"):
        shutil.copyfile(FILES / "mark.svg", public / name)
    (folder / f"chainlit_{TRANSLATIONS[language]}.md").touch()
    os.environ |= {
        "CHAINLIT_APP_ROOT": str(folder),
        "CHAINLIT_ENV_FILE": os.devnull,
        "CHAINLIT_ROOT_PATH": base,
        "TRACELOOP_TELEMETRY": "false",
    }
    logging.getLogger("chainlit").setLevel(logging.ERROR)
    from chainlit.config import config

    words = settings_folder / "translations" / f"{TRANSLATIONS[language]}.json"
    texts = json.loads(words.read_text(encoding="utf-8"))
    texts["chat"]["input"]["placeholder"] = replies.wording.text("page.placeholder")
    texts["chat"]["watermark"] = replies.wording.text("page.watermark")
    words.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    config.ui.language = TRANSLATIONS[language]
    return config
