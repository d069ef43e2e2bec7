"""Files of the city as branch `live` has them, for those who only look."""

import time
from collections.abc import Callable
from pathlib import Path

from pipelines.core.log import logger
from pipelines.runs.git import GitError, Repository
from pipelines.runs.refs import LIVE, Home

EVERY_S = 60.0
"""Another machine is asked no oftener."""


class Live:
    """`live()` is a reader of its head: of a path the text, None where there is none or no `live` yet.

    Where the repository is another machine's, a copy of its newest commit is kept in the city's state; when that
    machine does not answer, the copy is read as it is.
    """

    def __init__(self, root: Path = Path()) -> None:
        self._home = Home.of(root)
        self._repository = Repository(Path(self._home.git) if self._home.local else self._home.state / "live.git")
        self._asked = float("-inf")
        self._head: str | None = None
        self._known: dict[str, str | None] = {}
        """By path, of that head."""

    def __call__(self) -> Callable[[str], str | None]:
        if not self._home.local and time.monotonic() - self._asked > EVERY_S:
            self._asked = time.monotonic()
            self._fetch()
        head = self._repository.has(LIVE)
        if head != self._head:
            self._head, self._known = head, {}
        return self._read

    def _fetch(self) -> None:
        if not self._repository.folder.is_dir():
            Repository.make(self._repository.folder)
        try:
            self._home.fetch(self._repository, LIVE, depth=1)
        except GitError as error:
            logger.warning("live is read as it was: %s", error)

    def _read(self, path: str) -> str | None:
        if self._head is None:
            return None
        if path not in self._known:
            self._known[path] = self._repository.read(self._head, path)
        return self._known[path]
