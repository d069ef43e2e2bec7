"""A tiny city's workspace and the ways a person works in it: what tests import, as no conftest can be."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "traffic": {"start": "2025-03-17", "validation_from": "2025-03-31", "test_from": "2025-04-03", "sensors": 6},
    "air": {"start": "2025-02-24", "validation_from": "2025-03-24", "test_from": "2025-03-31", "sensors": 3},
}
TASKS = ("traffic_speed", "air_quality")


@dataclass(frozen=True)
class Workspace:
    """A city's workspace and the ways a person works in it."""

    root: Path

    def run(self, *words: str) -> str:
        """What a command says. Fails with all it said when it fails."""
        here = {k: v for k, v in os.environ.items() if not k.startswith(("CITYLOOP_", "GIT_", "MLFLOW_"))}
        here |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        here |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(words, cwd=self.root, env=here, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def repro(self, *words: str) -> list[str]:
        """The stages that ran, in order."""
        lines = self.run("dvc", "repro", *words).splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def stale(self) -> set[str]:
        """The stages that use something which has changed, before anything ran again."""
        return set(json.loads(self.run("dvc", "status", "--json")))

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.root / file).read_text()
        assert old in text, f"{file} has no {old!r}"
        (self.root / file).write_text(text.replace(old, new, 1))

    def params(self) -> Any:
        return yaml.safe_load((self.root / "params.yaml").read_text())

    def put_params(self, params: Any) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def tiny(params: Any) -> Any:
    """The simulated city cut down to two sources, two tasks and a handful of training steps."""
    for name, cut in SOURCES.items():
        block = params["sources"][name]
        block["read"]["sensors"] = cut["sensors"]
        block.update({k: v for k, v in cut.items() if k != "sensors"})
    params["sources"] = {name: params["sources"][name] for name in SOURCES}
    params["tasks"] = {name: params["tasks"][name] for name in TASKS}
    params["backbones"] = {"series": params["backbones"]["series"]}
    for backbone in params["backbones"].values():
        backbone["pretrain"] |= {"steps": 4, "batch": 2}
    for task in params["tasks"].values():
        task["finetune"] |= {"steps": 4, "batch": 2}
        task["evaluate"] |= {"bootstrap": 20}
    return params
