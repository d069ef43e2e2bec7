"""One stage in a workspace of its own: inputs linked, reproduced, checked, and its entry pushed for the others."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from pipelines.core import log
from pipelines.core.errors import Interrupted, UserError
from pipelines.runs import dvc, lock, refs, workspace
from pipelines.runs.git import Repository
from pipelines.runs.graph import Graph, Listing
from pipelines.runs.refs import Home, Run

if TYPE_CHECKING:
    from dvc.repo import Repo


@dataclass(frozen=True)
class Result:
    """What became of a stage: it `ran`, was `cached` (restored from DVC's run cache), or was `unchanged`."""

    stage: str
    run: str
    state: Literal["ran", "cached", "unchanged"]
    seconds: float
    outs: dict[str, str] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        return asdict(self)


def run_stage(stage: str, run: str, *, former: Collection[str] = (), root: Path = Path()) -> Result:
    """Make `stage` in `run`, unless it is up to date; repeating it, after a kill or not, does no harm.

    `former` names stages that failed in this run and whose earlier outputs may stand in for them, as parts of a folder.
    Raises UserError when something upstream is not in yet, or the result is not what it claims to be; StageFailed with
    the exit code of the stage's command; Interrupted when SIGTERM came, after the command has ended.
    """
    home, run, started = Home.of(root), refs.run_name(run), time.monotonic()
    with _terminable(), workspace.opened(home, f"{run}/{stage}") as repository:
        state, entry = _made(home, repository, run, stage, former)
    return Result(stage, run, state, round(time.monotonic() - started, 2), lock.parse(entry).outs)


def _made(home: Home, repository: Repository, run: str, stage: str, former: Collection[str]) -> tuple[Any, str]:
    """How the stage came to be up to date, and its entry."""
    now = refs.read(home, repository, run)
    now.graph[stage]
    place = repository.folder
    _check_out(home, repository, now, stage)
    with _as(workspace.environment(home)), dvc.opened(place) as repo:
        if _up_to_date(now, stage, dvc.listing(repo), former):
            return "unchanged", now.lock[stage]
        workspace.checks_code(place, dict(os.environ))
        dvc.link(repo, _needed(now, stage))
        with _quiet_stdout():
            state = dvc.reproduce(repo, stage)
        entry = _entry(place, stage)
        check(now.graph, stage, {**now.lock, **entry}, dvc.listing(repo))
        check_clean(repository, repo, stage)
        if dvc.has_remote(repo):
            dvc.push(repo, stage)
    _publish(home, repository, now, stage, entry, state)
    return state, entry[stage]


def _check_out(home: Home, repository: Repository, now: Run, stage: str) -> None:
    """The base commit, with a dvc.lock that holds what this stage needs to know and no more."""
    repository("checkout", "-q", "--detach", now.base)
    dvc.configure(repository.folder, home)
    names = {maker for maker, _ in now.graph.sources_of(stage)} | {stage}
    known = {name: text for name, text in now.lock.items() if name in names}
    (repository.folder / lock.FILE).write_text(lock.join(known))


def _up_to_date(now: Run, stage: str, listing: Listing, former: Collection[str]) -> bool:
    """Raises UserError when what the stage needs is not in yet."""
    states = now.graph.states(now.lock, listing, former, [stage])
    state, reason = states[stage]
    waits = [maker for maker in now.graph.upstream(stage) if states[maker][0] in ("stale", "maybe")]
    if waits:
        first = next(n for n in now.graph.order if n in now.graph.closure(waits) and states[n][0] == "stale")
        raise UserError(
            f"{stage} in run {now.name}: {', '.join(waits)} must be in first; begin with cityloop run-stage {first}"
        )
    if state in ("former", "blocked"):
        raise UserError(f"{stage} in run {now.name}: {reason}")
    if state == "stale":
        log.logger.info("%s: %s", stage, reason)
    return state == "fresh"


def _needed(now: Run, stage: str) -> list[tuple[str, str]]:
    """Outputs to link: what the stage reads, and its own earlier ones, which it may go on from."""
    own = [(stage, out) for out in lock.parse(now.lock[stage]).outs] if stage in now.lock else []
    return now.graph.sources_of(stage) + [(s, out) for s, out in own if out in now.graph[stage].outs]


def _entry(place: Path, stage: str) -> dict[str, str]:
    """The stage's entry as DVC wrote it. Raises UserError when it wrote none."""
    entries = lock.split((place / lock.FILE).read_text())
    if stage not in entries:
        raise UserError(f"{stage}: dvc repro ended well, but dvc.lock has no entry of it; nothing was published")
    return {stage: entries[stage]}


def check(graph: Graph, stage: str, entries: Mapping[str, str], listing: Listing) -> None:
    """Raises UserError unless the entry was made with the commit's own code and parameters, and each input is what
    the entry of its maker says. `dvc repro` alone can end well with an entry of which that is not true."""
    change = graph.own_change(stage, entries) or graph.input_change(stage, entries, listing)
    if change:
        raise UserError(f"{stage}: its new entry is already out of date ({change} while it ran); nothing was published")


def check_clean(repository: Repository, repo: "Repo", stage: str) -> None:
    """Raises UserError unless `dvc repro` would now pass over the stage, at the very commit that the run works at."""
    edited = repository("diff", "--name-only", "HEAD").splitlines()
    if edited := [path for path in edited if path != lock.FILE and Path(path).name != ".gitignore"]:
        raise UserError(f"{stage}: it changed {edited[0]}, which is checked in; nothing was published")
    if not dvc.nothing_to_do(repo, stage):
        raise UserError(f"{stage}: dvc repro would run it again at once; nothing was published")


def _publish(home: Home, repository: Repository, now: Run, stage: str, entry: dict[str, str], state: str) -> None:
    """Push the entry. When another attempt was first, its entry stands if it is as good."""
    name = refs.ref(now.name, stage)
    sha = repository.commit(f"{stage}: {state}", {lock.FILE: lock.join(entry)}, tree=None, parents=[now.base])
    if not home.push(repository, {name: sha}, {name: now.shas.get(stage)}):
        other = refs.read(home, repository, now.name).entries.get(stage)
        if other is None or lock.parse(other).deps != lock.parse(entry[stage]).deps:
            raise UserError(
                f"{stage} in run {now.name}: another process pushed another entry of it meanwhile; run it again"
            )


@contextlib.contextmanager
def _as(environment: Mapping[str, str]) -> Iterator[None]:
    """`os.environ` as it is for commands in the workspace: DVC runs them with its own."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """What the stage prints goes to standard error: standard output is for the result."""
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM goes to the command that runs, which may save its work; Interrupted is raised once it has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = threading.Event()

    def forward(_signal: int, _frame: FrameType | None) -> None:
        asked.set()
        running = _commands()
        for process in running:
            with contextlib.suppress(Exception):
                process.terminate()
        if not running:
            raise Interrupted("stopped by SIGTERM; the same command goes on where it was")

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    except Exception as error:
        if asked.is_set():
            raise Interrupted("stopped by SIGTERM; the same command goes on where it was") from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _commands() -> list[Any]:
    """This process's children; in place of a shell, what runs in it."""
    import psutil  # type: ignore[import-untyped]

    found: list[Any] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            within = child.children() if child.name() in ("sh", "bash", "dash", "zsh", "fish", "ksh") else []
            found += within or [child]
    return found
