"""`make up`: real servers that keep to this machine, let in whom they should, come back when killed, and go whole."""

import json
import os
import signal
import socket
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import stacked
from stacked import Stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not stacked.AIRFLOW.exists(), reason="no .venv-airflow; make setup-airflow"),
]
DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("tiny", schedule=None, is_paused_upon_creation=False):
    say = 'command -v cityloop >&2; sleep 3; echo "$(basename $STACK_SERVICE) $OWN $MLFLOW_TRACKING_USERNAME"'
    for number in range(4):
        BashOperator(task_id=f"say_{number}", bash_command=say)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "dags").mkdir()
    (folder / "dags/tiny.py").write_text(textwrap.dedent(DAG))
    workers = {name: {"OWN": f"of {name}"} for name in ("w1", "w2")}
    with stacked.up(folder, "celery", dags=folder / "dags", workers=workers) as running:
        yield running


def test_all_is_healthy_and_a_second_up_says_so(stack: Stack) -> None:
    told = stack.status()
    assert set(told["services"]) == {
        "postgres", "redis", "mlflow", "serving", "promoter",
        "api", "scheduler", "dag-processor", "triggerer", "w1", "w2", "exporter",
        *(["prometheus"] if stacked.PROMETHEUS else []),
    }  # fmt: skip
    assert set(told["services"].values()) == {"healthy"}
    said = stack.up()
    assert "runs already" in said
    assert all(url in said for url in told["urls"].values())
    other = stack.call("up", "--executor", "local")
    assert other.returncode == 2
    assert "EXECUTOR=celery" in other.stderr


def test_it_is_watched_by_one_who_may_only_look(stack: Stack) -> None:
    metrics = stacked.Client(stack.urls["exporter"])
    stacked.until(lambda: "cityloop_registry_up 1.0" in metrics.get("/metrics").text, 90, "MLflow's answer")
    assert "cityloop_store_up 1.0" in metrics.get("/metrics").text
    if stacked.PROMETHEUS:
        ask = stacked.Client(stack.urls["prometheus"])

        def scraped() -> bool:
            found = ask.get("/api/v1/query", params={"query": "up == 1"}).json()["data"]["result"]
            return {each["metric"]["job"] for each in found} == {"serving", "exporter"}

        stacked.until(scraped, 60, "both scraped")


def test_nothing_listens_beyond_this_machine(stack: Stack) -> None:
    listening = {
        connection.laddr
        for process in stack.processes()
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN or (connection.type == socket.SOCK_DGRAM and connection.laddr)
    }
    assert len(listening) >= 5
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_no_secret_is_in_an_argument_or_an_open_file(stack: Stack) -> None:
    secrets = [value for users in stack.credentials.values() for value in users.values()]
    assert len(secrets) == len(set(secrets)) > 12
    arguments = "\n".join(" ".join(process.cmdline()) for process in stack.processes())
    assert "mlflow" in arguments
    assert not [secret for secret in secrets if secret in arguments]
    for file in stack.folder.rglob("*"):
        if file.is_file() and "postgres" not in file.parts:
            closed = any(part.stat().st_mode & 0o077 == 0 for part in (file, *file.parents))
            assert closed or not any(secret.encode() in file.read_bytes() for secret in secrets), file
    assert (stack.folder / "credentials.json").stat().st_mode & 0o077 == 0


def test_wrong_passwords_are_refused(stack: Stack) -> None:
    client = stacked.Client(stack.urls["mlflow"])
    search = "/api/2.0/mlflow/registered-models/search"
    assert client.get(search).status_code == 401
    assert client.get(search, auth=("admin", "password1234")).status_code == 401
    airflow = stacked.Client(stack.urls["airflow"])
    assert airflow.post("/auth/token", json={"username": "admin", "password": "admin"}).status_code == 401
    assert airflow.get("/api/v2/dags").status_code == 401
    serving = stacked.Client(stack.urls["serving"])
    assert serving.get("/v1/tasks").status_code == 401
    key = stack.credentials["serving"]["operator"]
    assert serving.get("/v1/tasks", headers={"X-API-Key": key}).status_code != 401


