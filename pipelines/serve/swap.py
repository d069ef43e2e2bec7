"""What answers now, and how another release takes its place: seen, fetched, checked and warmed beside it, then swapped.

A thread looks at the store's pointers. What it loaded replaces one reference; requests that are under way end on the
release they began with. `<state>/serve/` keeps the last pointers and their releases, so that a server whose store is
gone starts from them.
"""

import dataclasses
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.log import logger
from pipelines.release.objects import Unreachable
from pipelines.release.store import RELEASES, Pointer, Store
from pipelines.serve import loading, memory
from pipelines.serve.counters import Counters
from pipelines.serve.model import Loaded
from pipelines.serve.replies import Refusal

SHORTEST = 8
"""Characters of a digest that name it."""
FIRST_S, LONGEST_S = 2.0, 60.0
"""Seconds before a refused release is tried again, doubled each time, and at most."""


@dataclass(frozen=True)
class Serving:
    """What answers for one task. `seq`: of the pointer this was made from. `error`: why release `refused`, which a
    later one names, must not serve."""

    task: str
    seq: int = 0
    stable: Loaded | None = None
    canary: Loaded | None = None
    share: float = 0.0
    shadow: bool = False
    error: str | None = None
    refused: str | None = None

    @property
    def modality(self) -> str:
        """What is asked of it."""
        return self.stable.modality if self.stable is not None else "series"

    def named(self, version: str) -> Loaded:
        """The loaded release of that digest (or how it begins) or registry version. Raises Refusal 404."""
        loaded = [m for m in (self.stable, None if self.shadow else self.canary) if m is not None]
        for model in loaded:
            if version == model.version or (len(version) >= SHORTEST and model.digest.startswith(version)):
                return model
        told = ", ".join(m.digest[:12] + (f" (version {m.version})" if m.version else "") for m in loaded)
        raise Refusal(404, f"task {self.task!r} has no version {version!r} loaded; it has {told}")


class Live:
    """What is served, by task: replaced whole by one thread, read by all. settled: the store has said what there is."""

    def __init__(self) -> None:
        self.tasks: dict[str, Serving] = {}
        self.settled = False

    def put(self, serving: Serving) -> None:
        self.tasks = {**self.tasks, serving.task: serving}


@dataclass
class _Retry:
    """A pointer that was refused, and when it is tried again."""

    pointer: Pointer
    wait: float = field(default_factory=lambda: FIRST_S)
    due: float = 0.0

    def again(self) -> None:
        self.due = time.monotonic() + self.wait
        self.wait = min(LONGEST_S, 2 * self.wait)


