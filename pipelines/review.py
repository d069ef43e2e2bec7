"""A reviewer's yes or no, from a shell: the same tag on the model version that MLflow's page would set."""

from pathlib import Path
from typing import Any

from pipelines.core import log, params
from pipelines.core.errors import Refused, UserError
from pipelines.core.paths import Paths
from pipelines.core.tracking import DIGEST, Tracking, connect, page_url
from pipelines.release import reviews


def run(
    task: str,
    *,
    decision: str | None = None,
    name: str | None = None,
    note: str | None = None,
    key: Path | None = None,
    version: str | None = None,
    expected: str | None = None,
    root: Path = Path(),
) -> str:
    """The card of the task's candidate (or of `version`) and what reviewers said; with `decision` it is set first.

    decision: `approved` or `rejected`, by `name`; key: a private key in PEM that proves it; expected: the digest that
    the answer is about. Raises UserError when there is no such version, or no name; Refused when it is another bundle.
    """
    params.load(root).task(task)
    with connect(Paths(root)) as tracking:
        chosen = _version(tracking, task, version)
        digest = str(chosen.tags.get(DIGEST, ""))
        if decision is None:
            return _page(chosen, task, digest)
        if name is None:
            raise UserError("who says so? give --as NAME")
        if expected not in (None, digest):
            raise Refused(
                f"{task}: version {chosen.version} is bundle {digest[:12]}, and the answer is about "
                f"{str(expected)[:12]}; look again: `cityloop review {task}`"
            )
        tag, said = reviews.tag(name, decision, digest)
        tags = {tag: said}
        if key is not None:
            champion = chosen.tags.get(reviews.CHAMPION, "none")
            tags[f"{reviews.PROOF}{name}"] = reviews.token(key, name, task, digest, decision, champion)
        if note:
            tags[reviews.NOTE] = " ".join(note.split())[:400]
        tracking.describe(chosen, chosen.description, tags)
    log.logger.info("review %s: version %s %s by %s", task, chosen.version, said[:21], name)
    return ""


def told(
    task: str, *, version: str | None = None, digest: str | None = None, root: Path = Path()
) -> dict[str, Any]:  # fmt: skip
    """{task, version, digest, commit, decision, by, why, card, url} of the candidate, or of `version` or `digest`.

    decision: approved, rejected, superseded or waiting.
    """
    gate, paths = params.load(root).task(task).gate, Paths(root)
    with connect(paths) as tracking:
        by_digest = tracking.version(task, digest) if digest else None
        chosen = by_digest or _version(tracking, task, version)
    digest = str(chosen.tags.get(DIGEST, ""))
    said = reviews.Reviews.of(chosen.tags, task, digest)
    missing = said.missing(gate.reviewers, gate.authenticated)
    decision = "rejected" if said.rejected else "approved" if missing is None else "waiting"
    if decision == "waiting" and "superseded" in chosen.tags:
        decision, missing = "superseded", f"superseded {chosen.tags['superseded']}"
    return {
        "task": task,
        "version": str(chosen.version),
        "digest": digest,
        "commit": str(chosen.tags.get("commit", "none")),
        "decision": decision,
        "by": [*(said.rejected or said.approved)],
        "why": missing or said.note or "",
        "card": chosen.description or "",
        "url": page_url(paths, task, chosen.version),
    }


def _version(tracking: Tracking, task: str, number: str | None) -> Any:
    if number is None:
        found = tracking.by_alias(task, "candidate")
        if found is None:
            raise UserError(
                f"{task}: no version is its candidate, so nothing waits for review; `cityloop register {task}`"
            )
        return found
    found = (
        next((v for v in tracking.versions(task) if str(v.version) == number), None) if tracking.known(task) else None
    )
    if found is None:
        raise UserError(f"{task}: no version {number}; leave --version out for the candidate")
    return found


def _page(version: Any, task: str, digest: str) -> str:
    said = reviews.Reviews.of(version.tags, task, digest)
    words = [f"{n}: approved{' (proven)' if n in said.proven else ''}" for n in said.approved]
    words += [f"{n}: rejected" for n in said.rejected] + [f"{n}: {w} (another bundle)" for n, w in said.other.items()]
    verdict = f"gate: {version.tags.get('verdict', 'pending')}, {version.tags.get('verdict.why', 'not judged yet')}"
    reviewed = f"reviews: {'; '.join(words) or 'none yet'}"
    how = f"cityloop review {task} --approve --as NAME   (or --reject; --note says why)"
    return "\n".join([version.description, "", f"version {version.version}, digest {digest}", verdict, reviewed, how])
