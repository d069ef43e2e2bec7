"""`cityloop serve` as a process: how it starts, ends, is killed and comes back."""

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from served import ROOT, TASK, Client, Place, arrays, eventually, process, serving

from pipelines.__main__ import main
from pipelines.serve import keys

ASK = arrays([[10, 10, 10]])
HEAVY = ["torch", "mlflow", "pandas", "great_expectations", "pipelines.models", "pipelines.core.params"]
LATER = ["fastapi", "pyarrow", "jwt", "prometheus_client", "obstore"]
"""What is loaded when it is needed, and not before."""


class Load(threading.Thread):
    """Asks until the server is gone; `told` are the ids that were answered, `odd` what was neither answer nor end."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port, self.told, self.odd = port, [], []  # type: ignore[var-annotated]
        self.start()

    def run(self) -> None:
        client = Client(self.port)
        while True:
            try:
                answer = client.predict(ASK)
            except Exception:
                return
            (self.told if answer.status == 200 else self.odd).append(answer.json.get("request_id", answer.body))


def logged(place: Place) -> set[str]:
    keys = place.store.objects.find(f"predictions/{TASK}")
    tables = [pq.read_table(pa.BufferReader(place.store.objects.get(key)), columns=["request_id"]) for key in keys]
    return set(pa.concat_tables(tables)["request_id"].to_pylist())


def test_sigterm_under_load_ends_it_in_order(place: Place) -> None:
    """What was taken on is answered and logged, and the heartbeat goes."""
    place.point(place.release())
    with process(place) as (run, port):
        loads = [Load(port) for _ in range(3)]
        eventually(lambda: sum(len(load.told) for load in loads) > 100)
        assert len(place.store.beats()) == 1
        run.send_signal(signal.SIGTERM)
        run.wait(10)
        for load in loads:
            load.join()
    told = {i for load in loads for i in load.told}
    assert [load.odd for load in loads] == [[], [], []]
    assert told <= logged(place)
    assert place.store.beats() == {}


def test_killed_under_load_it_comes_back_from_its_copy_though_the_store_is_gone(place: Place) -> None:
    digest = place.release()
    place.point(digest)
    with process(place) as (run, port):
        load = Load(port)
        eventually(lambda: len(load.told) > 50)
        run.kill()
        run.wait()
        load.join()
    assert load.odd == []
    where = Path(place.store.where)
    where.rename(place.root / "aside")
    where.write_text("no folder")
    with process(place) as (_, port):
        assert Client(port).predict(ASK).json["digest"] == digest


def test_it_loads_nothing_that_it_does_not_need() -> None:
    code = "import pipelines.serve.app, pipelines.serve.main, pipelines.serve.http, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {*HEAVY, *LATER} & set(done.stdout.split())


def test_a_port_that_is_taken_is_an_error_of_one_line(place: Place) -> None:
    place.point(place.release())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(main, ["-C", str(place.root), "serve", "--no-auth", "--port", port])
    assert (done.exit_code, "give another --host or --port" in done.output) == (2, True), done.output


def test_each_request_is_a_line_of_the_access_log(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITYLOOP_STATE", str(place.root / "state"))
    digest, key = place.release(), keys.add("bus-app")
    place.point(digest)
    with serving(place, no_auth=False) as server:
        client = server.client(x_api_key=key)
        eventually(lambda: client.get("/v1/tasks/nope").status == 404)
        client.predict(ASK, x_request_id="mine")
        odd = client.predict(ASK, x_request_id="no good id\t")
        client.get("/v1/tasks/nope")
        server.client().get("/v1/tasks")
    lines: list[Any] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [(x["method"], x["path"], x["status"], x["key"], x["task"], x["digest"]) for x in lines]
    path = f"/v1/tasks/{TASK}/predict"
    assert told[-4:] == [
        ("POST", path, 200, "bus-app", TASK, digest),
        ("POST", path, 200, "bus-app", TASK, digest),
        ("GET", "/v1/tasks/nope", 404, "bus-app", "nope", ""),
        ("GET", "/v1/tasks", 401, None, "", ""),
    ]
    assert [x["id"] for x in lines[-4:-2]] == ["mine", odd.headers["x-request-id"]]
    assert all(x["ms"] > 0 and x["time"].endswith("Z") for x in lines)
    assert key not in "".join(map(str, lines))


def test_metrics_tell_what_happened(place: Place) -> None:
    digest = place.release()
    place.point(digest, versions={digest: "3"})
    with serving(place) as server:
        client = server.client()
        for _ in range(3):
            client.predict(ASK)
        eventually(lambda: client.get("/v1/tasks/nope").status == 404)
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in answer.body.decode().splitlines() if not line.startswith("#"))
    assert lines[f'cityloop_requests_total{{code="200",route="predict",task="{TASK}"}}'] == "3.0"
    assert lines['cityloop_requests_total{code="404",route="other",task=""}'] == "1.0", "no label for any word sent"
    assert lines[f'cityloop_request_seconds_count{{route="predict",task="{TASK}"}}'] == "3.0"
    assert lines[f'cityloop_release{{digest="{digest}",role="stable",task="{TASK}",version="3"}}'] == "1.0"
    assert lines[f'cityloop_swaps_total{{task="{TASK}"}}'] == "1.0"
    assert 0 < float(lines[f'cityloop_release_age_seconds{{role="stable",task="{TASK}"}}']) < 60
    assert {"cityloop_queue_depth", "cityloop_in_flight", "cityloop_store_errors_total"} <= lines.keys()
