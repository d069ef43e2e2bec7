"""How served tasks do, as `cityloop monitor` last wrote it into the store; nothing that is answered depends on it.

The watcher's thread looks, at one task a time, so that it is soon back at its pointers; no request waits for it. What
is not there is not told, and while the store does not answer, what was told last is.
"""

import json
import time
from typing import Any

from pipelines.core.errors import UserError
from pipelines.release.store import Store
from pipelines.serve.swap import Live
from pipelines.watch.kept import GLANCE, Kept

EVERY_S = 30.0
MOST = 64 << 10
"""Bytes; a larger one is none of monitor's."""


class Glances:
    """`told`: by task what `watch.week.glance` says; replaced by one thread, read by all."""

    def __init__(self, store: Store, live: Live, told: dict[str, Any], every_s: float = EVERY_S) -> None:
        self._store, self._live, self._told, self._every_s = store, live, told, every_s
        self._due: dict[str, float] = {}

    def look(self) -> None:
        now = time.monotonic()
        task = min(self._live.tasks, key=lambda name: self._due.get(name, 0.0), default=None)
        if task is None or self._due.get(task, 0.0) > now:
            return
        self._due[task] = now + self._every_s
        try:
            kept = Kept(self._store.objects, task)
            data = kept.objects.get(kept.key(GLANCE))
            found = json.loads(data) if len(data) <= MOST else None
        except (FileNotFoundError, ValueError):
            found = None
        except (UserError, OSError):
            return
        if isinstance(found, dict):
            self._told[task] = found
        else:
            self._told.pop(task, None)
