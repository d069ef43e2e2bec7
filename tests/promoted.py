"""A city with registered versions of a toy task, ready to be judged, reviewed and promoted; and a promoter to kill."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import carded
import yaml

from pipelines import card, gate, register
from pipelines.core.paths import Paths
from pipelines.core.tracking import DIGEST, connect
from pipelines.release import bundle, reviews
from pipelines.release.ledger import Ledger
from pipelines.release.store import Pointer, Store

TASK = carded.TASK


@dataclasses.dataclass(frozen=True)
class Registry:
    """One task's city. Its gate is switched off: what a gate says is tested elsewhere, on data."""

    paths: Paths

    @classmethod
    def of(cls, folder: Path, empty_store: Path) -> "Registry":
        paths = carded.city(folder)
        made = cls(paths)
        made.params(gate={"enabled": False})
        paths.state.mkdir(exist_ok=True)
        shutil.copy(empty_store, paths.state / "mlflow.db")
        return made

    @property
    def root(self) -> Path:
        return self.paths.root

    @property
    def store(self) -> Store:
        return Store.of(self.paths)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store.objects, TASK)

    def params(self, **blocks: Any) -> None:
        path = self.root / "params.yaml"
        city = yaml.safe_load(path.read_text())
        for name, block in blocks.items():
            city["tasks"][TASK][name] = {**city["tasks"][TASK].get(name, {}), **block}
        path.write_text(yaml.safe_dump(city, sort_keys=False))

    def candidate(self, factor: float) -> str:
        """Train another model, register it, judge it; its digest."""
        carded.city(self.root, TASK, factor)
        card.run(TASK, root=self.root)
        register.run(TASK, root=self.root)
        gate.run(TASK, root=self.root)
        return bundle.verify(self.paths.task(TASK))

    def approve(self, digest: str, name: str = "ada", decision: str = "approved") -> None:
        """As a person does in MLflow's page: a tag on the version."""
        with connect(self.paths) as tracking:
            version = tracking.version(TASK, digest)
            tracking.describe(version, version.description, dict([reviews.tag(name, decision, digest)]))

    def aliases(self) -> dict[str, str]:
        """Alias → digest, as people see it in MLflow."""
        with connect(self.paths) as tracking:
            digests = {str(v.version): v.tags[DIGEST] for v in tracking.versions(TASK)}
            return {alias: digests[number] for alias, number in tracking.aliases(TASK).items()}

    def tags(self, digest: str) -> dict[str, str]:
        with connect(self.paths) as tracking:
            version = tracking.version(TASK, digest)
            return dict(version.tags) if version else {}

    def pointer(self) -> Pointer:
        found = self.store.pointer(TASK)
        assert found is not None
        return found

    def agrees(self, champion: str | None, previous: str | None = None) -> None:
        """Ledger, pointer and aliases say the same."""
        state = self.ledger.state()
        assert (state.stable, state.previous, state.pending) == (champion, previous, None)
        assert (self.pointer().stable, self.pointer().canary) == (champion, None)
        aliases = self.aliases()
        assert (aliases.get("champion"), aliases.get("previous")) == (champion, previous)


def die_at(number: int, kind: str, root: Path) -> list[str]:
    """Begin a promotion, rollback or reconciliation in a process of its own, SIGKILLed before its step `number`.

    Returns the steps that it came to tell of; one process more or less is no matter, so nothing is left running.
    """
    # A server that forks: what takes seconds to import is imported once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["promoted", "pipelines.promote", "mlflow.pyfunc", "mlflow.tracking"])
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_until, args=(number, kind, root, theirs, dict(os.environ)))
    process.start()
    theirs.close()
    steps = []
    try:
        while True:
            steps.append(mine.recv())
    except EOFError:
        process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended before"
    return steps


def _until(number: int, kind: str, root: Path, told: Any, environ: dict[str, str]) -> None:
    """environ: ours; the server that forks has that of when another test first asked it."""
    os.environ.clear()
    os.environ.update(environ)
    from pipelines import promote

    def tell(self: Any, step: str, _steps: list[str] = []) -> None:  # noqa: B006 (counts on purpose)
        if len(_steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        _steps.append(step)
        told.send(step)

    promote.Promoter._tell = tell  # type: ignore[method-assign]
    work: dict[str, Callable[[], None]] = {
        "promote": lambda: promote.run(TASK, root=root),
        "rollback": lambda: promote.rollback(TASK, root=root),
        "reconcile": lambda: promote.reconcile([TASK], root=root),
    }
    work[kind]()
