"""The fence: a page without anything from elsewhere, and only the page's own requests."""

import asyncio
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from labeltune.serving.chat.app import LARGEST, SecurityMiddleware, is_session_id, secured

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


def ask(
    method: str,
    path: str,
    *,
    root: str = "",
    kind: str = "http",
    query: str = "",
    body: bytes = b"{}",
    **headers: str,
) -> list[Any]:
    """The messages that answer a request."""
    given = {"host": "127.0.0.1:8001"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope: dict[str, Any] = {"type": kind, "path": root + path, "root_path": root, "query_string": query.encode()}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]
    if kind == "http":
        scope["method"] = method
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(SecurityMiddleware(application, PAGE)(scope, receive, send))
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


def test_a_request_that_is_too_large_or_does_not_say_is_refused() -> None:
    assert status("POST", "/project/file", content_length=str(LARGEST)) == 200
    assert status("POST", "/project/file", content_length=str(LARGEST + 1)) == 413
    assert status("POST", "/project/file") == 413


OWN_ID = "3f2b8c1e-5d4a-4e6f-9a7b-0c1d2e3f4a5b"
FOREIGN_IDS = [
    "", ".", "..", "../..", "/etc", "a/b", OWN_ID.upper(), f"{OWN_ID}/..", f"../{OWN_ID}", f"{OWN_ID}\n", "%2e%2e",
]  # fmt: skip


def test_only_ids_that_the_page_makes_pass_in_queries_and_bodies() -> None:
    assert is_session_id(OWN_ID)
    assert status("POST", "/project/file", content_length="9", query=f"session_id={OWN_ID}") == 200
    assert status("GET", "/project/file/1", query=f"session_id={OWN_ID}") == 200
    for path, name in (("/project/action", "sessionId"), ("/set-session-cookie", "session_id")):
        assert status("POST", path, content_length="9", body=json.dumps({name: OWN_ID}).encode()) == 200
        for value in [*FOREIGN_IDS, None, 1, [OWN_ID]]:
            assert status("POST", path, content_length="9", body=json.dumps({name: value}).encode()) == 400, value
        for body in (b"", b"[]", b"{", b"\xff", b"[" * 50_000):
            assert status("POST", path, content_length="9", body=body) == 400
    for value in FOREIGN_IDS[1:]:
        query = urlencode({"session_id": value})
        for given in (query, f"session_id={OWN_ID}&{query}", f"{query}&session_id={OWN_ID}"):
            assert status("POST", "/project/file", content_length="9", query=given) == 400, value
            assert status("GET", "/project/file/1", query=given) == 400, value


def test_a_size_that_is_no_number_is_refused() -> None:
    for length in ("", "-1", "x", "1e3", "+1", "\u00b2", "9" * 5000):
        assert status("POST", "/project/file", content_length=length) == 413


def test_a_socket_connects_under_the_pages_ids_only_and_its_files_lie_in_a_folder_of_our_naming(tmp_path: Path) -> None:
    """In a process of its own: Chainlit's settings are the process's."""
    script = f"""
import asyncio, types
from pathlib import Path
import chainlit.config, chainlit.session
from chainlit.server import sio
from labeltune.serving.chat.app import guard_sessions
import chainlit.socket
seen = []
async def inner(sid, environ, auth):
    seen.append(auth["sessionId"])
sio.on("connect", inner)
guard_sessions()
connect = sio.handlers["/"]["connect"]
for value in {[*FOREIGN_IDS, None, 1, [OWN_ID]]!r}:
    try:
        asyncio.run(connect("1", {{}}, {{"sessionId": value}}))
    except ConnectionRefusedError:
        continue
    raise SystemExit(f"{{value!r}} passed")
for auth in (None, "x", [], {{}}):
    try:
        asyncio.run(connect("1", {{}}, auth))
    except ConnectionRefusedError:
        continue
    raise SystemExit(f"{{auth!r}} passed")
asyncio.run(connect("1", {{}}, {{"sessionId": {OWN_ID!r}}}))
assert seen == [{OWN_ID!r}]
root = chainlit.config.FILES_DIRECTORY
for value in {[*FOREIGN_IDS, OWN_ID]!r}:
    session = chainlit.session.HTTPSession(id=value, client_type="webapp")
    assert session.files_dir.resolve().parent == root.resolve() and session.files_dir.resolve() != root.resolve()
victim = Path("victim")
victim.mkdir()
asyncio.run(chainlit.session.HTTPSession(id=str(victim.resolve()), client_type="webapp").delete())
assert victim.is_dir()
"""
    home = {"CHAINLIT_APP_ROOT": str(tmp_path), "CHAINLIT_ENV_FILE": os.devnull}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | home, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
