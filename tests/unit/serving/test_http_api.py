"""The HTTP service: what is answered, what is refused and how, and that the accepted is always answered."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.testclient import TestClient

from labeltune.inference.classifier import Answer
from labeltune.serving.http_api import BodyReader, Limits, RequestBatcher, create_app


def said(text: str) -> Answer:
    odd = len(text) % 2 == 1
    return Answer(
        label="odd" if odd else "even",
        confidence=0.75,
        probabilities={"even": 0.25, "odd": 0.75} if odd else {"even": 0.75, "odd": 0.25},
        abstained=text == "unsure",
        truncated=len(text) > 100,
    )


class Stub:
    """Answers by a text's length; waits at a gate if it has one."""

    def __init__(self) -> None:
        self.record = SimpleNamespace(labels=SimpleNamespace(names=("even", "odd")), dataset="stub")
        self.passes: list[list[str]] = []
        self.gate: threading.Event | None = None
        self.begun = threading.Event()

    def predict(self, texts: Sequence[str]) -> list[Answer]:
        self.passes.append(list(texts))
        self.begun.set()
        if self.gate:
            assert self.gate.wait(20)
        if "fail" in texts:
            raise ValueError("inner details")
        return [said(text) for text in texts]


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def client(stub: Stub) -> Iterator[TestClient]:
    with TestClient(create_app(stub, Limits(texts=4, bytes=1000, characters=500))) as client:
        yield client


def test_every_text_is_answered_in_order_with_the_five_fields(client: TestClient) -> None:
    found = client.post("/predict", json={"texts": ["ab", "unsure", "x" * 101]})
    assert found.status_code == 200
    assert found.json() == {
        "results": [
            {"label": "even", "confidence": 0.75, "probabilities": {"even": 0.75, "odd": 0.25}, "abstained": False,
             "truncated": False},
            {"label": "even", "confidence": 0.75, "probabilities": {"even": 0.75, "odd": 0.25}, "abstained": True,
             "truncated": False},
            {"label": "odd", "confidence": 0.75, "probabilities": {"even": 0.25, "odd": 0.75}, "abstained": False,
             "truncated": True},
        ]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"{", 422, "body: Invalid JSON"),
        (b"[" * 900, 422, "body: Invalid JSON"),
        (b'{"texts": []}', 422, "texts: List should have at least 1 item"),
        (b'{"texts": "one"}', 422, "texts: Input should be a valid array"),
        (b'{"texts": ["a", 3]}', 422, "texts.1: Input should be a valid string"),
        (b'{"texts": ["a", " "]}', 422, "texts.1: is blank"),
        (b'{"texts": ["\\u200b\\n"]}', 422, "texts.0: is blank"),
        (b'{"texts": ["a"], "more": 1}', 422, "more: Extra inputs"),
        (b'{"texts": ["a", "b", "c", "d", "e"]}', 422, "texts: 5 of them; a request may have 4"),
        (b'{"texts": ["\\ud800"]}', 422, "Invalid JSON"),
        (b'{"texts": ["a", "' + b"a" * 501 + b'"]}', 422, "texts.1: has 501 characters; a text may have 500"),
        (b'{"texts": ["' + b"a" * 1000 + b'"]}', 413, "more than 1,000 bytes"),
    ],
    ids=[
        "broken",
        "deep",
        "none",
        "no list",
        "number",
        "blank",
        "zero width",
        "unknown",
        "many",
        "half a character",
        "long text",
        "large",
    ],
)
def test_what_is_not_asked_rightly_is_refused_in_words(
    client: TestClient, stub: Stub, body: bytes, status: int, error: str
) -> None:
    found = client.post("/predict", content=body)
    assert found.status_code == status
    assert list(found.json()) == ["error"]
    assert error in found.json()["error"]
    assert stub.passes == []
    assert client.post("/predict", json={"texts": ["ab"]}).status_code == 200


def test_a_body_of_unknown_length_is_not_read_beyond_the_limit(client: TestClient) -> None:
    sent = []

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            sent.append(1)
            yield b"a" * 400

    assert client.post("/predict", content=chunks()).status_code == 413


