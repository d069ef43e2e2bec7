"""The long form, `make e2e`: six tasks over two workers that share nothing, and what happens when things break."""

import contextlib
import copy
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import stacked
import yaml
from looping import Loop, city, until
from workspaces import ROOT, Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SIX = ("air_quality", "traffic_speed", "air_12h", "air_6h", "traffic_30min", "traffic_15min")
SHORTER = {"air_12h": ("air_quality", "12h"), "air_6h": ("air_quality", "6h"),
           "traffic_30min": ("traffic_speed", "30min"), "traffic_15min": ("traffic_speed", "15min")}  # fmt: skip
LONG = '''
"""A task that outlives Airflow's execution tokens."""

from datetime import datetime, timezone

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("long", start_date=datetime(2025, 1, 1, tzinfo=timezone.utc), schedule=None, is_paused_upon_creation=False):
    BashOperator(task_id="quarter_of_an_hour", bash_command="sleep 930")
'''


@dataclass
class Cluster:
    """`author` pushes to `server`; workers w1 and w2 have a clone and a cache of their own."""

    loop: Loop
    author: Workspace
    server: Path
    remote: Path

    def edit(self, change: Any, words: str) -> None:
        """Change params.yaml on main and deploy it."""
        params = self.author.params()
        change(params)
        self.author.put_params(params)
        self.author.run("git", "commit", "-qam", words)
        self.author.run("git", "push", "-q", "server", "HEAD:main")
        self.loop.say("deploy")

    def head(self) -> str:
        return subprocess.run(
            ["git", "-C", str(self.server), "rev-parse", "live"], capture_output=True, text=True, check=True
        ).stdout.strip()

    def entry(self, stage: str) -> Any:
        text = subprocess.run(
            ["git", "-C", str(self.server), "show", "live:dvc.lock"], capture_output=True, text=True, check=True
        ).stdout
        return yaml.safe_load(text)["stages"].get(stage)

    def pulled(self, place: Path) -> Workspace:
        """Live in a fresh clone with an empty cache, everything pulled."""
        subprocess.run(["git", "clone", "-q", "-b", "live", f"file://{self.server}", str(place)], check=True)
        clone = Workspace(place)
        clone.run("dvc", "remote", "add", "--local", "-d", "store", str(self.remote))
        clone.run("dvc", "pull", "-q")
        return clone


def six(params: Any) -> None:
    for name, (like, horizon) in SHORTER.items():
        params["tasks"][name] = {**copy.deepcopy(params["tasks"][like]), "horizon": horizon}
    for task in params["tasks"].values():
        task["gate"] = {"enabled": False}


