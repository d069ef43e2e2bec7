"""The heartbeat: `servers/<id>.json` in the store says which releases this server answers with, and how they do."""

import datetime as dt
import os
import socket
import threading
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.log import logger
from pipelines.release.store import Store
from pipelines.serve.counters import Counters
from pipelines.serve.swap import Live


class Heartbeat:
    """A thread that beats every `every_s` seconds until `stop`, which takes the heartbeat away."""

    def __init__(self, store: Store, name: str, live: Live, counters: Counters, every_s: float) -> None:
        self._store, self._name, self._live, self._counters, self._every_s = store, name, live, counters, every_s
        self._started = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._beat = 0
        self._silent = False
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(3)

    def soon(self) -> None:
        """Beat at once: there is news that a promoter waits for."""
        self._wake.set()

    def told(self) -> dict[str, Any]:
        """What is beaten: see the store. Counts are of each release since it was loaded."""
        tasks = {}
        for task, serving in self._live.tasks.items():
            models = {role: getattr(serving, role) for role in ("stable", "canary")}
            tasks[task] = {
                "seq": serving.seq,
                **{role: model and model.digest for role, model in models.items()},
                "error": serving.error,
                "refused": serving.refused,
                "counts": {m.digest: m.counts.told() for m in models.values() if m is not None},
            }
        return {
            "id": self._name, "host": socket.gethostname(), "pid": os.getpid(), "beat": self._beat,
            "every_s": self._every_s, "started": self._started, "tasks": tasks,
        }  # fmt: skip

    def _run(self) -> None:
        while True:
            self._beat += 1
            self._wake.clear()
            self._try(lambda: self._store.beat(self._name, self.told()))
            self._wake.wait(self._every_s)
            if self._stop.is_set():
                self._try(lambda: self._store.unbeat(self._name))
                return

    def _try(self, write: Any) -> None:
        try:
            write()
            self._silent = False
        except Exception as error:
            self._counters.store_errors += 1
            if not isinstance(error, UserError | OSError):
                logger.exception("the heartbeat failed")
            elif not self._silent:
                logger.warning("the heartbeat cannot be written, trying on: %s", error)
            self._silent = True
