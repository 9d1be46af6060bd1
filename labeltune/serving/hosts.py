"""The Host headers that a service on the loopback interface answers, against DNS rebinding."""

from starlette.applications import Starlette
from starlette.middleware.trustedhost import TrustedHostMiddleware

LOCAL = ("127.0.0.1", "::1", "[::1]", "localhost")
"""Names of this machine. Under another one, a page from elsewhere could speak to the service through a browser."""


def restrict_hosts(app: Starlette, host: str) -> None:
    """Refuse requests under another name than this machine's, where `host`, the address bound, is loopback."""
    if host in LOCAL:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL), www_redirect=False)
