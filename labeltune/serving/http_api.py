"""The HTTP service: predictions, health checks, metrics, request batching, and the server process."""

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
"""Maximum number of texts in a forward pass."""
PATIENCE = 0.004
"""Seconds that a request waits for others to share its forward pass."""

Predict = Callable[[list[str]], Sequence[Answer]]


@dataclass(eq=False)
class Job:
    """The texts of one request."""

    texts: list[str]
    """Texts of the request."""
    answers: asyncio.Future[list[Answer]]
    """Future with the predictions for the texts."""


@dataclass(eq=False)
class RequestBatcher:
    """Batches requests: a single thread predicts, and requests wait in a queue."""

    predict: Predict
    """Function that returns the predictions for texts, in their order."""
    passed: Callable[[int], None] = lambda texts: None
    """Called with the number of texts of each forward pass."""
    waiting: list[Job] = field(default_factory=list)
    """Queue of requests in the order of their arrival."""

    def __post_init__(self) -> None:
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="classifier")
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "RequestBatcher":
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Answer the accepted requests, then stop."""
        while self.waiting:
            await asyncio.gather(*(job.answers for job in self.waiting), return_exceptions=True)
        if self._loop:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self._thread.shutdown()

    async def answer(self, texts: list[str]) -> list[Answer]:
        """Return the predictions for these texts; if the caller is cancelled, its texts are dropped."""
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
        """Return the oldest requests that fit in a pass, at least one."""
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
        except Exception as error:  # raised in the waiting requests; the next pass may succeed
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
"""Paths that are answered without a key, for monitoring."""
HELD_BACK = 0.5
"""Delay in seconds of a refusal for too many requests, so that immediate retries do not use up the CPU."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a request, and of the number of requests."""

    texts: int = 32
    """Maximum number of texts in a request."""
    bytes: int = 2_000_000
    """Maximum size of a request's body in bytes."""
    characters: int = 100_000
    """Maximum length of a text in characters: the tokenizer reads all of a long text, of which the model reads a
    part."""
    in_flight: int = 512
    """Maximum number of requests that wait for predictions."""
    unread_bytes: int = 256_000_000
    """Maximum size in bytes of all bodies that have arrived in part."""
    seconds: float = 30.0
    """Time limit in seconds for a body to arrive, and for its predictions."""


class PredictRequest(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)
    texts: list[str] = Field(min_length=1, examples=[["free entry, text WIN to 80082"]])


class PredictResponse(BaseModel):
    """The prediction for a text."""

    label: str
    confidence: float
    probabilities: dict[str, float]
    abstained: bool
    truncated: bool


class Reply(BaseModel):
    """The body of a response: one result per text, in their order."""

    results: list[PredictResponse]


class ErrorResponse(BaseModel):
    """The body of a refusal."""

    error: str
    """Description of the error."""


