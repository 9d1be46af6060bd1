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
from urllib.parse import parse_qsl, urlencode, urlsplit

from labeltune.console import terminal
from labeltune.inference.classifier import Classifier
from labeltune.runtime.errors import UserError
from labeltune.serving.chat.conversation import Conversation
from labeltune.serving.chat.messages import KEPT, Messages
from labeltune.serving.chat.sessions import (
    VISITOR,
    FileRoom,
    SessionIds,
    guard_sessions,
    is_session_id,
    stored_files,
)
from labeltune.serving.hosts import restrict_hosts

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST = 24_000_000
"""Most bytes of a request: a file of the largest size that is taken, and what wraps it."""
LARGEST_MESSAGE = 4_000_000
"""Most bytes of a message on a socket: the longest text that is taken, or that is refused in words."""
LARGEST_JSON = 64_000
"""Most bytes of a button's request."""
CONNECTIONS = 512
"""Most connections at a time: a page has one, and up to six more while it loads."""
UPLOAD_SECONDS = 120.0
"""Time for a file to arrive."""
SOCKET = "/ws/socket.io"
UPLOAD = "/project/file"
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

    def __init__(self, app: App, page: str, ids: SessionIds, files: FileRoom) -> None:
        """Take the page's HTML, what issues the ids of sessions, and what bounds their files."""
        self.app, self.ids, self.files = app, ids, files
        self.page, self.policy = secured(page)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or connection."""
        root = scope.get("root_path", "")
        path = scope["path"].removeprefix(root) or "/"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        kind, port = scope["type"], (scope.get("server") or ("", 0))[1]
        visitor = self.ids.visitor(headers.get("cookie", ""), port)
        refusal = self._refusal(kind, scope.get("method", "GET"), path, headers, visitor)
        if refusal is None:
            own = self._own_ids(parse_qsl(scope.get("query_string", b"").decode("latin-1"), True), visitor)
            refusal = FOREIGN_ID if own is None else None
            query = dict(own or ())
            scope = {**scope, VISITOR: visitor, "query_string": urlencode(own or ()).encode()}
        if refusal is None and scope.get("method") == "POST" and path in JSON_PATHS:
            own_body = self._own_body(await _body(receive), visitor)
            if own_body is None:
                refusal = 400, f"the body is a JSON object; {FOREIGN_ID[1]}"
            else:
                receive = _replayed(own_body, receive)
                lengths = [(b"content-length", str(len(own_body)).encode())]
                scope["headers"] = [*(pair for pair in scope["headers"] if pair[0] != b"content-length"), *lengths]
        if kind == "websocket":
            await (send({"type": "websocket.close", "code": 1008}) if refusal else self.app(scope, receive, send))
        elif refusal:
            await self._refuse(send, *refusal)
        elif path == "/":
            secure = "; Secure" if scope.get("scheme") == "https" else ""
            cookie = f"{self.ids.cookie(port)}; Path={root or '/'}{secure}"
            extra = [] if visitor else [(b"set-cookie", cookie.encode())]
            page = b"" if scope["method"] == "HEAD" else self.page
            await self._reply(send, 200, page, "text/html; charset=utf-8", extra)
        elif path == UPLOAD:
            await self._upload(scope, receive, send, query.get("session_id", ""), int(headers["content-length"]))
        else:
            await self.app(scope, receive, self._guarded(send, attached=path.startswith(FILE)))

    async def _upload(self, scope: Scope, receive: Receive, send: Send, session: str, size: int) -> None:
        """Take a file if its session has room for it."""
        if session not in self.files.stored():
            await self._refuse(send, 404, "there is no such session; load the page again")
        elif not self.files.admits(session, size):
            await self._refuse(send, 413, "this chat holds as many files as it may; open a new conversation, or wait")
        else:
            self.files.arriving[session] += size
            try:
                await self.app(scope, receive, self._guarded(send, attached=False))
            finally:
                self.files.arriving[session] -= size
                if not self.files.arriving[session]:
                    del self.files.arriving[session]

    def _own_ids(self, fields: Iterable[tuple[str, Any]], visitor: str | None) -> list[tuple[str, Any]] | None:
        """Replace each id of a tab by its session's; None where one is not the page's, or comes without its cookie."""
        own = []
        for name, value in fields:
            if name in ID_FIELDS:
                if visitor is None or not is_session_id(value):
                    return None
                value = self.ids.session(visitor, value)
            own.append((name, value))
        return own

    def _own_body(self, body: bytes, visitor: str | None) -> bytes | None:
        """Do so in a JSON object."""
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            return None
        own = self._own_ids(given.items(), visitor) if isinstance(given, dict) else None
        return None if own is None else json.dumps(dict(own)).encode()

    def _refusal(
        self, kind: str, method: str, path: str, headers: dict[str, str], visitor: str | None
    ) -> tuple[int, str] | None:
        """Say why a request is not for this page: status and words; None where it is."""
        host, origin = headers.get("host", ""), headers.get("origin")
        # A page of somebody else's must not speak for the reader, to sockets above all, which browsers don't hinder.
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "this chat answers its own page only"
        if not (path.startswith(SOCKET) or (kind == "http" and _needed(method, path))):
            return 404, "nothing is here"
        if visitor is None and (method == "POST" or path.startswith((SOCKET, FILE))):
            return 403, "this needs the cookie that came with the page; load the page again"
        if method == "POST":
            most, length = LARGEST_JSON if path in JSON_PATHS else LARGEST, headers.get("content-length", "")
            if not (length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= most):
                return 413, f"a request that states its size, of at most {most:,} bytes, is taken"
        return None

    def _extra(self) -> list[tuple[bytes, bytes]]:
        given = HEADERS | {"content-security-policy": self.policy}
        return [(name.encode(), value.encode()) for name, value in given.items()]

    async def _refuse(self, send: Send, status: int, why: str) -> None:
        await self._reply(send, status, json.dumps({"detail": why}).encode(), "application/json")

    async def _reply(
        self, send: Send, status: int, body: bytes, kind: str, extra: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": [*headers, *self._extra(), *extra]})
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
ID_FIELDS = ("session_id", "sessionId")
FOREIGN_ID = (
    400,
    "a session's id is a random UUID in lower case, as the page makes it, and comes with its cookie",
)


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
    import torch
    from starlette.applications import Starlette

    from labeltune.modeling.device import choose_threads
    from labeltune.serving import connections

    _require_chainlit()
    with _listening(host, port) as listener:
        torch.set_num_threads(choose_threads("auto"))
        classifier = Classifier.load(folder)
        app = Starlette()
        talk = mount(app, classifier, path="/", language=language, corrections=corrections)
        restrict_hosts(app, host)
        address = f"[{host}]" if ":" in host else host
        terminal.say(
            f"{folder} chats at http://{address}:{listener.getsockname()[1]}/ and keeps corrections in {corrections}; "
            "Ctrl-C ends it"
        )
        server = connections.server(
            app,
            connections=CONNECTIONS,
            body_seconds=UPLOAD_SECONDS,
            ws_max_size=LARGEST_MESSAGE,
            timeout_graceful_shutdown=3,
        )
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again once everything is closed
            server.run(sockets=[listener])
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

    ids, files = SessionIds(), FileRoom(stored_files)
    talk = Conversation(
        classifier=classifier, replies=replies, kept=corrections, folder=Path(folder.name), has_room=files.admits
    )
    chainlit.on_chat_start(talk.greet)
    chainlit.on_message(talk.read)
    chainlit.action_callback("example")(talk.example)
    chainlit.action_callback("correct")(talk.correct)
    settings.code.data_layer = lambda: None  # nothing is stored, whatever keys of other services are set
    server.sio.eio.max_http_buffer_size = LARGEST_MESSAGE
    guard_sessions(ids)
    app.mount(base or "/", SecurityMiddleware(server.app, server.get_html_template(base), ids, files))

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
    texts["chat"]["input"]["placeholder"] = replies.say("page.placeholder")
    texts["chat"]["watermark"] = replies.say("page.watermark")
    words.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    config.ui.language = TRANSLATIONS[language]
    return config
