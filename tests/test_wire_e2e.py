"""From a tag in MLflow to answers on the wire and back: MLflow's server, the promoter and replicas, each a process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import carded
import pytest
from promoted import TASK, Registry

from pipelines import promote
from pipelines.core.errors import Refused
from pipelines.core.paths import Paths
from pipelines.core.tracking import connect

ROOT = Path(__file__).resolve().parents[1]
HOURS = [f"2025-03-{day:02}T{hour:02}:00:00Z" for day in range(1, 5) for hour in range(24)]
ASKED = {"times": HOURS, "sensors": list(carded.SENSORS), "values": [[10.0, 11.0, 12.0]] * len(HOURS)}


@contextmanager
def process(*words: str, log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=file, stderr=file, cwd=ROOT, env={**os.environ, **env}
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def until(true: Any, seconds: float, what: str) -> float:
    """Seconds until `true()` was."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def post(address: str, path: str, body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict[str, Any] = json.loads(answer.read() or b"{}")
    return found


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real one, on a database of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    env = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    address = f"http://127.0.0.1:{port}"
    with process(*words, "--artifacts-destination", str(folder / "artifacts"), log=folder / "log", **env):
        until(lambda: _answers(f"{address}/health"), 90, (folder / "log").read_text()[-2000:])
        yield address


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory, mlflow_server: str) -> Iterator[Registry]:
    """A city whose registry is that server."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CITYLOOP_STATE", "CITYLOOP_STORE"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        folder = tmp_path_factory.mktemp("city")
        carded.city(folder)
        registry = Registry(Paths(folder))
        registry.params(gate={"enabled": False})
        yield registry


class Replica:
    """`cityloop serve` on a free port."""

    def __init__(self, city: Registry, folder: Path) -> None:
        self.log = folder / "serve.log"
        words = ("pipelines", "-C", str(city.root), "serve", "--no-auth", "--port", "0")
        self._running = process(*words, log=self.log)
        self.process = self._running.__enter__()
        until(lambda: self._port() is not None, 30, "the server's start")
        self.address = f"http://127.0.0.1:{self._port()}"

    def _port(self) -> str | None:
        found = re.search(r"serving on http://127\.0\.0\.1:(\d+)", self.log.read_text())
        return found[1] if found else None

    def digest(self) -> str | None:
        try:
            return str(post(self.address, f"/v1/tasks/{TASK}/predict", ASKED)["digest"])
        except urllib.error.HTTPError:
            return None

    def stop(self) -> None:
        self._running.__exit__(None, None, None)


@pytest.fixture(scope="module")
def replica(city: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    started = Replica(city, tmp_path_factory.mktemp("replica"))
    yield started
    started.stop()


@contextmanager
def traffic(replica: Replica) -> Iterator[list[str]]:
    """Requests without a pause, three at a time; yields the digests that answered, errors among them."""
    seen: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                seen.append(replica.digest() or "refused")
            except OSError as error:
                seen.append(f"error: {error}")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def version(city: Registry, digest: str) -> str:
    with connect(city.paths) as tracking:
        return str(tracking.version(TASK, digest).version)


def test_a_tag_set_through_mlflows_api_is_answered_within_ten_seconds(
    city: Registry, replica: Replica, mlflow_server: str, tmp_path: Path
) -> None:
    assert replica.digest() is None
    first = city.candidate(1.0)
    with process("pipelines", "-C", str(city.root), "promote", "--watch", TASK, log=tmp_path / "watch.log"):
        until(lambda: "watching" in (tmp_path / "watch.log").read_text(), 30, "the promoter's start")
        time.sleep(3)  # it has looked, and found nothing approved
        tag = {"name": TASK, "version": version(city, first), "key": "review.ada", "value": f"approved:{first}"}
        post(mlflow_server, "/api/2.0/mlflow/model-versions/set-tag", tag)
        took = until(lambda: replica.digest() == first, 10, (tmp_path / "watch.log").read_text())
        until(lambda: city.aliases().get("champion") == first, 10, "the aliases")
    print(f"tag to answer: {took:.1f} s")
    city.agrees(first)


def test_a_canary_that_answers_otherwise_is_taken_back_and_nobody_noticed(city: Registry, replica: Replica) -> None:
    first = city.ledger.state().stable
    city.params(release={"mode": "canary", "share": 0.5, "seconds": 30, "requests": 100_000})
    bad = city.candidate(9.0)
    city.approve(bad)
    with traffic(replica) as seen, pytest.raises(Refused, match=r"canary speaks against it: answers differ by"):
        promote.run(TASK, root=city.root)
    assert first is not None
    city.agrees(first)
    assert set(seen) == {first, bad}, "a share was answered by the canary, and none failed"
    until(lambda: {replica.digest() for _ in range(20)} == {first}, 5, "the canary's end")
    assert "answers differ" in city.tags(bad)["release"]


def test_a_shadow_is_seen_by_nobody_and_promoted_when_it_does_well(city: Registry, replica: Replica) -> None:
    first = city.ledger.state().stable
    city.params(release={"mode": "shadow", "seconds": 30, "requests": 40})
    good = city.candidate(1.02)
    city.approve(good)
    with traffic(replica) as seen:
        promote.run(TASK, root=city.root)
    assert first is not None
    city.agrees(good, first)
    record = city.ledger.records()[-1]
    assert record["trial"]["new"]["compared"] >= 40
    assert 0 < record["trial"]["new"]["disagreement"] < 1
    assert set(seen) <= {first, good}
    assert seen[::-1].index(first) >= 0, "the old one answered until the flip"


def test_a_rollback_is_answered_within_seconds(city: Registry, replica: Replica) -> None:
    good, first = city.ledger.state().stable, city.ledger.state().previous
    began = time.monotonic()
    with traffic(replica) as seen:
        promote.rollback(TASK, why="as asked", root=city.root)
        until(lambda: replica.digest() == first, 5, "the rollback")
    assert time.monotonic() - began < 10
    assert set(seen) <= {first, good}
    assert first is not None
    city.agrees(first, good)


def test_a_rollback_stops_a_promotion_that_is_under_way(city: Registry, replica: Replica) -> None:
    first = city.ledger.state().stable
    assert first is not None
    city.params(release={"mode": "canary", "seconds": 600, "requests": 100_000})
    slow = city.candidate(1.03)
    city.approve(slow)
    said: list[str] = []

    def go() -> None:
        try:
            promote.run(TASK, root=city.root)
        except Exception as error:
            said.append(str(error))

    promoter = threading.Thread(target=go)
    promoter.start()
    until(lambda: city.pointer().canary == slow, 20, "the canary's start")
    with pytest.raises(Refused, match="is promoting"):
        promote.run(TASK, root=city.root)
    promote.rollback(TASK, by="op", root=city.root)
    promoter.join(20)
    assert "op took over" in said[0]
    city.agrees(first, city.ledger.state().previous)
    assert city.pointer().canary is None


def test_a_server_killed_meanwhile_is_not_waited_for(city: Registry, replica: Replica, tmp_path: Path) -> None:
    first = city.ledger.state().stable
    assert first is not None
    city.params(release={"mode": "direct", "wait": 30})
    other = Replica(city, tmp_path)
    until(lambda: len(city.store.beats()) == 2, 20, "the second heartbeat")
    other.process.send_signal(signal.SIGKILL)
    next_ = city.candidate(1.04)
    city.approve(next_)
    promote.run(TASK, root=city.root)
    city.agrees(next_, first)
    assert len(city.ledger.records()[-1]["servers"]) == 1
    assert replica.digest() == next_
    other.stop()


def test_a_release_that_a_server_cannot_load_is_undone_and_the_old_one_answers(
    city: Registry, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = city.ledger.state().stable
    assert first is not None
    bad = city.candidate(1.05)
    city.approve(bad)
    from pipelines.release.rollout import Rollout

    spoil = Rollout._point

    def spoiled(self: Rollout, claim: Any, pointer: Any) -> None:
        path = city.root / ".cityloop/store/releases" / TASK / bad / "model.onnx"
        path.write_bytes(path.read_bytes()[:-1] + b"!")  # on its way from the promoter to the servers
        spoil(self, claim, pointer)

    monkeypatch.setattr(Rollout, "_point", spoiled)
    with traffic(replica) as seen, pytest.raises(Refused, match=r"refuses it: .*model\.onnx"):
        promote.run(TASK, root=city.root)
    assert set(seen) == {first}
    city.agrees(first, city.ledger.state().previous)
