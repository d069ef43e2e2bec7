"""The gate: whether a candidate may be put before a reviewer, with its reasons, by what params say of the task.

    verdict = gates.verdict_for(city, "traffic_speed", folder, champion, paths)
    verdict.passed, [condition.detail for condition in verdict.conditions]

Candidate and champion are bundles in folders; both answer the same frozen test, now. What a verdict follows from is in
its `key`: asked again with the same, a passed one is taken from the city's state.
"""

import dataclasses
from pathlib import Path
from typing import Any

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.params import Params, Task
from pipelines.core.paths import Paths
from pipelines.models.evaluation import conditions
from pipelines.models.evaluation.contest import Contest, Entrant, hold
from pipelines.models.evaluation.methods import fit_ridge
from pipelines.models.evaluation.verdict import FORMAT, Condition, Verdict
from pipelines.models.items import damage, questions
from pipelines.models.items import judge as judging
from pipelines.models.items.held import Items
from pipelines.release import bundle, items, latency
from pipelines.release.predictor import Predictor

ONE = {"image": "picture", "text": "message"}
PARITY = 1e-4
"""How far answers may lie from the golden ones, relative."""


def verdict_for(city: Params, name: str, candidate: Path, champion: Path | None, paths: Paths) -> Verdict:
    """The verdict on a bundle beside today's champion: kept where it passed and nothing changed, else made now.

    It is kept in the city's state, gates/<task>.json. Raises UserError as `judge` does, and for a bundle that is not
    what its manifest says.
    """
    task, joined = city.task(name), paths.joined(name)
    bundle.verify(candidate)
    sources = dict.fromkeys([task.target.source, *(chosen.source for chosen in task.inputs)])
    validation = {source: _report(paths.metrics("validate", source)) for source in sources}
    path = paths.state / "gates" / f"{name}.json"
    kept = _kept(path)
    if kept and kept.passed and kept.key == key(task, candidate, champion, joined, validation):
        return kept
    zone = city.timezone(task.target.source)
    made = judge(name, task, candidate, champion, joined, validation, zone).to_json()
    files.write_json(path, made)
    return Verdict.from_json(files.read_json(path))  # as it will be read later


def key(
    task: Task, candidate: Path, champion: Path | None, joined: Path, validation: dict[str, dict[str, Any] | None]
) -> str:
    """SHA-256 over all that a verdict follows from: bundles, params, the joined files (by name, size and time)."""
    found = sorted(p for p in joined.rglob("*") if p.is_file())
    stats = [(p.relative_to(joined).as_posix(), p.stat()) for p in found]
    return files.sha256_json(
        {
            "format": FORMAT,
            "bundles": [bundle.digest(candidate), bundle.digest(champion) if champion else None],
            "gate": task.gate.model_dump(mode="json"),
            "evaluate": task.evaluate.model_dump(mode="json"),
            "joined": [[name, s.st_size, s.st_mtime_ns] for name, s in stats],
            "validation": validation,
        }
    )