class Watcher:
    """Follows the pointers of `store`, on a thread that calls `greet` with what came on trial, `beside` after looks and
    `tell` once a pointer was followed or refused."""

    def __init__(
        self, store: Store, keep: Path, live: Live, counters: Counters, every_s: float = 1.0,
        greet: Callable[[Serving], object] = lambda _: None, beside: Callable[[], None] = lambda: None,
        tell: Callable[[], None] = lambda: None, threads: int = 1,
    ) -> None:  # fmt: skip
        self._store, self._live, self._counters = store, live, counters
        # By the store's address: pointers of two stores are not to be compared.
        self._keep = keep / hashlib.sha256(store.where.encode()).hexdigest()[:12]
        self._every_s, self._greet, self._beside, self._tell = every_s, greet, beside, tell
        self._threads = threads
        self._retries: dict[str, _Retry] = {}
        self._followed: dict[str, Pointer] = {}
        self._told: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(1)

    def _run(self) -> None:
        while True:
            try:
                self.look()
                self._beside()
            except Exception:  # whatever it is, what is served goes on, and the next look may do better
                logger.exception("watching the store failed")
            if self._stop.wait(self._every_s):
                return

    def look(self) -> None:
        """Follow every pointer once. A store that does not answer changes nothing; at the start, copies are used."""
        kept = self._kept()
        try:
            tasks = {*self._store.tasks(), *self._live.tasks, *kept}
            pointers = {task: self._pointer(task) for task in tasks}
        except (Unreachable, OSError) as error:
            self._trouble("store", f"the store cannot be reached, what is loaded goes on: {error}")
            pointers = {}
        else:
            self._over("store", "the store answers again")
        for task in sorted({*pointers, *kept}):
            self._see(task, pointers.get(task), kept.get(task))
        self._live.settled = self._live.settled or bool(pointers) or "store" not in self._told

    def _pointer(self, task: str) -> Pointer | None:
        """None where there is none that can be read."""
        try:
            found = self._store.pointer(task)
        except Unreachable:
            raise
        except UserError as error:
            self._trouble(task, str(error))
            return None
        if found is not None:
            self._over(task, f"the store has a pointer for {task} again")
        elif task in self._live.tasks:
            self._trouble(task, f"the store has no pointer for {task} any more, what is loaded goes on")
        return found

    def _see(self, task: str, pointer: Pointer | None, kept: Pointer | None) -> None:
        present = self._live.tasks.get(task, Serving(task))
        if pointer is not None and pointer.seq < max(present.seq, kept.seq if kept else 0):
            self._trouble(task, f"{task}: the store's pointer is older than what served here; if the store was made "
                                f"anew, remove {self._keep} and start again")  # fmt: skip
            pointer = None
        if pointer is not None and self._due(pointer, present):
            self._follow(pointer, present, kept)
        elif kept is not None and present.seq == 0:
            self._live.put(self._before(kept, present))

    def _before(self, kept: Pointer, present: Serving) -> Serving:
        """Started without the store, or with a release in it that must not serve: what served last does."""
        return replace(self._loaded(kept, present), error=present.error, refused=present.refused)

    def _due(self, pointer: Pointer, present: Serving) -> bool:
        retry = self._retries.get(pointer.task)
        if retry is not None and retry.pointer == pointer:
            return time.monotonic() >= retry.due
        # Trial and flip of one promotion have one number.
        return pointer.seq >= present.seq and pointer != self._followed.get(pointer.task)

    def _follow(self, pointer: Pointer, before: Serving, kept: Pointer | None) -> None:
        """Load what `pointer` names and swap it in; or say why not, and go on with what was there (at a start: `kept`).

        One put: nobody sees a task without a release while what served last is being loaded.
        """
        now = self._loaded(pointer, before)
        if now.seq == 0 and kept is not None:
            now = self._before(kept, now)
        self._live.put(now)
        if now.error is None:
            self._retries.pop(now.task, None)
        else:
            self._refused(pointer, now.error)
        if now.refused is None or now.refused != pointer.stable:
            self._followed[now.task] = pointer
            self._swapped(pointer, before, now)
        self._tell()

    def _loaded(self, pointer: Pointer, before: Serving) -> Serving:
        """`before` with an error where the stable release must not serve; a canary that must not is left out."""
        stable, error = self._model(pointer, pointer.stable, before)
        if error is not None:
            return replace(before, error=error, refused=pointer.stable)
        canary, error = self._model(pointer, pointer.canary, before)
        refused = pointer.canary if error else None
        return Serving(pointer.task, pointer.seq, stable, canary, pointer.share, pointer.shadow, error, refused)

    def _model(self, pointer: Pointer, digest: str | None, before: Serving) -> tuple[Loaded | None, str | None]:
        """The release `digest`, loaded already or now; or why it must not serve."""
        if digest is None:
            return None, None
        for model in (before.stable, before.canary):
            if model is not None and model.digest == digest:
                model.version = pointer.versions.get(digest, model.version)
                return model, None
        try:
            folder, version = self._fetch(pointer.task, digest), pointer.versions.get(digest)
            return loading.load(pointer.task, folder, version, self._threads), None
        except Exception as error:  # a bundle that its loader chokes on is as bad as one that was changed
            return None, f"release {digest[:12]} refused: {error}"

    def _fetch(self, task: str, digest: str) -> Path:
        """The release's folder among our copies, or where the disk is full, the store's own."""
        try:
            return self._store.fetch(task, digest, self._keep)
        except Unreachable:
            raise
        except UserError:
            shutil.rmtree(self._keep / RELEASES / task / digest, ignore_errors=True)  # the copy may be what is broken
            return self._store.fetch(task, digest, self._keep)
        except OSError as error:
            self._trouble("keep", f"{self._keep}: no copy of {task} can be kept: {error}")
            return self._store.fetch(task, digest)

    def _refused(self, pointer: Pointer, error: str) -> None:
        retry = self._retries.get(pointer.task)
        if retry is None or retry.pointer != pointer:
            retry = self._retries[pointer.task] = _Retry(pointer)
            self._counters.refused[pointer.task] += 1
            logger.error("%s: %s", pointer.task, error)
        retry.again()

    def _swapped(self, pointer: Pointer, before: Serving, now: Serving) -> None:
        names = {role: m and m.digest[:12] for role, m in (("stable", now.stable), ("canary", now.canary))}
        logger.info("%s: pointer %d: stable %s, canary %s", now.task, now.seq, names["stable"], names["canary"])
        self._counters.swaps[now.task] += 1
        memory.tidy()
        if now.canary is not None and now.canary not in (before.canary, before.stable):
            self._greet(now)
        try:
            files.write_json(self._keep / f"current/{now.task}.json", dataclasses.asdict(pointer))
            self._prune(now, pointer)
        except (OSError, UserError) as error:
            self._trouble("keep", f"{self._keep}: the pointer of {now.task} cannot be kept: {error}")

    def _prune(self, now: Serving, pointer: Pointer) -> None:
        """Copies of releases that neither serve nor are named by the kept pointer go."""
        used = {pointer.stable, pointer.canary, *(m.digest for m in (now.stable, now.canary) if m is not None)}
        folder = self._keep / RELEASES / now.task
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.removesuffix(".sig") not in used:
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)

    def _kept(self) -> dict[str, Pointer]:
        """Pointers as they were when last followed, of tasks that nothing serves yet."""
        found = {}
        for path in sorted(self._keep.glob("current/*.json")):
            if path.stem not in self._live.tasks or self._live.tasks[path.stem].stable is None:
                try:
                    found[path.stem] = Pointer(**json.loads(path.read_bytes()))
                except (OSError, ValueError, TypeError) as error:
                    self._trouble(path.name, f"{path}: no pointer, ignored: {error}")
        return found

    def _trouble(self, about: str, message: str) -> None:
        """Count it; say it once until it is over."""
        self._counters.store_errors += 1
        if self._told.get(about) is None:
            logger.warning("%s", message)
        self._told[about] = message

    def _over(self, about: str, message: str) -> None:
        if self._told.pop(about, None) is not None:
            logger.info("%s", message)