@pytest.fixture(scope="module")
def cluster(looped: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    author = Workspace(city(looped, folder / "author", six))
    server, remote = folder / "server.git", folder / "remote"
    author.run("git", "branch", "-q", "live")
    author.run("git", "clone", "-q", "--bare", str(author.root), str(server))
    author.run("git", "remote", "add", "server", str(server))
    author.run("dvc", "remote", "add", "--local", "-d", "store", str(remote))
    author.run("dvc", "push", "-q")
    workers = {}
    for name in ("w1", "w2"):
        (folder / name).mkdir()
        author.run("git", "clone", "-q", "-b", "live", str(server), str(folder / name / "clone"))
        # Checkpoints lie in the state: two workers of one machine share it, so that either goes on with a training.
        own = {"ROOT": folder / name / "clone", "STATE": folder / "workers", "CACHE": folder / name / "cache"}
        workers[name] = {f"CITYLOOP_{key}": str(value) for key, value in own.items()}
    dags = folder / "dags"
    shutil.copytree(ROOT / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    (dags / "long.py").write_text(LONG)
    env = {"CITYLOOP_GIT": f"file://{server}", "CITYLOOP_DVC_REMOTE": str(remote)}
    env["AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"] = "30"
    with stacked.up(folder, "celery", root=author.root, dags=dags, env=env, workers=workers) as stack:
        loop = Loop(author.root, stack)
        for pool in ("cpu", "gpu"):  # as an operator does who has the machines: what is here would take turns
            loop.airflow("PATCH", f"/pools/{pool}", {"name": pool, "slots": 12, "include_deferred": False})
        loop.ready("long", *(f"train_{task}" for task in SIX))
        yield Cluster(loop, author, server, remote)


@pytest.fixture(scope="module")
def quarter(cluster: Cluster) -> str:
    """A task of over 15 minutes, begun before everything else."""
    return cluster.loop.trigger("long")


def all_six(cluster: Cluster) -> dict[str, str]:
    """Trains all tasks at once; task → state that its run ended in."""
    loop = cluster.loop
    runs = {task: loop.trigger(f"train_{task}") for task in SIX}
    return {task: loop.ends(f"train_{task}", run, 1500) for task, run in runs.items()}


def test_six_at_once_over_two_workers(cluster: Cluster, quarter: str, tmp_path: Path) -> None:
    ended = all_six(cluster)
    assert ended == dict.fromkeys(SIX, "success"), {
        t: cluster.loop.trouble(f"train_{t}", next(reversed(cluster.loop.runs(f"train_{t}"))))
        for t, state in ended.items() if state != "success"
    }  # fmt: skip
    clone = cluster.pulled(tmp_path / "clone")
    assert clone.stale() == set()
    assert clone.repro() == []
    for task in SIX:
        assert (clone.root / f"models/tasks/{task}/manifest.json").is_file()
        tags = cluster.loop.version(task, cluster.loop.versions(task)[-1])
        assert tags["dirty"] == "false"
        contained = ["git", "-C", str(cluster.server), "merge-base", "--is-ancestor", tags["commit"], "live"]
        assert subprocess.run(contained, check=False).returncode == 0, "each version names a commit of live"
    caches = {name for name in ("w1", "w2") if any((cluster.server.parent / name / "cache").rglob("*"))}
    assert caches == {"w1", "w2"}, "both workers took part"


def test_one_of_six_fails_and_a_rerun_of_it_alone_heals(cluster: Cluster) -> None:
    broken, loop = "air_6h", cluster.loop

    def harder(params: Any) -> None:
        for task in params["tasks"].values():
            task["finetune"]["steps"] = 5
        params["tasks"][broken]["context"] = "4000d"  # longer than there is history

    cluster.edit(harder, "Five steps; and a context that cannot be")
    before = {task: cluster.entry(f"finetune@{task}") for task in SIX}
    versions = {task: loop.versions(task) for task in SIX}
    ended = all_six(cluster)
    assert ended == {task: "failed" if task == broken else "success" for task in SIX}
    now = {task: cluster.entry(f"finetune@{task}") for task in SIX}
    assert {task for task in SIX if now[task] == before[task]} == {broken}, "it keeps its former entry, the others move"
    assert {task for task in SIX if loop.versions(task) == versions[task]} == {broken}
    run = next(reversed(loop.runs(f"train_{broken}")))
    said = loop.log(f"train_{broken}", run, "finetune")
    assert re.search(rf"error: [^\"]*tasks\.{broken}\.context", said), said[-8000:]

    cluster.edit(lambda params: params["tasks"][broken].update(context=params["tasks"]["air_12h"]["context"]), "Mended")
    loop.succeeds(f"train_{broken}", loop.trigger(f"train_{broken}"), 600)
    assert len(loop.versions(broken)) == len(versions[broken]) + 1


def test_a_worker_killed_in_mid_training_goes_on_from_its_checkpoint(cluster: Cluster) -> None:
    loop, dag = cluster.loop, "train_traffic_15min"

    def longer(params: Any) -> None:
        params["tasks"]["traffic_15min"]["finetune"] |= {"steps": 400, "patience": 400}

    cluster.edit(longer, "A long training")
    run = loop.trigger(dag)
    loop.waits(dag, run, "finetune", "running")
    training = until(lambda: checkpointed(cluster), 300, "a checkpoint")
    above = {process.pid for process in training.parents()}
    (worker,) = (pid for pid in map(loop.stack.pid, ("w1", "w2")) if pid in above)
    kill_tree(psutil.Process(worker))
    loop.succeeds(dag, run, 1500)
    tries = [loop.log(dag, run, "finetune", n) for n in (1, 2)]
    assert "goes on" in tries[1] or "resum" in tries[1], tries[1][-3000:]


def test_a_scheduler_that_dies_loses_nothing(cluster: Cluster) -> None:
    loop, dag = cluster.loop, "train_traffic_30min"
    cluster.edit(lambda p: p["tasks"]["traffic_30min"]["finetune"].update(steps=6), "Six steps")
    run = loop.trigger(dag)
    loop.waits(dag, run, "join", "running")
    kill_tree(psutil.Process(loop.stack.pid("scheduler")))
    loop.succeeds(dag, run, 900)


def test_mlflow_away_during_registration_makes_no_second_version(cluster: Cluster) -> None:
    loop, dag, task = cluster.loop, "train_air_12h", "air_12h"
    cluster.edit(lambda p: p["tasks"][task]["finetune"].update(steps=7), "Seven steps")
    before = loop.versions(task)
    run = loop.trigger(dag)
    loop.waits(dag, run, "register", "running", 900)
    time.sleep(3)
    kill_tree(psutil.Process(loop.stack.pid("mlflow")))
    loop.succeeds(dag, run, 900)
    assert len(loop.versions(task)) == len(before) + 1


def test_a_dvc_remote_that_is_away_for_a_minute(cluster: Cluster) -> None:
    loop, dag = cluster.loop, "train_air_6h"
    cluster.edit(lambda p: p["tasks"]["air_6h"]["finetune"].update(steps=8), "Eight steps")
    run = loop.trigger(dag)
    loop.waits(dag, run, "join", "running", 300)
    hidden = cluster.remote.with_name("away")
    cluster.remote.rename(hidden)
    cluster.remote.write_text("a file where the remote was")
    try:
        time.sleep(60)
    finally:
        cluster.remote.unlink()
        hidden.rename(cluster.remote)
    loop.succeeds(dag, run, 900)


def test_a_task_longer_than_its_token_lives_ends_well(cluster: Cluster, quarter: str) -> None:
    assert cluster.loop.ends("long", quarter, 1200) == "success"


def checkpointed(cluster: Cluster) -> psutil.Process | None:
    """The training process, once it has written a checkpoint."""
    folder = cluster.server.parent
    if not any(p.is_file() for p in folder.glob("workers/checkpoints/**/*")):
        return None
    return next((p for p in cluster.loop.stack.processes() if "finetune" in " ".join(p.cmdline())), None)


def kill_tree(process: psutil.Process) -> None:
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
