"""A tiny city on a running stack, and people at work with it: an operator, a reviewer, a client of what serves."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
import stacked
from workspaces import Workspace

from pipelines.core.paths import Paths
from pipelines.release import bundle
from pipelines.release.ledger import Ledger
from pipelines.release.predictor import Predictor
from pipelines.release.store import Store

ENDED = ("success", "failed")


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value; fails, saying `what` was waited for, when there is none in time."""
    found: list[Any] = []
    stacked.until(lambda: bool(found.append(true()) or found[-1]), seconds, what)
    return found[-1]


@dataclass
class Loop:
    """`stack` runs; `root`: the city's folder."""

    root: Path
    stack: stacked.Stack

    def airflow(self, method: str, path: str, body: Any = None, user: str = "admin") -> Any:
        client = self.stack.airflow if user == "admin" else self.stack.as_user("airflow", user)
        return answered(client.request(method, f"/api/v2{path}", json=body))

    def mlflow(self, method: str, path: str, body: Any = None, user: str = "reviewer") -> Any:
        return answered(self.stack.as_user("mlflow", user).request(method, f"/api/2.0/mlflow{path}", json=body))

    def say(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *words], env={**os.environ, **self.stack.env}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"cityloop {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", "-C", str(self.root), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    # What an operator does

    def ready(self, *dags: str) -> None:
        """Until Airflow has read these DAGs; they are switched on."""
        for dag in dags:
            until(lambda dag=dag: self._known(dag), 90, f"Airflow to read {dag}; {self.import_errors()}")
            self.airflow("PATCH", f"/dags/{dag}", {"is_paused": False})

    def _known(self, dag: str) -> bool:
        return self.stack.airflow.get(f"/api/v2/dags/{dag}").ok

    def import_errors(self) -> list[str]:
        return [e["stack_trace"][-500:] for e in self.airflow("GET", "/importErrors")["import_errors"]]

    def trigger(self, dag: str, **conf: Any) -> str:
        made = self.airflow("POST", f"/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})
        return str(made["dag_run_id"])

    def runs(self, dag: str) -> dict[str, str]:
        """Run → state, oldest first."""
        found = self.airflow("GET", f"/dags/{dag}/dagRuns?limit=100&order_by=run_after")["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in found}

    def new_run(self, dag: str, before: dict[str, str], seconds: float = 120) -> str:
        """The run that came by itself after `before`."""
        return str(until(lambda: next(iter({*self.runs(dag)} - {*before}), None), seconds, f"a run of {dag}"))

    def tasks(self, dag: str, run: str) -> dict[str, str]:
        found = self.airflow("GET", f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances?limit=100")["task_instances"]
        return {one["task_id"]: one["state"] for one in found}

    def ends(self, dag: str, run: str, seconds: float = 300) -> str:
        """The state that a run ended in."""
        try:
            until(lambda: self.runs(dag)[run] in ENDED, seconds, f"{dag} {run} to end")
        except AssertionError as error:
            error.add_note(f"{self.tasks(dag, run)}\n{self.trouble(dag, run)}")
            raise
        return self.runs(dag)[run]

    def succeeds(self, dag: str, run: str, seconds: float = 300) -> dict[str, str]:
        """Task → state, once the run has ended well."""
        state = self.ends(dag, run, seconds)
        assert state == "success", f"{dag} {run}: {self.tasks(dag, run)}\n{self.trouble(dag, run)}"
        return self.tasks(dag, run)

    def waits(self, dag: str, run: str, task: str, state: str, seconds: float = 300) -> None:
        def now() -> bool:
            found = self.tasks(dag, run)
            assert "failed" not in found.values(), f"{dag} {run}: {found}\n{self.trouble(dag, run)}"
            return found.get(task) == state

        until(now, seconds, f"{task} of {dag} {run} to be {state}")

    def mapped(self, dag: str, run: str) -> dict[tuple[str, str], str]:
        """(task, what it is mapped over) → state."""
        found = self.airflow("GET", f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances?limit=100")["task_instances"]
        return {(one["task_id"], one["rendered_map_index"] or ""): one["state"] for one in found}

    def woken_by(self, dag: str, run: str) -> list[tuple[str, str]]:
        """(asset, DAG it came from) of the events that started a run."""
        found = self.airflow("GET", f"/dags/{dag}/dagRuns/{_quoted(run)}/upstreamAssetEvents")["asset_events"]
        return [(event["uri"], event["source_dag_id"]) for event in found]

    def said(self, dag: str, run: str, task: str) -> Any:
        """What the task's command answered."""
        where = f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}/xcomEntries/return_value"
        found = self.airflow("GET", f"{where}?stringify=false")["value"]
        return json.loads(found) if isinstance(found, str) and found[:1] in "{[" else found

    def why(self, dag: str, run: str, task: str) -> str:
        where = f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}/xcomEntries/reason"
        return str(self.airflow("GET", f"{where}?stringify=false")["value"])

    def links(self, dag: str, run: str, task: str) -> dict[str, str | None]:
        found = self.airflow("GET", f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}/links")
        return dict(found["extra_links"])

    def log(self, dag: str, run: str, task: str, attempt: int = 1) -> str:
        where = f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}/logs/{attempt}?full_content=true"
        return json.dumps(self.airflow("GET", where)["content"])

    def trouble(self, dag: str, run: str) -> str:
        """The ends of the logs of what failed or is tried again."""
        bad = [t for t, s in self.tasks(dag, run).items() if s in ("failed", "up_for_retry")]
        return "\n".join(f"{task}: {self.log(dag, run, task)[-3000:]}" for task in bad)

    # What a reviewer does

    def tag(self, task: str, version: str, value: str, user: str = "reviewer") -> None:
        """As MLflow's page does it."""
        body = {"name": task, "version": version, "key": f"review.{user}", "value": value}
        self.mlflow("POST", "/model-versions/set-tag", body, user)

    def version(self, task: str, number: str) -> dict[str, Any]:
        """Tags of a version."""
        found = self.mlflow("GET", f"/model-versions/get?name={task}&version={number}")["model_version"]
        return {tag["key"]: tag["value"] for tag in found["tags"]}

    def versions(self, task: str) -> list[str]:
        query = urllib.parse.urlencode({"filter": f"name='{task}'"})
        found = self.mlflow("GET", f"/model-versions/search?{query}")
        return sorted(v["version"] for v in found.get("model_versions", []))

    def forms(self) -> list[dict[str, Any]]:
        """Forms that wait for an answer."""
        found = self.airflow("GET", "/dags/~/dagRuns/~/hitlDetails?response_received=false")["hitl_details"]
        return [{**form["task_instance"], **form} for form in found]

    def answer(self, form: dict[str, Any], option: str, user: str = "reviewer", **params: Any) -> None:
        """As a person, who reads first. For some seconds Airflow has not yet seen that the task, which parked, ended;
        an answer that comes as quickly as that makes it show the form again."""
        time.sleep(12)
        where = f"/dags/{form['dag_id']}/dagRuns/{_quoted(form['dag_run_id'])}/taskInstances/{form['task_id']}"
        self.airflow("PATCH", f"{where}/-1/hitlDetails", {"chosen_options": [option], "params_input": params}, user)

    # What serves

    def ledger(self, task: str) -> list[dict[str, Any]]:
        return Ledger(self.store.objects, task).records()

    @property
    def store(self) -> Store:
        return Store(self.stack.env["CITYLOOP_STORE"], self.stack.folder / "fetched")

    def asks(self, task: str) -> str | None:
        """The digest of the release that answers a question; None while none does."""
        predictor = self._predictor(task)
        times = np.arange(predictor.spec.context) * np.timedelta64(predictor.spec.step_s, "s")
        channels = [c for c in predictor.channels if c["sensor"] == predictor.channels[0]["sensor"]]
        question = {
            "times": [f"{t}Z" for t in np.datetime64("2025-03-01T00:00:00") + times],
            "sensors": [channels[0]["sensor"]] * len(channels),
            "kind": [c["kind"] for c in channels],
            "values": [[20.0] * len(channels)] * len(times),
        }
        key = {"X-API-Key": self.stack.credentials["serving"]["operator"]}
        address = f"{self.stack.urls['serving']}/v1/tasks/{task}/predict"
        answer = requests.post(address, json=question, headers=key, timeout=30)
        return None if answer.status_code in (404, 503) else str(answered(answer)["digest"])

    def _predictor(self, task: str) -> Predictor:
        return Predictor.load(Paths(self.root).task(task))

    def digest(self, task: str) -> str:
        """Of the bundle that lies in the checkout."""
        return bundle.verify(Paths(self.root).task(task))


def answered(answer: requests.Response) -> Any:
    assert answer.ok, f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text[:2000]}"
    return answer.json() if answer.content else None


def city(looped: Workspace, folder: Path, change: Any) -> Path:
    """A copy of the looped city on main, what it made committed there, its params.yaml changed by `change`."""
    shutil.copytree(looped.root, folder, symlinks=True)
    copy = Workspace(folder)
    params = copy.params()
    change(params)
    copy.put_params(params)
    copy.run("git", "checkout", "-q", "-B", "main")
    copy.run("git", "branch", "-q", "-D", "live")
    copy.run("git", "add", "--all")
    copy.run("git", "commit", "-q", "--allow-empty", "-m", "What this run derived")
    return folder


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
