"""Run by Airflow's own Python: the operators of dags/, tried with a `cityloop` that is a script. Tells what became of
each case as JSON. Needs no database; argument: a folder to work in."""

import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

with contextlib.redirect_stdout(sys.stderr):
    from airflow.providers.standard.operators.hitl import HITLOperator
    from airflow.sdk import DAG, Asset
    from airflow.sdk.bases.operator import ExecutorSafeguard
    from airflow.sdk.exceptions import TaskDeferred
    from airflow.sdk.execution_time.context import OutletEventAccessors
    from airflow.sdk.execution_time.task_runner import _serialize_outlet_events
    from cityloop_airflow import notify, review, watch
    from cityloop_airflow.answer import Partly
    from cityloop_airflow.command import command
    from cityloop_airflow.review import Form, ReviewTrigger, reviewed

FOLDER = Path(sys.argv[1])
DIGEST = "ab" * 32
ExecutorSafeguard.test_mode = True


class Instance:
    """A task instance, as far as the operators ask it."""

    dag_id, run_id, task_id, try_number, map_index, log_url = "a_dag", "a_run", "a_task", 1, -1, "http://airflow/log"

    def __init__(self, states=None, xcoms=None):
        self.states, self.xcoms, self.pushed = states or {}, xcoms or {}, {}

    def xcom_push(self, key, value):
        self.pushed[key] = value

    def xcom_pull(self, task_ids, map_indexes=None):
        found = self.xcoms.get(task_ids)
        return [found] if map_indexes != self.map_index and self.map_index >= 0 else found  # as of all instances

    def get_task_states(self, dag_id, task_ids, run_ids, map_index=None):
        suffix = "" if map_index is None else f"_{map_index}"
        return {self.run_id: {f"{name}{suffix}": state for name, state in self.states.items() if name in task_ids}}


def tried(script, *words, kind="plan", states=None, name="a_task", **given):
    """What becomes of one task whose command is `script`."""
    where = FOLDER / "bin/cityloop"
    where.parent.mkdir(exist_ok=True)
    where.write_text(f"#!/bin/bash\n{script}\n")
    where.chmod(0o755)
    with DAG("a_dag", schedule=None):
        task = command(name, *words, kind=kind, **given)
    return outcome(task, task.execute, states)


def outcome(task, run, states=None, *args):
    ti, events = states if isinstance(states, Instance) else Instance(states), OutletEventAccessors()
    context = {"ti": ti, "task_instance": ti, "dag": task.dag, "task": task, "outlet_events": events, "params": {}}
    told = {"result": None, "error": None}
    try:
        told["result"] = run(context, *args)
    except TaskDeferred as deferred:
        told |= {"error": "TaskDeferred", "trigger": deferred.trigger.serialize(), "next": deferred.method_name}
        told["kwargs"] = deferred.kwargs
    except Exception as error:
        told |= {"error": type(error).__name__, "why": str(error)}
    happened = {event["dest_asset_key"]["uri"]: event["extra"] for event in _serialize_outlet_events(events)}
    told |= {"pushed": ti.pushed, "events": happened}
    links = {link.name: link.get_link(task, ti_key=None) for link in getattr(task, "operator_extra_links", ())}
    return {**told, "links": links}


def commands():
    asset = Asset("cityloop://source/x")
    merged = """echo '{"run": "r", "commit": "c0ffee0123456", "windows": {"x": "2025-04-08"}}'"""
    needs = {"needs": ["fit", "score"], "outlets": [asset], "kind": "merge"}
    os.environ["AIRFLOW__CORE__FERNET_KEY"] = "secret"
    os.environ["CITYLOOP_COMMIT_URL"] = "https://git.city.example/c/"
    return {
        "well": tried(f"echo a log line >&2; {merged}; echo another >&2", outlets=[asset]),
        "words": tried("echo said; printf '%s|' \"$@\"", "a b", "", "$(id)", "it's"),
        "environment": tried('echo "${AIRFLOW__CORE__FERNET_KEY-none} ${PYTHONPATH-none} $CITYLOOP_ROOT"'),
        "nothing": tried("echo '[]'; exit 3", skip_on=[3]),
        "fails": tried("""echo '{"why": "worse"}'; echo 'error: more words'; exit 4""", skip_on=[4], outlets=[asset]),
        "nobody": tried("echo 'error: x: no version is its candidate; run'; exit 2", skip_on=[4]),
        "broken": tried("echo 'error: too broken'; exit 3"),
        "away": tried("echo 'error: MLflow does not answer'; exit 2"),
        "whole": tried(merged, states={"fit": "success", "score": "success"}, **needs),
        "partial": tried(merged, states={"fit": "success", "score": "failed"}, **needs),
        "rolls back": tried("echo back", states={"verify": "failed"}, after_failure_of="verify"),
        "has no need to": tried("echo back", states={"verify": "upstream_failed"}, after_failure_of="verify"),
    }


