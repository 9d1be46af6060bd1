"""Over real sockets: requests that never arrive hold no connection, and lock nobody out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from labeltune.serving import connections

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF_HEADER = b"GET / HTTP/1.1\r\nHo"
HALF_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer when the whole body is there."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def serving(
    monkeypatch: pytest.MonkeyPatch, *, most: int = 20, header: float = 60, body: float = 60
) -> AsyncIterator[Callable[[], Awaitable[Streams]]]:
    """A server on a free port; yield what connects to it."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", header)
    server = connections.server(app, connections=most, body_seconds=body, host="127.0.0.1", port=0, lifespan="off")
    monkeypatch.setattr(server, "capture_signals", contextlib.nullcontext)
    ready = asyncio.Event()
    startup = server.startup

    async def started(*given: Any, **named: Any) -> None:
        await startup(*given, **named)
        ready.set()

    monkeypatch.setattr(server, "startup", started)
    task = asyncio.create_task(server.serve())
    await ready.wait()
    port = server.servers[0].sockets[0].getsockname()[1]
    opened: list[asyncio.StreamWriter] = []

    async def connect() -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        for writer in opened:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in opened), return_exceptions=True)
        server.should_exit = True
        await task


async def ask(streams: Streams, request: bytes = WHOLE) -> bytes:
    reader, writer = streams
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    return head.split(b"\r\n")[0] + b" " + await reader.readexactly(2)


async def closed(streams: Streams) -> bool:
    """Wait until the server closes a connection without an answer."""
    try:
        return await streams[0].read() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", HALF_HEADER, HALF_BODY])
def test_a_request_that_does_not_arrive_is_given_up(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with serving(monkeypatch, header=0.05, body=0.05) as connect:
            streams = await connect()
            streams[1].write(sent)
            assert await closed(streams)
            assert await ask(await connect()) == b"HTTP/1.1 200 OK ok"

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"", HALF_HEADER, HALF_BODY])
def test_unfinished_requests_lock_nobody_out(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with serving(monkeypatch, most=5) as connect:
            first = await connect()
            assert await ask(first) == b"HTTP/1.1 200 OK ok"  # an idle connection makes way as well
            attack = []
            for _ in range(30):
                attack.append(await connect())
                attack[-1][1].write(sent)
                assert await ask(await connect()) == b"HTTP/1.1 200 OK ok"
            assert await closed(attack[0])
            assert await closed(first)

    asyncio.run(run())


def test_a_connection_takes_one_request_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with serving(monkeypatch) as connect:
            streams = await connect()
            post = HALF_BODY + b" body"
            for request in (WHOLE, post, WHOLE, post):
                assert await ask(streams, request) == b"HTTP/1.1 200 OK ok"
            assert await ask(streams, WHOLE + WHOLE) == b"HTTP/1.1 200 OK ok"
            assert await ask(streams, b"") == b"HTTP/1.1 200 OK ok"

    asyncio.run(run())


def test_a_header_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with serving(monkeypatch) as connect:
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * (connections.LARGEST_HEADER + 1))
            assert b"400" in await reader.readline()

    asyncio.run(run())


def test_the_limit_leaves_files_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may open 1,024 files can't accept a 1,025th connection, nor read a file then."""
    asked: list[int] = []
    inner = connections.limited_protocol
    monkeypatch.setattr(
        connections, "limited_protocol", lambda most, **given: asked.append(most) or inner(most, **given)
    )
    for files, expected in ((1024, 768), (256, 256 - connections.SPARE_FILES), (10, 1), (1 << 20, 768)):
        monkeypatch.setattr(connections, "_open_files", lambda files=files: files)
        connections.server(app, connections=768, body_seconds=1)
        assert asked.pop() == expected
