"""How much the server takes on: a body's size and time, all bodies together, and how often one caller may ask."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pipelines.serve.replies import Refusal, later
from pipelines.serve.settings import Settings

CALLERS = 10_000
"""Of so many callers it is remembered when they asked last."""
CLOSE = [(b"connection", b"close")]


class Bodies:
    """Reads bodies, and knows how many bytes of them are held; give back what `read` took with `release`."""

    def __init__(self, settings: Settings) -> None:
        self._one, self._all, self._within = settings.body_bytes, settings.bodies_bytes, settings.body_s
        self.held = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Callable[[], Awaitable[Any]]) -> bytes:
        """The whole body. Raises Refusal 413, 408 or 429, having given back what it took."""
        told = headers.get(b"content-length", b"")
        if told.isdigit() and int(told) > self._one:
            raise self._too_large()
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self._within):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the connection closed before the body's end")
                    part, more = message.get("body", b""), message.get("more_body", False)
                    size += len(part)
                    self.held += len(part)
                    parts.append(part)
                    if size > self._one:
                        raise self._too_large()
                    if self.held > self._all:
                        raise later(429, "too many large requests at once; try again")
        except BaseException as error:
            self.held -= size
            if isinstance(error, TimeoutError):
                raise Refusal(408, f"the body did not come within {self._within:g} s", CLOSE) from None
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def release(self, size: int) -> None:
        self.held -= size

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self._one:,} bytes; send less at once")


class Rates:
    """A bucket of tokens for each caller: `rate` a second flow in, `burst` fit, a request takes one."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, caller: str) -> None:
        """Raises Refusal 429 for a caller who asks too often."""
        if self._rate <= 0:
            return
        now = time.monotonic()
        left, at = self._buckets.get(caller, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        if left < 1:
            raise later(429, f"one key may ask {self._rate:g} times a second; ask less often", 1 / self._rate)
        if len(self._buckets) >= CALLERS and caller not in self._buckets:
            self._buckets.clear()
        self._buckets[caller] = (left - 1, now)