def test_a_key_is_asked_for_everywhere_but_by_the_watch(stub: Stub) -> None:
    with TestClient(create_app(stub, key="secret")) as client:
        body = {"texts": ["ab"]}
        assert client.post("/predict", json=body).status_code == 401
        assert client.post("/predict", json=body, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.post("/predict", json=body, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/health").json() == {"status": "up"}
        assert client.get("/ready").json()["labels"] == ["even", "odd"]
        assert stub.passes == [["ab"]]


def test_a_failure_tells_nothing_from_inside_and_the_next_request_is_answered(client: TestClient) -> None:
    found = client.post("/predict", json={"texts": ["fail"]})
    assert (found.status_code, found.json()) == (500, {"error": "the classifier failed: ValueError"})
    assert client.post("/predict", json={"texts": ["ab"]}).status_code == 200


def test_too_many_requests_are_sent_away_and_the_accepted_are_answered(stub: Stub) -> None:
    stub.gate = threading.Event()
    with TestClient(create_app(stub, Limits(in_flight=2))) as client:
        found: dict[str, int] = {}

        def ask(name: str) -> None:
            found[name] = client.post("/predict", json={"texts": [name]}).status_code

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("first", "second")]
        threads[0].start()
        assert stub.begun.wait(20)
        threads[1].start()
        while client.app.state.in_flight < 2:  # type: ignore[attr-defined]
            pass
        refused = client.post("/predict", json={"texts": ["third"]})
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert "2 requests are waiting already" in refused.json()["error"]
        stub.gate.set()
        for thread in threads:
            thread.join()
        assert found == {"first": 200, "second": 200}
        assert client.post("/predict", json={"texts": ["third"]}).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up(stub: Stub) -> None:
    stub.gate = threading.Event()
    with TestClient(create_app(stub, Limits(seconds=0.05))) as client:
        found = client.post("/predict", json={"texts": ["ab"]})
        stub.gate.set()
        assert found.status_code == 503
        assert "no prediction in 0.05 s" in found.json()["error"]


def test_requests_that_arrive_together_share_a_pass() -> None:
    stub = Stub()
    stub.gate = threading.Event()

    async def ask() -> list[list[Answer]]:
        async with RequestBatcher(stub.predict) as dispatcher:
            first = asyncio.create_task(dispatcher.answer(["first"]))
            while not stub.begun.is_set():
                await asyncio.sleep(0)
            others = [asyncio.create_task(dispatcher.answer([f"{i}", "x" * i + "y"])) for i in range(5)]
            given_up = asyncio.create_task(dispatcher.answer(["nobody waits"]))
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
            stub.gate.set()
            return [await first, *[await other for other in others]]

    found = asyncio.run(ask())
    assert found[1:] == [[said(f"{i}"), said("x" * i + "y")] for i in range(5)]
    assert [len(texts) for texts in stub.passes] == [1, 10]


def test_the_figures_count_what_was_asked(client: TestClient) -> None:
    client.post("/predict", json={"texts": ["ab", "abc"]})
    client.post("/predict", json={"texts": []})
    figures = client.get("/metrics").text
    assert 'labeltune_requests_total{status="200"} 1.0' in figures
    assert 'labeltune_requests_total{status="422"} 1.0' in figures
    assert 'labeltune_texts_total{abstained="false",label="odd"} 1.0' in figures
    assert "labeltune_in_flight 0.0" in figures


def test_the_page_fetches_from_here_alone(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "//cdn" not in page.text
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
    paths: dict[str, Any] = json.loads(client.get("/openapi.json").text)["paths"]
    schema = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["texts"]
    assert {"413", "422", "429", "503"} <= paths["/predict"]["post"]["responses"].keys()


def test_what_is_accepted_is_answered_before_the_end() -> None:
    stub = Stub()

    async def stop() -> list[Answer]:
        async with RequestBatcher(stub.predict) as dispatcher:
            waiting = asyncio.create_task(dispatcher.answer(["ab"]))
            await asyncio.sleep(0)
        return await waiting

    assert asyncio.run(stop()) == [said("ab")]


def read(limits: Limits, *bodies: list[bytes | None]) -> list[bytes | int]:
    """Read bodies at the same time, each a list of chunks; None never comes."""
    reader = BodyReader(limits)

    async def one(chunks: list[bytes | None]) -> bytes | int:
        left = iter(chunks)

        async def receive() -> dict[str, Any]:
            chunk = next(left)
            if chunk is None:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": chunk, "more_body": chunk != b""}

        try:
            return await reader.read(Request({"type": "http", "headers": []}, receive))
        except HTTPException as error:
            return error.status_code

    async def together() -> list[bytes | int]:
        return await asyncio.gather(*map(one, bodies))

    return asyncio.run(together())


def test_a_body_that_never_arrives_is_given_up() -> None:
    assert read(Limits(seconds=0.01), [b"half", None], [b"who", b"le", b""]) == [408, b"whole"]


def test_half_bodies_do_not_keep_others_out() -> None:
    """However many there are, the oldest makes way, and all that is held stays below the limit."""
    half = [[b"x" * 400, None] for _ in range(50)]
    found = read(Limits(unread_bytes=2_000, seconds=0.5), *half, [b"x" * 400, b"y" * 400, b""])
    assert found == [408] * 50 + [b"x" * 400 + b"y" * 400]


def test_requests_whose_bodies_do_not_arrive_take_no_place_of_those_to_be_answered(stub: Stub) -> None:
    app = create_app(stub, Limits(in_flight=1))

    async def ask() -> list[int]:
        statuses: list[int] = []

        async def request(body: bytes | None) -> None:
            async def receive() -> dict[str, Any]:
                if body is None:
                    await asyncio.Event().wait()
                return {"type": "http.request", "body": body}

            async def send(message: Any) -> None:
                statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

            scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": []}
            await app(scope, receive, send)

        async with app.router.lifespan_context(app):
            stuck = [asyncio.create_task(request(None)) for _ in range(3)]
            await asyncio.sleep(0)
            await request(b'{"texts": ["ab"]}')
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
        return statuses

    assert asyncio.run(ask()) == [200]


def test_a_refusal_is_short_however_long_the_request(stub: Stub) -> None:
    with TestClient(create_app(stub)) as client:
        found = client.post("/predict", json={"texts": ["a"], "x" * 1_000_000: 1})
    assert found.status_code == 422
    assert "Extra inputs" in found.json()["error"]
    assert len(found.content) < 5_000


def test_the_page_asks_for_the_key_where_there_is_one(stub: Stub) -> None:
    for key, schemes in ((None, set()), ("secret", {"HTTPBearer"})):
        schema = create_app(stub, key=key).openapi()
        assert set(schema.get("components", {}).get("securitySchemes", {})) == schemes


@pytest.mark.parametrize(
    "given", ["secret", "Bearer", "Bearer secret2", "Basic secret", "Bearer s\u00e9cret", "Bearer  "]
)
def test_another_key_is_refused(stub: Stub, given: str) -> None:
    with TestClient(create_app(stub, key="secret")) as client:
        found = client.get("/metrics", headers={"Authorization": given.encode("latin-1")})
        assert (found.status_code, found.headers["WWW-Authenticate"]) == (401, "Bearer")
