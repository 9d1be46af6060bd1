"""On the loopback interface, a service answers under this machine's names only."""

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from labeltune.cli import main
from labeltune.inference.classifier import Classifier
from labeltune.serving import connections
from labeltune.serving.chat import app as chat
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


@pytest.mark.parametrize("command", [["serve"], ["serve", "--chat"], ["chat", "--port", "0"]])
def test_every_command_that_listens_on_loopback_has_the_list(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("chainlit")
    names = SimpleNamespace(names=("ham", "spam"))
    record = SimpleNamespace(labels=names, dataset="messages")
    classifier = SimpleNamespace(record=record, predict=lambda texts: [])
    monkeypatch.setattr(Classifier, "load", lambda folder: classifier)

    def mount(app: Starlette, *given: Any, path: str = "/chat", **named: Any) -> Any:
        app.mount(path if path != "/" else "", Starlette(routes=[Route("/", lambda request: PlainTextResponse("in"))]))
        return SimpleNamespace(corrections=[])

    def server(app: Starlette, **settings: Any) -> Any:
        served.append(app)
        return SimpleNamespace(run=lambda **given: None, started=True)

    served: list[Starlette] = []
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    monkeypatch.setattr(chat, "mount", mount)
    monkeypatch.setattr(connections, "server", server)
    for host, foreign in (("127.0.0.1", 400), ("localhost", 400), ("0.0.0.0", 200)):
        main.main([command[0], "folder", *command[1:], "--host", host])
        client = TestClient(served.pop())
        paths = {"serve": ["/health", "/docs"], "chat": ["/"]}[command[0]] + ["/chat/"] * ("--chat" in command)
        for path in paths:
            assert client.get(path, headers={"host": "localhost:8001"}).status_code == 200, (host, path)
            assert client.get(path, headers={"host": "example.com"}).status_code == foreign, (host, path)
        if command[0] == "serve":
            assert client.post("/predict", headers={"host": "example.com"}).status_code in (foreign, 503)
