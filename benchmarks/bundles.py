"""Bundles to serve: a city of so many simulated detectors, trained for a moment by the rooms themselves and kept.

Used by serving.py. How good the answers are plays no part in how long they take.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from pipelines import corpus, features, finetune, ingest, join, pretrain, validate
from pipelines.core import files, log
from pipelines.core.paths import Paths
from pipelines.release import bundle

TASK = "traffic_speed"


def city(sensors: int) -> dict[str, Any]:
    """Two weeks of `sensors` detectors every five minutes; the next hour is asked about 12, which are 144 steps."""
    traffic = {
        "department": "transport", "start": "2025-03-24", "validation_from": "2025-04-03", "test_from": "2025-04-05",
        "step": "5min", "read": {"connector": "simulator", "feed": "traffic", "sensors": sensors},
        "kinds": {"speed": {"unit": "km/h", "range": [0, 150]}},
    }  # fmt: skip
    task = {
        "department": "transport", "question": "How fast will each detector's traffic run over the next hour?",
        "objective": "forecast", "backbone": "series", "target": {"source": "traffic", "kinds": ["speed"]},
        "context": "12h", "horizon": "1h", "finetune": {"steps": 10, "batch": 2, "accelerator": "cpu"},
    }  # fmt: skip
    backbone = {"pretrain": {"steps": 10, "batch": 2, "accelerator": "cpu"}}
    named = {"name": "serving", "timezone": "Europe/Amsterdam", "seed": 7}
    return {"city": named, "sources": {"traffic": traffic}, "backbones": {"series": backbone}, "tasks": {TASK: task}}


def made(folder: Path, sensors: int) -> Path:
    """The bundle of such a city, which is made in `folder` unless it lies there whole."""
    paths = Paths(folder)
    if not (paths.task(TASK) / bundle.MANIFEST).is_file():
        log.setup()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(city(sensors), sort_keys=False))
        (folder / "window.yaml").write_text('traffic: "2025-04-07"\n')
        for room in (ingest, validate, features):
            room.run("traffic", root=folder)
        for room, key in ((corpus, "series"), (join, TASK), (pretrain, "series"), (finetune, TASK)):
            room.run(key, root=folder)
    bundle.verify(paths.task(TASK))
    return paths.task(TASK)


def twin(folder: Path, place: Path, **changed: str) -> Path:
    """The same model with some of its description `changed`, and so another digest."""
    contents = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    del contents[bundle.MANIFEST]
    contents["config.json"] = files.to_json({**json.loads(contents["config.json"]), **changed})
    bundle.write(place, contents)
    return place
