"""A commit of `live` with what it made, for those who publish from it: their versions name that very commit."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.core.errors import UserError
from pipelines.runs import dvc, lock, workspace
from pipelines.runs.git import GitError
from pipelines.runs.refs import LIVE, Home

PUBLISHED = ("cards", "metrics", "models", "plots")
"""Folders whose outputs registration reads."""
JUDGED = ("metrics", "data/joined/{}")
"""What gate and promotion read for a task."""


@contextlib.contextmanager
def restored(commit: str, folders: Sequence[str] = PUBLISHED, *, root: Path = Path()) -> Iterator[Path]:
    """A clean clone at `commit`, outputs in `folders` (or named there) linked from the cache or pulled, while used.

    Raises UserError for a commit that `live` does not hold.
    """
    home = Home.of(root)
    with workspace.opened(home) as repository:
        home.fetch(repository, LIVE, depth=1000)
        try:
            repository("checkout", "-q", "--detach", commit)
        except GitError:
            raise UserError(f"{commit}: no such commit on live of {home.git}") from None
        place = repository.folder
        dvc.configure(place, home)
        entries = lock.split((place / lock.FILE).read_text()) if (place / lock.FILE).is_file() else {}
        outs = [(name, out) for name, text in entries.items() for out in lock.parse(text).outs]
        with dvc.opened(place) as repo:
            dvc.link(repo, [(name, out) for name, out in outs if any(_within(out, folder) for folder in folders)])
        yield place


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def publish(commit: str, *words: str, folders: Sequence[str] = PUBLISHED, root: Path = Path()) -> int:
    """`python -m pipelines …` in `restored(commit)`, with the city's own state; gives its exit code.

    publish(outcome.commit, "register", "--all")
    """
    with restored(commit, folders, root=root) as place:
        environ = workspace.environment(Home.of(root))
        workspace.checks_code(place, environ)
        return subprocess.run(["python", "-m", "pipelines", *words], cwd=place, env=environ, check=False).returncode
