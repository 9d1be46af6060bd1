"""Limits of connections that uvicorn does not have: their number, and the time for a request to arrive."""

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""Time in seconds for the header of a request to arrive, and between two requests of a connection."""
LARGEST_HEADER = 64 << 10
"""Maximum size of a header in bytes."""
BACKLOG = 128
"""Number of connections that the system queues; asyncio accepts as many at a time."""
SPARE_FILES = BACKLOG + 64
"""Number of open files reserved for everything but connections, and for connections that are not counted yet."""


def limited_protocol(connections: int, *, header_seconds: float, body_seconds: float) -> type[H11Protocol]:
    """Make uvicorn's HTTP protocol with limits on connections whose request has not arrived.

    A client that never finishes its header or its body would keep a connection open forever. `limit_concurrency` of
    uvicorn counts such connections too, and then answers all other clients with 503.

    Args:
        connections: maximum number of open connections. If there are more, the one that has waited longest for its
            request is closed, so that unfinished requests do not lock out others; if all are being answered, the
            new one is closed.
        header_seconds: time for the header of a request to arrive.
        body_seconds: time for its body to arrive.
    """
    times: dict[Any, float] = {h11.IDLE: header_seconds, h11.SEND_BODY: body_seconds}
    waiting: dict[Any, asyncio.TimerHandle] = {}

    class LimitedProtocol(H11Protocol):
        """A connection with time limits."""

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
            """Start the time limit of the missing part of a request."""
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
            self.connections.discard(self)  # its place is free now, not when the loop reports the loss
            self.transport.abort()

    return LimitedProtocol


def server(app: Any, *, connections: int, body_seconds: float, **settings: Any) -> uvicorn.Server:
    """Set up a server of an application.

    Args:
        connections: maximum number of open connections, if the process may open as many files.
        body_seconds: time for the body of a request to arrive.
        settings: further settings of `uvicorn.Config`.
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
        log_level="error",  # warnings report errors of clients, of which there can be any number
        server_header=False,
        **settings,
    )
    return uvicorn.Server(config)


def _open_files() -> int:
    """Return the maximum number of open files of this process."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return 1 << 16
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if soft == resource.RLIM_INFINITY else soft
