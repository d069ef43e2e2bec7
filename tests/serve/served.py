"""Servers to ask: the application on a free port in this process, and `cityloop serve` as a process of its own."""

import asyncio
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import carded
import numpy as np
import uvicorn

from pipelines.release import bundle
from pipelines.release.predictor import Predictor
from pipelines.release.store import Pointer, Store
from pipelines.serve.app import create_app
from pipelines.serve.edge import Edge
from pipelines.serve.http import protocol
from pipelines.serve.settings import Settings

TASK = carded.TASK
ROOT = Path(__file__).resolve().parents[2]
JSON = {"content-type": "application/json"}
START = 1743494400
"""2025-04-01T08:00Z."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """One line for a person: never a traceback."""
        said = self.json["error"]
        assert isinstance(said, str), said
        assert said, "an empty error"
        assert "\n" not in said, said
        assert "Traceback" not in said, said
        return said


@dataclass
class Client:
    """One connection, kept alive."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {**(JSON if data is not None else {}), **self.headers, **named}
        try:
            self.connection.request(method, path, data, sent)
            answer = self.connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except Exception:
            self.connection.close()
            raise

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def predict(self, body: Any, task: str = TASK, **headers: str) -> Answer:
        return self.post(f"/v1/tasks/{task}/predict", body, **headers)

    def infer(self, body: Any, task: str = TASK, **headers: str) -> Answer:
        return self.post(f"/v2/models/{task}/infer", body, **headers)


@dataclass
class Place:
    """A store with toy releases, and the folders of a server beside it."""

    root: Path

    def __post_init__(self) -> None:
        self.store = Store(str(self.root / "store"), self.root / "cache")
        self.seq = 0

    def release(self, factor: float = 1.0, task: str = TASK, **changed: bytes) -> str:
        """Put a release that answers `factor` times the mean; returns its digest."""
        folder = self.root / "made" / f"{task}-{factor}"
        bundle.write(folder, {**carded.contents(task, factor), **changed})
        return self.store.put(task, folder)

    def point(self, stable: str | None, task: str = TASK, **told: Any) -> Pointer:
        self.seq += 1
        pointer = Pointer(task, self.seq, stable, **told)
        self.store.point(pointer)
        return pointer

    def predictor(self, digest: str, task: str = TASK) -> Predictor:
        return Predictor.load(self.store.fetch(task, digest), threads=1)

    def settings(self, **told: Any) -> Settings:
        quick = {"no_auth": True, "threads": 2, "poll_s": 0.05, "beat_s": 0.1, "name": "toy"}
        return Settings(**{"state": self.root / "state", **quick, **told})

    @property
    def beat(self) -> Any:
        """What the server's heartbeat says of the toy task."""
        return eventually(lambda: self.store.beats().get("toy", {}).get("tasks", {}).get(TASK))


def eventually(said: Callable[[], Any], within: float = 10.0) -> Any:
    """What `said` says once that is true."""
    until = time.monotonic() + within
    while True:
        found = said()
        if found:
            return found
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.02)


@dataclass
class Server:
    port: int
    app: Edge
    uvicorn: uvicorn.Server

    def client(self, **headers: str) -> Client:
        return Client(self.port, {name.replace("_", "-"): value for name, value in headers.items()})


def told(thread: threading.Thread) -> str:
    """What every thread is at, for a server that does not end."""
    stacks = sys._current_frames()
    lines = [f"{one.name}\n{''.join(traceback.format_stack(stacks[one.ident]))}" for one in threading.enumerate()
             if one.ident in stacks]  # fmt: skip
    return f"{thread.name} goes on\n" + "\n".join(lines)


@contextlib.contextmanager
def serving(place: Place, *, ready: bool = True, **told: Any) -> Iterator[Server]:
    """The application of `place` on a free port, on a thread; `ready`: once it answers."""
    settings = place.settings(**told)
    app = create_app(place.store, settings)
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # asyncio then sends what is small at once
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=protocol(settings.header_s), ws="none", lifespan="on", log_config=None, access_log=False,
            loop="asyncio", timeout_graceful_shutdown=3,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            eventually(lambda: server.started)
            port = listening.getsockname()[1]
            if ready:
                eventually(lambda: Client(port).get("/readyz").status == 200)
            yield Server(port, app, server)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), told(thread)


@contextlib.contextmanager
def process(place: Place, *words: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of its own, and its port; killed at the end if it still runs."""
    given = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CITYLOOP_STORE": place.store.where}
    run = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "-C", str(place.root), "serve", "--port", "0", *(words or ["--no-auth"])],
        env={**os.environ, **given, "CITYLOOP_STATE": str(place.root / "state"), **environ},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert run.stderr is not None
        said = run.stderr.readline()
        assert "serving on http://" in said, said + run.stderr.read()
        threading.Thread(target=run.stderr.read, daemon=True).start()
        port = int(said.split("http://", 1)[1].split()[0].rsplit(":", 1)[1])
        eventually(lambda: _ready(port), 20)
        yield run, port
    finally:
        run.kill()
        run.wait()


def _ready(port: int) -> bool:
    try:
        return Client(port).get("/readyz").status == 200
    except OSError:
        return False


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def v2(values: Any, start: Any = START, **more: Any) -> dict[str, Any]:
    """A V2 request for windows of readings [B, T, n], NaN = missing."""
    values = np.asarray(values, np.float32)
    starts = np.broadcast_to(start, len(values)).tolist()
    flat = [None if np.isnan(v) else v for v in values.reshape(-1).tolist()]
    inputs = [
        tensor("values", "FP32", list(values.shape), flat),
        tensor("start", "INT64", [len(values)], starts),
    ]
    named = [name for name in ("sensor", "kind") if name in more]
    inputs += [tensor(name, "BYTES", [len(more[name])], list(more.pop(name))) for name in named]
    return {"inputs": inputs, **more}


def arrays(values: Any, **more: Any) -> dict[str, Any]:
    """A plain request for readings [T, n] of the first toy sensors."""
    rows = [[None if np.isnan(v) else v for v in row] for row in np.asarray(values, float).tolist()]
    sensors = list(carded.SENSORS[: len(rows[0])])
    return {"start": "2025-04-01T08:00Z", "sensors": sensors, "values": rows, **more}
