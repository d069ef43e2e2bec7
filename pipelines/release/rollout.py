"""Bringing a release to answer: trial, flip, wait for the servers; undone where it fails, resumed where it was killed.

Each step can be done again, and between any two of them the old release serves: what is written is the ledger first,
and then its projection, the pointer.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.core.errors import Refused, UserError
from pipelines.core.params import Release
from pipelines.release.beats import Servers, Tally, objection, refusal, serving
from pipelines.release.ledger import Ledger, State, Taken, whoami
from pipelines.release.objects import Unreachable
from pipelines.release.store import Illegible, Pointer, Store

POLL_S = 0.3
Record = dict[str, Any]


class Undone(Refused):
    """A promotion was begun and undone; what served before serves on."""


def quiet(step: str) -> None:
    """Tells nobody."""


@dataclass
class Rollout:
    """One task's way from an intent to a release that answers. `tell` hears of each step before it is done."""

    store: Store
    task: str
    plan: Release = field(default_factory=Release)
    tell: Callable[[str], None] = quiet

    def __post_init__(self) -> None:
        self.ledger, self.servers = Ledger(self.store.objects, self.task), Servers(self.store)

    def begin(self, after: State, action: str, digest: str, owner: Record, **details: Any) -> Record:
        """Write down what is intended, as it was decided by what `after` says. Raises Taken when that has changed."""
        self.tell("write the intent into the ledger")
        mode = self.plan.mode if action == "promote" else "direct"
        record = {"state": "intended", "action": action, "digest": digest, "owner": owner, "mode": mode, **details}
        return self.ledger.append(after, {"by": whoami(), **record})

    def resume(self, state: State, owner: Record) -> Record:
        """Take over the pending intent of a promoter that died."""
        assert state.pending is not None
        self.tell(f"take over record {state.pending['seq']}, whose promoter is gone")
        taken = {"state": "resumed", "of": state.pending["seq"], "digest": state.pending["digest"], "owner": owner}
        return self.ledger.append(state, {"by": whoami(), **taken})

    def carry_out(self, intent: Record, claim: Record, folder: Path | None, card: str | None = None) -> Record:
        """From `intent` to serving; `claim`: the record by which this is ours, the intent's own or `resume`'s.

        folder: the bundle, where the store may not have it yet. Raises Undone when servers refuse the release or do not
        report it in time, or the trial speaks against it; Taken when somebody else took over.
        """
        digest = intent["digest"]
        try:
            if folder is not None:
                self.tell("put the release into the store")
                self.store.put(self.task, folder)
            if card is not None:
                self.store.keep_card(self.task, digest, card)
            if not self.store.holds(self.task, digest):
                raise Undone(f"{self.store.where}: no release {digest} of {self.task} to serve")
            trial = self._trial(intent, claim)
            self.tell("flip the pointer")
            self._point(claim, Pointer(self.task, claim["seq"], digest, versions=self._versions(digest)))
            told = self._wait(digest, claim["seq"])
        except (Taken, Unreachable):  # somebody else's now; or to be taken up when the store answers again
            raise
        except UserError as error:
            self.undo(intent, str(error))
            raise Undone(f"{self.task}: {error}; undone, {self._stays(intent)}") from None
        self.tell("write into the ledger that it serves")
        settled = {"state": "serving", "of": intent["seq"], "servers": told, "trial": trial, "by": claim["by"]}
        return self._settle(claim, {**_kept(intent), **settled, "stable": digest, "previous": _previous(intent)})

    def undo(self, intent: Record, why: str, by: str | None = None) -> Record:
        """Write `aborted`, and point at what served before."""
        self.tell("write into the ledger that it is undone")
        record = {**_kept(intent), "state": "aborted", "of": intent["seq"], "why": why, "by": by or whoami()}
        made = self.ledger.append(self.ledger.state(), record)
        self.tell("point back")
        self.project()
        return made

    def project(self) -> bool:
        """Make the pointer say what the ledger says; whether it said something else. Only of a settled ledger."""
        state = self.ledger.state()
        try:
            found = self.store.pointer(self.task)
        except Illegible:
            found = None
        if not state.seq or (found and (found.stable, found.canary) == (state.stable, None)):
            return False
        self.store.point(Pointer(self.task, state.seq, state.stable, versions=self._versions(state.stable)))
        return True

    def settled(self) -> dict[str, Any]:
        """Wait until every living server answers with what the ledger says, and tell which do."""
        found = self.store.pointer(self.task)
        return self._wait(found.stable, found.seq) if found else {}

    def prune(self, spare: set[str]) -> list[str]:
        """Remove releases that served or were tried long ago: `keep` stay beside those that serve or served last."""
        state, known = self.ledger.state(), []
        for record in reversed(self.ledger.records()):
            if record.get("digest") and record["digest"] not in known:
                known.append(record["digest"])
        stay = {state.stable, state.previous, state.head.get("digest"), *known[: self.plan.keep], *spare}
        old = [d for d in self.store.releases(self.task) if d in known and d not in stay]
        for digest in old:
            self.store.remove(self.task, digest)
        return old

    def _trial(self, intent: Record, claim: Record) -> Record | None:
        """Let the release answer copies or a share of the requests, and look at how it does."""
        before, digest, plan = intent["stable"], intent["digest"], self.plan
        if intent["mode"] == "direct" or before is None or not self.servers.look():
            return None
        self.tell(f"begin the {intent['mode']}")
        shadow = intent["mode"] == "shadow"
        share = 0.0 if shadow else plan.share
        versions = self._versions(before, digest)
        self._point(claim, Pointer(self.task, claim["seq"], before, digest, share, shadow, versions))
        at_first, began = Tally.of(self.servers.look(), self.task, before), time.monotonic()
        while True:
            time.sleep(POLL_S)
            self._mine(claim)
            beats = self.servers.look()
            for name, told in beats.items():
                if why := refusal(told, self.task, digest):
                    raise UserError(f"server {name} refuses it: {why}")
            old, new = Tally.of(beats, self.task, before).since(at_first), Tally.of(beats, self.task, digest)
            if why := objection(plan, old, new):
                raise UserError(f"the {intent['mode']} speaks against it: {why}")
            if (
                (new.compared if shadow else new.requests) >= plan.requests
                or not beats
                or time.monotonic() - began > plan.seconds
            ):
                return {"old": old.told(), "new": new.told(), "seconds": round(time.monotonic() - began, 1)}

    def _wait(self, digest: str | None, seq: int) -> dict[str, str | None]:
        """Until every living server reports `digest`. Raises UserError when one refuses it or time is up."""
        self.tell("wait for the servers")
        began = time.monotonic()
        while True:
            beats = self.servers.look()
            late = [name for name, told in beats.items() if not serving(told, self.task, digest, seq)]
            if not late:
                return dict.fromkeys(beats, digest)
            for name in late:
                if why := refusal(beats[name], self.task, digest):
                    raise UserError(f"server {name} refuses it: {why}")
            if time.monotonic() - began > self.plan.wait:
                raise UserError(f"after {self.plan.wait} s {', '.join(late)} did not report it")
            time.sleep(POLL_S)

    def _point(self, claim: Record, pointer: Pointer) -> None:
        self._mine(claim)
        self.store.point(pointer)

    def _mine(self, claim: Record) -> State:
        state = self.ledger.state()
        if state.seq != claim["seq"]:
            by, seq, what = (state.head[k] for k in ("by", "seq", "state"))
            raise Taken(f"{self.task}: {by} took over with record {seq} ({what})")
        return state

    def _settle(self, claim: Record, record: Record) -> Record:
        state = self._mine(claim)
        return self.ledger.append(state, record)

    def _versions(self, *digests: str | None) -> dict[str, str]:
        known = {r["digest"]: r["version"] for r in self.ledger.records() if r.get("digest") and r.get("version")}
        return {d: known[d] for d in digests if d and d in known}

    def _stays(self, intent: Record) -> str:
        return f"{intent['stable'][:12]} serves on" if intent["stable"] else "nothing serves, as before"


def _kept(intent: Record) -> Record:
    """What a settling record repeats of its intent, so that it can be read alone."""
    return {k: intent[k] for k in ("action", "digest", "version", "reason", "reviewers", "lineage", "commit",
                                   "data_window", "dag_run") if k in intent}  # fmt: skip


def _previous(intent: Record) -> str | None:
    """What served before, unless it is the same release again."""
    return intent["stable"] if intent["stable"] != intent["digest"] else intent["previous"]
