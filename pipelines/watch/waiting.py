"""Candidates in MLflow, and what each waits for."""

import datetime as dt
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.core.tracking import DIGEST, configured, connect
from pipelines.release.reviews import Reviews

PROMOTE = "`cityloop promote`"


def candidates(city: Params, paths: Paths) -> dict[str, dict[str, Any]]:
    """By task {candidate, candidate_version, candidate_since, verdict, review, waits_for}; none where MLflow is not
    used. `review`: whether it is people who are waited for. Raises UserError where MLflow does not answer.
    """
    if not configured(paths):
        return {}
    found = {}
    with connect(paths) as tracking:
        for name, task in city.tasks.items():
            version = tracking.by_alias(name, "candidate")
            if version is None:
                continue
            digest = version.tags.get(DIGEST, "")
            reviews = Reviews.of(version.tags, name, digest)
            missing = reviews.missing(task.gate.reviewers, task.gate.authenticated)
            verdict = version.tags.get("verdict", "pending")
            waits = (
                "a verdict"
                if verdict == "pending"
                else "nothing: the gate refuses it"
                if verdict == "failed"
                else missing
            )
            since = dt.datetime.fromtimestamp(version.creation_timestamp / 1000, dt.UTC)
            found[name] = {
                "candidate": digest, "candidate_version": str(version.version), "candidate_since": f"{since:%FT%TZ}",
                "verdict": verdict, "review": bool(verdict == "passed" and missing and not reviews.rejected),
                "waits_for": waits or PROMOTE,
            }  # fmt: skip
    return found


def answer(city: Params, paths: Paths, task: str) -> str | None:
    """What the task's candidate waits for; None where there is none, or it was turned down."""
    try:
        found = candidates(city, paths).get(task)
    except UserError as error:
        return f"MLflow, which does not tell ({error})"
    if found is None or found["verdict"] == "failed":
        return None
    open_ = found["verdict"] == "pending" or found["review"] or found["waits_for"] == PROMOTE
    return found["waits_for"] if open_ else None
