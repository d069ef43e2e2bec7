"""A real stack for tests: PostgreSQL, MLflow, Airflow, promoter and a server, on free ports, ended whatever happens.

with stacked.up(tmp_path, executor="celery", dags=folder) as stack:
    stack.airflow.post("/api/v2/dags/tiny/dagRuns", json={"logical_date": None})
    stack.as_user("mlflow", "viewer").get("/api/2.0/mlflow/registered-models/search")
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import requests
from workspaces import ROOT

STACK = ROOT / "infra/stack/stack.py"
AIRFLOW = ROOT / ".venv-airflow/bin/airflow"
PROMETHEUS = shutil.which("prometheus", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


class Client(requests.Session):
    """Of one server, as one user."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base

    def request(self, method: str, url: str, **given: Any) -> requests.Response:  # type: ignore[override]
        return super().request(method, self.base + url, **{"timeout": 60} | given)


@dataclass
class Stack:
    """One that runs, or did."""

    folder: Path
    """The stack's own: logs/, run/, credentials.json."""
    state: Path
    """The city's, CITYLOOP_STATE."""
    environment: dict[str, str]
    """Of `stack.py`."""
    arguments: list[str] = field(default_factory=list)

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(STACK), *command], env=self.environment, capture_output=True, text=True, cwd=ROOT
        )

    def up(self) -> str:
        """What it says. Raises AssertionError with that where it fails."""
        done = self.call("up", *self.arguments)
        assert done.returncode == 0, done.stderr
        return done.stderr + done.stdout

    def down(self) -> None:
        done = self.call("down")
        assert done.returncode == 0, done.stderr

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.call("status", "--json").stdout)
        return told

    def healthy(self) -> bool:
        return set(self.status()["services"].values()) == {"healthy"}

    @cached_property
    def credentials(self) -> dict[str, dict[str, str]]:
        return json.loads((self.folder / "credentials.json").read_text())

    @cached_property
    def urls(self) -> dict[str, str]:
        return self.status()["urls"]

    @property
    def env(self) -> dict[str, str]:
        """Of `cityloop …` as Airflow's tasks call it."""
        lines = (self.folder / "run/commands.env").read_text().splitlines()
        return dict(shlex.split(line)[0].split("=", 1) for line in lines)

    @cached_property
    def airflow(self) -> Client:
        return self.as_user("airflow", "admin")

    @cached_property
    def mlflow(self) -> Client:
        return self.as_user("mlflow", "admin")

    def as_user(self, service: str, user: str) -> Client:
        """A client of airflow or mlflow, logged in."""
        client, password = Client(self.urls[service]), self.credentials[service][user]
        if service == "mlflow":
            client.auth = (user, password)
        else:
            answer = client.post("/auth/token", json={"username": user, "password": password})
            client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return client

    def pid(self, service: str) -> int:
        """Of a service's main process, as supervisord knows it."""
        found = [p for p in self.processes() if _named(p, service)]
        return min(found, key=lambda p: p.create_time()).pid

    def processes(self) -> list[psutil.Process]:
        """All that belong to it."""
        sys.path.insert(0, str(STACK.parent))
        try:
            import keeper
        finally:
            sys.path.remove(str(STACK.parent))
        return keeper.processes(*(self.folder / name for name in ("run", "postgres", "redis")))

    def run_dag(self, dag: str, patience: float = 120, **conf: Any) -> dict[str, Any]:
        """A run of `dag`, triggered and over; the DAG run as Airflow tells it."""
        until(lambda: self.airflow.get(f"/api/v2/dags/{dag}").ok, patience, f"DAG {dag}")
        run = self.airflow.post(f"/api/v2/dags/{dag}/dagRuns", json={"logical_date": None, "conf": conf})
        assert run.ok, run.text
        where = f"/api/v2/dags/{dag}/dagRuns/{run.json()['dag_run_id']}"
        until(lambda: self.airflow.get(where).json()["state"] in ("success", "failed"), patience, where)
        over: dict[str, Any] = self.airflow.get(where).json()
        return over


def _named(process: psutil.Process, service: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return Path(process.cwd()).name == service
    return False


def until(done: Callable[[], bool], patience: float, what: str) -> None:
    """Wait for it. A server that is away meanwhile is not done."""
    end = time.monotonic() + patience
    while True:
        with contextlib.suppress(requests.ConnectionError):
            if done():
                return
        assert time.monotonic() < end, f"{what}: not after {patience:g} s"
        time.sleep(0.5)


@contextlib.contextmanager
def up(
    folder: Path,
    executor: str = "local",
    *,
    root: Path = ROOT,
    dags: Path | None = None,
    env: Mapping[str, str] | None = None,
    workers: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Stack]:
    """The stack of the city at `root`, its state in `folder`; `workers`: what w1 and w2 are told beside the rest.

    Its own things lie in a folder of their own, since as root PostgreSQL runs as `nobody`, who cannot enter pytest's;
    the logs come to `folder`/stack-logs in the end.
    """
    place = Path(tempfile.mkdtemp(prefix="cityloop-stack-"))
    told = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "AIRFLOW", "CITYLOOP_", "EXECUTOR"))}
    told |= {"CITYLOOP_ROOT": str(root), "CITYLOOP_STATE": str(folder / "state"), "CITYLOOP_STACK": str(place)}
    told |= ({"CITYLOOP_DAGS": str(dags)} if dags else {}) | dict(env or {})
    stack = Stack(place, folder / "state", told, ["--executor", executor, "--free-ports"])
    for name, own in (workers or {}).items():
        file = folder / f"{name}.env"
        file.write_text("".join(f"{k}={shlex.quote(v)}\n" for k, v in own.items()))
        stack.arguments += ["--worker-env", f"{name}={file}"]
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
        shutil.copytree(place / "logs", folder / "stack-logs", dirs_exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
