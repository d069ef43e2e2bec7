"""What a client is sent: an answer, or a status and one line with the way out."""

from typing import NamedTuple

import orjson

Headers = list[tuple[bytes, bytes]]
JSON: Headers = [(b"content-type", b"application/json")]


class Reply(NamedTuple):
    body: bytes
    headers: Headers = JSON
    status: int = 200


class Refusal(Exception):
    """An answer that is an error. The message is for the client."""

    def __init__(self, status: int, message: str, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or []

    @property
    def body(self) -> bytes:
        return orjson.dumps({"error": self.message})


def later(status: int, message: str, seconds: float = 1) -> Refusal:
    """A refusal that says when to try again."""
    return Refusal(status, message, [(b"retry-after", str(max(1, round(seconds))).encode())])
