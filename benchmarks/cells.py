"""Fine-tuning under other settings, in workspaces of their own, scored on the test period by the bundle's Predictor.

A cell is a task, a seed and settings; what is finished stands in a JSON file and is not done again. Used by labels.py
and lora.py.
"""

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipelines import finetune
from pipelines.core import files, log, params
from pipelines.core.paths import Paths
from pipelines.models import objectives
from pipelines.models.data import Windows
from pipelines.release.predictor import Predictor

# Student's t for two-sided 95 % intervals, by degrees of freedom.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 11: 2.20, 14: 2.14, 19: 2.09}


def arguments(about: str, out: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--root", type=Path, required=True, help="a city's folder, with joined data and a backbone")
    parser.add_argument("--tasks", nargs="+", help="default: every task that is not judged by alarms")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(out), help="results so far and workspaces")
    return parser


def tasks(root: Path, named: Sequence[str] | None) -> list[str]:
    city = params.load(root)
    return list(named or [k for k, t in city.tasks.items() if "alarm" not in objectives.of(t).CALIBRATION])


def results(
    root: Path, out: Path, keys: Sequence[str], seeds: Sequence[int], settings: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row a cell: task, seed, name of the settings, the test metric and parameters; missing ones are made first."""
    log.setup()
    path = out / "results.json"
    done: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    for key in keys:
        backbone = Paths(root).backbone(params.load(root).task(key).backbone) / "weights.safetensors"
        of = files.sha256_json([(root / "params.yaml").read_text(), files.sha256_file(backbone)])
        for seed in seeds:
            for name, more in settings.items():
                wanted = {"task": key, "seed": seed, "name": name, "of": of, "settings": more}
                if not any(all(row[k] == v for k, v in wanted.items()) for row in done):
                    done.append({**wanted, **_cell(root, out / "cell", key, {**more, "seed": seed})})
                    files.write_json(path, done)
    known = {(r["task"], r["seed"], r["name"]): r for r in done}
    return [known[key, seed, name] for key in keys for seed in seeds for name in settings]


def _cell(root: Path, place: Path, key: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune in `place`, which links the city's data and backbone, and score the bundle."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "models").mkdir(parents=True)
    for name in ("data", "models/backbones"):
        (place / name).symlink_to((root / name).resolve())
    city = yaml.safe_load((root / "params.yaml").read_text())
    city["tasks"][key]["finetune"] = {**(city["tasks"][key].get("finetune") or {}), **settings}
    (place / "params.yaml").write_text(yaml.safe_dump(city, sort_keys=False))
    shutil.copy(root / "window.yaml", place)
    finetune.run(key, root=place)
    report = files.read_json(place / f"metrics/finetune/{key}.json")
    return {**_score(place, key), **{k: report[k] for k in ("parameters", "trained_parameters", "windows", "steps")}}


def _score(place: Path, key: str) -> dict[str, Any]:
    """The objective's main metric over the test period, forecasts issued a horizon apart."""
    paths, task = Paths(place), params.load(place).task(key)
    predictor, objective = Predictor.load(paths.task(key)), objectives.of(task)
    data = Windows.of_task(paths.joined(key), predictor.spec, predictor.reconstruct)
    rows = data.rows("test", data.spec.horizon)
    parts = [rows[i : i + 64] for i in range(0, len(rows), 64)]
    answer = np.concatenate([predictor.predict(data.given(p), data.starts(p)) for p in parts])
    aux = {**predictor.config["aux"], "reference": predictor.tables["reference"][: data.targets]}
    truth = objective.truth(np.concatenate([b["truth"] for b in data.batches(rows, 64)]), aux)
    scores = objective.score(answer, truth, {**aux, "decision": predictor.tables.get("decision", 1)})
    metric = objective.PRIMARY
    return {"metric": metric, "score": scores[metric], "higher_is_better": objective.HIGHER_IS_BETTER}


def compare(rows: Iterable[dict[str, Any]], one: str, other: str) -> str:
    """A Markdown table: mean scores of both, and by how many percent `one` is worse (below 0: better), seed by seed."""
    by_task: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(row["task"], {}).setdefault(row["seed"], {})[row["name"]] = row
    lines = [
        f"| task | metric | {one} | {other} | {one} worse by | 95 % interval | trained |",
        "|---|---|---|---|---|---|---|",
    ]
    means = []
    for task, seeds in by_task.items():
        pairs = [(seeds[s][one], seeds[s][other]) for s in sorted(seeds)]
        sign = -1 if pairs[0][0]["higher_is_better"] else 1
        worse = np.array([100 * sign * (a["score"] - b["score"]) / abs(b["score"]) for a, b in pairs])
        means.append(worse.mean())
        a, b = (np.mean([p[i]["score"] for p in pairs]) for i in (0, 1))
        share = pairs[0][0]["trained_parameters"] / pairs[0][0]["parameters"]
        lines.append(
            f"| {task} | {pairs[0][0]['metric']} | {a:.4f} | {b:.4f} | {worse.mean():+.2f} % | {_interval(worse)} | "
            f"{share:.1%} |"
        )
    mean = np.array(means)
    lines.append(f"| mean of {len(mean)} tasks | | | | {mean.mean():+.2f} % | {_interval(mean)} | |")
    return "\n".join(lines)


def _interval(values: np.ndarray[Any, Any]) -> str:
    n = len(values)
    if n < 2:
        return "–"
    half = T95.get(n - 1, 2.0) * values.std(ddof=1) / np.sqrt(n)
    return f"{values.mean() - half:+.2f} … {values.mean() + half:+.2f}"