def told_to_end():
    """A command that is told to end, by the time limit or by Airflow, saves what it has."""
    slow = f"trap 'echo saved > {FOLDER}/saved; exit 143' TERM\nwhile :; do sleep 0.05; done"
    found = {}
    for how in ("limit", "signal"):
        (FOLDER / "saved").unlink(missing_ok=True)
        with DAG("a_dag", schedule=None):
            task = command("a_task", kind="plan")
        (FOLDER / "bin/cityloop").write_text(f"#!/bin/bash\n{slow}\n")
        hook = task.subprocess_hook
        if how == "signal":
            threading.Timer(0.5, task.on_kill).start()
            found[how] = outcome(task, task.execute)
        else:
            found[how] = outcome(task, lambda context, task=task: _limited(task, context))
        found[how]["saved"] = (FOLDER / "saved").exists()
        found[how]["left"] = hook.sub_process.poll() is None
    return found


def _limited(task, context):
    from airflow.sdk.execution_time.timeout import timeout

    try:
        with timeout(1):
            return task.execute(context)
    except BaseException as error:
        raise RuntimeError(type(error).__name__) from error


def reviews():
    def said(decision, why="w"):
        words = {"task": "t", "version": "7", "digest": DIGEST, "decision": decision, "by": ["ada"], "why": why}
        (FOLDER / "bin/cityloop").write_text(f"#!/bin/bash\necho '{json.dumps(words)}'\n")

    with DAG("a_dag", schedule=None):
        task = reviewed("t", "--version=7", expires=timedelta(days=2))
    found = {}
    for decision in ("waiting", "approved", "rejected", "superseded"):
        said(decision)
        found[decision] = outcome(task, task.execute)
    said("waiting", "1 of 2 approvals")
    again = {"said": {"review.ada": f"approved:{DIGEST}"}}
    found["one of two"] = outcome(task, lambda c: task.resumed(c, again, time.time() + 60))
    found["expired"] = outcome(task, lambda c: task.resumed(c, {"expired": True}, time.time()))
    found["misled"] = outcome(task, lambda c: task.resumed(c, {"error": "no address"}, time.time()))
    return found


TASKS = """
sources: {x: {step: 1h}}
backbones: {series: {}}
tasks:
  a: {backbone: series, target: {source: x}}
  b: {backbone: series, target: {source: x}, monitor: {retrain: {automatic: false}}}
  p: {backbone: series, target: {source: x}, modality: image}
schedule: {monitor: {predict: [a]}}
"""
RETRAIN = {"decision": "retrain", "reasons": ["The city has changed."]}
ANEW = {"task": "a", "changed": True, "entry": {"init": None}, "commit": "c0ffee"}


def watching():
    """Steps of `monitor`, one instance of each."""
    (FOLDER / "params.yaml").write_text(TASKS)

    def step(make, said, task="a", code=0, states=None, decided=None, attempt=1):
        (FOLDER / "bin/cityloop").write_text(f"#!/bin/bash\necho '{json.dumps(said)}'\necho \"$@\" >&2\nexit {code}\n")
        with DAG("a_dag", schedule=None):
            made = make(task)
        ti = Instance(states, {"monitor": decided})
        ti.map_index, ti.try_number = 1, attempt
        return outcome(made, made.execute, ti)

    def predict(task):
        return watch.predict(task, "1h")

    def monitor(task):
        return watch.monitor(task, after=[predict(task)])

    nobody = {"why": "a: no release serves yet"}
    return {
        "asked": step(predict, {}),
        "not asked": step(predict, {}, "b"),
        "nothing serves": step(predict, nobody, code=4),
        "decided": step(monitor, RETRAIN, states={"predict": "success"}),
        "with no more answers": step(monitor, RETRAIN, states={"predict": "failed"}),
        "alone": step(monitor, RETRAIN, states={"predict": "skipped"}),
        "pictures": step(monitor, RETRAIN, "p"),
        "anew": step(watch.retrain, ANEW, decided=RETRAIN),
        "was anew": step(watch.retrain, {**ANEW, "changed": False}, decided=RETRAIN),
        "died between": step(watch.retrain, {**ANEW, "changed": False}, decided=RETRAIN, attempt=2),
        "fine": step(watch.retrain, ANEW, decided={"decision": "fine", "reasons": ["The error is within the gate."]}),
        "by hand": step(watch.retrain, ANEW, "b", decided=RETRAIN),
        "another serves": step(watch.retrain, {"why": "another serves now"}, code=4, decided=RETRAIN),
        "no git": step(watch.retrain, {"why": "no remote"}, code=2, decided=RETRAIN),
    }


