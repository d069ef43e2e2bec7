"""The access log: a line of JSON a request, written by a thread so that a slow reader of it delays nobody."""

import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

import orjson

if TYPE_CHECKING:
    from pipelines.serve.edge import Call

LINES = 100_000
"""That may wait; more are dropped, and counted."""
EVERY_S = 0.2


class AccessLog:
    """`stream` None: standard output."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lines: list[bytes] = []
        self.dropped = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, call: "Call", status: int, took: float) -> None:
        if len(self._lines) >= LINES:
            self.dropped += 1
            return
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": call.id,
            "method": call.scope["method"],
            "path": call.scope["path"],
            "status": status,
            "ms": round(1000 * took, 2),
            "key": call.caller.name if call.caller else None,
            "task": call.task,
            "digest": call.digest,
        }
        self._lines.append(orjson.dumps(line))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(1)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            try:
                self._stream.write(b"\n".join(lines).decode() + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads it any more
                self.dropped += len(lines)
