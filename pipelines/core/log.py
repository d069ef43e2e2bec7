"""What a person sees while a room works: a bar on a terminal, plain lines elsewhere, a summary at the end."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger("cityloop")


def setup(verbose: bool = False) -> None:
    """Send our log to standard error, one plain line a message."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


@contextlib.contextmanager
def room(name: str, key: str) -> Iterator[dict[str, Any]]:
    """Time a room. What is put into the yielded dict (counts, mostly) is told at the end.

    with log.room("ingest", "traffic") as told:
        told["records"] = 806_400
    """
    started = time.perf_counter()
    told: dict[str, Any] = {}
    yield told
    parts = [f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in told.items()]
    logger.info("%s %s: %s  (%.1f s)", name, key, ", ".join(parts) or "done", time.perf_counter() - started)


class Progress:
    """A counter that shows: a tqdm bar on a terminal, a line every `every` seconds elsewhere."""

    def __init__(self, what: str, total: int | None = None, unit: str = "", every: float = 10.0) -> None:
        self.what, self.total, self.unit, self.every = what, total, unit, every
        self.done = 0
        self._told = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=what, total=total, unit=f" {unit}", leave=False, dynamic_ncols=True)

    def add(self, n: int = 1, note: str = "") -> None:
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
            if note:
                self._bar.set_postfix_str(note)
        elif time.monotonic() - self._told > self.every:
            self._told = time.monotonic()
            of = f" of {self.total:,}" if self.total else ""
            logger.info("%s: %s%s %s %s", self.what, f"{self.done:,}", of, self.unit, note)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress(items: Iterable[T], what: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Iterate with a bar or plain lines."""
    with Progress(what, total, unit) as shown:
        for item in items:
            yield item
            shown.add()
