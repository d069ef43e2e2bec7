"""What servers say of themselves: who lives, which release each answers with, how releases on trial do.

A heartbeat `servers/<id>.json` is {id, host, pid, beat, every_s, started, tasks: {task: {seq, stable, canary, error,
refused, counts: {digest: {requests, errors, latency_ms: {edges, counts}, compared, disagreement}}}}}, counts since the
release was loaded. Clocks of different machines are never compared: a server lives while its `beat` goes on.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.core.params import Release
from pipelines.release.store import Store

GONE = 3
"""A server whose beat stood still for so many of its intervals is gone; its heartbeat is removed."""
FEWEST = 20
"""Requests that a 95th percentile, or a mean disagreement, is taken of."""
SWIFT_MS = 5.0
"""A release that answers 95 % within this is never too slow."""


@dataclass
class Servers:
    """Looks at heartbeats again and again; what it remembers is when each last went on.

    tidy: remove the heartbeats of those that are gone; False for who only reads.
    """

    store: Store
    tidy: bool = True
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)

    def look(self) -> dict[str, dict[str, Any]]:
        """Heartbeats of the servers not known to be gone, by id."""
        now, beats = time.monotonic(), self.store.beats()
        found = dict(beats)
        for name, told in beats.items():
            beat = int(told.get("beat", 0))
            if name not in self._seen or self._seen[name][0] != beat:
                self._seen[name] = (beat, now)
            elif now - self._seen[name][1] > GONE * float(told.get("every_s", 2)):
                if self.tidy:
                    self.store.unbeat(name)
                del found[name]
        self._seen = {k: v for k, v in self._seen.items() if k in beats}
        return found


def serving(told: dict[str, Any], task: str, digest: str | None, seq: int) -> bool:
    """Whether a server answers `task` with `digest`, as a pointer of `seq` or later told it to."""
    mine = told.get("tasks", {}).get(task, {})
    return mine.get("stable") == digest and int(mine.get("seq", 0)) >= seq


def refusal(told: dict[str, Any], task: str, digest: str | None) -> str | None:
    """Why a server will not take release `digest`."""
    mine = told.get("tasks", {}).get(task, {})
    return str(mine.get("error")) if digest and mine.get("refused") == digest else None


@dataclass(frozen=True)
class Tally:
    """One release over all servers."""

    requests: int = 0
    errors: int = 0
    compared: int = 0
    disagreement: float = 0.0
    edges: tuple[float, ...] = ()
    latency: tuple[int, ...] = ()

    @classmethod
    def of(cls, beats: dict[str, dict[str, Any]], task: str, digest: str | None) -> "Tally":
        total = cls()
        for told in beats.values():
            counts = told.get("tasks", {}).get(task, {}).get("counts", {}).get(digest)
            if counts:
                spread = counts["latency_ms"]
                plain = {k: counts[k] for k in ("requests", "errors", "compared", "disagreement")}
                spread = {"edges": tuple(spread["edges"]), "latency": tuple(spread["counts"])}
                total = total._plus(cls(**plain, **spread))
        return total

    def _plus(self, other: "Tally", sign: int = 1) -> "Tally":
        latency = self.latency or (0,) * len(other.latency)
        theirs = other.latency or (0,) * len(latency)
        return Tally(
            self.requests + sign * other.requests,
            self.errors + sign * other.errors,
            self.compared + sign * other.compared,
            self.disagreement + sign * other.disagreement,
            self.edges or other.edges,
            tuple(a + sign * b for a, b in zip(latency, theirs, strict=True)),
        )

    def since(self, before: "Tally") -> "Tally":
        """Less what was counted `before`; all of it, where servers have begun anew since."""
        less = self._plus(before, -1)
        return self if min((less.requests, *less.latency), default=0) < 0 else less

    @property
    def p95_ms(self) -> float | None:
        """Upper edge of the bin that holds the 95th percentile; None of too few, or beyond the last edge."""
        total = sum(self.latency)
        if total < FEWEST:
            return None
        where = int(np.searchsorted(np.cumsum(self.latency), 0.95 * total))
        return self.edges[where] if where < len(self.edges) else float("inf")

    def told(self) -> dict[str, Any]:
        """For the ledger."""
        found = {"requests": self.requests, "errors": self.errors, "compared": self.compared}
        mean = self.disagreement / self.compared if self.compared else None
        p95 = self.p95_ms
        return {**found, "p95_ms": p95 if p95 is None or np.isfinite(p95) else None, "disagreement": mean}


def objection(plan: Release, old: Tally, new: Tally) -> str | None:
    """Why the release on trial must not go on: errors, latency or disagreement beyond what `plan` allows."""
    if new.errors > 1 and new.errors > plan.max_error_rate * new.requests:
        return f"{new.errors} errors in {new.requests} requests, more than the {plan.max_error_rate:.0%} allowed"
    slow, usual = new.p95_ms, old.p95_ms
    if (
        slow is not None
        and usual is not None
        and slow > max(plan.max_latency_ratio * usual, min(old.edges[2:3] or (5,)))
    ):
        return (
            f"95 % within {slow:g} ms where the old one takes {usual:g} ms; {plan.max_latency_ratio:g} times is allowed"
        )
    if new.compared >= FEWEST and new.disagreement / new.compared > plan.max_disagreement:
        mean = new.disagreement / new.compared
        return f"answers differ by {mean:.2g} on {new.compared} requests; {plan.max_disagreement:g} is allowed"
    return None
