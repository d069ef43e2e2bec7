"""`cityloop keys`: who may ask the server. The file holds hashes alone; a key is shown once, when it is made."""

import datetime as dt
import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.serve import auth

_NAME = re.compile(r"[A-Za-z0-9_.@\-]{1,64}")


def place(root: Path = Path()) -> Path:
    """Where a city's keys lie: CITYLOOP_KEYS, else in its state."""
    return Path(os.environ.get("CITYLOOP_KEYS") or Paths(root).state / "keys.json")


def add(name: str, tasks: tuple[str, ...] = (auth.EVERY,), days: float | None = None, *, root: Path = Path()) -> str:
    """Make a key for `name` that may ask `tasks` (`*`: all), for `days` or for good; it is returned, and kept nowhere.

    Raises UserError for a name that is taken.
    """
    path = place(root)
    entries = auth.read(path)
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a key's name; use letters, digits and ._@- (at most 64)")
    if any(entry["name"] == name for entry in entries):
        raise UserError(f"{path}: {name} has a key already; `cityloop keys revoke {name}` first")
    key = secrets.token_urlsafe(32)
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=days) if days is not None else None
    entry = {
        "name": name,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "tasks": list(tasks),
        "expires": until and until.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    _write(path, [*entries, entry])
    return key


def listed(*, root: Path = Path()) -> tuple[dict[str, Any], ...]:
    """`name`, `tasks` and `expires` of every key."""
    return tuple({k: entry.get(k) for k in ("name", "tasks", "expires")} for entry in auth.read(place(root)))


def revoke(name: str, *, root: Path = Path()) -> None:
    """Take the key of `name` away; servers notice within seconds. Raises UserError where there is none."""
    path = place(root)
    entries = auth.read(path)
    left = [entry for entry in entries if entry["name"] != name]
    if len(left) == len(entries):
        there = ", ".join(entry["name"] for entry in entries) or "none"
        raise UserError(f"{path}: no key of {name}; there are keys of: {there}")
    _write(path, left)


def _write(path: Path, entries: Any) -> None:
    with files.replacing(path) as new:
        new.touch(mode=0o600)
        new.write_text(json.dumps(entries, indent=2) + "\n")