class Figures:
    """Metrics of the service for /metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        given: dict[str, Any] = {"registry": self.registry, "namespace": "labeltune"}
        self.requests = Counter("requests", "Requests to /predict by status", ["status"], **given)
        self.texts = Counter("texts", "Texts answered", ["label", "abstained"], **given)
        self.seconds = Histogram("seconds", "Time of a request to /predict", buckets=SECONDS, **given)
        self.in_flight = Gauge("in_flight", "Requests that are read or wait", **given)
        self.together = Histogram("pass_texts", "Texts of a forward pass", buckets=[2**i for i in range(8)], **given)


def create_app(classifier: Classifier, limits: Limits | None = None, key: str | None = None) -> FastAPI:
    """Return the application of the service.

    Args:
        limits: limits of requests; None takes the defaults.
        key: key that `Authorization: Bearer KEY` must have; None answers everyone.
    """
    bounds, figures = limits or Limits(), Figures()
    bearer = HTTPBearer(auto_error=False)
    secured = [] if key is None else [Depends(bearer)]  # lets /docs ask for the key; the guard refuses requests

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
        # A mounted application, such as the chat, has its own policy.
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
        """Predict the label of every text, in their order."""
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
        """Return whether the process is running."""
        return {"status": "up"}

    @app.get("/ready", responses={503: {"model": ErrorResponse}})
    async def ready(request: Request) -> dict[str, Any]:
        """Return whether requests are answered."""
        if request.app.state.dispatcher is None:
            raise HTTPException(503, "not ready: starting or stopping")
        return {"status": "ready", "dataset": classifier.record.dataset, "labels": list(classifier.record.labels.names)}

    @app.get("/metrics", dependencies=secured)
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _predict(request: Request, limits: Limits) -> Response:
    """Read, check, admit and answer a request."""
    state = request.app.state
    if state.dispatcher is None:
        raise HTTPException(503, "not ready: starting or stopping")
    # A body that never arrives must not block a request that could be answered.
    texts = _checked(await state.bodies.read(request), limits)
    if state.in_flight >= limits.in_flight:
        await asyncio.sleep(HELD_BACK)
        raise HTTPException(429, f"{limits.in_flight} requests are waiting already; retry later", {"Retry-After": "1"})
    state.in_flight += 1
    state.figures.in_flight.set(state.in_flight)
    try:
        try:
            answers = await asyncio.wait_for(state.dispatcher.answer(texts), limits.seconds)
        except TimeoutError:
            raise HTTPException(
                503, f"no prediction in {limits.seconds:g} s; retry later", {"Retry-After": "1"}
            ) from None
        except Exception as error:
            raise HTTPException(500, f"the classifier failed: {type(error).__name__}") from error
    finally:
        state.in_flight -= 1
        state.figures.in_flight.set(state.in_flight)
    for answer in answers:
        state.figures.texts.labels(answer.label, str(answer.abstained).lower()).inc()
    return JSONResponse({"results": [asdict(answer) for answer in answers]})


class BodyReader:
    """Reads bodies within limits of size and time, for each body and for all together.

    If the partial bodies become too large together, the oldest one is given up, because an honest client would have
    finished long before.
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
    """Return the texts of a body.

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
    """Return the description of a body for /docs, which FastAPI does not read itself."""
    schema = json.loads(json.dumps(model.model_json_schema()))
    return {"required": True, "content": {"application/json": {"schema": schema}}}


KEY = "LABELTUNE_KEY"
WAITING_CONNECTIONS = 256
"""Number of connections in addition to those being answered: idle ones, and those whose requests have not arrived."""
WARMING = "a text to warm up with"


def serve(folder: Path, *, host: str, port: int, limits: Limits, chat: bool = False) -> None:
    """Load a classifier and serve until Ctrl-C or SIGTERM; accepted requests are answered before the end.

    Raises:
        UserError: the classifier can't be used.
    """
    key = os.environ.get(KEY)
    if key is not None and not key.strip():
        raise UserError(f"{KEY} is empty: unset it to answer everyone, or set a key")
    if chat and key is not None:
        raise UserError(f"the chat has no log-in and can't send a key: unset {KEY}, or run `labeltune chat` separately")
    torch.set_num_threads(choose_threads("auto"))
    classifier = Classifier.load(folder)
    classifier.predict([WARMING])
    if host not in LOCAL and key is None:
        terminal.say(f"everyone who can reach {host}:{port} is answered: set {KEY} to require a key")
    terminal.say(f"http://{host}:{port}/predict predicts; /docs documents it; Ctrl-C stops the service")
    app = create_app(classifier, limits, key)
    restrict_hosts(app, host)
    if chat:
        from labeltune.serving.chat.app import mount

        mount(app, classifier)
        terminal.say(f"http://{host}:{port}/chat is the chat page")
    server = connections.server(
        app,
        connections=limits.in_flight + WAITING_CONNECTIONS,
        body_seconds=limits.seconds,
        host=host,
        port=port,
        ws_max_size=limits.bytes,
        timeout_graceful_shutdown=round(limits.seconds),
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after closing everything
        server.run()
    if not server.started:
        sys.exit(3)  # uvicorn has printed the reason, such as a port in use, to the standard error
