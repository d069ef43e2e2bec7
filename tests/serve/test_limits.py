"""More than the server takes on: it says so, in time, and others are served meanwhile."""

import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import TASK, Client, Place, Server, arrays, eventually, serving, v2

from pipelines.release.predictor import Predictor
from pipelines.serve import keys

ASK = arrays([[1, 2, 3]])
HEAD = f"POST /v1/tasks/{TASK}/predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()


@pytest.fixture
def city(place: Place) -> Place:
    place.point(place.release())
    return place


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No inference ends before the event is set; it is at the end."""
    go, real = threading.Event(), Predictor.predict

    def predict(self: Predictor, *args: Any) -> Any:
        go.wait(10)
        return real(self, *args)

    monkeypatch.setattr(Predictor, "predict", predict)
    try:
        yield go
    finally:
        go.set()


def running(server: Server, n: int) -> None:
    eventually(lambda: server.app._counters.in_flight == n)


def test_a_full_queue_turns_away_and_says_when_to_come_back(city: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(city, threads=1, queue=2) as server, ThreadPoolExecutor(3) as many:
        with held(monkeypatch):
            asked = []
            for n in (1, 2, 3):  # one is under way, two wait
                asked.append(many.submit(server.client().predict, ASK))
                running(server, n)
                time.sleep(0.05)
            refused = server.client().predict(ASK)
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            assert "2 requests wait already" in refused.error
            assert server.client().get("/livez").status == 200, "health is told while all threads are busy"
        assert [a.result().status for a in asked] == [200] * 3


def test_an_answer_that_takes_too_long_is_given_up(city: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(city, threads=1, time_s=0.2) as server:
        client = server.client()
        with held(monkeypatch):
            began = time.monotonic()
            late = client.predict(ASK)
            assert (late.status, "no answer within 0.2 s" in late.error) == (504, True)
            assert time.monotonic() - began < 2
        eventually(lambda: client.predict(ASK).status == 200)


def test_what_waits_for_one_model_is_answered_together(city: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same channels, that is, and each gets its own answer."""
    with serving(city, threads=1) as server, ThreadPoolExecutor(8) as many:
        with held(monkeypatch):
            first = many.submit(server.client().predict, ASK)
            eventually(lambda: b"cityloop_running 1.0" in server.client().get("/metrics").body)  # a thread has it
            same = [many.submit(server.client().predict, arrays([[i, i, i]])) for i in range(1, 5)]
            other = [many.submit(server.client().predict, arrays([[i]])) for i in range(1, 4)]
            running(server, 8)
            time.sleep(0.2)
        assert first.result().status == 200
        for told in (same, other):
            medians = [[r["q0.5"] for r in a.result().json["rows"]] for a in told]
            assert medians == [[i + 1.0] * len(m) for i, m in enumerate(medians)]
        batches = server.app._counters.batches
        assert {edge: n for edge, n in zip(batches.edges, batches.counts, strict=False) if n} == {1: 1, 4: 7}