def test_a_reviewer_tags_versions_and_a_viewer_looks(stack: Stack) -> None:
    service, reviewer, viewer = (stack.as_user("mlflow", name) for name in ("airflow", "reviewer", "viewer"))
    api = "/api/2.0/mlflow"
    assert service.post(f"{api}/registered-models/create", json={"name": "traffic_speed"}).ok
    experiment = service.post(f"{api}/experiments/create", json={"name": "traffic_speed"}).json()["experiment_id"]
    run = service.post(f"{api}/runs/create", json={"experiment_id": experiment}).json()["run"]["info"]
    version = {"name": "traffic_speed", "source": f"{run['artifact_uri']}/model", "run_id": run["run_id"]}
    assert service.post(f"{api}/model-versions/create", json=version).ok

    tag = {"name": "traffic_speed", "version": "1", "key": "review.ada", "value": "approved:0"}
    alias = {"name": "traffic_speed", "version": "1", "alias": "champion"}
    assert reviewer.post(f"{api}/model-versions/set-tag", json=tag).ok
    assert viewer.post(f"{api}/model-versions/set-tag", json=tag).status_code == 403
    assert viewer.get(f"{api}/model-versions/get", params={"name": "traffic_speed", "version": "1"}).ok
    for client in (reviewer, viewer):
        assert client.post(f"{api}/registered-models/alias", json=alias).status_code == 403
        assert client.post(f"{api}/registered-models/create", json={"name": "air_quality"}).status_code == 403
        assert client.post(f"{api}/model-versions/create", json=version).status_code == 403
    assert service.post(f"{api}/registered-models/alias", json=alias).ok


def test_tasks_run_on_both_workers_each_with_its_own_environment(stack: Stack) -> None:
    over = stack.run_dag("tiny")
    assert over["state"] == "success"
    where = f"/api/v2/dags/tiny/dagRuns/{over['dag_run_id']}/taskInstances"
    said = [stack.airflow.get(f"{where}/say_{n}/xcomEntries/return_value").json()["value"] for n in range(4)]
    assert set(said) == {"w1 of w1 airflow", "w2 of w2 airflow"}
    assert "bin/cityloop" in stack.airflow.get(f"{where}/say_0/logs/1").text
    assert {"cpu", "gpu", "promote"} <= {p["name"] for p in stack.airflow.get("/api/v2/pools").json()["pools"]}
    viewer, reviewer = stack.as_user("airflow", "viewer"), stack.as_user("airflow", "reviewer")
    assert viewer.get("/api/v2/dags/tiny").ok
    assert viewer.post("/api/v2/dags/tiny/dagRuns", json={"logical_date": None}).status_code == 403
    assert reviewer.get("/api/v2/pools").ok
    assert reviewer.post("/api/v2/pools", json={"name": "mine", "slots": 1}).status_code == 403


def test_what_is_killed_comes_back(stack: Stack) -> None:
    killed = {name: stack.pid(name) for name in ("postgres", "w1", "serving")}
    before = {p.pid for p in stack.processes() if stacked._named(p, "w1")}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    stacked.until(lambda: not any(psutil.pid_exists(pid) for pid in killed.values()), 20, "their end")
    stacked.until(stack.healthy, 90, "all healthy again")
    assert all(stack.pid(name) != pid for name, pid in killed.items())
    assert not {p.pid for p in stack.processes()} & before, "children of the worker that was killed are still there"


def test_down_leaves_nothing_but_data_though_the_supervisor_was_killed(stack: Stack) -> None:
    ports = json.loads((stack.folder / "run/stack.json").read_text())["ports"]
    processes = stack.processes()
    supervisor = int((stack.folder / "run/supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    stack.down()
    assert not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not psutil.pid_exists(supervisor)
    assert not stack.processes()
    for port in ports.values():
        socket.create_server(("127.0.0.1", port)).close()
    assert not (stack.folder / "run").exists()
    assert not [file for file in stack.folder.rglob("*") if file.is_socket() or file.suffix == ".pid"]
    assert (stack.folder / "postgres/PG_VERSION").exists()
    assert (stack.folder / "credentials.json").exists()
    assert stack.call("status").returncode == 1


def test_a_taken_port_is_named(stack: Stack, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = stack.call("up", "--free-ports", "--port", f"mlflow={port}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: port {port}, for mlflow, cannot be had")
    assert len(done.stderr.splitlines()) == 1


def test_what_fails_at_the_start_is_shown_and_nothing_stays(stack: Stack) -> None:
    stack.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = "postgresql+psycopg2://nobody@127.0.0.1:9/none"
    done = stack.call("up", "--free-ports")
    del stack.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert done.returncode == 2
    assert "airflow db migrate failed; the end of" in done.stderr
    assert "migrate.log" in done.stderr
    assert not stack.processes()


def test_a_database_of_yours_that_is_away_is_named(stack: Stack) -> None:
    stack.environment["CITYLOOP_POSTGRES"] = "postgresql://me:secret@127.0.0.1:9"
    done = stack.call("up", "--free-ports")
    del stack.environment["CITYLOOP_POSTGRES"]
    assert done.returncode == 2
    assert "CITYLOOP_POSTGRES: PostgreSQL at 127.0.0.1:9 says" in done.stderr
    assert "secret" not in done.stderr
