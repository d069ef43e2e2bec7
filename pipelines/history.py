"""What served when, who said so, why, and on which data: the ledger, read, and beside it what monitor decided.

Needs no registry.
"""

import datetime as dt
from pathlib import Path
from typing import Any

from pipelines.core import params
from pipelines.core.errors import UserError
from pipelines.core.params import parse_instant
from pipelines.core.paths import Paths
from pipelines.release.ledger import Ledger
from pipelines.release.store import Store
from pipelines.watch import decisions


def run(task: str, *, at: str | None = None, root: Path = Path()) -> list[dict[str, Any]]:
    """The ledger's records of `task` and monitor's decisions, oldest first; with `at` the record by which that moment
    was answered.

    Raises UserError for a moment at which nothing served.
    """
    params.load(root).task(task)
    objects = Store.of(Paths(root)).objects
    records = Ledger(objects, task).records()
    if at is None:
        made = [_decided(told) for told in decisions.changes(objects, task)]
        return sorted([*records, *made], key=lambda r: dt.datetime.fromisoformat(r["at"]))
    try:
        moment = parse_instant(at)
    except ValueError as error:
        raise UserError(f"--at: {error}") from None
    then = [r for r in records if r["state"] == "serving" and dt.datetime.fromisoformat(r["at"]) <= moment]
    if not then:
        raise UserError(f"{task}: nothing served at {moment:%FT%TZ}; `cityloop history {task}` has all there is")
    return then[-1:]


def _decided(decision: dict[str, Any]) -> dict[str, Any]:
    """A decision as a record. `at`: until when data counted."""
    why = " ".join(decision["reasons"])
    about = {k: decision[k] for k in ("since", "retrain", "rollback", "error")}
    return {"at": decision["until"], "action": "decision", "state": decision["decision"], "by": "monitor",
            "digest": decision["champion"], "why": why, **about}  # fmt: skip


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
        seq, digest = str(r.get("seq", "–")), (r.get("digest") or "")[:12]
        rows.append([seq, r["at"][:19], what, digest, r.get("version") or "–", who, why])
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows]
    if len(records) == 1:
        data = [f"{k}: {records[0][k]}" for k in ("data_window", "lineage", "commit", "dag_run") if records[0].get(k)]
        lines += data
    return "\n".join(lines)
