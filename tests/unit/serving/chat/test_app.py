"""The fence: a page without anything from elsewhere, and only the page's own requests."""

import asyncio
import base64
import hashlib
import re
from typing import Any

import pytest

from labeltune.serving.chat.app import LARGEST, SecurityMiddleware, secured

PAGE = """<!doctype html><html><head>
<link rel="preconnect" href="https://fonts.example.com" />
<link
  href="https://fonts.example.com/css" rel="stylesheet"
/>
<meta property="og:image" content="https://example.com/a.png">
<link rel="icon" href="/favicon" />
<script>window.theme = {"light": {}};</script>
<script type="module" src="/assets/index.js"></script>
</head><body></body></html>"""


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Say what came through."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def ask(method: str, path: str, *, root: str = "", hosts: Any = None, kind: str = "http", **headers: str) -> list[Any]:
    """The messages that answer a request."""
    given = {"host": "127.0.0.1:8001"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope: dict[str, Any] = {"type": kind, "path": root + path, "root_path": root}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]
    if kind == "http":
        scope["method"] = method
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(SecurityMiddleware(application, PAGE, hosts)(scope, receive, send))
    return sent


def status(*given: Any, **named: Any) -> int:
    return int(ask(*given, **named)[0]["status"])


def test_the_page_has_nothing_from_elsewhere_and_runs_its_own_scripts_only() -> None:
    page, policy = secured(PAGE)
    assert b"http" not in page.replace(b"<!doctype html>", b"")
    assert re.findall(rb'(?:href|src)="([^"]+)"', page) == [b"/favicon", b"/assets/index.js"]
    digest = base64.b64encode(hashlib.sha256(b'window.theme = {"light": {}};').digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "img-src 'self' data:" in policy
    assert "unsafe-eval" not in policy


@pytest.mark.parametrize("root", ["", "/chat"])
def test_what_the_page_needs_goes_through_with_the_policy(root: str) -> None:
    for method, path in (
        ("GET", "/"), ("HEAD", "/"), ("GET", "/assets/index.js"), ("GET", "/project/settings"), ("GET", "/favicon"),
        ("GET", "/ws/socket.io/"), ("POST", "/ws/socket.io/"), ("POST", "/project/file"), ("POST", "/project/action"),
    ):  # fmt: skip
        start = ask(method, path, root=root, content_length="10")[0]
        assert start["status"] == 200, (method, path)
        headers = dict(start["headers"])
        assert b"default-src 'none'" in headers[b"content-security-policy"]
        assert headers[b"x-content-type-options"] == b"nosniff"


def test_the_rest_is_shut() -> None:
    for method, path in (
        ("POST", "/mcp"), ("PUT", "/project/element"), ("GET", "/project/thread/1"), ("POST", "/login"),
        ("GET", "/copilot/index.js"), ("GET", "/project/file"), ("GET", "/project/file/"), ("GET", "/any"),
        ("DELETE", "/project/file"), ("OPTIONS", "/project/action"), ("POST", "/"), ("GET", "/auth/oauth/x"),
        ("GET", "/project/file/../x"), ("GET", "/avatars/a/b"),
    ):  # fmt: skip
        assert status(method, path, content_length="10") == 404, (method, path)


def test_a_file_is_saved_and_never_shown() -> None:
    assert dict(ask("GET", "/project/file/1")[0]["headers"])[b"content-disposition"] == b"attachment"
    assert b"content-disposition" not in dict(ask("GET", "/assets/index.js")[0]["headers"])


def test_only_its_own_page_may_speak() -> None:
    own, foreign = "http://127.0.0.1:8001", "http://127.0.0.1:8002"
    assert status("POST", "/project/action", content_length="1", origin=own) == 200
    for origin in (foreign, "http://example.com", "null"):
        assert status("POST", "/project/action", content_length="1", origin=origin) == 403
        assert ask("GET", "/ws/socket.io/", kind="websocket", origin=origin)[0]["type"] == "websocket.close"
    assert ask("GET", "/ws/socket.io/", kind="websocket", origin=own)[0]["type"] != "websocket.close"
    assert ask("GET", "/elsewhere", kind="websocket", origin=own)[0]["type"] == "websocket.close"


def test_under_another_name_nothing_is_answered() -> None:
    hosts = {"localhost", "127.0.0.1", "::1"}
    for host in ("localhost:8001", "127.0.0.1", "[::1]:8001", "LOCALHOST"):
        assert status("GET", "/", hosts=hosts, host=host) == 200
    for host in ("example.com", "127.0.0.1.example.com", ""):
        assert status("GET", "/", hosts=hosts, host=host) == 400
    assert status("GET", "/", host="example.com") == 200


def test_a_request_that_is_too_large_or_does_not_say_is_refused() -> None:
    assert status("POST", "/project/file", content_length=str(LARGEST)) == 200
    assert status("POST", "/project/file", content_length=str(LARGEST + 1)) == 413
    assert status("POST", "/project/file") == 413
