"""Candidate and champion, scored on one frozen test → a verdict with its reasons. An effect: outside DVC, idempotent.

The candidate is what the registry holds, byte for byte, the champion what the store's pointer names. The verdict lies
in the city's state, among the artifacts of the version's MLflow run, in the version's tags and on its page.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core import files, log, params
from pipelines.core.errors import Refused, UserError
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.core.tracking import DESCRIPTION_LIMIT, DIGEST, Tracking, connect, locked, page_url
from pipelines.models.evaluation import gates
from pipelines.models.evaluation.verdict import Verdict, section
from pipelines.release import bundle, page
from pipelines.release.reviews import CHAMPION, PROOF, REVIEW
from pipelines.release.store import Store

CANDIDATE = "candidate"
VOID = "void_review."
WHY = 400
"""Characters of the tag that says why."""


@dataclass(frozen=True)
class Case:
    """A candidate's version and bundle, and what serves, where anything does: bundle, version number and digest."""

    name: str
    version: Any
    candidate: Path
    champion: Path | None = None
    champion_version: str | None = None
    serves: str | None = None


def run(
    task: str | None,
    *,
    everything: bool = False,
    root: Path = Path(),
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Judge the candidate of `task`, or of every task that has one, and write the verdicts down.

    `tell` is given each as {task, version, digest, champion, verdict, why, url}.

    Raises Refused (exit code 4) when one failed, UserError when one could not be judged; the others' are written first.
    """
    city, paths = params.load(root), Paths(root)
    failed, refused = [], []
    with tempfile.TemporaryDirectory() as folder:
        cases, missing = _cases(_names(city, task, everything), paths, Path(folder))
        refused += missing if task else []
        for case in cases:
            try:
                said = _standing(case) or _judged(city, case, paths)
            except UserError as error:
                refused.append(str(error))
                continue
            failed += [] if said["verdict"] == "passed" else [f"{case.name}: {said['why']}"]
            if tell:
                tell({**_about(case, paths), **said})
    if refused or not cases:
        raise UserError("; ".join(refused or missing))
    if failed:
        raise Refused("; ".join(failed))


def _about(case: Case, paths: Paths) -> dict[str, Any]:
    version = str(case.version.version)
    url = page_url(paths, case.name, version)
    return {"task": case.name, "version": version, "digest": case.version.tags[DIGEST], "url": url}


def _standing(case: Case) -> dict[str, Any] | None:
    """The verdict of a candidate that serves already, as it was when that was decided; None: it is to be judged.

    A comparison with itself says nothing, and would make void the very reviews that put it there.
    """
    tags = case.version.tags
    if case.serves != tags.get(DIGEST) or "verdict" not in tags:
        return None
    log.logger.info("gate %s: version %s serves already, and its verdict stands", case.name, case.version.version)
    was = tags.get(CHAMPION, "none")
    return {"champion": None if was == "none" else was, "verdict": tags["verdict"], "why": tags.get("verdict.why", "")}


def _names(city: Params, task: str | None, everything: bool) -> list[str]:
    if (task is None) == (not everything):
        raise UserError("name one task, or give --all: cityloop gate traffic_speed")
    if task is not None:
        city.task(task)
        return [task]
    return list(city.tasks)


def _cases(names: list[str], paths: Paths, folder: Path) -> tuple[list[Case], list[str]]:
    """Candidates with their bytes, downloaded into `folder`; and of tasks without one, that they have none."""
    cases, missing = [], []
    with connect(paths) as tracking:
        for name in names:
            version = tracking.by_alias(name, CANDIDATE)
            if version is None:
                missing.append(f"{name}: no version is its {CANDIDATE}; run `cityloop register {name}`")
                log.logger.info("gate %s: no candidate, passed over", name)
                continue
            cases.append(Case(name, version, tracking.bundle(version, folder / name), *_champion(name, paths)))
    return cases, missing


def _champion(name: str, paths: Paths) -> tuple[Path, str | None, str] | tuple[()]:
    store = Store.of(paths)
    pointer = store.pointer(name)
    if pointer is None or pointer.stable is None:
        return ()
    return store.fetch(name, pointer.stable), pointer.versions.get(pointer.stable), pointer.stable


def _judged(city: Params, case: Case, paths: Paths) -> dict[str, Any]:
    with log.room("gate", case.name) as told:
        found, wanted = bundle.verify(case.candidate), case.version.tags.get(DIGEST)
        if found != wanted:
            raise UserError(
                f"{case.name} version {case.version.version}: its model is bundle {found[:12]}, its tag says "
                f"{str(wanted)[:12]}; somebody changed one of them: delete the version and run `cityloop register`"
            )
        verdict = gates.verdict_for(city, case.name, case.candidate, case.champion, paths)
        _tell(verdict)
        with connect(paths) as tracking, locked(paths.state / f"register-{case.name}.lock"):
            _publish(tracking, case, verdict)
        told["verdict"], told["version"] = "passed" if verdict.passed else "FAILED", str(case.version.version)
        told["champion"] = (verdict.champion or "none")[:12]
    return {"champion": verdict.champion, "verdict": "passed" if verdict.passed else "failed", "why": verdict.why}


def _tell(verdict: Verdict) -> None:
    if not verdict.enabled:
        log.logger.warning("%s", verdict.why)
        return
    for condition in verdict.conditions:
        log.logger.info("%-6s  %s: %s", "ok" if condition.passed else "FAILED", condition.name, condition.detail)


def _publish(tracking: Tracking, case: Case, verdict: Verdict) -> None:
    """Whoever looks at the version finds the verdict. The tag that names the champion comes last: `_void` reads it."""
    version = tracking.client.get_model_version(case.name, case.version.version)
    tracking.client.log_text(version.run_id, files.to_json(verdict.to_json()).decode(), "gate/verdict.json")
    champion, why = verdict.champion or "none", verdict.why
    _void(tracking, version, champion)
    text = page.put(version.description or "", "Verdict", section(verdict, case.champion_version), before=page.RESULTS)
    tags = {
        "verdict": "passed" if verdict.passed else "failed",
        "verdict.why": why if len(why) <= WHY else f"{why[: WHY - 1]}…",
        CHAMPION: champion,
    }
    tracking.describe(version, page.fit(text, DESCRIPTION_LIMIT), tags)


def _void(tracking: Tracking, version: Any, champion: str) -> None:
    """Reviews of a comparison with another champion answered another question: they are kept, and count no more."""
    if version.tags.get(CHAMPION, champion) == champion:
        return
    for key, said in version.tags.items():
        if key.startswith(REVIEW):
            name = key.removeprefix(REVIEW)
            tracking.client.set_model_version_tag(version.name, version.version, f"{VOID}{name}", said)
            tracking.client.delete_model_version_tag(version.name, version.version, key)
            log.logger.warning(
                "gate %s: the champion is another one now, so the review of %s is void", version.name, name
            )
        elif key.startswith(PROOF):
            tracking.client.delete_model_version_tag(version.name, version.version, key)
