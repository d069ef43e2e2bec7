"""The home of a city's runs: where their refs lie, how they are read and how they are moved on."""

import datetime as dt
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.runs import lock
from pipelines.runs.git import GitError, Repository
from pipelines.runs.graph import Graph

LIVE = "refs/heads/live"
RUNS = "refs/runs"
BASE, GRAPH, MERGED = "base", "graph", "merged"
GIT, REMOTE, CACHE = "CITYLOOP_GIT", "CITYLOOP_DVC_REMOTE", "CITYLOOP_CACHE"


def new_run(now: dt.datetime | None = None) -> str:
    """A name for a run: sorts by time, and no two are the same."""
    return f"{now or dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def run_name(given: str) -> str:
    """`given` as it may stand in a ref: Airflow's ids have colons and plus signs."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", given).strip("-")
    if not name:
        raise UserError(f"run {given!r}: a run's name needs letters or digits")
    return name


def ref(run: str, what: str) -> str:
    return f"{RUNS}/{run}/{what}"


@dataclass(frozen=True)
class Home:
    """The repository that holds `live`, and what belongs to this machine: the city's folder and its state.

    By default the repository is the checkout in `root` and data stays in its DVC cache. Elsewhere: CITYLOOP_GIT names
    a repository (URL or path), CITYLOOP_DVC_REMOTE the DVC remote, CITYLOOP_CACHE this machine's DVC cache.
    """

    root: Path
    git: str
    state: Path

    @classmethod
    def of(cls, root: Path = Path()) -> "Home":
        """Raises UserError when `root` is not the top of a git checkout and CITYLOOP_GIT names no other."""
        state = Paths(root).state
        if given := os.environ.get(GIT):
            return cls(root.resolve(), str(Path(given).resolve()) if Path(given).is_dir() else given, state)
        try:
            top = Path(Repository(root)("rev-parse", "--show-toplevel"))
        except GitError:
            top = None
        if top is None or top.resolve() != root.resolve():
            raise UserError(f"{root.resolve()}: not the top of a git checkout; go there, or name one with {GIT}")
        return cls(top.resolve(), str(top.resolve()), state)

    @property
    def local(self) -> bool:
        """Whether the repository lies on this machine, so that its objects need no copying."""
        return Path(self.git).is_dir()

    @property
    def workspaces(self) -> Path:
        return self.state / "workspaces"

    def repository(self, folder: Path) -> Repository:
        return Repository.make(folder, borrow=self.git if self.local else None)

    def fetch(self, repository: Repository, *patterns: str, depth: int = 2) -> None:
        """Bring refs over under their own names. A pattern of one ref that is not there raises GitError."""
        shallow = () if self.local else (f"--depth={depth}",)
        repository(
            "fetch", "-q", "--no-tags", "--no-write-fetch-head", *shallow, self.git, *(f"+{p}:{p}" for p in patterns)
        )

    def fetch_head(self, repository: Repository) -> None:
        """Bring over what the home has checked out, under no name."""
        repository("fetch", "-q", "--no-tags", *(() if self.local else ("--depth=1",)), self.git, "HEAD")

    def heads(self, repository: Repository, *patterns: str) -> dict[str, str]:
        """Ref → object, as they are in the home now."""
        lines = repository("ls-remote", self.git, *patterns).splitlines()
        return {name: sha for sha, name in (line.split("\t") for line in lines)}

    def push(self, repository: Repository, moves: Mapping[str, str], was: Mapping[str, str | None]) -> bool:
        """Set refs all or none, if each still is what it `was` (None: absent). False when one is not.

        Where people have `live` itself checked out in the home, git brings their files along if they have no edits,
        and refuses otherwise, which is raised as GitError like everything but a lost race.
        """
        accept = "git -c receive.denyCurrentBranch=updateInstead receive-pack"
        receive = (f"--receive-pack={accept}",) if self.local else ()
        leases = [f"--force-with-lease={name}:{was.get(name) or ''}" for name in moves]
        try:
            repository("push", "-q", "--no-verify", "--atomic", *receive, *leases, self.git,
                       *(f"{sha}:{name}" for name, sha in moves.items()))  # fmt: skip
        except GitError:
            now = self.heads(repository, *moves)
            if all(now.get(name) == sha for name, sha in moves.items()):
                return True  # it had arrived, only its answer was lost
            if any(now.get(name) != was.get(name) for name in moves):
                return False
            raise
        return True


@dataclass(frozen=True)
class Run:
    """One run as its refs say: the commit it works at, its graph, and the entries that are in."""

    name: str
    base: str
    graph: Graph
    before: dict[str, str]
    """`dvc.lock` at the base: stage → text of its entry."""
    entries: dict[str, str]
    """What the run's stages made: stage → text of its entry."""
    shas: dict[str, str] = field(default_factory=dict)
    """Stage → commit of its ref."""

    @property
    def lock(self) -> dict[str, str]:
        return {**self.before, **self.entries}


def read(home: Home, repository: Repository, name: str) -> Run:
    """Fetch a run into `repository`. Raises UserError when there is none of that name."""
    home.fetch(repository, f"{RUNS}/{name}/*")
    lines = repository("for-each-ref", "--format=%(refname) %(objectname)", f"{RUNS}/{name}/").splitlines()
    shas = {ref_.removeprefix(f"{RUNS}/{name}/"): sha for ref_, sha in (line.split(" ") for line in lines)}
    if BASE not in shas or GRAPH not in shas:
        raise UserError(f"no run {name!r} in {home.git}; cityloop begin starts one")
    stages = {what: sha for what, sha in shas.items() if what not in (BASE, GRAPH, MERGED)}
    entries = {stage: lock.split(repository.read(sha, lock.FILE) or "")[stage] for stage, sha in stages.items()}
    graph = Graph.load(json.loads(repository.read(shas[GRAPH], "graph.json") or "{}"))
    return Run(name, shas[BASE], graph, lock.split(repository.read(shas[BASE], lock.FILE) or ""), entries, stages)
