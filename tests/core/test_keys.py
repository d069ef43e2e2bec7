"""Lineage: everything upstream of a stage and nothing else."""

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipelines.core import keys


def entry(deps: list[str], outs: list[str], md5: str = "0") -> dict[str, Any]:
    return {
        "cmd": "python -m pipelines …",
        "deps": [{"path": d, "md5": md5} for d in deps],
        "params": {"params.yaml": {"x": 1}},
        "outs": [{"path": o, "md5": md5} for o in outs],
    }


LOCK = {
    "schema": "2.0",
    "stages": {
        "ingest@air": entry(["pipelines/ingest.py"], ["data/raw/air"]),
        "ingest@traffic": entry(["pipelines/ingest.py"], ["data/raw/traffic"]),
        "ingest@camera": entry(["pipelines/ingest.py"], ["data/raw/camera"]),
        "features@air": entry(["data/raw/air"], ["data/features/series/air"]),
        "features@traffic": entry(["data/raw/traffic"], ["data/features/series/traffic"]),
        "features@camera": entry(["data/raw/camera"], ["data/features/image/camera"]),
        "corpus@series": entry(["data/features/series"], ["data/corpus/series"]),
        "report@air": entry(["data/features/series/air/values"], ["metrics/report.json"]),
        "finetune@speed": entry(["data/corpus/series", "data/features/series/traffic"], ["models/tasks/speed"]),
    },
}


def test_closure_follows_parent_folders_and_folders_within_outputs() -> None:
    _, names = keys.lineage(LOCK, "finetune@speed")
    series = ["air", "traffic"]
    assert names == sorted(
        ["finetune@speed", "corpus@series", *(f"{stage}@{s}" for stage in ("features", "ingest") for s in series)]
    )
    assert keys.lineage(LOCK, "report@air")[1] == ["features@air", "ingest@air", "report@air"]
    assert keys.lineage(LOCK, "ingest@air")[1] == ["ingest@air"]


def test_names_that_begin_alike_are_not_parents() -> None:
    lock = {"stages": {"a": entry([], ["data/raw/air_2"]), "b": entry(["data/raw/air"], ["x"])}}
    assert keys.lineage(lock, "b")[1] == ["b"]


@pytest.mark.parametrize("field", ["deps", "outs", "params", "cmd"])
def test_changes_with_anything_upstream_and_with_nothing_else(field: str) -> None:
    digest, _ = keys.lineage(LOCK, "finetune@speed")
    for name in LOCK["stages"]:  # type: ignore[attr-defined]
        other: dict[str, Any] = copy.deepcopy(LOCK)
        stage = other["stages"][name]
        if field in ("deps", "outs"):
            stage[field][0]["md5"] = "1"
        else:
            stage[field] = "changed"
        upstream = name.split("@")[1] != "camera" and not name.startswith("report")
        assert (keys.lineage(other, "finetune@speed")[0] != digest) == upstream, name


def test_outputs_upstream_that_nothing_depends_on_do_not_count() -> None:
    timed: dict[str, Any] = copy.deepcopy(LOCK)
    timed["stages"]["features@air"]["outs"].append({"path": "metrics/latency/air.json", "md5": "7"})
    assert keys.lineage(timed, "finetune@speed") == keys.lineage(LOCK, "finetune@speed")
    assert keys.lineage(timed, "features@air") != keys.lineage(LOCK, "features@air")


def test_does_not_hang_on_the_order_of_entries() -> None:
    turned = {"stages": dict(reversed(LOCK["stages"].items()))}  # type: ignore[attr-defined]
    assert keys.lineage(turned, "finetune@speed") == keys.lineage(LOCK, "finetune@speed")


def test_without_an_entry_or_a_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        keys.lineage(LOCK, "finetune@nowhere")
    assert keys.read_lock(tmp_path) == {"stages": {}}
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a:\n    cmd: x\n")
    assert keys.lineage(keys.read_lock(tmp_path), "a")[1] == ["a"]


def test_commit_is_dirty_when_code_or_parameters_differ_from_it(tmp_path: Path) -> None:
    assert keys.commit(tmp_path) == ("", True)

    def git(*args: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        done = subprocess.run(["git", "-C", str(tmp_path), *who, *args], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    git("add", ".")
    git("commit", "-qm", "one")
    assert keys.commit(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    assert keys.commit(tmp_path)[1] is False
    (tmp_path / "params.yaml").write_text("a: 2\n")
    assert keys.commit(tmp_path)[1] is True
