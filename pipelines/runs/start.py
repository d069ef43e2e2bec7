"""Branch `live` and the runs that begin at its head: brought up to date, windows fixed, stages planned."""

import json
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.core import keys, log
from pipelines.core.errors import UserError
from pipelines.core.params import PARAMS, RETRAIN, WINDOW
from pipelines.core.retraining import completed
from pipelines.runs import dvc, lock, refs, workspace
from pipelines.runs.git import Repository
from pipelines.runs.graph import State
from pipelines.runs.refs import BASE, GRAPH, LIVE, Home

TRIES = 20


@dataclass(frozen=True)
class Planned:
    """A stage that would change (`stale`), or may (`maybe`): that is decided once its upstream is in."""

    stage: str
    state: State
    reason: str
    after: tuple[str, ...]
    """The planned stages it waits for."""


def deploy(source: str = "main", *, root: Path = Path()) -> str:
    """Bring branch or commit `source` to `live`, and give live's head; made from HEAD when there is none yet.

    `live` has nothing of its own but dvc.lock, window.yaml and retrain.yaml, so its tree becomes that of `source` with
    those three: there is nothing to conflict. Windows of new sources come along, those of removed ones go; so do
    retrainings of removed tasks, and new tasks have none.
    """
    home = Home.of(root)
    for _ in range(TRIES):
        with workspace.opened(home) as repository:
            branch = f"refs/heads/{source}"
            heads = home.heads(repository, LIVE, "HEAD", branch)
            live, wanted = heads.get(LIVE), "HEAD" if LIVE not in heads else branch
            if wanted not in heads:
                raise UserError(f"{home.git}: no {wanted.removeprefix('refs/heads/')} there to deploy")
            if live is None:
                home.fetch_head(repository)
                commit = _first(home, repository, heads[wanted])
            else:
                home.fetch(repository, LIVE, branch)
                commit = _onto(repository, live, heads[wanted], source)
            if commit == live or home.push(repository, {LIVE: commit}, {LIVE: live}):
                return commit
    raise UserError(f"{LIVE} of {home.git} moved {TRIES} times while deploying; again")


def _first(home: Home, repository: Repository, head: str) -> str:
    """HEAD itself; with the dvc.lock that lies in the checkout, if it is not in HEAD: its data is in the cache.

    Where retrain.yaml lacks a task that HEAD has, with that too: DVC stops at a key that is not there.
    """
    changed: dict[str, str | None] = {}
    found = home.root / lock.FILE
    if home.local and found.is_file() and repository.read(head, lock.FILE) is None:
        lock.split(found.read_text())
        changed[lock.FILE] = found.read_text()
    anew = retrainings(repository, head, head)
    if anew != repository.read(head, RETRAIN):
        changed[RETRAIN] = anew
    if not changed:
        return head
    return repository.commit(f"live: with {' and '.join(sorted(changed))}", changed, tree=head, parents=[head])


def _onto(repository: Repository, live: str, wanted: str, source: str) -> str:
    own = {lock.FILE: repository.read(live, lock.FILE), RETRAIN: retrainings(repository, live, wanted)}
    theirs, mine = windows(repository, wanted), windows(repository, live)
    ends = {name: mine.get(name, end) for name, end in theirs.items()}
    own[WINDOW] = repository.read(live, WINDOW) if ends == mine else written(ends)
    commit = repository.commit(f"Deploy {source} ({wanted[:10]})", own, tree=wanted, parents=[live, wanted])
    same = repository("rev-parse", f"{commit}^{{tree}}") == repository("rev-parse", f"{live}^{{tree}}")
    return live if same else commit


def retrainings(repository: Repository, commit: str, tasks: str) -> str:
    """retrain.yaml as `commit` has it, for the tasks that the commit `tasks` has."""
    found, wanted = (
        yaml.safe_load(repository.read(*where) or "") or {} for where in ((commit, RETRAIN), (tasks, PARAMS))
    )
    return completed(found, wanted.get("tasks") or {})


def windows(repository: Repository, commit: str) -> dict[str, str]:
    """Source → the end of its window, as written in the commit."""
    found = yaml.safe_load(repository.read(commit, WINDOW) or "") or {}
    return {name: str(end) for name, end in found.items()}


def written(ends: dict[str, str]) -> str:
    head = "# Machine-written: where each source's window ends.\n"
    return head + "".join(f'{name}: "{end}"\n' for name, end in sorted(ends.items()))


