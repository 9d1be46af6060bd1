"""The classifier over HTTP: answers, health, figures, request batching, and the server process."""

import asyncio
import contextlib
import hmac
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import labeltune
from labeltune.console import terminal
from labeltune.data.normalization import is_blank
from labeltune.inference.classifier import Answer, Classifier
from labeltune.modeling.device import choose_threads
from labeltune.runtime.errors import UserError, shorten
from labeltune.serving import connections
from labeltune.serving.hosts import LOCAL, restrict_hosts

TOGETHER = 128
"""Most texts of a forward pass."""
PATIENCE = 0.004
"""Seconds that a request waits for others to go with it."""

Predict = Callable[[list[str]], Sequence[Answer]]


@dataclass(eq=False)
class Job:
    """The texts of one request."""

    texts: list[str]
    """Them."""
    answers: asyncio.Future[list[Answer]]
    """What they get."""


@dataclass(eq=False)
class RequestBatcher:
    """One thread that answers, and the requests that wait for it."""

    predict: Predict
    """From texts to answers, in their order."""
    passed: Callable[[int], None] = lambda texts: None
    """Told of the number of texts of each forward pass."""
    waiting: list[Job] = field(default_factory=list)
    """Requests in the order in which they came."""

    def __post_init__(self) -> None:
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="classifier")
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "RequestBatcher":
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Answer what was accepted, then stop."""
        while self.waiting:
            await asyncio.gather(*(job.answers for job in self.waiting), return_exceptions=True)
        if self._loop:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self._thread.shutdown()

    async def answer(self, texts: list[str]) -> list[Answer]:
        """Wait for the answers to these texts; a caller that stops waiting has its texts dropped."""
        job = Job(texts, asyncio.get_running_loop().create_future())
        self.waiting.append(job)
        self._arrived.set()
        try:
            return await job.answers
        finally:
            if job in self.waiting:
                self.waiting.remove(job)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if sum(len(job.texts) for job in self.waiting) < TOGETHER:
                await asyncio.sleep(PATIENCE)
            self._arrived.clear()
            while jobs := self._next():
                await self._pass(jobs)

    def _next(self) -> list[Job]:
        """The oldest requests that fit in a pass, at least one."""
        jobs: list[Job] = []
        count = 0
        for job in self.waiting:
            if jobs and count + len(job.texts) > TOGETHER:
                break
            if not job.answers.done():
                jobs.append(job)
                count += len(job.texts)
        return jobs

    async def _pass(self, jobs: list[Job]) -> None:
        texts = [text for job in jobs for text in job.texts]
        self.passed(len(texts))
        try:
            found = list(await asyncio.get_running_loop().run_in_executor(self._thread, self.predict, texts))
        except Exception as error:  # told to those who wait; the next pass may go well
            for job in jobs:
                if not job.answers.done():
                    job.answers.set_exception(error)
        else:
            for job in jobs:
                own, found = found[: len(job.texts)], found[len(job.texts) :]
                if not job.answers.done():
                    job.answers.set_result(own)
        for job in jobs:
            if job in self.waiting:
                self.waiting.remove(job)


DOCS = ("/docs", "/redoc")
STRICT = "default-src 'none'; frame-ancestors 'none'"
PAGE = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
OPEN = ("/health", "/ready")
"""Answered without a key: for whoever watches the service."""
HELD_BACK = 0.5
"""Seconds before a refusal for too many requests: else who asks again at once takes the CPU from the classifier."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for, and how many may wait."""

    texts: int = 32
    """Texts of a request."""
    bytes: int = 2_000_000
    """Size of a request's body."""
    characters: int = 100_000
    """Length of a text; the model reads a small part of a longer one, and its tokenizer reads all of it."""
    in_flight: int = 512
    """Requests that wait for their answers."""
    unread_bytes: int = 256_000_000
    """Size of all bodies that have arrived in part."""
    seconds: float = 30.0
    """Time for a body to arrive, and for its answers to be ready."""


class PredictRequest(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)
    texts: list[str] = Field(min_length=1, examples=[["free entry, text WIN to 80082"]])


class PredictResponse(BaseModel):
    """The answer to a text."""

    label: str
    confidence: float
    probabilities: dict[str, float]
    abstained: bool
    truncated: bool


class Reply(BaseModel):
    """The body of an answer: one result a text, in their order."""

    results: list[PredictResponse]


class ErrorResponse(BaseModel):
    """The body of a refusal."""

    error: str
    """What was wrong, in words."""


