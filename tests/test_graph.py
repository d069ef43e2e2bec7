"""dvc.yaml says what each stage uses: all of it, and nothing else. Asked of DVC itself, in a city that has run."""

import csv
import json
import re
from pathlib import Path

import pytest
import stage_deps
import yaml
from workspaces import ROOT, SOURCES, Workspace

from pipelines import status

GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SOURCE_FILES = stage_deps.room_files(list(GRAPH))
CITIES = [ROOT, *sorted(p.parent for p in (ROOT / "examples").glob("*/params.yaml"))]


@pytest.mark.parametrize("room", list(GRAPH))
def test_a_stage_names_exactly_the_source_files_its_room_imports(room: str) -> None:
    named = [dep for dep in GRAPH[room]["do"]["deps"] if dep.startswith("pipelines/")]
    assert named == SOURCE_FILES[room], "run `make deps`"


def test_imports_inside_functions_and_registries_are_seen() -> None:
    assert {"pipelines/sources/simulator.py", "pipelines/sources/files.py"} <= set(SOURCE_FILES["ingest"])
    assert {"pipelines/models/series.py", "pipelines/models/objectives/anomaly.py"} <= set(SOURCE_FILES["finetune"])
    assert not [f for f in SOURCE_FILES["features"] if f.startswith(("pipelines/sources", "pipelines/models"))]


@pytest.mark.parametrize("folder", CITIES, ids=lambda folder: folder.name)
def test_every_block_has_the_keys_that_the_graph_names(folder: Path) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    missing = []
    for stage in GRAPH.values():
        group = stage["foreach"].strip("${}")
        for key in params[group]:
            for name in (n.replace("${key}", key) for n in stage["do"].get("params", []) if isinstance(n, str)):
                node = params
                for part in name.split("."):
                    if not isinstance(node, dict) or part not in node:
                        missing.append(name)
                        break
                    node = node[part]
            for field in re.findall(r"\$\{item\.([\w.]+)\}", str(stage["do"])):
                node = params[group][key]
                for part in field.split("."):
                    node = node.get(part, {})
                if not node:
                    missing.append(f"{group}.{key}.{field}")
    assert missing == []
    # … and retrain.yaml, which has no blocks, every task.
    assert list(yaml.safe_load((folder / "retrain.yaml").read_text())) == sorted(params["tasks"])


def test_after_the_loop_nothing_is_left_to_do(looped: Workspace) -> None:
    assert looped.stale() == set()
    assert looped.repro() == []


def test_a_learning_rate_concerns_its_task_alone(kept: Workspace) -> None:
    params = kept.params()
    params["tasks"]["traffic_speed"]["finetune"]["learning_rate"] = 0.0005
    kept.put_params(params)
    assert kept.stale() == {"finetune@traffic_speed", "card@traffic_speed"}


def test_a_retraining_concerns_its_task_alone(kept: Workspace) -> None:
    dates = ("--validation-from", "2025-04-04", "--test-from", "2025-04-05")
    kept.run("python", "-m", "pipelines", "retrain", "traffic_speed", *dates, "--from-backbone")
    assert kept.stale() == {"join@traffic_speed", "finetune@traffic_speed", "card@traffic_speed"}


def test_a_contract_concerns_validation_and_the_cards_that_quote_it(kept: Workspace) -> None:
    params = kept.params()
    params["sources"]["air"]["contract"]["spike_sigma"] = 9.0
    kept.put_params(params)
    assert kept.stale() == {"validate@air", "card@traffic_speed", "card@air_quality"}


def test_a_gate_concerns_the_card_alone(kept: Workspace) -> None:
    params = kept.params()
    params["tasks"]["air_quality"]["gate"]["min_gain"] = 0.1
    kept.put_params(params)
    assert kept.stale() == {"card@air_quality"}


def test_a_new_task_adds_its_own_stages_and_no_other(kept: Workspace) -> None:
    params = kept.params()
    params["tasks"]["rush"] = {**params["tasks"]["traffic_speed"], "horizon": "30min"}
    kept.put_params(params)
    assert kept.stale() == {"join@rush", "finetune@rush", "evaluate@rush", "card@rush"}


def test_a_longer_window_concerns_that_sources_data(kept: Workspace) -> None:
    kept.run("python", "-m", "pipelines", "window", "--until", "2025-04-09", "air")
    assert kept.stale() == {"ingest@air", "validate@air", "features@air", "card@traffic_speed", "card@air_quality"}


@pytest.mark.parametrize("module", ["checks/flags.py", "sources/simulator.py", "models/series.py", "core/grid.py"])
def test_a_line_of_code_concerns_the_stages_that_import_it(kept: Workspace, module: str) -> None:
    file = f"pipelines/{module}"
    with (kept.root / file).open("a") as code:
        code.write("# another line\n")
    rooms = {room for room, files in SOURCE_FILES.items() if file in files}
    assert rooms
    assert {stage.split("@")[0] for stage in kept.stale()} == rooms


def test_bytecode_left_behind_is_not_a_change(looped: Workspace) -> None:
    looped.run("python", "-m", "compileall", "-q", "pipelines")
    assert looped.stale() == set()


def test_what_a_run_makes_leaves_the_branch_clean(looped: Workspace) -> None:
    left = looped.run("git", "status", "--porcelain").splitlines()
    assert [line for line in left if not line.endswith("dvc.lock")] == []


def test_metrics_and_plots_are_there_for_dvc_to_show(looped: Workspace) -> None:
    metrics = looped.run("dvc", "metrics", "show", "--md")
    for name in ("validate/air", "pretrain/series", "finetune/traffic_speed", "evaluate/air_quality"):
        assert f"metrics/{name}.json" in metrics
    plots = json.loads(looped.run("dvc", "plots", "show", "--json"))
    assert plots.get("errors", []) == []
    shown = {name for name, drawn in plots["data"].items() if drawn}
    for name in ("validate/traffic", "pretrain/series", "finetune/air_quality", "evaluate/traffic_speed"):
        assert any(plot.startswith(f"plots/{name}") for plot in shown), name


def test_status_tells_how_fresh_and_whole_the_data_are(looped: Workspace) -> None:
    lines = [line.split() for line in status.table(status.run(root=looped.root, patience=0)).splitlines()]
    for source in SOURCES:
        report = json.loads((looped.root / f"metrics/validate/{source}.json").read_text())
        told = next(line for line in lines if line[:1] == [source])
        failed = report["expectations"]["failed"] or "–"
        until = yaml.safe_load((looped.root / "window.yaml").read_text())[source]
        assert told == [source, f"{until}T00:00", f"{report['age_h']:.1f}", "h", "older",
                        f"{report['quarantined']:,}", "of", f"{report['records']:,}", str(failed)]  # fmt: skip


def test_an_experiment_runs_aside_and_leaves_the_checkout_as_it_was(looped: Workspace) -> None:
    before = looped.run("git", "status", "--porcelain"), looped.run("dvc", "metrics", "show", "--json")
    looped.run("dvc", "exp", "run", "--temp", "-n", "slower", "-S", "tasks.traffic_speed.finetune.learning_rate=0.0005")
    assert (looped.run("git", "status", "--porcelain"), looped.run("dvc", "metrics", "show", "--json")) == before
    shown = csv.DictReader(looped.run("dvc", "exp", "show", "--csv").splitlines())
    row = next(line for line in shown if line["Experiment"] == "slower")
    assert row["tasks.traffic_speed.finetune.learning_rate"] == "0.0005"
    assert float(row["metrics/finetune/traffic_speed.json:validation.loss"]) > 0
