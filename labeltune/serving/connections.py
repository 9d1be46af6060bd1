"""Limits of connections, which uvicorn leaves to a proxy: their number, and the time for a request to arrive."""

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""Time for the header of a request to arrive, and between two requests of a connection."""
LARGEST_HEADER = 64 << 10
"""Most bytes of a header."""
BACKLOG = 128
"""Connections that the system accepts before the server does; asyncio takes as many at a time from it."""
SPARE_FILES = BACKLOG + 64
"""Open files that are left for everything but connections, and for those that are accepted and not yet counted."""


def limited_protocol(connections: int, *, header_seconds: float, body_seconds: float) -> type[H11Protocol]:
    """Make uvicorn's HTTP protocol with limits on connections whose request has not arrived.

    A client that never finishes its header or its body would hold a connection for good. uvicorn's own
    `limit_concurrency` counts such connections too, and answers everybody else with 503.

    Args:
        connections: the most that are open. Of more, the one that has waited longest for its request is closed, so
            that unfinished requests never lock out others; the new one, where each has a request that is answered.
        header_seconds: time for the header of a request to arrive.
        body_seconds: time for its body to arrive.
    """
    times: dict[Any, float] = {h11.IDLE: header_seconds, h11.SEND_BODY: body_seconds}
    waiting: dict[Any, asyncio.TimerHandle] = {}

    class LimitedProtocol(H11Protocol):
        """One connection."""

        _phase: Any = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()
            if len(self.connections) > connections:
                next(iter(waiting))._close()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._leave()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Give each part of a request that is missing its time."""
            phase = None if self.transport.is_closing() else self.conn.their_state
            if phase is not self._phase:
                self._leave()
                self._phase = phase
                if phase in times:
                    waiting[self] = self.loop.call_later(times[phase], self._close)

        def _leave(self) -> None:
            if timer := waiting.pop(self, None):
                timer.cancel()

        def _close(self) -> None:
            self._leave()
            self.connections.discard(self)  # its place is free now, not when the loop tells of the loss
            self.transport.abort()

    return LimitedProtocol


def server(app: Any, *, connections: int, body_seconds: float, **settings: Any) -> uvicorn.Server:
    """Set up a server of an application.

    Args:
        connections: the most that are open at a time, if the process may open so many files.
        body_seconds: time for the body of a request to arrive.
        settings: further ones of `uvicorn.Config`.
    """
    protocol = limited_protocol(
        min(connections, max(_open_files() - SPARE_FILES, 1)),
        header_seconds=HEADER_SECONDS,
        body_seconds=body_seconds,
    )
    config = uvicorn.Config(
        app,
        http=protocol,
        loop="asyncio",  # uvloop accepts without asking for the backlog
        backlog=BACKLOG,
        h11_max_incomplete_event_size=LARGEST_HEADER,
        timeout_keep_alive=int(HEADER_SECONDS),
        log_level="error",  # a warning tells of a client's mistake, and clients can make any number of them
        server_header=False,
        **settings,
    )
    return uvicorn.Server(config)


def _open_files() -> int:
    """How many files this process may have open."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return 1 << 16
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if soft == resource.RLIM_INFINITY else soft