class Figures:
    """What /metrics tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        given: dict[str, Any] = {"registry": self.registry, "namespace": "labeltune"}
        self.requests = Counter("requests", "Requests to /predict by status", ["status"], **given)
        self.texts = Counter("texts", "Texts answered", ["label", "abstained"], **given)
        self.seconds = Histogram("seconds", "Time of a request to /predict", buckets=SECONDS, **given)
        self.in_flight = Gauge("in_flight", "Requests that are read or wait", **given)
        self.together = Histogram("pass_texts", "Texts of a forward pass", buckets=[2**i for i in range(8)], **given)


def create_app(classifier: Classifier, limits: Limits | None = None, key: str | None = None) -> FastAPI:
    """Make the service.

    Args:
        limits: None takes the defaults.
        key: what `Authorization: Bearer KEY` has to hold; None lets everybody in.
    """
    bounds, figures = limits or Limits(), Figures()
    bearer = HTTPBearer(auto_error=False)
    secured = [] if key is None else [Depends(bearer)]  # by which /docs asks for the key; the guard refuses

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with RequestBatcher(classifier.predict, figures.together.observe) as dispatcher:
            app.state.dispatcher = dispatcher
            yield
            app.state.dispatcher = None

    app = FastAPIOffline(
        title="labeltune", version=labeltune.__version__, lifespan=lifespan,
        description=f"Labels texts as {', '.join(classifier.record.labels.names)}.",
    )  # fmt: skip
    app.state.dispatcher, app.state.in_flight, app.state.figures = None, 0, figures
    app.state.bodies = BodyReader(bounds)
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse} for status in (401, 408, 413, 422, 429, 500, 503)
    }

    @app.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        allowed = key is None or request.url.path in OPEN or _holds(await bearer(request), key)
        response = await call(request) if allowed else _refuse(401, "give the key as Authorization: Bearer KEY")
        # What is mounted here, as the chat, has a policy of its own.
        response.headers.setdefault("Content-Security-Policy", PAGE if request.url.path in DOCS else STRICT)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _refuse(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.post(
        "/predict", response_model=Reply, responses=refusals, dependencies=secured,
        openapi_extra={"requestBody": _body(PredictRequest)},
    )  # fmt: skip
    async def predict(request: Request) -> Response:
        """Answer every text, in their order."""
        started, status = time.perf_counter(), 500
        try:
            response = await _predict(request, bounds)
            status = response.status_code
            return response
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            figures.requests.labels(str(status)).inc()
            figures.seconds.observe(time.perf_counter() - started)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process is up."""
        return {"status": "up"}

    @app.get("/ready", responses={503: {"model": ErrorResponse}})
    async def ready(request: Request) -> dict[str, Any]:
        """Whether requests are answered."""
        if request.app.state.dispatcher is None:
            raise HTTPException(503, "not ready: starting or stopping")
        return {"status": "ready", "dataset": classifier.record.dataset, "labels": list(classifier.record.labels.names)}

    @app.get("/metrics", dependencies=secured)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _predict(request: Request, limits: Limits) -> Response:
    """Read, check, admit and answer a request."""
    state = request.app.state
    if state.dispatcher is None:
        raise HTTPException(503, "not ready: starting or stopping")
    # A body that never arrives must not take the place of a request that could be answered.
    texts = _checked(await state.bodies.read(request), limits)
    if state.in_flight >= limits.in_flight:
        await asyncio.sleep(HELD_BACK)
        raise HTTPException(429, f"{limits.in_flight} requests wait already: come again", {"Retry-After": "1"})
    state.in_flight += 1
    state.figures.in_flight.set(state.in_flight)
    try:
        try:
            answers = await asyncio.wait_for(state.dispatcher.answer(texts), limits.seconds)
        except TimeoutError:
            raise HTTPException(503, f"no answer in {limits.seconds:g} s: come again", {"Retry-After": "1"}) from None
        except Exception as error:
            raise HTTPException(500, f"the classifier failed: {type(error).__name__}") from error
    finally:
        state.in_flight -= 1
        state.figures.in_flight.set(state.in_flight)
    for answer in answers:
        state.figures.texts.labels(answer.label, str(answer.abstained).lower()).inc()
    return JSONResponse({"results": [asdict(answer) for answer in answers]})


