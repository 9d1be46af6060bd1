"""The Host headers that a service on the loopback interface answers, against DNS rebinding."""

from starlette.applications import Starlette
from starlette.middleware.trustedhost import TrustedHostMiddleware

LOCAL = ("127.0.0.1", "::1", "[::1]", "localhost")
"""Names of this machine. With another name, a web page could reach the service through the browser of a user."""


def restrict_hosts(app: Starlette, host: str) -> None:
    """Refuse requests with the name of another machine if `host`, the address of the service, is loopback."""
    if host in LOCAL:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL), www_redirect=False)
