"""The outermost layer, pure ASGI: who asks, how often, how it ended. Every answer passes here, every error ends here.

Routes that infer or tell of health are reached from here directly; all others lie behind, in FastAPI.
"""

import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.log import logger
from pipelines.serve.accesslog import AccessLog
from pipelines.serve.auth import ANYONE, Caller, Doors
from pipelines.serve.counters import Counters
from pipelines.serve.limits import Bodies, Rates
from pipelines.serve.replies import JSON, Refusal, Reply
from pipelines.serve.settings import LOOPBACK

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Running = Callable[[], AbstractAsyncContextManager[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OPEN = {
    "/",
    "/livez",
    "/readyz",
    "/docs",
    "/openapi.json",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
}
OPEN_BELOW = "/page/"
METRICS = "/metrics"
_OWN, _NUMBERS = secrets.token_hex(4), itertools.count()
"""Requests without an id are numbered; the process's own beginning keeps them apart from another's."""
_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,64}")


class Call:
    """A request under way. What it finds out about itself ends in the access log."""

    __slots__ = ("began", "caller", "digest", "headers", "held", "id", "parts", "receive", "route", "scope", "task")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.began = time.perf_counter()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        self.id = given.decode() if given and _ID.fullmatch(given) else f"{_OWN}{next(_NUMBERS):08x}"
        self.parts: list[str] = scope["path"].split("/")
        self.task = self.parts[3] if len(self.parts) > 3 and self.parts[1:3] in _TASKS else ""
        self.route = "other"
        self.caller: Caller | None = None
        self.digest = ""
        self.held = 0


_TASKS = (["v1", "tasks"], ["v2", "models"])
Handler = Callable[[Call], Awaitable[Reply]]
Finder = Callable[[Call], Handler | None]


class Edge:
    """One of `direct` knows the handler of a route that is asked often, `inner` all others. `running` works beside."""

    def __init__(
        self, inner: App, direct: tuple[Finder, ...], running: Running, doors: Doors, rates: Rates,
        bodies: Bodies, counters: Counters, access: AccessLog, known: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self._inner, self._direct, self._running = inner, direct, running
        self._doors, self._rates, self._bodies = doors, rates, bodies
        self._counters, self._access, self._known = counters, access, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._live(receive, send)
            return
        call = Call(scope, receive)
        scope["call"] = call
        self._counters.in_flight += 1
        status = 500
        try:
            status = await self._serve(call, send)
        finally:
            self._counters.in_flight -= 1
            self._bodies.release(call.held)
            self._told(call, status)

    async def _live(self, receive: Receive, send: Send) -> None:
        """The server's own life: what works for it starts before the first request, and ends after the last."""
        assert (await receive())["type"] == "lifespan.startup", "HTTP alone is served"
        async with self._running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, call: Call, send: Send) -> int:
        """The status that was sent."""
        passing = _Passing(call.id, send)
        try:
            self._admit(call)
            handler = next(filter(None, (find(call) for find in self._direct)), None)
            if handler is None:
                await self._inner(call.scope, call.receive, passing)
                return passing.status
            reply = await handler(call)
        except Refusal as refusal:
            reply = Reply(refusal.body, [*JSON, *refusal.headers], refusal.status)
        except UserError as error:
            reply = Reply(Refusal(422, str(error)).body, JSON, 422)
        except Exception:
            logger.exception("request %s: %s %s failed", call.id, call.scope["method"], call.scope["path"])
            reply = Reply(Refusal(500, broken(call)).body, JSON, 500)
        if passing.status:  # a part of an answer is out already
            return 500
        await passing.reply(reply)
        return reply.status

    def _admit(self, call: Call) -> None:
        """Raises Refusal 401, 403 or 429."""
        path = call.scope["path"]
        if path in OPEN or path.startswith(OPEN_BELOW):
            call.caller = ANYONE
            return
        if path == METRICS and self._near(call.scope):
            call.caller = ANYONE
            return
        call.caller = self._doors.admit(call.headers)
        if call.caller is not ANYONE:
            self._rates.take(call.caller.name)
        wanted = "metrics" if path == METRICS else call.task
        if wanted and not call.caller.may(wanted):
            raise Refusal(403, f"this key may not ask {wanted!r}; ask for one that may")

    def _near(self, scope: Scope) -> bool:
        """Whether the server and the client are on one machine, and the server is for that machine alone."""
        server, client = scope.get("server"), scope.get("client")
        return bool(server and client and server[0] in LOOPBACK and client[0] in LOOPBACK)

    def _told(self, call: Call, status: int) -> None:
        took = time.perf_counter() - call.began
        task = call.task if self._known(call.task) else ""
        self._counters.answered(task, call.route, status, took)
        self._access.add(call, status, took)


class _Passing:
    """`send` that knows the status, and adds the request's id."""

    __slots__ = ("_id", "_send", "status")

    def __init__(self, request_id: str, send: Send) -> None:
        self._id, self._send, self.status = (b"x-request-id", request_id.encode()), send, 0

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], self._id]
        await self._send(message)

    async def reply(self, reply: Reply) -> None:
        self.status = reply.status
        length = (b"content-length", str(len(reply.body)).encode())
        headers = [*reply.headers, length, self._id]
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": reply.body})


def broken(call: Call) -> str:
    """What a client is told where the server is to blame."""
    return f"something broke here; tell whoever runs the server: request {call.id}"
