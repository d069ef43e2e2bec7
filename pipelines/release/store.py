"""The store: what serving needs, and all it needs. It lies where CITYLOOP_STORE says, else in the city's state.

releases/<task>/<digest>/      bundles, each made once and never changed; <digest>.sig beside them where signed
cards/<task>/<digest>.md       the card as it was reviewed
current/<task>.json            which release answers: a `Pointer`, made from the ledger
ledger/<task>/<seq>.json       see `release.ledger`
servers/<id>.json              heartbeats
predictions/                   see `release.predictions`

store = Store.of(Paths())
digest = store.put("traffic_speed", Path("models/tasks/traffic_speed"))
folder = store.fetch("traffic_speed", digest)   # a bundle's folder, every byte verified
"""

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.release import bundle, objects
from pipelines.release.objects import Folder, Objects

STORE = "CITYLOOP_STORE"
RELEASES = "releases"
NAMED = 5
"""At most so many digests are named in an error."""


class Illegible(UserError):
    """A pointer that is there and says nothing; the ledger knows what it should say."""


@dataclass(frozen=True)
class Pointer:
    """Which release of `task` answers. `seq`: the ledger's record this was made from; servers never go back to a lower.

    canary: a release on trial. With `shadow` it answers a copy of the requests and nobody sees it; else it answers
    `share` of them. versions: digest → version in the registry, for people.
    """

    task: str
    seq: int
    stable: str | None
    canary: str | None = None
    share: float = 0.0
    shadow: bool = False
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Store:
    """`where` is a folder or a URL; bundles fetched from a URL are kept in the folder `cache`."""

    where: str
    cache: Path

    @classmethod
    def of(cls, paths: Paths) -> "Store":
        """The store of a city, see the module's first lines."""
        given = os.environ.get(STORE, "").removeprefix("file://")
        return cls(given or str(paths.state / "store"), paths.state / "fetched")

    @cached_property
    def objects(self) -> Objects:
        return objects.of(self.where)

    def put(self, task: str, folder: Path) -> str:
        """Copy the bundle in `folder` into the store, and return its digest; signed where CITYLOOP_SIGN_KEY says so.

        It appears whole or not at all; one that is there already stays. Raises UserError for a folder that is no whole
        bundle, for one that lies changed in the store, and for a store that can only be read.
        """
        digest = bundle.verify(folder)
        key = f"{RELEASES}/{task}/{digest}"
        if isinstance(self.objects, Folder):
            _copy(folder, self.objects.root / key, digest)
            bundle.verify(self.objects.root / key)
        elif not self.holds(task, digest):
            # The manifest comes last: until then there is no release, and after it every byte is promised.
            names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
            for name in sorted(names, key=lambda n: n == bundle.MANIFEST):
                self.objects.put(f"{key}/{name}", (folder / name).read_bytes())
        self._sign(task, digest, folder)
        return digest

    def holds(self, task: str, digest: str) -> bool:
        """Whether the release is there, by its manifest."""
        try:
            self.objects.get(f"{RELEASES}/{task}/{digest}/{bundle.MANIFEST}")
        except FileNotFoundError:
            return False
        return True

    def fetch(self, task: str, digest: str, keep: Path | None = None) -> Path:
        """A folder with that bundle, every byte verified, its signature too where CITYLOOP_VERIFY_KEY names a key.

        keep: a folder for a copy that outlives the store; one that is there already is used. Raises UserError, naming
        what the store has, when the bundle is not there or not whole.
        """
        local = isinstance(self.objects, Folder) and keep is None
        place = self._place(task, digest) if local else (keep or self.cache) / RELEASES / task / digest
        if not local and not place.is_dir():
            self._download(task, digest, place)
        if not place.is_dir():
            raise UserError(f"{self.where}: no bundle {digest} of {task}; {self._there(task)}")
        found = bundle.verify(place)
        if found != digest:
            raise UserError(f"{place}: holds bundle {found}, not the one it is named after; put the right one there")
        self._verify(task, digest, place)
        return place

    def releases(self, task: str) -> tuple[str, ...]:
        """Digests of the task's bundles, sorted."""
        return tuple(n for n in self.objects.names(f"{RELEASES}/{task}") if not n.endswith(".sig"))

    def remove(self, task: str, digest: str) -> None:
        """Take a release out. Its manifest goes first, so that no half of it can be taken for a whole."""
        key = f"{RELEASES}/{task}/{digest}"
        self.objects.delete(f"{key}/{bundle.MANIFEST}")
        for path in self.objects.find(key):
            self.objects.delete(path)
        self.objects.delete(f"{key}.sig")
        if isinstance(self.objects, Folder):
            shutil.rmtree(self.objects.root / key, ignore_errors=True)

    def keep_card(self, task: str, digest: str, text: str) -> None:
        self.objects.put(f"cards/{task}/{digest}.md", text.encode())

    def card(self, task: str, digest: str) -> str | None:
        try:
            return self.objects.get(f"cards/{task}/{digest}.md").decode()
        except FileNotFoundError:
            return None

    def pointer(self, task: str) -> Pointer | None:
        """Which release answers; None where none ever did. Raises Illegible for a pointer that cannot be read."""
        key = f"current/{task}.json"
        try:
            found = json.loads(self.objects.get(key))
            return Pointer(**found)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise Illegible(
                f"{self.where}/{key}: not a pointer; `cityloop promote {task} --reconcile` mends it"
            ) from None

    def point(self, pointer: Pointer) -> None:
        self.objects.put(f"current/{pointer.task}.json", files.to_json(dataclasses.asdict(pointer)))

    def tasks(self) -> list[str]:
        """Tasks that have a pointer."""
        return [n.removesuffix(".json") for n in self.objects.names("current") if n.endswith(".json")]

    def beats(self) -> dict[str, dict[str, Any]]:
        """The last heartbeat of every server that ever beat and did not leave; see `release.beats`."""
        found = {}
        for name in self.objects.names("servers"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found[name.removesuffix(".json")] = json.loads(self.objects.get(f"servers/{name}"))
        return found

    def beat(self, server: str, told: dict[str, Any]) -> None:
        self.objects.put(f"servers/{server}.json", json.dumps(told, allow_nan=False).encode())

    def unbeat(self, server: str) -> None:
        self.objects.delete(f"servers/{server}.json")

    def _place(self, task: str, digest: str) -> Path:
        return Path(self.where) / RELEASES / task / digest

    def _download(self, task: str, digest: str, place: Path) -> None:
        """Bring a bundle to `place`, which appears whole or, where the store has none, not at all."""
        key = f"{RELEASES}/{task}/{digest}"
        found = self.objects.find(key)
        if not found:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f".{digest}.{secrets.token_hex(4)}.tmp")
        try:
            for path in found:
                inside = path.removeprefix(f"{key}/")
                if ".." in Path(inside).parts:
                    raise UserError(f"{self.where}/{key}: {inside!r} is not a plain path inside the bundle")
                (new / inside).parent.mkdir(parents=True, exist_ok=True)
                (new / inside).write_bytes(self.objects.get(path))
            _appear(new, place, digest)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _sign(self, task: str, digest: str, folder: Path) -> None:
        if key := os.environ.get("CITYLOOP_SIGN_KEY"):
            from pipelines.release.signing import sign

            self.objects.put(f"{RELEASES}/{task}/{digest}.sig", sign(folder, Path(key)))

    def _verify(self, task: str, digest: str, place: Path) -> None:
        if key := os.environ.get("CITYLOOP_VERIFY_KEY"):
            from pipelines.release.signing import verify

            # Kept beside the bundle, so that a server whose store is gone can still tell who signed it.
            kept = place.with_name(f"{digest}.sig")
            try:
                signature = self.objects.get(f"{RELEASES}/{task}/{digest}.sig")
            except FileNotFoundError:
                raise UserError(
                    f"{self.where}: release {digest} of {task} is not signed, and CITYLOOP_VERIFY_KEY asks for a "
                    "signature; promote it again with CITYLOOP_SIGN_KEY"
                ) from None
            except objects.Unreachable:
                if not kept.is_file():
                    raise
                signature = kept.read_bytes()
            verify(place, signature, Path(key))
            files.write_bytes(kept, signature)

    def _there(self, task: str) -> str:
        have = self.releases(task)
        if not have:
            return "it has none of this task"
        more = f" and {len(have) - NAMED} more" if len(have) > NAMED else ""
        return f"it has {', '.join(have[:NAMED])}{more}"


def _copy(folder: Path, place: Path, digest: str) -> None:
    if place.is_dir():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    # A dot keeps what a killed process leaves behind from being taken for a release.
    new = place.with_name(f".{digest}.{secrets.token_hex(4)}.tmp")
    try:
        shutil.copytree(folder, new)
        _appear(new, place, digest)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _appear(new: Path, place: Path, digest: str) -> None:
    """Verify and rename; another process that was quicker has put the same bytes there."""
    found = bundle.verify(new)
    if found != digest:
        raise UserError(f"{place}: what was copied is bundle {found}; somebody changed it meanwhile, try again")
    _settle(p for p in new.rglob("*") if p.is_file())
    try:
        os.rename(new, place)
    except OSError:
        if not place.is_dir():
            raise


def _settle(paths: Iterable[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
