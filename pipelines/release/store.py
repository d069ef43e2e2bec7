"""The store: bundles by digest, `releases/<task>/<digest>/`, each made once and never changed.

It lies where CITYLOOP_STORE says, else in the city's state. Reading takes a folder or any fsspec URL and verifies every
byte against the bundle's manifest; writing takes a folder.

    store = Store.of(Paths())
    digest = store.put("traffic_speed", Path("models/tasks/traffic_speed"))
    folder = store.fetch("traffic_speed", digest)   # a bundle's folder, verified
"""

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.release import bundle

STORE = "CITYLOOP_STORE"
RELEASES = "releases"
NAMED = 5
"""At most so many digests are named in an error."""


@dataclass(frozen=True)
class Store:
    """`where` is a folder or an fsspec URL; bundles fetched from a URL are kept in the folder `cache`."""

    where: str
    cache: Path

    @classmethod
    def of(cls, paths: Paths) -> "Store":
        """The store of a city, see the module's first lines."""
        given = os.environ.get(STORE, "").removeprefix("file://")
        return cls(given or str(paths.state / "store"), paths.state / "fetched")

    def put(self, task: str, folder: Path) -> str:
        """Copy the bundle in `folder` into the store, and return its digest.

        It appears whole or not at all; one that is there already stays. Raises UserError for a folder that is no whole
        bundle, for one that lies changed in the store, and for a store that is a URL.
        """
        if self._remote:
            raise UserError(f"{STORE}={self.where}: bundles are put into a folder only; mount it, or name a folder")
        digest = bundle.verify(folder)
        place = Path(self.where) / RELEASES / task / digest
        if not place.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            # A dot keeps what a killed process leaves behind from being taken for a release.
            new = place.with_name(f".{digest}.{secrets.token_hex(4)}.tmp")
            try:
                shutil.copytree(folder, new)
                _appear(new, place, digest)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        bundle.verify(place)
        return digest

    def fetch(self, task: str, digest: str) -> Path:
        """A folder with that bundle, every byte verified. Raises UserError, naming what is there, when it is not."""
        place = self._local(task, digest) if self._remote else Path(self.where) / RELEASES / task / digest
        if not place.is_dir():
            raise UserError(f"{self.where}: no bundle {digest} of {task}; {self._there(task)}")
        found = bundle.verify(place)
        if found != digest:
            raise UserError(f"{place}: holds bundle {found}, not the one it is named after; put the right one there")
        return place

    def list(self, task: str) -> tuple[str, ...]:
        """Digests of the task's bundles, sorted."""
        if not self._remote:
            folder = Path(self.where) / RELEASES / task
            names = [p.name for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
        else:
            system, base = self._reach()
            folder_ = f"{base}/{RELEASES}/{task}"
            names = (
                [p.rstrip("/").rpartition("/")[2] for p in system.ls(folder_, detail=False)]
                if _is(system, folder_)
                else []
            )
        return tuple(sorted(n for n in names if not n.startswith(".")))

    @property
    def _remote(self) -> bool:
        return "://" in self.where

    def _reach(self) -> tuple[Any, str]:
        """The file system of a URL, and the store's path in it."""
        import fsspec

        try:
            system, base = fsspec.core.url_to_fs(self.where)
        except (ValueError, ImportError) as error:
            raise UserError(f"{STORE}={self.where}: {error}") from None
        return system, str(base).rstrip("/")

    def _local(self, task: str, digest: str) -> Path:
        """Where a remote bundle lies on this machine, downloaded unless it is there already."""
        place = self.cache / RELEASES / task / digest
        if place.is_dir():
            return place
        system, base = self._reach()
        folder = f"{base}/{RELEASES}/{task}/{digest}"
        if not _is(system, folder):
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f".{digest}.{secrets.token_hex(4)}.tmp")
        try:
            for path in system.find(folder):
                inside = str(path)[len(folder) :].lstrip("/")
                if ".." in Path(inside).parts:
                    raise UserError(f"{folder}: {inside!r} is not a plain path inside the bundle")
                files.write_bytes(new / inside, system.cat_file(path))
            _appear(new, place, digest)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return place

    def _there(self, task: str) -> str:
        have = self.list(task)
        if not have:
            return "it has none of this task"
        more = f" and {len(have) - NAMED} more" if len(have) > NAMED else ""
        return f"it has {', '.join(have[:NAMED])}{more}"


def _appear(new: Path, place: Path, digest: str) -> None:
    """Verify and rename; another process that was quicker has put the same bytes there."""
    found = bundle.verify(new)
    if found != digest:
        raise UserError(f"{place}: what was copied is bundle {found}; somebody changed it meanwhile, try again")
    for path in new.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    try:
        os.rename(new, place)
    except OSError:
        if not place.is_dir():
            raise


def _is(system: Any, folder: str) -> bool:
    try:
        return bool(system.isdir(folder))
    except OSError as error:
        raise UserError(f"{STORE}: {folder}: {error}") from None
