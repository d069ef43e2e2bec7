"""The ledger: the truth about what serves, one create-only record a decision, `ledger/<task>/<seq>.json`.

A promotion or rollback is `intended`, and then `serving` or `aborted`; one whose promoter died may be `resumed` first.
Creating the next number is the lock: of two who try, one succeeds. The pointer that servers read, and the aliases in
the registry, are projections of it. No clock decides anything here; `at` is for people.

Every record tells, beside its own matter, what serves once it stands (`stable`) and what served before that
(`previous`), so that the newest record alone is the state.
"""

import datetime as dt
import getpass
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.release.objects import Objects, Unreachable

SETTLED = ("serving", "aborted")
LEASE_S = 1.0
"""A promoter at work renews its lease so often; one that stood still for four times that is taken for dead."""
_NAME = re.compile(r"\d{8}\.json")


class Taken(UserError):
    """Another promoter was quicker, or took this one's work over."""


@dataclass(frozen=True)
class State:
    """What the newest record says. `pending`: the intent that is not settled yet."""

    head: dict[str, Any] = field(default_factory=dict)
    pending: dict[str, Any] | None = None

    @property
    def seq(self) -> int:
        return int(self.head.get("seq", 0))

    @property
    def stable(self) -> str | None:
        return self.head.get("stable")

    @property
    def previous(self) -> str | None:
        return self.head.get("previous")


@dataclass(frozen=True)
class Ledger:
    """
    ledger = Ledger(store.objects, "traffic_speed")
    intent = ledger.append(ledger.state(), {"state": "intended", "action": "promote", "digest": digest})
    """

    objects: Objects
    task: str

    def records(self, after: int = 0) -> list[dict[str, Any]]:
        """Those after number `after`, oldest first; by default all."""
        return [self._read(n) for n in self._names() if n > _name(after)]

    def state(self) -> State:
        names = self._names()
        if not names:
            return State()
        head = self._read(names[-1])
        if head["state"] in SETTLED:
            return State(head)
        return State(head, head if head["state"] == "intended" else self._read(_name(head["of"])))

    def append(self, after: State, record: dict[str, Any]) -> dict[str, Any]:
        """Write `record` next to `after`'s head, and return it whole. Raises Taken if there is one already."""
        seq = after.seq + 1
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        kept = {"stable": after.stable, "previous": after.previous}
        # A clock that was set back must not make a later decision look earlier.
        whole = {**kept, **record, "seq": seq, "task": self.task, "at": max(now, after.head.get("at", now))}
        try:
            self.objects.create(f"ledger/{self.task}/{_name(seq)}", files.to_json(whole))
        except FileExistsError:
            other = self._read(_name(seq))
            raise Taken(
                f"{self.task}: {other.get('by', 'somebody')} was quicker: record {seq} says {other['state']} "
                f"{other.get('digest', '')[:12]}; look with `cityloop history {self.task}`"
            ) from None
        return whole

    def _names(self) -> list[str]:
        return [n for n in self.objects.names(f"ledger/{self.task}") if _NAME.fullmatch(n)]

    def _read(self, name: str) -> dict[str, Any]:
        key = f"ledger/{self.task}/{name}"
        try:
            found: dict[str, Any] = json.loads(self.objects.get(key))
        except FileNotFoundError:
            raise UserError(f"{key}: missing, though later records are there; restore it from a copy") from None
        except ValueError:
            raise UserError(f"{key}: not JSON; restore it from a copy") from None
        return found


def _name(seq: int) -> str:
    return f"{seq:08d}.json"


def whoami() -> str:
    """Who does this, as far as the machine knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


@contextmanager
def leased(objects: Objects, task: str) -> Iterator[dict[str, Any]]:
    """While this is entered, others can tell that the promoter of `task` lives. Yields who that is, for its records."""
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "token": secrets.token_hex(8)}
    ended = threading.Event()

    def renew(beat: int) -> None:
        # At worst this one is seen as dead and taken over: `append` refuses whoever comes second.
        with suppress(OSError, Unreachable):
            objects.put(_lease(task, owner), files.to_json({"beat": beat}))

    def go_on() -> None:
        beat = 1
        while not ended.wait(LEASE_S):
            beat += 1
            renew(beat)

    renew(1)
    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield owner
    finally:
        ended.set()
        thread.join()
        with suppress(OSError, Unreachable):
            objects.delete(_lease(task, owner))


def alive(objects: Objects, task: str, owner: dict[str, Any]) -> bool:
    """Whether the promoter `owner` is still at work. Takes up to four renewals of its lease to say no."""
    if owner.get("host") == socket.gethostname() and not _runs(int(owner.get("pid", 0))):
        return False
    first = _beat(objects, task, owner)
    for _ in range(4):
        if first is None:
            break
        time.sleep(LEASE_S)
        if _beat(objects, task, owner) != first:
            return True
    return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _lease(task: str, owner: dict[str, Any]) -> str:
    return f"leases/{task}/{owner.get('token')}.json"


def _beat(objects: Objects, task: str, owner: dict[str, Any]) -> bytes | None:
    try:
        return objects.get(_lease(task, owner))
    except FileNotFoundError:
        return None
