"""uvicorn's HTTP protocol with what it lacks: limits for a request's head, and for what follows a refusal."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 << 10
LINGER_S = 5.0
"""A body that nobody reads any more may go on for so long before the connection is cut."""


def protocol(header_s: float) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn's `http`: a head must come within `header_s` seconds and HEAD_BYTES."""

    class Bounded(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _head = 0
        _in_head = True
        """Of what comes next; a connection that is kept alive waits for a head without a timer of ours."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._arm(header_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_head:
                self._head += len(data)
                if self._timer is None:
                    self._arm(header_s)
            super().data_received(data)
            if self._in_head and self._head > HEAD_BYTES and not self.transport.is_closing():
                self._refuse(b"431 Request Header Fields Too Large", b"the request's head is too large")

        def on_headers_complete(self) -> None:
            self._in_head, self._head = False, 0
            self._disarm()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_head = True
            self._disarm()
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self._in_head and not self.transport.is_closing():
                self._arm(LINGER_S)

        def send_400_response(self, msg: str) -> None:
            self._refuse(b"400 Bad Request", msg.encode())

        def _arm(self, seconds: float) -> None:
            self._disarm()
            self._timer = self.loop.call_later(seconds, self._late)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            self._timer = None
            if self._in_head:
                self._refuse(b"408 Request Timeout", b"the request's head did not come in time")
            elif not self.transport.is_closing():
                self.transport.close()

        def _refuse(self, status: bytes, message: bytes) -> None:
            if self.transport.is_closing():
                return
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                body = b'{"error":"%b"}' % message
                head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close" % len(body)
                self.transport.write(b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, head, body))
            self.transport.close()

    return Bounded
