"""The security middleware: a page without anything from elsewhere, and only the page's own requests."""

import asyncio
import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import urlencode

import pytest

from labeltune.serving.chat.app import LARGEST, SecurityMiddleware, secured
from labeltune.serving.chat.sessions import SESSION_BYTES, FileRoom, SessionIds

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


IDS = SessionIds()
COOKIE = IDS.cookie(8001).split(";")[0]
VISITOR = str(IDS.visitor(COOKIE, 8001))
OWN_ID = "3f2b8c1e-5d4a-4e6f-9a7b-0c1d2e3f4a5b"
SESSION = IDS.session(VISITOR, OWN_ID)
STORED = {SESSION: 0}


def ask(
    method: str,
    path: str,
    *,
    root: str = "",
    kind: str = "http",
    query: str = "",
    body: bytes = b"{}",
    app: Any = application,
    ids: SessionIds = IDS,
    files: FileRoom | None = None,
    **headers: str,
) -> list[Any]:
    """The messages that answer a request."""
    given = {"host": "127.0.0.1:8001", "cookie": COOKIE} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    scope: dict[str, Any] = {"type": kind, "path": root + path, "root_path": root, "query_string": query.encode()}
    scope["server"] = ("127.0.0.1", 8001)
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]
    if kind == "http":
        scope["method"] = method
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(SecurityMiddleware(app, PAGE, ids, files or FileRoom(lambda: STORED))(scope, receive, send))
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
        query = f"session_id={OWN_ID}" if path == "/project/file" else ""
        start = ask(method, path, root=root, query=query, content_length="10")[0]
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
    assert status("POST", "/project/file", query=f"session_id={OWN_ID}", content_length=str(LARGEST)) == 200
    assert status("POST", "/project/file", content_length=str(LARGEST + 1)) == 413
    assert status("POST", "/project/file") == 413


FOREIGN_IDS = [
    "", ".", "..", "../..", "/etc", "a/b", OWN_ID.upper(), f"{OWN_ID}/..", f"../{OWN_ID}", f"{OWN_ID}\n", "%2e%2e",
]  # fmt: skip


def test_only_ids_that_the_page_makes_pass_in_queries_and_bodies() -> None:
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


def test_what_names_a_session_needs_the_cookie_of_its_visitor() -> None:
    """A cookie that was made elsewhere, for another process or by hand, is none."""
    visitor, _, signature = COOKIE.partition("=")[2].partition(".")
    own = "labeltune_chat_8001="
    forged = [
        "",
        "x=1",
        f"{own}{visitor}",
        f"{own}{visitor}.{signature[:-1]}0x",
        f"{own}a{visitor}.{signature}",
        f"{own}.",
    ]
    forged += [
        f"labeltune_chat_8002={visitor}.{signature}",
        SessionIds().cookie(8001).split(";")[0],
        f"{own}\u00ff.x",
        f"{own}.",
    ]
    for cookie in forged:
        for method, path in (
            ("POST", "/project/file"), ("POST", "/project/action"), ("POST", "/set-session-cookie"),
            ("GET", "/project/file/1"), ("GET", "/ws/socket.io/"), ("POST", "/ws/socket.io/"),
        ):  # fmt: skip
            assert status(method, path, content_length="2", cookie=cookie) == 403, (cookie, path)
        assert ask("GET", "/ws/socket.io/", kind="websocket", cookie=cookie)[0]["type"] == "websocket.close"
        assert status("GET", "/assets/index.js", query=f"session_id={OWN_ID}", cookie=cookie) == 400


def test_the_page_brings_a_cookie_that_scripts_and_other_sites_do_not_have() -> None:
    def cookies(**given: Any) -> list[bytes]:
        return [value for name, value in ask("GET", "/", **given)[0]["headers"] if name == b"set-cookie"]

    for root, path in (("", b"Path=/"), ("/chat", b"Path=/chat")):
        (cookie,) = cookies(root=root, cookie="")
        assert cookie.split(b"; ")[1:] == [b"HttpOnly", b"SameSite=Lax", path]
        value = cookie.split(b"; ")[0].decode()
        assert IDS.visitor(value, 8001)
        assert cookies(root=root, cookie=f"other=1; {value}") == []  # a second tab is of the same visitor


def test_the_application_is_given_ids_of_the_servers_making_only() -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["query_string"], dict(scope["headers"]).get(b"content-length"), await receive()))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    ask("GET", "/project/file/1", query=f"session_id={OWN_ID}&a=%20b&c=", app=application)
    assert seen.pop()[0] == f"session_id={SESSION}&a=+b&c=".encode()
    body = json.dumps({"sessionId": OWN_ID, "action": {"payload": {"session_id": "kept"}}}).encode()
    ask("POST", "/project/action", body=body, content_length=str(len(body)), app=application)
    _, length, message = seen.pop()
    assert json.loads(message["body"]) == {"sessionId": SESSION, "action": {"payload": {"session_id": "kept"}}}
    assert int(length) == len(message["body"])


def test_files_of_a_session_and_of_all_are_bounded() -> None:
    def upload(stored: dict[str, int], size: int, query: str = f"session_id={OWN_ID}") -> int:
        files = FileRoom(lambda: stored)
        return status("POST", "/project/file", query=query, content_length=str(size), files=files)

    assert upload({SESSION: 0}, LARGEST) == 200
    assert upload({SESSION: SESSION_BYTES - LARGEST}, LARGEST) == 200
    assert upload({SESSION: SESSION_BYTES - LARGEST + 1}, LARGEST) == 413
    assert upload({SESSION: SESSION_BYTES - 9}, 1) == 413  # each file takes memory, however small it is
    others = dict.fromkeys(map(str, range(10)), SESSION_BYTES)
    assert upload({SESSION: 0, **others}, 1) == 413
    assert upload({OWN_ID: 0}, 1) == 404  # before anything is read
    assert upload({SESSION: 0}, 1, query="") == 404


def test_files_that_are_arriving_count() -> None:
    files = FileRoom(lambda: {SESSION: 0})
    statuses: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if len(statuses) < 20 and files.arriving[SESSION] < SESSION_BYTES:
            inner = SecurityMiddleware(application, PAGE, IDS, files)
            await inner({**scope, "query_string": f"session_id={OWN_ID}".encode()}, receive, collect)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def collect(message: Any) -> None:
        statuses.append(message.get("status", 0))

    query = f"session_id={OWN_ID}"
    status("POST", "/project/file", query=query, content_length=str(LARGEST), app=application, files=files)
    assert 413 in statuses
    assert not files.arriving