def _report(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = files.read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return found


def _kept(path: Path) -> Verdict | None:
    found = _report(path)
    return Verdict.from_json(found) if found and found.get("format") == FORMAT else None


def judge(
    name: str,
    task: Task,
    folder: Path,
    champion: Path | None,
    joined: Path,
    validation: dict[str, dict[str, Any] | None],
    timezone: str = "UTC",
) -> Verdict:
    """Judge the bundle in `folder` beside the champion's, on the test period of the grid, or items, in `joined`.

    validation: the report of each source, None where there is none; timezone: of pictures and messages, for what was
    seen by night. Raises UserError when there is no joined data, or
    nothing in it that the candidate answers.
    """
    gate = task.gate
    rival = bundle.digest(champion) if champion else None
    made = Verdict(name, bundle.digest(folder), rival, key(task, folder, champion, joined, validation), ())
    if not gate.enabled:
        off = f"the gate of {name} is switched off (tasks.{name}.gate.enabled: false): nothing was judged"
        return dataclasses.replace(made, conditions=(Condition("gate", True, None, "off", off),), enabled=False)
    loads, predictor = _loads(folder)
    around = [conditions.small(_megabytes(folder), gate), *conditions.sound(validation), loads]
    if predictor is None or not loads.passed:
        return dataclasses.replace(made, conditions=tuple(around))
    if task.modality == "series":
        contest, judged = _series(name, task, predictor, champion, joined)
        one = "window"
    else:
        contest, judged = _items(name, task, predictor, champion, joined, timezone)
        one = ONE[task.modality]
    judged = [
        *conditions.better(contest, task),
        conditions.not_worse(contest, task, rival),
        conditions.even(contest, task),
        *judged,
        *conditions.calibrated(contest.scores["model"], gate),
        conditions.fast(latency.measure(folder, batch=False)["one"]["p95_ms"], gate, one),
        *around,
    ]
    return dataclasses.replace(
        made,
        conditions=tuple(judged),
        primary=contest.primary,
        higher_is_better=contest.higher,
        test=contest.test,
        scores=contest.scores,
        beside=contest.duel.scores if contest.duel else {},
    )


def _series(
    name: str, task: Task, predictor: Predictor, champion: Path | None, joined: Path
) -> tuple[Contest, list[Condition]]:
    candidate = _entrant(predictor, joined, name)
    ridge = fit_ridge(candidate.data)
    contest = hold(task, candidate, *_champion(champion, candidate, joined), ridge)
    return contest, [conditions.robust(candidate, ridge, task.gate)]


def _items(
    name: str, task: Task, predictor: Any, champion: Path | None, joined: Path, timezone: str
) -> tuple[Contest, list[Condition]]:
    objective, every = questions.load(task.objective), Items.open(joined, name)
    every.fits(predictor.config, joined)
    test = judging.asked(objective, every, "test")
    asks = {"model": objective.ask(predictor), **judging.rivals(objective, every, task)}
    contest = judging.hold(objective, test, asks, *_item_champion(champion, predictor, objective), timezone)
    beside = {method: asks[method] for method in judging.beside(objective, asks)}
    found, damages = damage.robustness(objective, beside, test), damage.kinds(objective, test)
    what = f"{ONE[task.modality]}s"
    return contest, [conditions.suffered(found, what, damages, objective.BESIDE, True, task.gate)]


def _item_champion(folder: Path | None, candidate: Any, objective: Any) -> tuple[Any, str]:
    """How the champion answers, and why it cannot be compared with, if it cannot."""
    if folder is None:
        return None, ""
    try:
        champion = items.load(folder)
        for key in ("objective", "names", "size"):
            ours, theirs = (one.config.get(key) for one in (candidate, champion))
            if ours != theirs:
                return None, f"its {key} is {theirs}, not {ours}"
        return objective.ask(champion), ""
    except Exception as error:  # a bundle of other days may fail anywhere in today's code
        return None, f"it does not load: {_short(error)}"


def _loads(folder: Path) -> tuple[Condition, Any]:
    """Whether the server's own code loads the bundle, and gets the golden answers."""
    limit = f"≤ {PARITY:g}"
    try:
        predictor = items.load(folder)
        off = predictor.golden()
    except Exception as error:  # whatever it is, a server would meet it too
        detail = f"the server's own code cannot answer from the bundle: {_short(error)}"
        return Condition("bundle", False, None, limit, detail), None
    detail = f"the server's own code loads the bundle; its golden answers are met within {off:.1g}, asked {limit}"
    return Condition("bundle", off <= PARITY, float(f"{off:.2g}"), limit, detail), predictor


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _megabytes(folder: Path) -> float:
    return sum(f["size"] for f in files.read_json(folder / bundle.MANIFEST)["files"].values()) / 1e6


def _entrant(predictor: Predictor, joined: Path, name: str) -> Entrant:
    if not (joined / "roles.json").exists():
        raise UserError(f"{joined}: no joined data to judge by; run `cityloop join {name}`, or dvc repro, or dvc pull")
    candidate = Entrant.of(predictor, joined)
    if not candidate.targets:
        raise UserError(f"{joined}: none of its targets is one that the candidate answers; run dvc repro and register")
    return candidate


def _champion(folder: Path | None, candidate: Entrant, joined: Path) -> tuple[Entrant | None, str]:
    """The champion, and why it cannot be compared with, if it cannot."""
    if folder is None:
        return None, ""
    try:
        return Entrant.of(Predictor.load(folder), joined, set(candidate.targets)), ""
    except Exception as error:  # a bundle of other days may fail anywhere in today's code
        return None, f"it does not load: {_short(error)}"
