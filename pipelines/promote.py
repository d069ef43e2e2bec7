"""An approved candidate → serving, or back: promote, rollback, reconcile. Effects, outside DVC, each safe to repeat.

What may serve is decided here, of bytes that were just verified: the candidate's, as its version in MLflow holds them,
and the champion's, as the store does. What serves is the ledger's to say (`release.ledger`); MLflow's aliases and tags
follow it, and are made up for later where MLflow does not answer.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core import keys, log, params
from pipelines.core.errors import Refused, UserError
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.core.tracking import DIGEST, Tracking, connect
from pipelines.release import bundle
from pipelines.release.ledger import State, Taken, alive, leased, whoami
from pipelines.release.reviews import Reviews
from pipelines.release.rollout import Record, Rollout, Undone
from pipelines.release.store import Store

CANDIDATE = "candidate"
EVERY_S = 2.0
"""How often `watch` looks for approvals."""
_TOLD = ("lineage", "commit", "dirty", "data_window", "run", "dag_run")
"""Tags of a version that its record in the ledger repeats."""


def run(task: str, *, digest: str | None = None, by: str | None = None, root: Path = Path()) -> dict[str, Any]:
    """Promote the candidate of `task`; gives {task, version, digest, record, servers} of what serves then.

    With `digest` that bundle only: where another promoter is at it, its end is waited for. Raises Refused where the
    gate, the reviewers or the servers say no, or the candidate is another one.
    """
    promoter = Promoter.of(task, root, by)
    promoter.promote(digest)
    head = promoter.ledger.state().head
    return {"task": task, "version": head.get("version"), "digest": head.get("digest"), "record": head["seq"],
            "servers": len(head.get("servers", []))}  # fmt: skip


def rollback(task: str, *, to: str | None = None, by: str | None = None, why: str = "", root: Path = Path()) -> None:
    """Serve what served before, or release `to` (a version or the beginning of a digest) that served once."""
    Promoter.of(task, root, by).rollback(to, why)


def reconcile(tasks: list[str], *, root: Path = Path()) -> None:
    """Finish or undo what was interrupted, and make pointer and aliases say what the ledger says."""
    for task in tasks or Store.of(Paths(root)).tasks():
        Promoter.of(task, root, None).reconcile()


def watch(
    tasks: list[str],
    *,
    root: Path = Path(),
    stop: Callable[[], bool] = lambda: False,
    bring: Callable[[str, str], None] | None = None,
) -> None:
    """Promote whatever is approved, as soon as it is, until told to `stop`. Runs for good otherwise.

    bring: promotes (task, digest) in another way than here.
    """
    city = params.load(root)
    said: dict[str, str] = {}
    log.logger.info("promoter: watching %s, every %g s", ", ".join(tasks or city.tasks), EVERY_S)
    while not stop():
        for task in tasks or city.tasks:
            try:
                Promoter(city, task, Paths(root), "promoter").attend(bring)
                said.pop(task, None)
            except UserError as error:
                if said.get(task) != str(error):  # the same trouble every two seconds is said once
                    log.logger.warning("promoter: %s", error)
                said[task] = str(error)
        time.sleep(EVERY_S)


@dataclass
class Promoter:
    """One task of a city."""

    city: Params
    task: str
    paths: Paths
    by: str

    @classmethod
    def of(cls, task: str, root: Path, by: str | None) -> "Promoter":
        city = params.load(root)
        city.task(task)
        return cls(city, task, Paths(root), by or whoami())

    def __post_init__(self) -> None:
        self.store = Store.of(self.paths)
        self.rollout = Rollout(self.store, self.task, self.city.task(self.task).release, self._tell)
        self.ledger = self.rollout.ledger

    def promote(self, digest: str | None = None) -> None:
        try:
            self._promote(digest)
        except Taken:  # by a promoter that brings the same bundle, perhaps
            if digest is None:
                raise
            self._promote(digest)

    def _promote(self, digest: str | None) -> None:
        with log.room("promote", self.task) as told, leased(self.store.objects, self.task) as owner:
            state = self._awaited(digest)
            if digest and state.stable == digest and not state.pending:
                told["serving"] = "already"
                self._follow()
                return
            if state.pending:
                told["finished"] = self._go_on(state, owner)["digest"][:12]
                return
            with connect(self.paths) as tracking, tempfile.TemporaryDirectory() as place:
                version = self._candidate(tracking)
                if digest not in (None, version.tags.get(DIGEST)):
                    candidate = f"version {version.version} ({version.tags.get(DIGEST, '')[:12]})"
                    raise Refused(
                        f"{self.task}: the candidate is {candidate} by now, and {str(digest)[:12]} was to be promoted; "
                        "have the new one reviewed"
                    )
                told["version"] = str(version.version)
                if version.tags.get(DIGEST) == state.stable:
                    self._follow()
                    told["serving"] = "already"
                    return
                folder = self._verified(tracking, version, Path(place))
                record = self._decided(version, folder, state)
                intent = self.rollout.begin(state, "promote", version.tags[DIGEST], owner, by=self.by, **record)
                done = self._carry_out(intent, intent, folder, version.description)
            self._follow()
            told |= {"serving": done["digest"][:12], "servers": len(done["servers"]), "record": done["seq"]}

    def _awaited(self, digest: str | None) -> State:
        """The ledger's state, once nobody else who lives is promoting `digest`."""
        while True:
            state = self.ledger.state()
            if digest is None or not state.pending or state.pending["digest"] != digest:
                return state
            if not alive(self.store.objects, self.task, self._owner(state)):
                return state

    def attend(self, bring: Callable[[str, str], None] | None = None) -> None:
        """Promote if a candidate is approved that was not tried and undone already; take up what was left behind."""
        state = self.ledger.state()
        if state.pending:
            if not alive(self.store.objects, self.task, self._owner(state)):
                self.promote()
            return
        with connect(self.paths) as tracking:
            version = tracking.by_alias(self.task, CANDIDATE)
        if version is None or version.tags.get(DIGEST) == state.stable:
            return
        undone = state.head.get("state") == "aborted" and state.head.get("digest") == version.tags.get(DIGEST)
        gate, digest = self.city.task(self.task).gate, version.tags.get(DIGEST, "")
        reviews = Reviews.of(version.tags, self.task, digest)
        if not undone and reviews.missing(gate.reviewers, gate.authenticated) is None:
            if bring:
                bring(self.task, digest)
            else:
                self.promote()

    def rollback(self, to: str | None, why: str) -> None:
        with log.room("rollback", self.task) as told, leased(self.store.objects, self.task) as owner:
            state = self.ledger.state()
            if state.pending and to is None:  # what is under way has not served yet: back is where it came from
                self.rollout.undo(state.pending, why or f"rolled back by {self.by}", self.by)
                self.rollout.settled()
            else:
                digest, version = self._served(state, to)
                self.store.fetch(self.task, digest)
                details = {"by": self.by, "reason": why, **({"version": version} if version else {})}
                intent = self.rollout.begin(state, "rollback", digest, owner, **details)
                self._carry_out(intent, intent)
            self._follow()
            told["serving"] = (self.ledger.state().stable or "nothing")[:12]

    def reconcile(self) -> None:
        with log.room("reconcile", self.task) as told, leased(self.store.objects, self.task) as owner:
            state = self.ledger.state()
            if state.pending:
                self._free(state)
                pointer, digest = self.store.pointer(self.task), state.pending["digest"]
                flipped = pointer is not None and pointer.stable == digest != state.pending["stable"]
                if flipped:
                    self._go_on(state, owner)
                else:
                    self.rollout.undo(state.pending, "its promoter was interrupted", self.by)
                told["pending"] = "finished" if flipped else "undone"
            told["pointer"] = "mended" if self.rollout.project() else "right"
            self._follow()

    def _candidate(self, tracking: Tracking) -> Any:
        version = tracking.by_alias(self.task, CANDIDATE)
        if version is None:
            raise UserError(f"{self.task}: no version is its candidate; run `cityloop register {self.task}` first")
        return version

    def _verified(self, tracking: Tracking, version: Any, place: Path) -> Path:
        """The candidate's bundle, as its bytes are now."""
        folder = tracking.bundle(version, place)
        found, wanted = bundle.verify(folder), version.tags.get(DIGEST)
        if found != wanted:
            raise Refused(
                f"{self.task}: version {version.version} holds bundle {found[:12]}, and what was reviewed is "
                f"{str(wanted)[:12]}; somebody changed it: find out who, then `cityloop register {self.task}`"
            )
        return folder

    def _decided(self, version: Any, folder: Path, state: State) -> Record:
        """What the ledger is to say of this promotion. Raises Refused where it must not be."""
        from pipelines.models.evaluation import gates

        digest, gate, tags = version.tags[DIGEST], self.city.task(self.task).gate, version.tags
        reviews = Reviews.of(tags, self.task, digest)
        if why := reviews.missing(gate.reviewers, gate.authenticated):
            raise Refused(f"{self.task}: version {version.version} may not be promoted: {why}; see `cityloop review "
                          f"{self.task}`")  # fmt: skip
        champion = self.store.fetch(self.task, state.stable) if state.stable else None
        compared = tags.get("verdict.champion")
        if compared is None:
            raise Refused(f"{self.task}: version {version.version} was not judged; run `cityloop gate {self.task}`")
        if compared != (state.stable or "none"):
            raise Refused(
                f"{self.task}: the card of version {version.version} compares with champion {str(compared)[:12]}, and "
                f"{(state.stable or 'none')[:12]} serves; run `cityloop gate {self.task}` and have it reviewed again"
            )
        verdict = gates.verdict_for(self.city, self.task, folder, champion, self.paths)
        if not verdict.passed:
            raise Refused(f"{self.task}: the gate refuses version {version.version}: {verdict.why}")
        return {
            "version": str(version.version),
            "reviewers": [*reviews.approved],
            "reason": reviews.note or "",
            "verdict": {"why": verdict.why, "key": verdict.key, "scores": verdict.scores},
            **{k: tags[k] for k in _TOLD if k in tags},
            **keys.dag_run(),
        }

    def _go_on(self, state: State, owner: Record) -> Record:
        """Finish what another promoter left behind."""
        self._free(state)
        pending = state.pending or {}
        claim = self.rollout.resume(state, owner)
        with tempfile.TemporaryDirectory() as place:
            folder = card = None
            if not self.store.holds(self.task, pending["digest"]):
                with connect(self.paths) as tracking:
                    version = tracking.client.get_model_version(self.task, pending["version"])
                    folder, card = self._verified(tracking, version, Path(place)), version.description
            done = self._carry_out(pending, claim, folder, card)
        self._follow()
        return done

    def _carry_out(self, intent: Record, claim: Record, folder: Path | None = None, card: str | None = None) -> Record:
        try:
            return self.rollout.carry_out(intent, claim, folder, card)
        except Undone:
            self._follow()
            raise

    def _free(self, state: State) -> None:
        """Raises Refused while somebody is at work on the pending intent."""
        assert state.pending is not None
        if alive(self.store.objects, self.task, self._owner(state)):
            raise Refused(
                f"{self.task}: {state.head['by']} is promoting {state.pending['digest'][:12]} (record "
                f"{state.pending['seq']}); wait for it, or stop it with `cityloop rollback {self.task}`"
            )

    def _owner(self, state: State) -> Record:
        owner: Record = state.head.get("owner", {})
        return owner

    def _served(self, state: State, to: str | None) -> tuple[str, str | None]:
        """Digest and version of the release to go back to."""
        records = [r for r in self.ledger.records() if r["state"] == "serving"]
        served = {r["digest"]: r.get("version") for r in records}
        wanted = to or state.previous
        if not wanted:
            raise UserError(f"{self.task}: nothing served before {(state.stable or 'anything')[:12]}")
        for digest, version in reversed(served.items()):
            if wanted in (digest, version) or (len(wanted) >= 8 and digest.startswith(wanted)):
                if digest == state.stable and not state.pending:
                    raise UserError(f"{self.task}: {digest[:12]} serves already")
                return digest, version
        known = ", ".join(f"version {v or '–'} ({d[:12]})" for d, v in served.items()) or "none"
        raise UserError(f"{self.task}: no release {wanted!r} ever served; served have: {known}")

    def _follow(self) -> None:
        """Aliases and tags after the ledger, and old releases out. Serving needs neither: trouble is only said."""
        self._tell("bring aliases and tags up to it")
        state = self.ledger.state()
        with self._or_warn():
            self.rollout.prune({t.finetune.init for t in self.city.tasks.values() if t.finetune.init})
        with self._or_warn(), connect(self.paths) as tracking:
            tracking.serves(self.task, state.stable, state.previous)
            if state.seq and tracking.known(self.task):
                version = tracking.version(self.task, state.head["digest"])
                if version is not None:
                    self._tag(tracking, version, state.head)

    def _tag(self, tracking: Tracking, version: Any, head: Record) -> None:
        why = head.get("why") or head.get("reason")
        said = f"{head['action']}: {head['state']} since {head['at']} (record {head['seq']}, by {head['by']})"
        tracking.describe(version, version.description, {"release": f"{said}{f': {why}' if why else ''}"[:400]})

    @contextlib.contextmanager
    def _or_warn(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            log.logger.warning(
                "%s: the ledger holds what serves, but MLflow or the store was not brought up to it: %s; "
                "`cityloop promote %s --reconcile` does it later", self.task, error, self.task,
            )  # fmt: skip

    def _tell(self, step: str) -> None:
        log.logger.debug("promote %s: %s", self.task, step)