class BodyReader:
    """Reads bodies within limits of size and time, each and together.

    Where the bodies that have arrived in part become too large together, the one that was begun first is given up: a
    client that sends at all has finished long before.
    """

    def __init__(self, limits: Limits) -> None:
        """Take the limits of a service."""
        self.limits = limits
        self._held = 0
        self._unfinished: dict[object, asyncio.Timeout] = {}

    async def read(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            HTTPException: 408, it did not arrive in time; 413, it is too large; 400, the client went away.
        """
        announced = request.headers.get("content-length", "")
        too_large = HTTPException(413, f"the body has more than {self.limits.bytes:,} bytes", {"Connection": "close"})
        if announced.isdigit() and (len(announced) > 12 or int(announced) > self.limits.bytes):
            raise too_large
        body, token = bytearray(), object()
        try:
            async with asyncio.timeout(self.limits.seconds) as deadline:
                self._unfinished[token] = deadline
                async for chunk in request.stream():
                    body += chunk
                    self._held += len(chunk)
                    if len(body) > self.limits.bytes:
                        raise too_large
                    if self._held > self.limits.unread_bytes:
                        first = next(iter(self._unfinished))
                        self._unfinished.pop(first).reschedule(0)
        except TimeoutError:
            raise HTTPException(
                408, f"the body did not arrive in {self.limits.seconds:g} s, or others needed its place",
                {"Connection": "close"},
            ) from None  # fmt: skip
        except ClientDisconnect:
            raise HTTPException(400, "the client went away") from None
        finally:
            self._held -= len(body)
            self._unfinished.pop(token, None)
        return bytes(body)


def _checked(body: bytes, limits: Limits) -> list[str]:
    """The texts of a body.

    Raises:
        HTTPException: 422, it is not what was asked for.
    """
    try:
        texts = PredictRequest.model_validate_json(body).texts
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise HTTPException(422, f'{where}: {first["msg"]}; expected {{"texts": ["...", ...]}}') from None
    if len(texts) > limits.texts:
        raise HTTPException(422, f"texts: {len(texts)} of them; a request may have {limits.texts}")
    long = next((place for place, text in enumerate(texts) if len(text) > limits.characters), None)
    if long is not None:
        raise HTTPException(
            422, f"texts.{long}: has {len(texts[long]):,} characters; a text may have {limits.characters:,}"
        )
    blank = next((place for place, text in enumerate(texts) if is_blank(text)), None)
    if blank is not None:
        raise HTTPException(422, f"texts.{blank}: is blank")
    return texts


def _holds(given: HTTPAuthorizationCredentials | None, key: str) -> bool:
    return given is not None and hmac.compare_digest(given.credentials.encode(), key.encode())


def _refuse(status: int, error: str, headers: dict[str, str] | None = None) -> Response:
    more = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse({"error": shorten(error)}, status, {**more, **(headers or {})})


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """How the page describes a body that is read by hand."""
    schema = json.loads(json.dumps(model.model_json_schema()))
    return {"required": True, "content": {"application/json": {"schema": schema}}}


KEY = "LABELTUNE_KEY"
WAITING_CONNECTIONS = 256
"""Connections beyond those whose requests are answered: idle ones, and those whose requests have not arrived."""
WARMING = "a text to warm up with"


def serve(folder: Path, *, host: str, port: int, limits: Limits, chat: bool = False) -> None:
    """Load a classifier and answer until Ctrl-C or SIGTERM; what was accepted is answered first.

    Raises:
        UserError: the classifier is not usable.
    """
    key = os.environ.get(KEY)
    if key is not None and not key.strip():
        raise UserError(f"{KEY} is empty: unset it to let everybody in, or give a key")
    if chat and key is not None:
        raise UserError(f"the chat has no log-in and can't send a key: unset {KEY}, or run `labeltune chat` beside")
    torch.set_num_threads(choose_threads("auto"))
    classifier = Classifier.load(folder)
    classifier.predict([WARMING])
    if host not in LOCAL and key is None:
        terminal.say(f"anybody who reaches {host}:{port} is answered: set {KEY} to ask for a key")
    terminal.say(f"http://{host}:{port}/predict answers; /docs describes it; Ctrl-C stops")
    app = create_app(classifier, limits, key)
    restrict_hosts(app, host)
    if chat:
        from labeltune.serving.chat.app import mount

        mount(app, classifier)
        terminal.say(f"http://{host}:{port}/chat is the page to talk to it in")
    server = connections.server(
        app,
        connections=limits.in_flight + WAITING_CONNECTIONS,
        body_seconds=limits.seconds,
        host=host,
        port=port,
        ws_max_size=limits.bytes,
        timeout_graceful_shutdown=round(limits.seconds),
    )
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again once everything is closed
        server.run()
    if not server.started:
        sys.exit(3)  # uvicorn has said why on the standard error, as that the port is taken
