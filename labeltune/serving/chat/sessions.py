"""Sessions of the chat: ids that the server issues, and how many there may be and what they may hold."""

import hashlib
import hmac
import re
import secrets
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeGuard

SESSION_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""Ids as the page makes them: random UUIDs (RFC 9562, version 4) in lower case."""
VISITOR = "labeltune.visitor"
"""Key of an ASGI scope: the visitor whom its cookie names."""
SESSIONS = 200
"""Most sessions. Of more, the oldest whose page is closed ends."""
EVENTS = frozenset({"connect", "disconnect", "connection_successful", "client_message", "clear_session", "stop"})
"""What the page needs of Chainlit's events. Others keep whatever a client sends, or call for features that are off."""
SESSION_BYTES, ALL_BYTES = 200_000_000, 2_000_000_000
"""Most bytes of files that were uploaded or answered: of a session, and of all of them."""
LEAST_BYTES = 1 << 16
"""A file counts as so many bytes at least: each takes memory, however small it is."""


def is_session_id(value: object) -> TypeGuard[str]:
    """Tell whether a value has the form of the ids that the page makes."""
    return isinstance(value, str) and SESSION_ID.fullmatch(value) is not None


@dataclass(frozen=True)
class SessionIds:
    """Issues the ids of sessions, so that no client chooses one or takes another's.

    The page is sent with a cookie that names its visitor and is signed with a secret of this process. Chainlit's page
    makes an id for each of its tabs; the server gives Chainlit one that it computes from the secret, the visitor and
    the tab. A client that knows all ids of another can't use them without its cookie.
    """

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def cookie(self, port: int) -> str:
        """Issue a visitor, as the value of a `Set-Cookie` header without its path; cookies are not kept by port."""
        visitor = secrets.token_hex(16)
        return f"{_name(port)}={visitor}.{self._sign('visitor', visitor).hex()}; HttpOnly; SameSite=Lax"

    def visitor(self, cookies: str, port: int) -> str | None:
        """Return the visitor that a `Cookie` header names; None where it names none that was issued here."""
        try:
            found = SimpleCookie(cookies).get(_name(port))
        except CookieError:
            return None
        visitor, _, signature = found.value.partition(".") if found else ("", "", "")
        expected = self._sign("visitor", visitor).hex()
        return visitor if visitor and hmac.compare_digest(signature.encode(), expected.encode()) else None

    def session(self, visitor: str, tab: str) -> str:
        """Return the id of the session of a visitor's tab, a UUID."""
        return str(uuid.UUID(bytes=self._sign("session", visitor, tab)[:16], version=4))

    def _sign(self, *parts: str) -> bytes:
        return hmac.digest(self.secret, "\n".join(parts).encode(), hashlib.sha256)


def _name(port: int) -> str:
    return f"labeltune_chat_{port}"


@dataclass(frozen=True)
class FileRoom:
    """Bounds the files of sessions."""

    stored: Callable[[], Mapping[str, int]]
    """Session id -> bytes of its files, for each session that there is."""
    arriving: Counter[str] = field(default_factory=Counter)
    """Session id -> bytes of the files that are being uploaded to it."""

    def admits(self, session: str, size: int = 0) -> bool:
        """Tell whether a session may have a further file of so many bytes."""
        stored = self.stored()
        size = max(size, LEAST_BYTES)
        own = stored.get(session, 0) + self.arriving[session]
        return own + size <= SESSION_BYTES and sum(stored.values()) + self.arriving.total() + size <= ALL_BYTES


def stored_files() -> dict[str, int]:
    """Count the bytes of the files of each of Chainlit's sessions."""
    from chainlit.session import ws_sessions_id

    return {
        name: sum(max(file["size"], LEAST_BYTES) for file in session.files.values())
        for name, session in ws_sessions_id.items()
    }


def guard_sessions(ids: SessionIds) -> None:
    """Let Chainlit see no session id but those of our own, and no more sessions than `SESSIONS`.

    Chainlit 2.12.0 joins the client's session id to its folder of files, makes that folder for an upload, and removes
    it when the session ends: `../..` or `/home/user` would be removed.
    """
    import chainlit.config
    import chainlit.session
    import chainlit.socket  # registers the handlers of events
    from chainlit.server import sio

    handlers = sio.handlers["/"]
    inner = handlers["connect"]
    for event in handlers.keys() - EVENTS:
        del handlers[event]

    async def connect(sid: str, environ: dict[str, Any], auth: Any = None) -> Any:
        visitor = environ["asgi.scope"].get(VISITOR)
        tab = auth.get("sessionId") if isinstance(auth, dict) else None
        if visitor is None or not is_session_id(tab):
            raise ConnectionRefusedError("a session is opened by the page, with its cookie")
        session = ids.session(visitor, tab)
        await _make_room(session)
        return await inner(sid, environ, {"sessionId": session, "clientType": "webapp"})

    sio.on("connect", connect)

    def files_dir(session: Any) -> Any:
        return chainlit.config.FILES_DIRECTORY / hashlib.sha256(str(session.id).encode()).hexdigest()

    chainlit.session.BaseSession.files_dir = property(files_dir)  # whatever else of Chainlit makes a session


async def _make_room(session: str) -> None:
    """End the oldest session without a page where there are too many for another."""
    from chainlit.server import sio
    from chainlit.session import ws_sessions_id
    from chainlit.user_session import user_sessions

    if session in ws_sessions_id or len(ws_sessions_id) < SESSIONS:
        return
    for other in list(ws_sessions_id.values()):
        if not sio.manager.is_connected(other.socket_id, "/"):
            user_sessions.pop(other.id, None)
            await other.delete()
            return
    raise ConnectionRefusedError(f"{SESSIONS} conversations are open already; come again later")