def test_a_key_that_asks_too_often_waits(city: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYLOOP_STATE", str(city.root / "state"))
    often, other = keys.add("often"), keys.add("other")
    with serving(city, no_auth=False, rate=5, burst=3) as server:
        client = server.client(x_api_key=often)
        assert [client.predict(ASK).status for _ in range(4)] == [200, 200, 200, 429]
        refused = client.get("/v1/tasks")
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert server.client(x_api_key=other).predict(ASK).status == 200, "it is nobody else's limit"
        eventually(lambda: client.predict(ASK).status == 200)


def test_the_clock_may_jump(city: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits, retries and heartbeats do not look at it."""
    real = time.time
    with serving(city) as server:
        client = server.client()
        for jump in (86_400, -86_400, 0):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            told = client.predict(ASK)
            issued = np.datetime64(told.json["issued"].rstrip("Z"), "s").astype(int)
            assert (told.status, abs(issued - real() - jump) < 60) == (200, True)
            beat = city.store.beats()["toy"]["beat"]
            eventually(lambda: city.store.beats()["toy"]["beat"] > beat + 1)  # noqa: B023
        another = city.release(2.0)
        city.point(another)
        eventually(lambda: client.predict(ASK).json["digest"] == another)


def raw(port: int, *parts: bytes, wait: float = 0.0) -> tuple[bytes, float]:
    """What comes back for bytes sent by hand, `wait` seconds apart, and how long the connection lived."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        told = b""
        try:
            for part in parts:
                connection.sendall(part)
                if select.select([connection], [], [], wait)[0]:
                    break  # it answered already
            while more := connection.recv(65536):
                told += more
        except (ConnectionError, BrokenPipeError):
            pass
    return told, time.monotonic() - began


def test_a_head_that_comes_slowly_is_cut_off(city: Place) -> None:
    with serving(city, header_s=0.3) as server:
        for parts in ([b"POST / HT"], [HEAD], [b"GET /livez HTTP/1.1\r\nx: ", *[b"y"] * 40], [b""]):
            told, took = raw(server.port, *parts, wait=0.02)
            assert told.startswith(b"HTTP/1.1 408"), told
            assert took < 2
        client = server.client()
        assert client.get("/livez").status == 200
        time.sleep(0.6)
        assert client.get("/livez").status == 200, "a connection that is kept alive is not slow"
        client.connection.sock.sendall(b"GET /livez HTTP/1.1\r\n")
        assert client.connection.sock.recv(64).startswith(b"HTTP/1.1 408"), "its next head has its own time"


def test_a_hundred_slow_clients_delay_nobody(city: Place) -> None:
    with serving(city, header_s=1.0) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        for connection in slow:
            connection.sendall(HEAD)
        began = time.monotonic()
        assert [server.client().predict(ASK).status for _ in range(10)] == [200] * 10
        assert time.monotonic() - began < 2
        eventually(lambda: len(server.uvicorn.server_state.connections) <= 12)
        for connection in slow:
            connection.close()


def test_what_is_no_http_is_refused_in_json(city: Place) -> None:
    with serving(city) as server:
        for parts in ([b"EHLO x\r\n\r\n"], [HEAD + b"transfer-encoding: chunked\r\n\r\n", b"nonsense\r\n"]):
            told, _ = raw(server.port, *parts, wait=0.05)
            assert told.startswith(b"HTTP/1.1 400"), told
            assert told.endswith(b'{"error":"Invalid HTTP request received."}')


def test_a_head_that_does_not_end_is_cut_off(city: Place) -> None:
    with serving(city) as server:
        told, _ = raw(server.port, b"GET /livez HTTP/1.1\r\n", *[b"x: " + b"y" * 1000 + b"\r\n"] * 100)
        assert told.startswith(b"HTTP/1.1 431") or not told  # the answer may be lost where the client still sends
        assert server.client().get("/livez").status == 200


def test_a_body_that_comes_slowly_is_given_up(city: Place) -> None:
    with serving(city, body_s=0.3) as server:
        for head in (b"content-length: 1000\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\n5\r\n{    \r\n"):
            told, took = raw(server.port, HEAD + head, *[b"1\r\n \r\n"] * 10, wait=0.05)
            assert told.startswith(b"HTTP/1.1 408"), told
            assert b'{"error":"the body did not come within 0.3 s"}' in told
            assert took < 2
        assert server.app._bodies.held == 0


def test_a_body_that_nobody_reads_any_more_is_cut_off(city: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.serve.http.LINGER_S", 0.3)
    with serving(city) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            one.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
            with pytest.raises(ConnectionError):
                without_end(one)
        eventually(lambda: not server.uvicorn.server_state.connections)


def without_end(connection: socket.socket) -> None:
    """A body in chunks, for ten seconds."""
    chunks, until = (b"1000\r\n" + b" " * 4096 + b"\r\n") * 100, time.monotonic() + 10
    while time.monotonic() < until:
        connection.sendall(chunks)


def test_bodies_together_have_a_limit_too(city: Place) -> None:
    with serving(city, bodies_bytes=1 << 20) as server:
        big = HEAD + b"content-length: 900000\r\n\r\n" + b" " * 800_000
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            one.sendall(big)
            eventually(lambda: server.app._bodies.held == 800_000)
            refused = server.client().predict(b" " * 300_000)
            assert (refused.status, "too many large requests" in refused.error) == (429, True)
            assert server.client().predict(ASK).status == 200
        eventually(lambda: server.app._bodies.held == 0)


def test_a_client_that_leaves_leaves_nothing_behind(city: Place) -> None:
    with serving(city) as server:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as one:
                one.sendall(HEAD + b"content-length: 1000\r\n\r\n" + b" " * 500)
        eventually(lambda: server.app._counters.in_flight == 0 and server.app._bodies.held == 0)


def logged(client: Client, state: str) -> float:
    """Rows of the prediction log, as /metrics counts them."""
    lines = client.get("/metrics").body.decode().splitlines()
    start = f'cityloop_log_rows_total{{state="{state}"}}'
    return next(float(line.split()[1]) for line in lines if line.startswith(start))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of a few kilobytes, all of them taken."""
    place = tmp_path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    (place / "taken").write_bytes(b"x" * 8192)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_at_the_prediction_log_costs_rows_and_no_answer(
    city: Place, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.release.predictions.FIRST_S", 0.01)
    monkeypatch.setattr("pipelines.release.predictions.TRIES", 2)
    folder = Path(city.store.where) / "predictions"
    folder.mkdir(exist_ok=True)
    (folder / TASK).symlink_to(full_disk)
    with serving(city, log_rows=400) as server:
        client = server.client()
        assert {client.predict(ASK).status for _ in range(20)} == {200}
        eventually(lambda: logged(client, "dropped") >= 100)
        assert {client.infer(v2(np.ones((1, 1, 3)))).status for _ in range(5)} == {200}
    assert not [p for p in full_disk.rglob("*.parquet") if p.stat().st_size == 0]


def test_a_log_that_cannot_be_written_at_all_costs_rows_and_no_answer(
    city: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.release.predictions.FIRST_S", 0.01)
    monkeypatch.setattr("pipelines.release.predictions.TRIES", 2)
    (Path(city.store.where) / "predictions").write_text("no folder")
    with serving(city, log_rows=400) as server:
        client = server.client()
        assert {client.predict(ASK).status for _ in range(20)} == {200}
        eventually(lambda: logged(client, "dropped") >= 100)
        assert city.beat["error"] is None
