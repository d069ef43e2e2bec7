"""A folder for one piece of work: a clone at one commit with DVC's locks and caches of its own, removed afterwards."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipelines.core import log
from pipelines.core.errors import UserError
from pipelines.runs.git import LOCAL, Repository
from pipelines.runs.refs import Home


@contextlib.contextmanager
def opened(home: Home, name: str | None = None) -> Iterator[Repository]:
    """An empty repository in a workspace. One of a `name` is for one process at a time: a second one waits.

    What a killed process left in a named one is removed first, and whatever it left running there is ended.
    """
    home.workspaces.mkdir(parents=True, exist_ok=True)
    place = home.workspaces / name if name else Path(tempfile.mkdtemp(prefix="ws-", dir=home.workspaces))
    place.parent.mkdir(parents=True, exist_ok=True)
    with held(place.with_name(f"{place.name}.lock")):
        try:
            remove(place)
            yield home.repository(place)
        finally:
            remove(place)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, on this machine, until the end or the death of this process."""
    while True:
        with path.open("a") as file:
            if not _locked(file):
                log.logger.info("waiting for another process at work in %s", path.with_suffix(""))
                fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                continue  # whoever had it has taken it away
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def in_use(home: Home) -> list[str]:
    """Names of workspaces that a process is at work in."""
    return [str(path.relative_to(home.workspaces).with_suffix("")) for path in _locks(home) if not _free(path)]


def sweep(home: Home) -> None:
    """Remove workspaces that killed processes left behind."""
    for path in _locks(home):
        if _free(path):
            with held(path):
                remove(path.with_suffix(""))
    for folder in home.workspaces.glob("*"):
        with contextlib.suppress(OSError):
            folder.rmdir()  # a run's, if it is empty


def _locks(home: Home) -> list[Path]:
    runs = [p for p in home.workspaces.glob("*") if not p.with_name(f"{p.name}.lock").exists()]
    return [*home.workspaces.glob("*.lock"), *(lock for run in runs for lock in run.glob("*.lock"))]


def _free(path: Path) -> bool:
    with path.open("a") as file:
        return _locked(file)


def remove(place: Path) -> None:
    """Remove a workspace, and end what still runs in it: a killed process's stage would write on."""
    for _ in range(20):
        if not place.exists():
            return
        for pid in _inside(place):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)
        if place.exists():
            time.sleep(0.05)
    shutil.rmtree(place)


def _inside(place: Path) -> list[int]:
    """Processes whose working folder lies in `place`. Where there is no /proc, none are found."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            folder = Path(os.readlink(entry / "cwd").removesuffix(" (deleted)"))
            if int(entry.name) != os.getpid() and (folder == place or place in folder.parents):
                found.append(int(entry.name))
    return found


def environment(home: Home) -> dict[str, str]:
    """For commands in a workspace: this interpreter, the city's state, and no repository but the one they are in."""
    mine = {k: v for k, v in os.environ.items() if k not in LOCAL and k != "CITYLOOP_ROOT"}
    mine["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), mine.get("PATH", os.defpath)])
    mine["CITYLOOP_STATE"] = str(home.state)
    for name in ("CITYLOOP_DATA", "CITYLOOP_STORE"):
        if (given := mine.get(name)) and "://" not in given:
            mine[name] = str((home.root / given).resolve())
    return mine


def checks_code(place: Path, environ: dict[str, str]) -> None:
    """Raises UserError unless `python -m pipelines` in `place` is the code that lies there."""
    if not (place / "pipelines").is_dir():
        return
    ask = "import pipelines; print(*pipelines.__path__)"
    said = subprocess.run(["python", "-c", ask], cwd=place, env=environ, capture_output=True, text=True, check=False)
    if said.returncode or Path(said.stdout.strip()).resolve() != (place / "pipelines").resolve():
        found = said.stdout.strip() or (said.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UserError(
            f"python in {place} imports {found}, not the code that lies there; "
            "unset PYTHONSAFEPATH and whatever else puts another cityloop first"
        )
