"""Names of exact things: the commit, and a stage's lineage from `dvc.lock`."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

DAG_RUN = "CITYLOOP_DAG_RUN"


def dag_run() -> dict[str, str]:
    """{"dag_run": "<DAG>/<its run>"} where Airflow runs this, else {}: for whatever is written down of a change."""
    return {"dag_run": os.environ[DAG_RUN]} if os.environ.get(DAG_RUN) else {}


def commit(root: Path) -> tuple[str, bool]:
    """HEAD and whether the tree differs from it; ("", True) where there is no commit."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    # dvc.lock, metrics and cards are what a run makes; they do not make the code dirty.
    return head, not head or bool(
        git("status", "--porcelain", "--", "pipelines", "params.yaml", "window.yaml", "retrain.yaml", "dvc.yaml")
    )


def lineage(lock: dict[str, Any], stage: str) -> tuple[str, list[str]]:
    """SHA-256 over the `dvc.lock` entries of `stage` and of every stage upstream of it, and their names, sorted.

    A stage is upstream when one of its outputs is, contains or lies inside one of the dependencies. Its other outputs,
    which may hold timings, do not count. Raises KeyError when `stage` has no entry.
    """
    stages = lock["stages"]
    wanted, closure = [stage], {stage}
    while wanted:
        deps = [d["path"] for d in stages[wanted.pop()].get("deps", [])]
        for name, entry in stages.items():
            if name not in closure and any(_overlap(o["path"], d) for o in entry.get("outs", []) for d in deps):
                closure.add(name)
                wanted.append(name)
    names = sorted(closure)
    used = [d["path"] for name in names for d in stages[name].get("deps", [])]

    def counted(name: str) -> dict[str, Any]:
        outs = [o for o in stages[name].get("outs", []) if name == stage or any(_overlap(o["path"], d) for d in used)]
        return {**stages[name], "outs": outs}

    canonical = json.dumps([[n, counted(n)] for n in names], sort_keys=True, default=str).encode()
    return hashlib.sha256(canonical).hexdigest(), names


def _overlap(output: str, dependency: str) -> bool:
    a, b = Path(output), Path(dependency)
    return a == b or a in b.parents or b in a.parents


def read_lock(root: Path) -> dict[str, Any]:
    """`dvc.lock` as a mapping; empty stages when there is none."""
    path = root / "dvc.lock"
    if not path.exists():
        return {"stages": {}}
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    return data


def folder_md5(folder: Path) -> str:
    """A folder's hash as `dvc.lock` writes it, computed from its bytes."""
    found = sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())
    listing = [{"md5": _md5(path.read_bytes()), "relpath": name} for name, path in found]
    return _md5(json.dumps(listing, sort_keys=True).encode()) + ".dir"


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
