"""The chat application: Chainlit's page around a classifier, and the security middleware around it."""

import base64
import contextlib
import errno
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from labeltune.console import terminal
from labeltune.inference.classifier import Classifier
from labeltune.runtime.errors import UserError
from labeltune.serving.chat.conversation import Conversation
from labeltune.serving.chat.messages import KEPT, Messages
from labeltune.serving.hosts import restrict_hosts

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST = 24_000_000
"""Most bytes of a request: a file of the largest size that is taken, and what wraps it."""
LARGEST_JSON = 64_000
"""Most bytes of a button's request."""
SOCKET = "/ws/socket.io"
SESSION_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""Ids as the page makes them: random UUIDs (RFC 9562, version 4) in lower case, which name no path."""
FILE = "/project/file/"
PATHS = {
    "GET": re.compile(
        r"/(?:(?:assets|public)/.+|(?:avatars|project/file)/[^/]+|project/(?:translations|settings)"
        r"|auth/config|user|favicon|logo)"
    ),
    "POST": re.compile(r"/(?:project/(?:action|file)|set-session-cookie)"),
}
"""What the page needs of Chainlit, by method; the rest, say connecting to other servers, is shut."""
OUTSIDE = re.compile(r"<(?:link|meta)\b[^>]*\bhttps?://[^>]*>", re.IGNORECASE)
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def secured(page: str) -> tuple[bytes, str]:
    """A page without a link to anywhere else, and the Content-Security-Policy that holds it to its own origin.

    Of scripts written into the page only these very ones may run.
    """
    page = OUTSIDE.sub("", page)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in SCRIPT.findall(page)]
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)]),
        "style-src": "'self' 'unsafe-inline'",  # the page's components write their own
        "img-src": "'self' data:",
        "font-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return page.encode(), "; ".join(f"{name} {value}" for name, value in policy.items())


class SecurityMiddleware:
    """An ASGI application around Chainlit's that serves the page itself and lets through what the page needs."""

    def __init__(self, app: App, page: str) -> None:
        """Take the page's HTML."""
        self.app = app
        self.page, self.policy = secured(page)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or connection."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        kind = scope["type"]
        refusal = self._refusal(kind, scope.get("method", "GET"), path, headers)
        if refusal is None and not _known_ids(parse_qsl(scope.get("query_string", b"").decode("latin-1"))):
            refusal = FOREIGN_ID
        if refusal is None and scope.get("method") == "POST" and path in JSON_PATHS:
            body = await _body(receive)
            receive = _replayed(body, receive)
            try:
                given = json.loads(body)
            except (ValueError, RecursionError):
                refusal = 400, "the body is not JSON"
            else:
                if not isinstance(given, dict) or not _known_ids(given.items()):
                    refusal = FOREIGN_ID
        if kind == "websocket":
            await (send({"type": "websocket.close", "code": 1008}) if refusal else self.app(scope, receive, send))
        elif refusal:
            status, why = refusal
            body = json.dumps({"detail": why}).encode()
            await self._reply(send, status, body, "application/json")
        elif path == "/":
            await self._reply(send, 200, b"" if scope["method"] == "HEAD" else self.page, "text/html; charset=utf-8")
        else:
            await self.app(scope, receive, self._guarded(send, attached=path.startswith(FILE)))

    def _refusal(self, kind: str, method: str, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Why a request is not for this page: status and words."""
        host, origin = headers.get("host", ""), headers.get("origin")
        # A page of somebody else's must not speak for the reader, to sockets above all, which browsers don't hinder.
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "this chat answers its own page only"
        if not (path.startswith(SOCKET) or (kind == "http" and _needed(method, path))):
            return 404, "nothing is here"
        if method == "POST":
            most, length = LARGEST_JSON if path in JSON_PATHS else LARGEST, headers.get("content-length", "")
            if not (length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= most):
                return 413, f"a request that states its size, of at most {most:,} bytes, is taken"
        return None

    def _extra(self) -> list[tuple[bytes, bytes]]:
        given = HEADERS | {"content-security-policy": self.policy}
        return [(name.encode(), value.encode()) for name, value in given.items()]

    async def _reply(self, send: Send, status: int, body: bytes, kind: str) -> None:
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers + self._extra()})
        await send({"type": "http.response.body", "body": body})

    def _guarded(self, send: Send, *, attached: bool) -> Send:
        """Add the headers; an uploaded file is saved, never shown as a page of this origin."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = self._extra() + ([(b"content-disposition", b"attachment")] if attached else [])
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        return guarded


JSON_PATHS = ("/project/action", "/set-session-cookie")
FOREIGN_ID = 400, "a session's id is a random UUID in lower case, as the page makes it"


def _known_ids(fields: Iterable[tuple[str, Any]]) -> bool:
    """Whether each session id among a request's fields has the form of the page's own."""
    return all(is_session_id(value) for name, value in fields if name in ("session_id", "sessionId"))


def is_session_id(value: object) -> bool:
    """Tell whether a value has the form of the ids that the page makes."""
    return isinstance(value, str) and SESSION_ID.fullmatch(value) is not None


async def _body(receive: Receive) -> bytes:
    """Read the body of a request, whose size has been checked: the server takes no more than was announced."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give a body that has been read to the next application, then what else arrives."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _needed(method: str, path: str) -> bool:
    if path == "/":
        return method in ("GET", "HEAD")
    return method in PATHS and PATHS[method].fullmatch(path) is not None


if TYPE_CHECKING:
    from starlette.applications import Starlette

FILES = Path(__file__).with_name("page")
TRANSLATIONS = {"en": "en-US", "zh": "zh-CN"}
"""Chainlit's names of the languages."""


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
        talk = mount(app, classifier, path="/", language=language, corrections=corrections)
        restrict_hosts(app, host)
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
) -> Conversation:
    """Put the chat into a Starlette or FastAPI application, once in a process: Chainlit's settings are the process's.

    Chainlit's own `mount_chainlit` is not used: it takes a script's path, through which no classifier can be handed
    over, and serves Chainlit's whole interface, with links and requests to other origins.

    Args:
        path: where the page is, "/" for all of the application.
    """
    _require_chainlit()
    if "chainlit.config" in sys.modules:
        raise RuntimeError("Chainlit is in this process already: mount one chat, and import Chainlit nowhere else")
    base = path.rstrip("/")
    folder = tempfile.TemporaryDirectory(prefix="labeltune-chat-")
    replies = Messages.of(classifier.record, language)
    settings = _furnished(Path(folder.name), base, language, replies)
    import chainlit
    from chainlit import server

    talk = Conversation(classifier=classifier, replies=replies, kept=corrections, folder=Path(folder.name))
    chainlit.on_chat_start(talk.greet)
    chainlit.on_message(talk.read)
    chainlit.action_callback("example")(talk.example)
    chainlit.action_callback("correct")(talk.correct)
    settings.code.data_layer = lambda: None  # nothing is stored, whatever keys of other services are set
    server.sio.eio.max_http_buffer_size = LARGEST
    guard_sessions()
    app.mount(base or "/", SecurityMiddleware(server.app, server.get_html_template(base)))

    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: Any) -> AsyncIterator[Any]:
        with folder:
            async with inner(started) as state:
                yield state

    app.router.lifespan_context = lifespan
    return talk


def guard_sessions() -> None:
    """Let connections in only under ids of the page's form, and keep a session's files in a folder of our naming.

    Chainlit 2.12.0 joins the client's session id to its folder of files, makes that folder for an upload, and removes
    it when the session ends: `../..` or `/home/user` would be removed.
    """
    import chainlit.config
    import chainlit.session
    import chainlit.socket  # registers the handlers of events
    from chainlit.server import sio

    inner = sio.handlers["/"]["connect"]

    async def connect(sid: str, environ: dict[str, Any], auth: Any = None) -> Any:
        if not isinstance(auth, dict) or not is_session_id(auth.get("sessionId")):
            raise ConnectionRefusedError(FOREIGN_ID[1])
        return await inner(sid, environ, auth)

    sio.on("connect", connect)

    def files_dir(session: Any) -> Path:
        return chainlit.config.FILES_DIRECTORY / hashlib.sha256(str(session.id).encode()).hexdigest()

    chainlit.session.BaseSession.files_dir = property(files_dir)


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


def _furnished(folder: Path, base: str, language: str, replies: Messages) -> Any:
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
