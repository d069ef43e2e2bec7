"""The application: what answers, what watches the store, and what lies in between, put together.

app = create_app(Store.of(Paths()), Settings(state=Paths().state, no_auth=True))
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from pipelines.core.log import logger
from pipelines.release.predictions import Log
from pipelines.release.store import Store
from pipelines.serve.accesslog import AccessLog
from pipelines.serve.answering import Desk
from pipelines.serve.auth import Doors
from pipelines.serve.counters import Counters
from pipelines.serve.edge import Edge, Receive, Scope, Send
from pipelines.serve.health import Health
from pipelines.serve.heartbeat import Heartbeat
from pipelines.serve.hot import Hot
from pipelines.serve.limits import Bodies, Rates
from pipelines.serve.pool import Pool
from pipelines.serve.settings import Settings
from pipelines.serve.swap import Live, Watcher
from pipelines.serve.watched import Glances

if TYPE_CHECKING:
    from fastapi import FastAPI


def create_app(store: Store, settings: Settings) -> Edge:
    """An ASGI application that answers with what `store` says is promoted, from its lifespan's start to its end.

    Raises UserError where nobody could be let in, and where everybody could from another machine.
    """
    doors, live, counters = Doors(settings), Live(), Counters()
    access, bodies = AccessLog(), Bodies(settings)
    desk = Desk(settings, Pool(settings.threads, settings.queue, settings.batch_cells), live, counters)

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        if settings.log_share > 0:
            rows = {"max_rows": settings.log_rows, "flush_rows": settings.log_rows // 4}
            desk.log = Log(store.objects, settings.name, share=settings.log_share, **rows)
        glances = Glances(store, live, desk.watched)

        def beside() -> None:
            doors.refresh()
            glances.look()

        watcher = Watcher(
            store, settings.keep, live, counters, settings.poll_s,
            greet=lambda serving: loop.call_soon_threadsafe(desk.greet, serving), beside=beside,
            threads=settings.threads,
        )  # fmt: skip
        heart = Heartbeat(store, settings.name, live, counters, settings.beat_s)
        for part in (access, desk.pool, watcher, heart):
            part.start()
        try:
            yield
        finally:
            stops = [watcher.stop, heart.stop, desk.pool.stop, access.stop]
            await asyncio.to_thread(_end, stops, desk.log)

    rates = Rates(settings.rate, settings.burst)
    direct = (Hot(desk, bodies), Health(desk, access))
    known = lambda task: task in live.tasks  # noqa: E731
    return Edge(Behind(store, desk), direct, running, doors, rates, bodies, counters, access, known)


class Behind:
    """The routes of FastAPI, which takes as long to load as all the rest: it does so when one of them is asked."""

    def __init__(self, store: Store, desk: Desk) -> None:
        self._store, self._desk = store, desk
        self._app: asyncio.Task[FastAPI] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self._made())(scope, receive, send)

    async def _made(self) -> "FastAPI":
        if self._app is None:
            self._app = asyncio.create_task(asyncio.to_thread(self._make))
        return await asyncio.shield(self._app)

    def _make(self) -> "FastAPI":
        from pipelines.serve import routes

        return routes.build(self._store, self._desk)


def _end(stops: list[Callable[[], None]], log: Log | None) -> None:
    for stop in stops:
        stop()
    if log is not None and not log.close():
        logger.warning("the prediction log could not be written to its end: %s", log.counts)