def begin(run: str | None = None, until: str | None = None, sources: Sequence[str] = (), *, root: Path = Path()) -> str:
    """Fix what a run works at: live's head, with windows of `sources` (default: all) that end at `until`.

    Gives the run's name. Without `until` windows stay as they are. Beginning a run again changes nothing.
    Raises UserError as `cityloop window` does.
    """
    home = Home.of(root)
    run = refs.run_name(run) if run else refs.new_run()
    base, graph = refs.ref(run, BASE), refs.ref(run, GRAPH)
    for _ in range(TRIES):
        with workspace.opened(home) as repository:
            heads = home.heads(repository, LIVE, base)
            if base in heads:
                return run
            live = heads.get(LIVE) or deploy(root=root)
            refuse_edits(home)
            _tell_undeployed(home, live)
            commit, described = _base(home, repository, run, live, until, sources)
            if home.push(repository, {base: commit, graph: described}, {}):
                return run
    raise UserError(f"{home.git}: could not push {base}")


def _base(
    home: Home, repository: Repository, run: str, live: str, until: str | None, sources: Sequence[str]
) -> tuple[str, str]:
    """The base commit and the commit that holds its graph."""
    home.fetch(repository, LIVE)
    repository("checkout", "-q", "--detach", live)
    place = repository.folder
    changed = {}
    if until:
        by_its_own(home, place, "window", "--until", until, *sources)
        changed = {name: (place / name).read_text() for name in (WINDOW, RETRAIN) if (place / name).is_file()}
    message = f"Run {run}" + (f": until {until}" if until else "") + trailer()
    base = repository.commit(message, changed, tree=live, parents=[live])
    dvc.configure(place, home)
    with dvc.opened(place) as repo:
        graph = dvc.graph(repo)
    if taken := set(graph.stages) & {BASE, GRAPH, refs.MERGED}:
        raise UserError(f"dvc.yaml: stage {taken.pop()!r}: a name that runs use themselves; call it otherwise")
    text = json.dumps(graph.dump(), sort_keys=True, indent=1) + "\n"
    return base, repository.commit(f"Graph of run {run}", {"graph.json": text}, tree=None, parents=[base])


def told_of(run: str, *, root: Path = Path()) -> dict[str, Any]:
    """{run, base, windows: {source: end}} of the run, and `stages`: those that are in."""
    home, run = Home.of(root), refs.run_name(run)
    with workspace.opened(home) as repository:
        now = refs.read(home, repository, run)
        return {"run": run, "base": now.base, "windows": windows(repository, now.base), "stages": sorted(now.entries)}


def trailer() -> str:
    """What a commit says of the DAG run that made it, as a git trailer."""
    return "".join(f"\n\nDag-Run: {name}" for name in keys.dag_run().values())


def by_its_own(home: Home, place: Path, *words: str) -> None:
    """`cityloop WORDS` in the workspace `place`: the commit's own command, which knows its own parameters.

    Raises UserError with what it says.
    """
    environ = workspace.environment(home)
    workspace.checks_code(place, environ)
    command = ["python", "-m", "pipelines", *words]
    done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or [str(command)])[-1].removeprefix("error: "))


def refuse_edits(home: Home) -> None:
    """Where people have `live` checked out, their files come along when it moves; that cannot be with edits in them."""
    if not home.local:
        return
    theirs = Repository(Path(home.git))
    if theirs("rev-parse", "--is-bare-repository") == "true" or theirs.on_branch() != LIVE:
        return
    if edits := theirs("status", "--porcelain", "--untracked-files=no"):
        raise UserError(f"{home.git} is on branch live with edits ({edits.split()[-1]} …); commit them, or go to main")


def _tell_undeployed(home: Home, live: str) -> None:
    if not home.local or not (here := Repository(Path(home.git))).has("refs/heads/main"):
        return
    if (count := here("rev-list", "--count", f"{live}..refs/heads/main")) != "0":
        log.logger.info("live lacks %s commits of main; cityloop deploy brings them", count)


def plan(run: str, targets: Collection[str] = (), *, root: Path = Path()) -> list[Planned]:
    """The stages of `run` that would change, or may, in an order to run them in; `targets`: they and their upstream.

    Asked again while the run goes on, it leaves out what is in. Downstream of a change nothing is certain: a stage
    whose inputs come out as they were is not run.
    """
    home, run = Home.of(root), refs.run_name(run)
    with workspace.opened(home) as repository:
        now = refs.read(home, repository, run)
        repository("checkout", "-q", "--detach", now.base)
        dvc.configure(repository.folder, home)
        with dvc.opened(repository.folder) as repo:
            states = now.graph.states(now.lock, dvc.listing(repo))
    wanted = now.graph.closure(targets or now.graph.stages)
    todo = {name: state for name, state in states.items() if name in wanted and state[0] != "fresh"}
    return [Planned(n, s, why, tuple(u for u in now.graph.upstream(n) if u in todo)) for n, (s, why) in todo.items()]


def told(planned: list[Planned]) -> None:
    for one in planned:
        log.logger.info("%-28s %-6s %s", one.stage, one.state, one.reason)


def as_json(planned: list[Planned]) -> list[dict[str, Any]]:
    return [{"stage": p.stage, "state": p.state, "reason": p.reason, "after": list(p.after)} for p in planned]
