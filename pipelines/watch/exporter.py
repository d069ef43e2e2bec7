"""`cityloop metrics`: what lies in the store, and what waits in MLflow, for Prometheus. It writes nothing.

A scrape is answered by what was read at most some seconds before. A store that does not answer becomes
`cityloop_store_up 0`; what was known of it stays, so that no alarm is given up only because nobody looks any more.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core import params
from pipelines.core.errors import UserError
from pipelines.core.log import logger
from pipelines.core.paths import Paths
from pipelines.core.tracking import configured
from pipelines.release.store import Store
from pipelines.watch import gauges, waiting
from pipelines.watch.gauges import Book, Look, Read

if TYPE_CHECKING:
    from prometheus_client.core import Metric

STORE_S, REGISTRY_S = 10.0, 60.0
"""Seconds between two looks at the store, and at MLflow: at least."""
PATIENCE_S, LONGEST_S = 4.0, 20.0
"""A scrape waits for a look so long; one that takes longer than the second has failed."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Watched:
    """The newest families that `look` gave. It runs in a thread of its own, one at a time, at most every `every_s`."""

    def __init__(self, look: "Callable[[], list[Metric]]", every_s: float) -> None:
        self._look, self._every_s = look, every_s
        self.families: list[Metric] = []
        self.read: float | None = None
        """When that was, in Unix seconds."""
        self.took = 0.0
        self._trouble: str | None = "not asked yet"
        self._lock, self._idle = threading.Lock(), threading.Event()
        self._idle.set()
        self._began = float("-inf")

    @property
    def up(self) -> bool:
        """Whether the last look came about, and none has hung since."""
        hangs = not self._idle.is_set() and time.monotonic() - self._began > LONGEST_S
        return self._trouble is None and not hangs

    def ask(self, patience: float) -> None:
        """Look anew where that is due, and wait `patience` seconds for it."""
        with self._lock:
            if self._idle.is_set() and time.monotonic() - self._began >= self._every_s:
                self._idle.clear()
                self._began = time.monotonic()
                threading.Thread(target=self._run, daemon=True).start()
        self._idle.wait(patience)

    def _run(self) -> None:
        trouble = None
        try:
            self.families = self._look()
            self.read, self.took = time.time(), time.monotonic() - self._began
        except (UserError, OSError) as error:
            trouble = str(error)
            if trouble != self._trouble:  # the same every some seconds is said once
                logger.warning("metrics: %s", trouble)
        except Exception:
            trouble = "unexpected"
            logger.exception("metrics: a look failed")
        finally:
            self._trouble = trouble
            self._idle.set()


class Exporter:
    """A collector of prometheus_client for the city in `root`; `live` gives a reader of its files elsewhere."""

    def __init__(self, root: Path, live: Callable[[], Read] | None = None) -> None:
        self._root, self._paths = root, Paths(root)
        self._sight, here = Look(Store.of(self._paths)), _beside(root)
        self.store = Watched(lambda: self._sight(params.load(root), live() if live else here), STORE_S)
        self.registry = Watched(self._candidates, REGISTRY_S) if configured(self._paths) else None

    def collect(self) -> "Iterator[Metric]":
        self.store.ask(PATIENCE_S)
        book = Book()
        book.gauge("store_up", "1 where the store was read when it was last tried", self.store.up)
        book.gauge("store_read_timestamp_seconds", "When it was read last", self.store.read)
        book.gauge("store_read_seconds", "How long that took", self.store.took)
        if self.registry:
            self.registry.ask(0)
            if self.registry.read or not self.registry.up:
                book.gauge("registry_up", "1 where MLflow answered when it was last asked", self.registry.up)
            yield from self.registry.families
        yield from self.store.families
        yield from book.families.values()

    def _candidates(self) -> "list[Metric]":
        return gauges.waiting(waiting.candidates(params.load(self._root), self._paths))


def run(
    *, root: Path = Path(), host: str = "127.0.0.1", port: int = 9108, live: Callable[[], Read] | None = None
) -> None:
    """Answer scrapes until SIGTERM or Ctrl+C. port 0: a free one, which is said.

    Raises UserError for an address that cannot be had, and for parameters that cannot be read.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise UserError("prometheus-client is not installed; pip install 'cityloop[serve]'") from None
    params.load(root)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exporter(root, live))
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    try:
        server: Any
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise UserError(f"{host}:{port}: {error.strerror or error}; give another --host or --port (0: free)") from None
    logger.info("metrics on http://%s:%d/metrics", host, server.server_port)
    if host not in LOOPBACK:
        logger.warning("whoever reaches %s may read them: keep it inside", host)
    stop.wait()
    server.shutdown()
    thread.join()


def _beside(root: Path) -> Read:
    def read(path: str) -> str | None:
        try:
            return (root / path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    return read
