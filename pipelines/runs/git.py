"""Git by its own command, in repositories of ours beside the one that people work in."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipelines.core.errors import UserError

# What a calling git (a hook) sets to say where it is; it would lead ours astray. Credentials and the like stay.
LOCAL = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH",
)  # fmt: skip
_NAME = {"GIT_AUTHOR_NAME": "cityloop", "GIT_AUTHOR_EMAIL": "cityloop@localhost"}
_NAME |= {key.replace("AUTHOR", "COMMITTER"): value for key, value in _NAME.items()}


class GitError(UserError):
    """Git would not; its last line says why."""


class Repository:
    """A git folder, bare or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, folder: Path, *, borrow: str | None = None) -> "Repository":
        """An empty repository in `folder`; objects that the local repository `borrow` has are not copied."""
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder)
        made("init", "-q", "--template=", "--initial-branch=workspace", ".")
        if borrow:
            objects = Path(Repository(Path(borrow))("rev-parse", "--path-format=absolute", "--git-path", "objects"))
            info = folder / ".git/objects/info/alternates"
            info.parent.mkdir(parents=True, exist_ok=True)
            info.write_text(f"{objects}\n")
        return made

    def __call__(self, *args: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """What git says, stripped. Raises GitError."""
        clean = {k: v for k, v in os.environ.items() if k not in LOCAL}
        done = subprocess.run(
            ["git", "-c", f"core.hooksPath={os.devnull}", "-C", str(self.folder), *args],
            input=stdin, capture_output=True, text=True, check=False,
            env={**clean, **_NAME, "GIT_TERMINAL_PROMPT": "0", **(env or {})},
        )  # fmt: skip
        if done.returncode:
            raise GitError(f"git {args[0]} in {self.folder}: {_reason(done.stderr or done.stdout)}")
        return done.stdout.strip()

    def has(self, revision: str) -> str | None:
        """The object `revision` names; None when there is none."""
        try:
            return self("rev-parse", "-q", "--verify", revision)
        except GitError:
            return None

    def on_branch(self) -> str | None:
        """The branch that is checked out; None when a commit is."""
        try:
            return self("symbolic-ref", "-q", "HEAD")
        except GitError:
            return None

    def read(self, revision: str, path: str) -> str | None:
        """A file's text in a commit, its last newline included; None when it has none."""
        if self.has(f"{revision}:{path}") is None:
            return None
        return self("cat-file", "blob", f"{revision}:{path}") + "\n"

    def commit(self, message: str, changed: Mapping[str, str | None], *, tree: str | None, parents: list[str]) -> str:
        """A commit of `tree` with the `changed` files (None: removed), made without a work tree; gives its name."""
        index = {"GIT_INDEX_FILE": str((self.folder / f".index-{os.getpid()}").absolute())}
        try:
            self("read-tree", *([tree] if tree else ["--empty"]), env=index)
            for path, text in changed.items():
                if text is None:
                    self("rm", "-q", "--cached", "--ignore-unmatch", "--", path, env=index)
                else:
                    blob = self("hash-object", "-w", "--stdin", stdin=text)
                    self("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=index)
            written = self("write-tree", env=index)
        finally:
            Path(index["GIT_INDEX_FILE"]).unlink(missing_ok=True)
        return self("commit-tree", "-m", message, *(f"-p{p}" for p in parents), written)


def _reason(said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line.strip() and not line.startswith("hint:")]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", " ! ", "remote: "))]
    return " | ".join(telling[:3] or lines[-1:]) or "no reason given"
