"""Sessions over real sockets: Chainlit is given ids of the server's making only, and files stay with their visitor."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from labeltune.serving.chat.sessions import SessionIds, is_session_id
from tests.conftest import ROOT

pytest.importorskip("chainlit")

SCRIPT = """
import asyncio, http.client, json, uuid
from pathlib import Path
import aiohttp
import socketio
from starlette.applications import Starlette
from labeltune.serving import connections
from labeltune.serving.chat import app as chat, sessions
from tests.unit.serving.chat.test_conversation import Stub

application = Starlette()
chat.mount(application, Stub(), path="/", corrections=Path("kept.jsonl"))
import chainlit.config
from chainlit.server import sio
from chainlit.session import ws_sessions_id

FILES = chainlit.config.FILES_DIRECTORY


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.getheader("set-cookie"), answer.read()
    connection.close()
    return found


def upload(port, tab, cookie):
    body = (b"--x\\r\\nContent-Disposition: form-data; name=file; filename=a.csv\\r\\n"
            b"Content-Type: text/csv\\r\\n\\r\\n"
            b"text\\nwin\\n\\r\\n--x--\\r\\n")
    kind = {"Content-Type": "multipart/form-data; boundary=x", "Cookie": cookie}
    return ask(port, "POST", f"/project/file?session_id={tab}", body, **kind)


def polls(port, tab, cookie):
    # Without a socket, as the page connects where a proxy lets none through.
    path = "/ws/socket.io/?EIO=4&transport=polling"
    status, _, body = ask(port, "GET", path, Cookie=cookie)
    if status != 200:
        return False
    path += "&sid=" + json.loads(body[1:])["sid"]
    opening = "40" + json.dumps({"sessionId": tab, "clientType": "webapp"})
    assert ask(port, "POST", path, opening, Cookie=cookie)[0] == 200
    answer = ask(port, "GET", path, Cookie=cookie)[2].decode()
    assert answer.startswith(("40", "44")), answer
    assert ask(port, "POST", path, "1", Cookie=cookie)[0] == 200
    return answer.startswith("40")


async def connect(port, tab, cookie):
    http = aiohttp.ClientSession(headers={"Cookie": cookie}, cookie_jar=aiohttp.DummyCookieJar())
    client, greeted = socketio.AsyncClient(reconnection=False, http_session=http), asyncio.Event()
    client.on("new_message", lambda message: greeted.set())
    try:
        await client.connect(
            f"http://127.0.0.1:{port}", transports=["websocket"], wait_timeout=30, socketio_path="/ws/socket.io",
            auth={"sessionId": tab, "clientType": "webapp", "threadId": "../x"},
        )
    except socketio.exceptions.ConnectionError:
        await http.close()
        return None
    await client.emit("connection_successful")
    await asyncio.wait_for(greeted.wait(), 30)
    return client


async def leave(client):
    name = client.get_sid("/")
    await client.disconnect()
    await client.eio.http.close()
    while sio.manager.is_connected(name, "/"):
        await asyncio.sleep(0)


async def main():
    server = connections.server(application, connections=50, body_seconds=30, host="127.0.0.1", port=0)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    thread = asyncio.to_thread
    cookies = [(await thread(ask, port, "GET", "/"))[1].split(";")[0] for _ in range(2)]
    assert cookies[0] != cookies[1]
    victim = Path("victim")
    victim.mkdir()
    (victim / "file").touch()
    tab = str(uuid.uuid4())
    for bad in ("", str(victim.resolve()), "../..", "../../x", "..", tab.upper(), tab + "/..", None, 1):
        assert await connect(port, bad, cookies[0]) is None, bad
        assert not await thread(polls, port, bad, cookies[0]), bad
    for cookie in ("", "x=1", cookies[0] + "0", cookies[0].replace("=", "=0", 1)):
        assert await connect(port, tab, cookie) is None, cookie
        assert not await thread(polls, port, tab, cookie), cookie
    assert not ws_sessions_id
    client = await connect(port, tab, cookies[0])
    (name,) = ws_sessions_id
    assert name != tab and sessions.is_session_id(name)
    other = await connect(port, tab, cookies[1])
    assert len(ws_sessions_id) == 2  # the same id of a tab is another visitor's other session
    await leave(other)
    assert await thread(polls, port, str(uuid.uuid4()), cookies[0])

    status, _, body = await thread(upload, port, tab, cookies[0])
    assert status == 200, body
    file = json.loads(body)["id"]
    (stored,) = [path for path in FILES.rglob("*") if path.is_file()]
    assert stored.parent.parent.resolve() == FILES.resolve() and stored.read_bytes() == b"text\\nwin\\n"
    assert (await thread(ask, port, "GET", f"/project/file/{file}?session_id={tab}", Cookie=cookies[0]))[0] == 200
    for given, cookie in ((tab, cookies[1]), (tab, ""), (name, cookies[1]), (name, cookies[0]), (name, "")):
        status = (await thread(ask, port, "GET", f"/project/file/{file}?session_id={given}", Cookie=cookie))[0]
        assert status in (401, 403, 404), (status, given, cookie)
    for bad in (str(victim.resolve()), "..", ""):
        assert (await thread(upload, port, bad, cookies[0]))[0] in (400, 404)
    assert (await thread(upload, port, str(uuid.uuid4()), cookies[0]))[0] == 404

    for event in ("window_message", "edit_message", "chat_settings_change", "audio_start", "fetch_favorites"):
        await client.emit(event, {"x": 1})  # nothing handles them
    await client.call("clear_session")
    await leave(client)
    while name in ws_sessions_id:
        await asyncio.sleep(0)
    assert not stored.exists() and (victim / "file").exists() and FILES.is_dir()

    sessions.SESSIONS = 3
    for _ in range(6):  # pages that were closed make room
        client = await connect(port, str(uuid.uuid4()), cookies[0])
        assert client is not None and len(ws_sessions_id) <= 3
        await leave(client)
    held = [await connect(port, str(uuid.uuid4()), cookies[0]) for _ in range(4)]
    assert [client is not None for client in held] == [True, True, True, False]
    for client in held[:3]:
        await leave(client)
    server.should_exit = True
    await task


asyncio.run(main())
"""


def test_over_real_sockets_only_ids_of_the_servers_making_pass(tmp_path: Path) -> None:
    """In a process of its own: Chainlit's settings are the process's."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_a_session_is_named_by_the_process_the_visitor_and_the_tab() -> None:
    ids, tab = SessionIds(), str(uuid.uuid4())
    names = {SessionIds().session("a", tab), ids.session("a", tab), ids.session("b", tab)}
    names.add(ids.session("a", str(uuid.uuid4())))
    assert len(names) == 4
    assert all(map(is_session_id, names))
    assert ids.session("a", tab) in names
    assert ids.secret.hex() not in repr(ids)
