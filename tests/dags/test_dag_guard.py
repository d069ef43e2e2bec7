"""The DAGs as Airflow loads them, held against params.yaml, dvc.yaml and the `cityloop` command."""

import copy
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from workspaces import ROOT

from pipelines.__main__ import main
from pipelines.runs import dvc
from pipelines.runs.graph import Graph

PYTHON = ROOT / ".venv-airflow/bin/python"
ROOMS = ("ingest", "validate", "features", "corpus", "pretrain", "join", "finetune", "evaluate", "card")
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no Airflow here: make setup-airflow")


def load(city: Path, home: Path, **environ: str) -> Any:
    """What tests/dags/told_by_airflow.py tells of the DAGs, made from the params.yaml in `city`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "CITYLOOP_", "PYTHONPATH"))}
    mine = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "CITYLOOP_ROOT": str(city),
        "PYTHONPATH": str(ROOT / "dags"),
        **environ,
    }
    command = [str(PYTHON), str(Path(__file__).with_name("told_by_airflow.py"))]
    done = subprocess.run(command, env={**clean, **mine}, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(ROOT, tmp_path_factory.mktemp("airflow"))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The DAGs of a city with one more task, which is answered by form, and in pods."""
    home = tmp_path_factory.mktemp("airflow")
    params = copy.deepcopy(PARAMS)
    params["tasks"]["rush"] = {**params["tasks"]["traffic_speed"], "horizon": "30min"}
    params["schedule"] = {
        "ingest": {"air": "15 3 * * *"},
        "review": {"remind": "2d", "expires": "5d"},
        "monitor": {"cron": "5 * * * *", "predict": ["rush", "vehicle_type"]},
        "tasks": {"rush": {"door": "form"}},
    }
    (home / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return load(home, home, CITYLOOP_RUNNER="kubernetes")


@pytest.fixture(scope="module")
def graph() -> Graph:
    with dvc.opened(ROOT) as repo:
        return dvc.graph(repo)


def expected(params: Any) -> set[str]:
    kinds = [("ingest", "sources"), ("pretrain", "backbones"), ("train", "tasks"), ("promote", "tasks")]
    return {f"{kind}_{name}" for kind, group in kinds for name in params[group]} | {"backfill", "deploy", "monitor"}


def stage_of(task: Any) -> str | None:
    words = task["words"] or [""]
    return words[1] if words[0] == "run-stage" else None


def all_tasks(told: Any) -> list[tuple[str, Any]]:
    return [(f"{dag}.{name}", task) for dag, d in told["dags"].items() for name, task in d["tasks"].items()]


def test_they_load_without_errors_warnings_or_anything_of_the_project(loaded: Any) -> None:
    assert loaded["errors"] == {}
    assert loaded["warnings"] == []
    assert loaded["imported"] == []
    assert set(loaded["dags"]) == expected(PARAMS)


def test_they_parse_fast(loaded: Any) -> None:
    assert loaded["seconds"] < 0.5


def test_a_new_task_block_appears_as_dags(changed: Any) -> None:
    assert changed["errors"] == {}
    assert set(changed["dags"]) == expected(PARAMS) | {"train_rush", "promote_rush"}
    assert "15 3 * * *" in changed["dags"]["ingest_air"]["schedule"]


@pytest.mark.parametrize("told", ["loaded", "changed"])
def test_each_says_whose_it_is_and_what_to_do(told: str, request: pytest.FixtureRequest) -> None:
    for name, dag in request.getfixturevalue(told)["dags"].items():
        assert "cityloop" in dag["tags"], name
        assert dag["description"], name
        assert f"# {name}\n" in dag["doc"], name
        assert "## When it is red" in dag["doc"], name
        assert not dag["catchup"], name
        assert max(map(len, dag["doc"].splitlines())) < 240, name
        for task, one in dag["tasks"].items():
            assert one["doc"], f"{name}.{task}"
            assert one["told"], f"{name}.{task}"


def test_owners_are_the_departments(loaded: Any) -> None:
    for group, kinds in (("sources", ["ingest"]), ("tasks", ["train", "promote"])):
        for name, block in PARAMS[group].items():
            for kind in kinds:
                owners = {task["owner"] for task in loaded["dags"][f"{kind}_{name}"]["tasks"].values()}
                assert owners == {block["department"]}


def test_pools_retries_and_time_limits(loaded: Any) -> None:
    for name, task in all_tasks(loaded):
        room = name.split(".")[1]
        if room == "serves":
            continue
        wanted = "gpu" if room.startswith(("pretrain", "finetune")) else "cpu"
        wanted = "promote" if room in ("promote", "verify", "rollback") else wanted
        assert task["pool"] == wanted, name
        assert task["retries"] <= {"rollback": 0, "promote": 1, "part": 0, "parts": 0}.get(room, 3), name
        assert task["backoff"] == 2, name
        assert task["timeout"] or room in ("form", "parts"), name


def test_one_run_at_a_time_unless_a_form_waits(loaded: Any, changed: Any) -> None:
    assert {dag["max_active_runs"] for dag in loaded["dags"].values()} == {1}
    assert changed["dags"]["promote_rush"]["max_active_runs"] > 1


def test_clocks_are_for_the_operator_to_start(loaded: Any) -> None:
    clocks = {name for name, dag in loaded["dags"].items() if dag["paused"]}
    assert clocks == {name for name in loaded["dags"] if name.startswith(("ingest_", "pretrain_", "monitor"))}


def test_edges_between_stages_are_those_of_the_graph(loaded: Any, graph: Graph) -> None:
    shared = graph.closure(f"features@{name}" for name in PARAMS["sources"])
    compared = 0
    for dag, told in loaded["dags"].items():
        stages = {name: stage for name, task in told["tasks"].items() if (stage := stage_of(task))}
        for name, stage in stages.items():
            above = set(graph.upstream(stage))
            drawn = {stages[up] for up in told["tasks"][name]["upstream"] if up in stages}
            assert drawn == above & set(stages.values()), f"{dag}.{name}"
            if above - drawn:
                assert above - drawn <= shared, f"{dag}.{name} lacks {above - drawn - shared}"
                assert "upstream" in told["tasks"][name]["upstream"], f"{dag}.{name}"
            compared += 1
    sources, backbones, tasks = (len(PARAMS[group]) for group in ("sources", "backbones", "tasks"))
    assert compared == 3 * sources + 4 * backbones + 6 * tasks


def test_each_begins_with_one_task(loaded: Any, changed: Any) -> None:
    begins = {"promote": "gate", "deploy": "deploy", "monitor": "predict"}
    for name, dag in [*loaded["dags"].items(), *changed["dags"].items()]:
        first = [task for task, told in dag["tasks"].items() if not told["upstream"]]
        assert first == [begins.get(name.split("_")[0], "begin")], name


def test_every_stage_of_the_graph_is_somewhere(loaded: Any, graph: Graph) -> None:
    assert {stage_of(task) for _, task in all_tasks(loaded)} - {None} == set(graph.stages)


def test_upstream_makes_what_every_source_needs(loaded: Any) -> None:
    words = loaded["dags"]["train_air_quality"]["tasks"]["upstream"]["words"]
    assert {w for w in words if "@" in w} == {f"features@{name}" for name in PARAMS["sources"]}


@pytest.mark.parametrize("told", ["loaded", "changed"])
def test_every_command_is_one_that_cityloop_takes(told: str, request: pytest.FixtureRequest) -> None:
    checked = 0
    for name, task in all_tasks(request.getfixturevalue(told)):
        if task["words"] is None:
            assert name.split(".")[1] in ("form", "parts", "part", "serves"), name
            continue
        words = [word for word in task["words"] if word]
        assert words[0] in main.commands, name
        main.commands[words[0]].make_context(words[0], words[1:], parent=click.Context(main))
        checked += 1
    assert checked > 100


def test_what_says_that_nothing_waits_is_what_the_gate_says() -> None:
    said = re.search(r'NOTHING_WAITS = "(.+)"', (ROOT / "dags/cityloop_airflow/answer.py").read_text())
    assert said
    for room in ("gate", "review"):
        text = (ROOT / f"pipelines/{room}.py").read_text().replace("{CANDIDATE}", "candidate")
        assert said[1] in text


def test_what_a_person_wrote_stays_one_word(changed: Any) -> None:
    words = changed["dags"]["promote_rush"]["tasks"]["record"]["words"]
    assert "--note=it's fine; $(touch /tmp/x) `id` --reject" in words
    assert "--as=Ada-L-Ovelace-id" in words
    assert "--approve" in words
    assert shlex.split(shlex.join(words)) == words


def test_the_doors_key_is_given_only_where_there_is_one(changed: Any, tmp_path: Path) -> None:
    tail = changed["dags"]["promote_rush"]["tasks"]["record"]["tail"]
    show = ["bash", "-c", f'printf "%s|" x {tail}']
    assert subprocess.run(show, env={}, capture_output=True, text=True, check=True).stdout == "x|"
    spaced = {"CITYLOOP_DOOR_KEY": "/a b.pem"}
    assert subprocess.run(show, env=spaced, capture_output=True, text=True, check=True).stdout == "x|--key|/a b.pem|"


def test_assets_lead_from_ingest_to_promotion(loaded: Any) -> None:
    dags = loaded["dags"]
    assert dags["ingest_air"]["tasks"]["merge"]["outlets"] == ["cityloop://source/air"]
    assert dags["pretrain_series"]["tasks"]["merge"]["outlets"] == ["cityloop://backbone/series"]
    assert dags["train_air_quality"]["tasks"]["register"]["outlets"] == ["cityloop://candidate/air_quality"]
    assert "cityloop://candidate/air_quality" in dags["promote_air_quality"]["schedule"]
    for wanted in ("source/air", "backbone/series", "drift/energy_load", "source/energy", "live/deployed"):
        assert f"cityloop://{wanted}'" in dags["train_energy_load"]["schedule"]
    assert "source/water" not in dags["train_energy_load"]["schedule"]


def series(params: Any) -> list[str]:
    return [name for name, task in params["tasks"].items() if task["modality"] == "series"]


def test_each_task_of_series_is_watched_by_itself(loaded: Any, changed: Any) -> None:
    told, watched = loaded["dags"]["monitor"], series(PARAMS)
    assert "30 * * * *" in told["schedule"]
    assert {name: task["upstream"] for name, task in told["tasks"].items()} == {
        "predict": [], "monitor": ["predict"], "retrain": ["monitor"],
    }  # fmt: skip
    for name, task in told["tasks"].items():
        assert task["mapped"] == [watched]
        assert task["words"][:3] == [name, watched[0], "--live"]
        assert 4 in task["skip_on"]
    assert told["tasks"]["monitor"]["rule"] == "TriggerRule.ALL_DONE"
    other = changed["dags"]["monitor"]
    assert "5 * * * *" in other["schedule"]
    assert sorted(other["tasks"]["monitor"]["mapped"][0]) == sorted([*watched, "rush", "vehicle_type"])


def test_watching_wakes_training_by_its_drift_asset(loaded: Any) -> None:
    assert loaded["dags"]["monitor"]["tasks"]["retrain"]["outlets"] == ["drifted"]
    for name in series(PARAMS):
        assert f"cityloop://drift/{name}'" in loaded["dags"][f"train_{name}"]["schedule"]


def test_reminders_and_deadlines(changed: Any) -> None:
    day = 86400
    assert changed["dags"]["promote_air_quality"]["deadlines"] == [2 * day, 4 * day]
    assert changed["dags"]["ingest_air"]["deadlines"] == changed["dags"]["monitor"]["deadlines"] == [3600]


def test_in_pods_the_command_is_the_same_and_training_has_a_gpu(changed: Any, loaded: Any) -> None:
    for name, task in all_tasks(changed):
        if task["words"] is None:
            continue
        pod = task["pod"]
        assert pod["args"] == [word for word in task["words"] if word], name
        if (here := dict(all_tasks(loaded)).get(name)) and not name.endswith(".begin"):
            assert task["words"] == here["words"]
        assert pod["env"]["CITYLOOP_DAG_RUN"], name
        assert "memory" in pod["limits"], name
        assert ("nvidia.com/gpu" in pod["limits"]) == (task["pool"] == "gpu"), name
        assert bool(pod["nodes"]) == (task["pool"] == "gpu"), name


@pytest.mark.parametrize(
    ("said", "code", "left"),
    [('{"a": 1}', 0, '{"a": 1}'), ("words", 0, "null"), ('{"why": "no"}', 4, '{"why": "no"}'), ("[]", 3, "[]")],
)
def test_a_pod_leaves_result_and_exit_code(changed: Any, tmp_path: Path, said: str, code: int, left: str) -> None:
    done = run_as_pod(changed, tmp_path, f"echo a log line >&2; echo '{said}'; exit {code}")
    assert done.returncode == code
    assert (tmp_path / "return.json").read_text() == left


def test_a_pod_passes_on_that_it_is_to_end(changed: Any, tmp_path: Path) -> None:
    script = "trap 'echo saved; exit 143' TERM\nsleep 0.3\nkill -TERM $PPID\nfor i in {1..100}; do sleep 0.05; done"
    done = run_as_pod(changed, tmp_path, script)
    assert done.returncode == 143
    assert "saved" in done.stdout


def run_as_pod(changed: Any, tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    """What a pod runs, here: with `cityloop` standing for `script`, and other folders."""
    (tmp_path / "cityloop").write_text(f"#!/bin/bash\n{script}\n")
    (tmp_path / "cityloop").chmod(0o755)
    pod = changed["dags"]["train_rush"]["tasks"]["finetune"]["pod"]
    places = {"/tmp/result": tmp_path / "result", "/airflow/xcom": tmp_path}
    shell = [re.sub("|".join(places), lambda found: str(places[found[0]]), word) for word in pod["command"]]
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run([*shell, *pod["args"]], env=environ, capture_output=True, text=True, check=False, timeout=20)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    backbone: series", "    backbone: serious", "tasks.traffic_speed: no backbone 'serious' there"),
        ("    step: 5min", "    step: often", "sources.traffic.step: 'often' is no duration"),
        ("tasks:", "tasks: [", "no YAML"),
    ],
)
def test_a_params_yaml_that_cannot_be_used_is_one_line_that_says_why(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace(old, new, 1))
    told = load(tmp_path, tmp_path)
    assert told["dags"] == {}
    last = {error.strip().splitlines()[-1] for error in told["errors"].values()}
    assert len(last) == 1
    assert re.search(rf"params\.yaml: .*{re.escape(said)}", last.pop())
