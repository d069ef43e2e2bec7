"""From a question to an answer: which release gives it, which other answers a copy, and what is kept of it."""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.core.log import logger
from pipelines.release.predictions import Log
from pipelines.serve.answer import Rows
from pipelines.serve.counters import Counters
from pipelines.serve.model import Loaded
from pipelines.serve.pool import Pool
from pipelines.serve.replies import Refusal, later
from pipelines.serve.settings import Settings
from pipelines.serve.swap import Live, Serving

RECENT, RECENT_BYTES = 16, 8 << 20
"""Answers of a task that are remembered, at most, and what they and their questions may hold."""
Work = Any
"""What a request asks of a model, and what comes of it: `answer.Windows` and `Answer`, or `items.Sent` and `Found`."""


@dataclass
class Desk:
    """On the event loop; the models run elsewhere.

    answer = await desk.answer("traffic_speed", request_id, lambda model: Windows.of(model, lambda _: ask))
    """

    settings: Settings
    pool: Pool
    live: Live
    counters: Counters
    log: Log | None = None
    recent: dict[str, "Recent"] = field(default_factory=dict)
    watched: dict[str, Any] = field(default_factory=dict)
    """By task how it does, where somebody watches it; see `serve.watched`."""

    def serving(self, task: str) -> Serving:
        """Raises Refusal 404 for a task that nobody promoted, 503 for one whose release is not loaded."""
        found = self.live.tasks.get(task)
        if found is not None and found.stable is not None:
            return found
        if found is None and self.live.settled:
            known = ", ".join(sorted(self.live.tasks)) or "none yet, promote one"
            raise Refusal(404, f"no task {task!r} is served here; tasks: {known}")
        raise later(503, f"task {task!r} is not loaded yet; try again", 2)

    async def answer(
        self, task: str, request_id: str, work_of: Callable[[Loaded], Work], version: str | None = None
    ) -> Any:
        """By the release whose turn it is, or by the one that `version` names."""
        serving = self.serving(task)
        if version is not None:
            return await self._by(serving.named(version), serving, request_id, work_of)
        assert serving.stable is not None
        canary = serving.canary
        if canary is None or serving.shadow or drawn(request_id) >= serving.share:
            return await self._by(serving.stable, serving, request_id, work_of)
        try:
            return await self._by(canary, serving, request_id, work_of)
        except Exception as error:
            if isinstance(error, Refusal) and error.status == 429:
                raise
            # A release on trial costs nobody an answer; what the stable refuses as well is no fault of it.
            answer = await self._by(serving.stable, replace(serving, canary=None), request_id, work_of)
            _blame(canary, error)
            return answer

    def greet(self, serving: Serving) -> None:
        """A release came on trial: it answers copies of the latest requests."""
        recent = self.recent.get(serving.task)
        for answer in list(recent.answers) if recent else ():
            self._compare(answer, serving)

    async def _by(self, model: Loaded, serving: Serving, request_id: str, work_of: Callable[[Loaded], Work]) -> Any:
        work = work_of(model)
        try:
            ran = await self.pool.ask(work, self.settings.time_s)
            answer, rows = work.told(ran.answer, request_id)
        except Refusal:
            raise
        except Exception:
            if model is serving.stable:
                model.counts.failed()
            raise
        model.counts.answered(ran.seconds)
        self.counters.batches.add(ran.batch)
        self._log("canary" if model is serving.canary else "stable", rows)
        self.recent.setdefault(model.task, Recent()).add(answer)
        if serving.canary is not None:
            self._compare(answer, serving)
        return answer

    def _log(self, role: str, rows: Rows) -> None:
        if self.log is not None:
            for one in rows(role):
                self.log.add(one)

    def _compare(self, answer: Any, serving: Serving) -> None:
        """Have the other of stable and canary answer a copy in the background, unless there is too much to do."""
        stable, canary = serving.stable, serving.canary
        if stable is None or canary is None or answer.digest not in (stable.digest, canary.digest):
            return
        asked, other = (stable, canary) if answer.digest == stable.digest else (canary, stable)
        try:
            work = answer.again(asked, other)
        except Exception as error:
            _blame(other, error)
            return
        loop = asyncio.get_running_loop()

        def copy() -> None:
            began = time.perf_counter()
            try:
                raw = work.run([work])[0]
                if isinstance(raw, Exception):
                    raise raw
                copied, rows = work.told(raw, answer.request_id)
            except Exception as error:
                loop.call_soon_threadsafe(_blame, other, error)
                return
            took = time.perf_counter() - began
            differ = copied.differs(answer) if other is canary else answer.differs(copied)
            self._log("shadow", rows)
            loop.call_soon_threadsafe(_compared, canary, other, took, differ)

        if not self.pool.behind(copy):
            self.counters.copies_dropped += 1


def _compared(canary: Loaded, other: Loaded, took: float, differ: float | None) -> None:
    other.counts.answered(took)
    if differ is not None:
        canary.counts.compared += 1
        canary.counts.disagreement += differ


def _blame(model: Loaded, error: Exception) -> None:
    model.counts.failed()
    logger.warning("%s: release %s failed: %s", model.task, model.digest[:12], error)


def drawn(request_id: str) -> float:
    """A number in [0, 1) that the id alone decides: a request that is tried again meets the same release."""
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "big") / 2**64


class Recent:
    """The latest answers of one task, oldest first."""

    def __init__(self) -> None:
        self.answers: deque[Any] = deque()
        self._bytes = 0

    def add(self, answer: Any) -> None:
        self.answers.append(answer)
        self._bytes += answer.nbytes
        while len(self.answers) > RECENT or (self.answers and self._bytes > RECENT_BYTES):
            self._bytes -= self.answers.popleft().nbytes
