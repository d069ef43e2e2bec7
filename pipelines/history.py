"""What served when, who said so, why, and on which data: the ledger, read. Needs no registry."""

import datetime as dt
from pathlib import Path
from typing import Any

from pipelines.core import params
from pipelines.core.errors import UserError
from pipelines.core.params import parse_instant
from pipelines.core.paths import Paths
from pipelines.release.ledger import Ledger
from pipelines.release.store import Store


def run(task: str, *, at: str | None = None, root: Path = Path()) -> list[dict[str, Any]]:
    """The ledger's records of `task`, oldest first; with `at` the one by which that moment was answered.

    Raises UserError for a moment at which nothing served.
    """
    params.load(root).task(task)
    records = Ledger(Store.of(Paths(root)).objects, task).records()
    if at is None:
        return records
    try:
        moment = parse_instant(at)
    except ValueError as error:
        raise UserError(f"--at: {error}") from None
    then = [r for r in records if r["state"] == "serving" and dt.datetime.fromisoformat(r["at"]) <= moment]
    if not then:
        raise UserError(f"{task}: nothing served at {moment:%FT%TZ}; `cityloop history {task}` has all there is")
    return then[-1:]


def table(records: list[dict[str, Any]]) -> str:
    """A line a record, for people."""
    rows = [["record", "at", "what", "release", "version", "by", "why"]]
    for r in records:
        of = f" of {r['of']}" if "of" in r else ""
        who = r.get("by", "")
        if r.get("reviewers"):
            who += f" (approved by {', '.join(r['reviewers'])})"
        what = f"{r.get('action', '')} {r['state']}{of}".strip()
        why = r.get("why") or r.get("reason") or r.get("verdict", {}).get("why", "")
        rows.append([str(r["seq"]), r["at"][:19], what, r.get("digest", "")[:12], r.get("version") or "–", who, why])
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows]
    if len(records) == 1:
        data = [f"{k}: {records[0][k]}" for k in ("data_window", "lineage", "commit", "dag_run") if records[0].get(k)]
        lines += data
    return "\n".join(lines)
