"""The fence around the chat's page: what a browser may load and send there, and from where."""

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST = 24_000_000
"""Most bytes of a request: a file of the largest size that is taken, and what wraps it."""
SOCKET = "/ws/socket.io"
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


def enclosed(page: str) -> tuple[bytes, str]:
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


class Fence:
    """An ASGI application around Chainlit's that serves the page itself and lets through what the page needs."""

    def __init__(self, app: App, page: str, hosts: Collection[str] | None = None) -> None:
        """Take the page's HTML; `hosts` are the names under which it may be asked for, None takes any."""
        self.app = app
        self.page, self.policy = enclosed(page)
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or connection."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        kind = scope["type"]
        refusal = self._refusal(kind, scope.get("method", "GET"), path, headers)
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
        if self.hosts is not None and urlsplit(f"//{host}").hostname not in self.hosts:
            return 400, f"ask for this chat as one of {', '.join(sorted(self.hosts))}"
        # A page of somebody else's must not speak for the reader, to sockets above all, which browsers don't hinder.
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "this chat answers its own page only"
        if not (path.startswith(SOCKET) or (kind == "http" and _needed(method, path))):
            return 404, "nothing is here"
        if method == "POST" and not 0 <= int(headers.get("content-length", -1)) <= LARGEST:
            return 413, f"at most {LARGEST // 1_000_000} MB are taken"
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


def _needed(method: str, path: str) -> bool:
    if path == "/":
        return method in ("GET", "HEAD")
    return method in PATHS and PATHS[method].fullmatch(path) is not None
