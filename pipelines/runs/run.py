"""A whole run without a scheduler: every stage that is out of date, in parallel where the graph allows."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

import pipelines
from pipelines.core import log
from pipelines.core.errors import Interrupted, UserError
from pipelines.runs import dvc, merge, refs, start, workspace
from pipelines.runs.git import Repository
from pipelines.runs.graph import Graph, Listing, State
from pipelines.runs.refs import Home
from pipelines.runs.table import Table

EVERY_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of a run. `commit`: live's commit that holds what succeeded."""

    run: str
    commit: str
    done: dict[str, dict[str, Any]]
    failed: dict[str, str]
    """Stage → why."""
    blocked: dict[str, str]
    """Stage → what it needs and has not got."""

    def require(self) -> None:
        """Raises UserError with the reasons when a stage failed."""
        if self.failed:
            reasons = "; ".join(f"{stage}: {why}" for stage, why in self.failed.items())
            kept = f"; not run for that: {', '.join(self.blocked)}" if self.blocked else ""
            raise UserError(f"run {self.run}: {reasons}{kept}. What succeeded is kept")


def run(
    until: str | None = None, jobs: int | None = None, *, targets: Collection[str] = (), sources: Sequence[str] = (),
    run: str | None = None, merged: bool = True, root: Path = Path(),
) -> Outcome:  # fmt: skip
    """Begin a run (or go on with one that was begun), make what is out of date, bring what succeeded to live.

    A stage that fails stops what needs it, and nothing else. Not `merged`: what was made waits for `merge_run`, and
    the outcome's commit is the one that the run began at. Raises Interrupted on SIGTERM or Ctrl-C, once the stages
    at work have ended; what was made by then is kept, and the run can be gone on with.
    """
    home = Home.of(root)
    name = start.begin(run, until, sources, root=root)
    log.logger.info("run %s", name)
    with workspace.opened(home) as repository:
        now = refs.read(home, repository, name)
        repository("checkout", "-q", "--detach", now.base)
        dvc.configure(repository.folder, home)
        with dvc.opened(repository.folder) as repo:
            listing = functools.cache(dvc.listing(repo))
            wanted = now.graph.closure(targets or now.graph.stages)
            conductor = Conductor(
                home, name, now.graph, wanted, repository, listing, jobs or min(4, os.cpu_count() or 1)
            )
            conductor.conduct()
    blocked = {n: conductor.last[n][1] for n in now.graph.order if n in wanted and conductor.last[n][0] == "blocked"}
    blocked = {n: why for n, why in blocked.items() if n not in conductor.failed}
    for stage, why in blocked.items():
        conductor.table.ended(stage, "blocked", 0, why)
    commit = merge.merge_run(name, root=root) if merged else now.base
    return Outcome(name, commit, conductor.done, conductor.failed, blocked)


@dataclass
class Conductor:
    """Starts stages as they become ready, each as a process of its own, and looks after them."""

    home: Home
    name: str
    graph: Graph
    wanted: Collection[str]
    repository: Repository
    listing: Listing
    jobs: int
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    at_work: dict[str, "Process"] = field(default_factory=dict)
    table: Table = field(default_factory=Table)
    asked: bool = False
    last: dict[str, tuple[State, str]] = field(default_factory=dict)

    def states(self) -> dict[str, tuple[State, str]]:
        now = refs.read(self.home, self.repository, self.name)
        self.last = self.graph.states(now.lock, self.listing, set(self.failed))
        return self.last

    def conduct(self) -> None:
        with _asked_to_stop(self._stop):
            states = self.states()
            while True:
                ready = [] if self.asked else self._ready(states)
                for stage in ready[: self.jobs - len(self.at_work)]:
                    self.at_work[stage] = Process.start(self.home, self.name, stage, [*self.failed])
                if not self.at_work:
                    break
                ended = self._wait(sum(1 for n in self.wanted if states[n][0] in ("stale", "maybe")))
                if ended:
                    states = self.states()
        if self.asked:
            raise Interrupted(f"run {self.name} was stopped; cityloop run --run {self.name} goes on with it")

    def _ready(self, states: dict[str, tuple[State, str]]) -> list[str]:
        """Out of date for certain, nothing upstream still to come, and neither tried nor at work yet."""
        open_ = {name for name, (state, _) in states.items() if state in ("stale", "maybe")}
        return [
            name
            for name in self.graph.order
            if name in self.wanted and states[name][0] == "stale" and not open_ & set(self.graph.upstream(name))
            and name not in self.at_work and name not in self.done
        ]  # fmt: skip

    def _wait(self, todo: int) -> bool:
        """Wait a moment; whether a stage ended in it."""
        until = time.monotonic() + EVERY_S
        ended = False
        while time.monotonic() < until and not ended:
            for stage, process in [*self.at_work.items()]:
                if process.popen.poll() is not None:
                    del self.at_work[stage]
                    self._settle(stage, process)
                    ended = True
            time.sleep(0.01)
        self.table.draw({s: p.seconds for s, p in self.at_work.items()}, todo - len(self.at_work))
        return ended

    def _settle(self, stage: str, process: "Process") -> None:
        result, why = process.result()
        if result is not None:
            self.done[stage] = result
            self.table.ended(stage, result["state"], result["seconds"])
        else:
            self.failed[stage] = why
            self.table.ended(stage, "failed", process.seconds, why)

    def _stop(self) -> None:
        self.asked = True
        for process in self.at_work.values():
            process.popen.send_signal(signal.SIGTERM)


@dataclass
class Process:
    """`run-stage` at work; what it says goes to a log file under the state folder."""

    popen: subprocess.Popen[str]
    log: IO[str]
    began: float

    @classmethod
    def start(cls, home: Home, run: str, stage: str, former: list[str]) -> "Process":
        folder = home.state / "logs" / run
        folder.mkdir(parents=True, exist_ok=True)
        out = (folder / f"{stage}.log").open("w")
        command = [sys.executable, "-m", "pipelines.runs", stage, run, str(home.root), *former]
        code = Path(pipelines.__file__).parents[1]
        # A session of its own: Ctrl-C reaches only us, and we pass it on as SIGTERM.
        popen = subprocess.Popen(
            command, cwd=code, stdout=subprocess.PIPE, stderr=out, text=True, start_new_session=True,
            env={**os.environ, "CITYLOOP_STATE": str(home.state)},
        )  # fmt: skip
        return cls(popen, out, time.monotonic())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def result(self) -> tuple[dict[str, Any] | None, str]:
        """The line of JSON; or None and why there is none."""
        said, _ = self.popen.communicate()
        self.log.close()
        if self.popen.returncode == 0 and said.strip():
            return json.loads(said.strip().splitlines()[-1]), ""
        return None, f"{_reason(Path(self.log.name))} (exit code {self.popen.returncode}; {self.log.name})"


def _reason(path: Path) -> str:
    """The stage's own last line rather than what we say of it."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("dvc: ")]
    if len(lines) > 1 and "failed to run: " in lines[-1]:
        lines.pop()
    return lines[-1].removeprefix("error: ") if lines else "it said nothing"


@contextlib.contextmanager
def _asked_to_stop(stop: Callable[[], None]) -> Iterator[None]:
    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
