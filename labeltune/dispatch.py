"""Dispatching: texts of requests that arrive at once go through the classifier together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from labeltune.predict import Answer

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
class Dispatcher:
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

    async def __aenter__(self) -> "Dispatcher":
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
