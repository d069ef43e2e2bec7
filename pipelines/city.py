"""A second city beside the checkout: a workspace of its own, with the checkout's code and the city's parameters.

    .cityloop/cities/real_city/   a git clone on branch `live` with its own data, models, dvc.lock, registry, DVC cache

Its tree is the checkout's as it stands, uncommitted edits included, with the city's params.yaml, window.yaml and
retrain.yaml laid over it. That is committed, so what is made there names a commit that holds all it was made from.
"""

import os
import subprocess
from pathlib import Path

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths

OWN = {"dvc.lock", params.RETRAIN}
"""Of which the checkout's is about another city."""


def run(folder: Path, *, root: Path = Path()) -> Path:
    """Make or renew the workspace of the city described in `folder`; gives its path.

    Data, models, cache and dvc.lock of an earlier call stay. Raises UserError when `folder` has no valid params.yaml
    and window.yaml, or `root` is no git checkout with a commit.
    """
    name = folder.resolve().name
    for needed in (params.PARAMS, params.WINDOW):
        if not (folder / needed).is_file():
            raise UserError(f"{folder / needed}: no such file; a city's folder holds both")
    params.load(folder)
    top = Path(_git(root, "rev-parse", "--show-toplevel"))
    place = Paths(root).state / "cities" / name
    if not (place / ".git/HEAD").exists():
        _clone(top, place)
    _git(place, "reset", "-q")  # whatever a killed call had staged
    _git(place, "fetch", "-q", str(top), "HEAD")
    _git(place, "merge", "-q", "-s", "ours", "--no-edit", "FETCH_HEAD")  # history only; the tree is laid below
    _lay(top, folder, place)
    _git(place, "add", "--all")
    if _git(place, "status", "--porcelain"):
        _git(place, "commit", "-q", "-m", f"{name}: the checkout as it stands, with this city's parameters")
        log.logger.info("city %s: %s is at %s", name, place, _git(place, "rev-parse", "--short", "HEAD"))
    return place


def _clone(top: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    _git(top, "clone", "-q", "--no-checkout", str(top), str(place))
    _git(place, "checkout", "-q", "-B", "live", "HEAD")
    # Commits made here are the machine's: no signing key, no hooks, no name needed.
    for key, value in {
        "user.name": "cityloop",
        "user.email": "cityloop@localhost",
        "commit.gpgsign": "false",
        "core.hooksPath": os.devnull,
    }.items():
        _git(place, "config", key, value)


def _lay(top: Path, folder: Path, place: Path) -> None:
    """Make the tracked files of `place` those of the checkout at `top`; files with equal bytes are not touched."""
    wanted = {f for f in _listed(top, "--cached", "--others", "--exclude-standard") if (top / f).is_file()} - OWN
    for gone in set(_listed(place, "--cached")) - wanted - OWN:
        (place / gone).unlink(missing_ok=True)
    sources = {f: top / f for f in wanted} | {f: folder / f for f in (params.PARAMS, params.WINDOW)}
    for file, source in sources.items():
        files.write_bytes(place / file, source.read_bytes())
        (place / file).chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    params.complete(place, folder)


def _listed(repo: Path, *which: str) -> list[str]:
    return [f for f in _git(repo, "ls-files", "-z", *which).split("\0") if f]


def _git(repo: Path, *args: str) -> str:
    """What git says, stripped. Raises UserError with git's last line."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}  # a calling hook's would mislead it
    done = subprocess.run(["git", "-C", str(repo), *args], capture_output=True, text=True, env=clean, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [""]
        raise UserError(f"{repo.resolve()}: git {args[0]} failed: {last[0]}; a git checkout with a commit is needed")
    return done.stdout.strip()
