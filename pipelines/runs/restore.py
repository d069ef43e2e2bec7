"""A commit of `live` with what it made, for those who publish from it: their versions name that very commit."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core import log
from pipelines.core.errors import UserError
from pipelines.runs import dvc, lock, workspace
from pipelines.runs.git import GitError
from pipelines.runs.refs import LIVE, Home

if TYPE_CHECKING:
    from dvc.repo import Repo

PUBLISHED = ("cards", "metrics", "models", "plots")
"""Folders whose outputs registration reads."""
JUDGED = ("metrics", "data/joined/{}")
"""What gate and promotion read for a task."""
WATCHED = ("metrics", "data/quarantine", "models/tasks/{}")
"""What monitor reads of a task, beside features and what is joined of them."""
ITEMS = ("data/features/image", "data/features/text")
"""Of pictures and messages nothing that watches reads what is joined."""


@contextlib.contextmanager
def restored(commit: str, folders: Sequence[str] = PUBLISHED, *, root: Path = Path()) -> Iterator[Path]:
    """A clean clone at `commit`, outputs in `folders` (or named there) linked from the cache or pulled, while used.

    Raises UserError for a commit that `live` does not hold.
    """
    with _opened(Home.of(root), commit) as place:
        with dvc.opened(place) as repo:
            _link(repo, _entries(place), folders)
        yield place


@contextlib.contextmanager
def watched(task: str, *, root: Path = Path()) -> Iterator[Path]:
    """A clean clone at live's head with what watching `task` reads, while used.

    The joined grid reaches as far as the features: where training did not bring it there yet, it is joined here.
    Raises UserError where `live` has no such task, or no features of it.
    """
    home, join = Home.of(root), f"join@{task}"
    with _opened(home, LIVE, depth=1) as place:
        entries = _entries(place)
        with dvc.opened(place) as repo:
            graph = dvc.graph(repo)
            stage, listing = graph[join], dvc.listing(repo)
            old = graph.own_change(join, entries) or graph.input_change(join, entries, listing)
            folders = [*stage.inputs, *(folder.format(task) for folder in WATCHED)]
            _link(repo, entries, folders if old else [*folders, *stage.outs])
        if old and not set(ITEMS) & set(stage.inputs):
            log.logger.info("%s: %s; joined here, for this alone", join, old)
            if _ran(place, home, "join", task):
                raise UserError(f"{task}: its features could not be joined; the lines before say why")
        yield place


@contextlib.contextmanager
def _opened(home: Home, revision: str, depth: int = 1000) -> Iterator[Path]:
    """Raises UserError for a revision that `live` does not hold."""
    with workspace.opened(home) as repository:
        home.fetch(repository, LIVE, depth=depth)
        try:
            repository("checkout", "-q", "--detach", revision)
        except GitError:
            raise UserError(f"{revision}: no such commit on live of {home.git}") from None
        # Linked, for what is read here may be large, and nothing writes to it.
        dvc.configure(repository.folder, home, linked=True)
        yield repository.folder


def _entries(place: Path) -> dict[str, str]:
    return lock.split((place / lock.FILE).read_text()) if (place / lock.FILE).is_file() else {}


def _link(repo: "Repo", entries: dict[str, str], folders: Sequence[str]) -> None:
    outs = [(name, out) for name, text in entries.items() for out in lock.parse(text).outs]
    dvc.link(repo, [(name, out) for name, out in outs if any(_within(out, folder) for folder in folders)])


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def publish(commit: str, *words: str, folders: Sequence[str] = PUBLISHED, root: Path = Path()) -> int:
    """`python -m pipelines …` in `restored(commit)`, with the city's own state; gives its exit code.

    publish(outcome.commit, "register", "--all")
    """
    with restored(commit, folders, root=root) as place:
        return _ran(place, Home.of(root), *words)


def watch(task: str, *words: str, root: Path = Path()) -> int:
    """As `publish`, in `watched(task)`."""
    with watched(task, root=root) as place:
        return _ran(place, Home.of(root), *words)


def _ran(place: Path, home: Home, *words: str) -> int:
    environ = workspace.environment(home)
    workspace.checks_code(place, environ)
    return subprocess.run(["python", "-m", "pipelines", *words], cwd=place, env=environ, check=False).returncode