def forms():
    with DAG("a_dag", schedule=None):
        form = Form(task_id="form", subject="?", options=["Approve", "Reject"], response_timeout=timedelta(days=2))
    assert isinstance(form, HITLOperator)
    answer = {"chosen_options": ["Reject"], "params_input": {}, "responded_at": datetime.now(UTC),
              "responded_by_user": {"id": "1", "name": "ada"}}  # fmt: skip
    late = {"error": "too late", "error_type": "timeout"}
    found = {"late": outcome(form, lambda c: form.execute_complete(c, late))}
    found["answered"] = outcome(form, lambda c: form.execute_complete(c, answer))
    found["answered"]["result"].pop("responded_at")
    return found


class MLflow(BaseHTTPRequestHandler):
    """As much of a registry as the trigger asks."""

    tags: dict = {}  # noqa: RUF012
    candidate, asked, status = "7", [], 200

    def do_GET(self):
        where = urlsplit(self.path)
        MLflow.asked.append((where.path, parse_qs(where.query), self.headers.get("Authorization")))
        tags = [{"key": key, "value": value} for key, value in MLflow.tags.items()]
        answer = {"model_version": {"name": "t", "version": "7", "tags": tags},
                  "registered_model": {"aliases": [{"alias": "candidate", "version": MLflow.candidate}]}}  # fmt: skip
        self.send_response(MLflow.status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


def triggers():
    review.EVERY_S = 0.05
    server = ThreadingHTTPServer(("127.0.0.1", 0), MLflow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {"MLFLOW_TRACKING_USERNAME": "airflow", "MLFLOW_TRACKING_PASSWORD": "p:w"}
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{server.server_port}"
    yes, other = f"approved:{DIGEST}", f"approved:{'0' * 64}"
    found = {
        "another bundle": _fired({"review.bob": other}, until=0.4),
        "this one": _fired({"review.bob": other, "review.ada": yes, "note": "n"}),
        "seen": _fired({"review.ada": yes}, seen={"review.ada": yes}, until=0.4),
        "proof": _fired({"review.ada": yes, "proof.ada": "jwt"}, seen={"review.ada": yes}),
        "superseded": _fired({"superseded": "by version 8"}),
        "newer": _fired({}, candidate="8"),
        "away": _fired({"review.ada": yes}, later=0.5),
        "gone": _fired({}, status=404),
    }
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///x.db"
    found["no server"] = _fired({})
    server.shutdown()
    return {**found, "asked": MLflow.asked[0]}


def _fired(tags, *, seen=None, until=5.0, candidate="7", status=200, later=0.0):
    MLflow.tags, MLflow.candidate, MLflow.status = tags, candidate, 503 if later else status
    if later:
        threading.Timer(later, lambda: setattr(MLflow, "status", 200)).start()
    where, kwargs = ReviewTrigger("t", "7", DIGEST, seen or {}, time.time() + until).serialize()
    assert where == "cityloop_airflow.review.ReviewTrigger"

    async def first():
        return await anext(ReviewTrigger(**kwargs).run())

    return asyncio.run(first()).payload


class Hook(BaseHTTPRequestHandler):
    """A webhook."""

    got: list = []  # noqa: RUF012

    def do_POST(self):
        Hook.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def notifications():
    with DAG("a_dag", schedule=None, default_args={"owner": "energy"}):
        task = command("pretrain_series", kind="pretrain")
    context = {"ti": Instance(), "task": task, "exception": ValueError("out of\nmemory")}
    notify.failed(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["CITYLOOP_NOTIFY"] = f"json://127.0.0.1:{server.server_port}/x"
    notify.failed(context)
    notify.failed({**context, "exception": Partly("another task failed, and was told of")})
    asyncio.run(notify.late("a_dag", "not over", {"dag_run": {"dag_run_id": "a+run"}}))
    os.environ["CITYLOOP_NOTIFY"] = "nonsense"
    notify.failed(context)
    os.environ["CITYLOOP_NOTIFY"] = "json://127.0.0.1:9/x"
    notify.failed(context)
    server.shutdown()
    return Hook.got


if __name__ == "__main__":
    os.environ["PATH"] = f"{FOLDER}/bin:{os.environ['PATH']}"
    with contextlib.redirect_stdout(sys.stderr):
        answer = {f.__name__: f() for f in (commands, told_to_end, reviews, watching, forms, triggers, notifications)}
    print(json.dumps(answer))
