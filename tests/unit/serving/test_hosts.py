"""On the loopback interface, a service answers under this machine's names only."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from labeltune.serving.hosts import restrict_hosts


def status(bound: str, asked: str) -> int:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("in"))])
    restrict_hosts(app, bound)
    return TestClient(app).get("/", headers={"host": asked}).status_code


@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1"])
def test_under_another_name_nothing_is_answered(bound: str) -> None:
    for asked in ("localhost:8001", "127.0.0.1", "[::1]:8001", "[::1]", "LOCALHOST"):
        assert status(bound, asked) == 200, asked
    for asked in ("example.com", "127.0.0.1.example.com", "localhost.example.com:8000", ""):
        assert status(bound, asked) == 400, asked


def test_a_service_bound_to_other_addresses_is_asked_for_under_any_name() -> None:
    assert status("0.0.0.0", "example.com") == 200
