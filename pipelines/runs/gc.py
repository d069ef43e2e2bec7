"""Removing what nobody needs any more: refs of runs that are over, and data of theirs in this machine's cache."""

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.core import log
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.release import predictions
from pipelines.release.ledger import Ledger
from pipelines.release.store import Store
from pipelines.runs import dvc, lock, workspace
from pipelines.runs.git import GitError, Repository
from pipelines.runs.refs import BASE, LIVE, RUNS, Home


@dataclass(frozen=True)
class Removed:
    runs: tuple[str, ...]
    files: int
    bytes: int


def gc(before: float, *, root: Path = Path()) -> Removed:
    """Remove runs that began before the moment `before` (seconds since 1970), and files of the cache older than it
    which nothing needs that is kept.

    Kept: what dvc.lock says at every branch (`live` among them), tag and other ref of the home, at the commits of
    releases in the store, in younger runs, and in the checkout as it stands. A remote is left alone, and so is a cache
    outside the city's folder and state, which others may share. Raises UserError while stages are at work here.
    """
    home = Home.of(root)
    workspace.sweep(home)
    if busy := workspace.in_use(home):
        raise UserError(f"{', '.join(busy)} at work; again when they have ended")
    with workspace.opened(home) as repository:
        home.fetch(repository, "refs/*")
        runs = _old_runs(repository, before)
        _drop(home, repository, runs)
        locks = [*_locks(home, repository, runs), *_released(home, repository)]
        dvc_folder = _checked_out(home, repository)
    if dvc_folder is None:
        return Removed(tuple(runs), 0, 0)
    count, size = _sweep(dvc_folder, _needed(dvc_folder, locks), before)
    log.logger.info("gc: %d runs, %d files of the cache (%.1f MB)", len(runs), count, size / 1e6)
    return Removed(tuple(runs), count, size)


def forget(days: int, *, root: Path = Path()) -> int:
    """Remove from the store the answers of more than `days` days ago (UTC); returns how many files."""
    before = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=days)
    return predictions.forget(Store.of(Paths(root)).objects, before.isoformat())


def _old_runs(repository: Repository, before: float) -> list[str]:
    lines = repository("for-each-ref", "--format=%(committerdate:unix) %(refname)", f"{RUNS}/*/{BASE}").splitlines()
    began = {name.split("/")[2]: int(at) for at, name in (line.split(" ") for line in lines)}
    return sorted(name for name, at in began.items() if at < before)


def _drop(home: Home, repository: Repository, runs: Iterable[str]) -> None:
    names = [
        n for run in runs for n in repository("for-each-ref", "--format=%(refname)", f"{RUNS}/{run}/").splitlines()
    ]
    if names:
        repository("push", "-q", "--no-verify", home.git, *(f":{name}" for name in names))


def _locks(home: Home, repository: Repository, dropped: list[str]) -> list[str]:
    """Every dvc.lock that a ref of the home holds, and the checkout's."""
    refs_ = repository("for-each-ref", "--format=%(refname)").splitlines()
    kept = [r for r in refs_ if not (r.startswith(f"{RUNS}/") and r.split("/")[2] in dropped)]
    texts = [repository.read(r, lock.FILE) for r in kept if repository.has(f"{r}^{{commit}}")]
    mine = home.root / lock.FILE
    return [text for text in texts if text] + ([mine.read_text()] if mine.is_file() else [])


def _released(home: Home, repository: Repository) -> list[str]:
    """dvc.lock at the commits of releases that the store keeps."""
    store = Store.of(Paths(home.root))
    texts = []
    for task in store.objects.names("releases"):
        kept = set(store.releases(task))
        for record in Ledger(store.objects, task).records():
            commit = record.get("commit", "none")
            if record.get("digest") in kept and commit != "none":
                try:
                    if not repository.has(f"{commit}^{{commit}}"):
                        repository("fetch", "-q", "--no-tags", "--depth=1", home.git, commit)
                    texts.append(repository.read(commit, lock.FILE) or "")
                except GitError:
                    log.logger.warning("gc: commit %s of a release of %s is not in %s", commit[:10], task, home.git)
    return texts


def _checked_out(home: Home, repository: Repository) -> Path | None:
    """This machine's cache of files, when it is the city's own."""
    if repository.has(LIVE) is None:
        return None
    repository("checkout", "-q", "--detach", LIVE)
    dvc.configure(repository.folder, home)
    cache = dvc.cache_folder(repository.folder)
    if not any(cache.is_relative_to(own) for own in (home.root, home.state)):
        log.logger.info("gc: %s may serve others as well, and is left alone", cache)
        return None
    return cache


def _needed(cache: Path, locks: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for text in {entry for whole in locks for entry in lock.split(whole).values()}:
        for md5 in lock.parse(text).outs.values():
            found.add(md5)
            listing = cache / md5[:2] / md5[2:]
            if md5.endswith(".dir") and listing.is_file():
                found |= {item["md5"] for item in json.loads(listing.read_bytes())}
    return found


def _sweep(cache: Path, needed: set[str], before: float) -> tuple[int, int]:
    """Files of the cache that are not needed and were neither written nor linked since `before`."""
    count = size = 0
    for path in cache.glob("??/*"):
        about = path.stat()
        if path.parent.name + path.name not in needed and about.st_ctime < before:
            path.unlink()
            count, size = count + 1, size + about.st_size
    return count, size
