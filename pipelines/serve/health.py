"""Whether the server lives, whether it can answer, and what it counts: asked often, so answered without FastAPI."""

import time

from pipelines.serve.accesslog import AccessLog
from pipelines.serve.answering import Desk
from pipelines.serve.counters import counter, gauge
from pipelines.serve.edge import Call, Handler
from pipelines.serve.numbers import dumps
from pipelines.serve.replies import Refusal, Reply, later


class Health:
    """`health(call)` is the handler of these paths, None for any other."""

    def __init__(self, desk: Desk, access: AccessLog) -> None:
        self._desk, self._access = desk, access
        self._paths: dict[str, Handler] = {
            "/livez": self.live, "/v2/health/live": self.live,
            "/readyz": self.ready, "/v2/health/ready": self.ready, "/metrics": self.metrics,
        }  # fmt: skip

    def __call__(self, call: Call) -> Handler | None:
        handler = self._paths.get(call.scope["path"])
        if handler is not None:
            call.route = "health"
            if call.scope["method"] not in ("GET", "HEAD"):
                raise Refusal(405, "this takes a GET; see /docs", [(b"allow", b"GET, HEAD")])
        return handler

    async def live(self, _: Call) -> Reply:
        return Reply(b'{"live":true}')

    async def ready(self, _: Call) -> Reply:
        """Raises Refusal 503 until some task can be asked; `tasks` says of each whether it can."""
        tasks = {task: serving.stable is not None for task, serving in self._desk.live.tasks.items()}
        if not any(tasks.values()):
            raise later(503, "no task is loaded; promote one, or see the server's log")
        return Reply(dumps({"ready": True, "tasks": tasks}))

    async def metrics(self, _: Call) -> Reply:
        """For Prometheus."""
        desk = self._desk
        rows = desk.log.counts if desk.log else {}
        loaded = {
            (task, role, model.digest, model.version or ""): model
            for task, serving in desk.live.tasks.items()
            for role, model in (("stable", serving.stable), ("canary", serving.canary))
            if model is not None
        }
        ages = {key[:2]: time.monotonic() - model.since for key, model in loaded.items()}
        errors = {(task,): float(serving.error is not None) for task, serving in desk.live.tasks.items()}
        states = {(state,): rows.get(state, 0) for state in ("written", "dropped")}
        body = desk.counters.families([
            gauge("queue_depth", "Requests that wait for a thread", [], {(): desk.pool.waiting}),
            gauge("running", "Requests that threads are at", [], {(): desk.pool.running}),
            gauge("release", "1 where loaded", ["task", "role", "digest", "version"], dict.fromkeys(loaded, 1)),
            gauge("release_age_seconds", "Since the release was loaded", ["task", "role"], ages),
            gauge("release_error", "1 where a release was refused", ["task"], errors),
            counter("log_rows", "Rows of the prediction log", ["state"], states),
            gauge("log_rows_waiting", "Rows of the prediction log that wait", [], {(): rows.get("waiting", 0)}),
            counter("access_lines_dropped", "Lines of the access log that nobody read", [], {(): self._access.dropped}),
        ])  # fmt: skip
        return Reply(body, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")])
