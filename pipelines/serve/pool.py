"""Threads that infer, off the event loop: a bounded queue, and small requests that wait are answered together."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

from pipelines.core.log import logger
from pipelines.serve.replies import later

BACKGROUND = 32
"""At most so many calls wait in the background."""


class Work(Protocol):
    """What a request has a model do."""

    @property
    def key(self) -> Hashable:
        """Works of one key can be done in one go."""

    @property
    def cells(self) -> int:
        """How much it is."""

    @classmethod
    def run(cls, batch: Sequence[Any]) -> list[Any]:
        """What comes of each work of one key: an answer, or the exception that it alone deserves."""


class Ran(NamedTuple):
    """What came of a work, how many seconds its run took, and how many requests shared that run."""

    answer: Any
    seconds: float
    batch: int


class _Job(NamedTuple):
    work: Work
    future: "asyncio.Future[Ran]"


class Pool:
    """Use on one event loop. Nothing waits in order to be batched: what waits anyway is.

    pool = Pool(threads=2, queue=128, batch_cells=512)
    ran = await pool.ask(work, within=10.0)
    """

    def __init__(self, threads: int, queue: int, batch_cells: int) -> None:
        self._queue, self._batch_cells = queue, batch_cells
        self._jobs: deque[_Job] = deque()
        self._background: deque[Callable[[], None]] = deque()
        self._ready = threading.Condition(threading.Lock())
        self._closed = False
        self.running = 0
        """Requests that a thread is at."""
        self._threads = [
            threading.Thread(target=self._work, name=f"infer-{i}", daemon=True) for i in range(max(1, threads))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    async def ask(self, work: Work, within: float) -> Ran:
        """`work.run`, once a thread is free, perhaps together with others of its key.

        Raises Refusal 429 when too many wait already, and 504 after `within` seconds.
        """
        if len(self._jobs) >= self._queue:
            raise later(429, f"{self._queue} requests wait already; try again, less often")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ran] = loop.create_future()
        timer = loop.call_later(within, _expire, future, within)
        with self._ready:
            self._jobs.append(_Job(work, future))
            self._ready.notify()
        try:
            return await future
        finally:
            timer.cancel()

    def behind(self, call: Callable[[], None]) -> bool:
        """Run `call` on a thread when no request waits; whether it was taken on."""
        with self._ready:
            if self._closed or len(self._background) >= BACKGROUND:
                return False
            self._background.append(call)
            self._ready.notify()
        return True

    def stop(self) -> None:
        """Threads end after what they are at; what waits in the background is forgotten."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join(1)

    def _work(self) -> None:
        while True:
            with self._ready:
                while not (self._jobs or self._background or self._closed):
                    self._ready.wait()
                batch = self._take() if self._jobs else []
                self.running += len(batch)
                call = self._background.popleft() if not batch and self._background and not self._closed else None
            if batch:
                _run(batch)
                with self._ready:
                    self.running -= len(batch)
            elif call is not None:
                _quietly(call)
            else:
                return

    def _take(self) -> list[_Job]:
        """The first that waits, and those of its key that fit beside it."""
        first = self._jobs.popleft()
        batch, key, room = [first], first.work.key, self._batch_cells - first.work.cells
        if self._jobs and room > 0:
            rest: deque[_Job] = deque()
            for job in self._jobs:
                if job.work.cells <= room and job.work.key == key:
                    batch.append(job)
                    room -= job.work.cells
                else:
                    rest.append(job)
            self._jobs = rest
        return batch


def _expire(future: "asyncio.Future[Ran]", within: float) -> None:
    if not future.done():
        future.set_exception(later(504, f"no answer within {within:g} s; ask for less at once, or later"))


def _run(batch: list[_Job]) -> None:
    """Do works of one key; those that are no longer waited for are left out."""
    batch = [job for job in batch if not job.future.done()]
    if not batch:
        return
    loop = batch[0].future.get_loop()
    try:
        results = _together(batch)
    except Exception as error:
        # One of them may be to blame: each alone, so that the others have their answer.
        results = [error] if len(batch) == 1 else [_alone(job) for job in batch]
    try:
        loop.call_soon_threadsafe(_deliver, batch, results)
    except RuntimeError:  # the loop has ended, and with it whoever waited
        logger.debug("an answer came after the server's end")


def _together(batch: list[_Job]) -> list[Ran | Exception]:
    began = time.perf_counter()
    done = batch[0].work.run([job.work for job in batch])
    took = time.perf_counter() - began
    return [one if isinstance(one, Exception) else Ran(one, took, len(batch)) for one in done]


def _alone(job: _Job) -> Ran | Exception:
    try:
        return _together([job])[0]
    except Exception as error:
        return error


def _deliver(batch: list[_Job], results: list[Ran | Exception]) -> None:
    for job, result in zip(batch, results, strict=True):
        if job.future.done():
            continue
        if isinstance(result, Ran):
            job.future.set_result(result)
        else:
            job.future.set_exception(result)


def _quietly(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:  # it runs for nobody who could be told
        logger.exception("a background call failed")
