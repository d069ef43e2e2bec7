"""What a run's stages made, brought to `live` in one commit."""

import random
import time
from pathlib import Path

from pipelines.core import log
from pipelines.core.errors import UserError
from pipelines.core.params import WINDOW
from pipelines.runs import lock, refs, workspace
from pipelines.runs.git import Repository
from pipelines.runs.refs import LIVE, MERGED, Home, Run
from pipelines.runs.start import TRIES, trailer, windows, written


def merge_run(run: str, *, root: Path = Path()) -> str:
    """Put the entries of the stages that succeeded into live's dvc.lock; gives the commit which holds them.

    Stages that failed, or did not run, keep the entries they have. When live moves meanwhile it is done again on its
    new head, entry by entry, so that runs never conflict: of one stage the entry merged last stands. Merging a run
    again brings what has come in since, and nothing else.
    """
    home, run = Home.of(root), refs.run_name(run)
    for attempt in range(TRIES):
        if attempt:
            time.sleep(random.uniform(0, 0.1 * attempt))  # noqa: S311 (several may be at it)
        with workspace.opened(home) as repository:
            now = refs.read(home, repository, run)
            merged = refs.ref(run, MERGED)
            heads = home.heads(repository, LIVE, merged)
            before = heads.get(merged)
            home.fetch(repository, LIVE)
            live = heads.get(LIVE) or ""
            if repository.has(LIVE) != live:
                continue
            new = _new(repository, now, before)
            if not new:
                log.logger.info("run %s: nothing new to merge", run)
                return before or live
            commit = _commit(repository, now, live, new, first=before is None)
            if home.push(repository, {LIVE: commit, merged: commit}, {LIVE: live, merged: before}):
                log.logger.info("run %s: %d stages merged into live at %s", run, len(new), commit[:10])
                return commit
    raise UserError(f"live of {home.git} moved {TRIES} times while merging run {run}; again: cityloop merge-run {run}")


def _new(repository: Repository, now: Run, before: str | None) -> dict[str, str]:
    """Entries that an earlier merge of this run has not brought yet."""
    had = lock.split(repository.read(before, lock.FILE) or "") if before else {}
    return {stage: text for stage, text in now.entries.items() if had.get(stage) != text}


def _commit(repository: Repository, now: Run, live: str, new: dict[str, str], *, first: bool) -> str:
    """Live's tree with the new entries, and with the windows that this run moved."""
    entries = {**lock.split(repository.read(live, lock.FILE) or ""), **new}
    changed: dict[str, str | None] = {lock.FILE: lock.join(entries)}
    if first and (moved := _moved(repository, now.base)):
        ends = windows(repository, live)
        changed[WINDOW] = written({**ends, **{k: v for k, v in moved.items() if k in ends}})
    message = f"Run {now.name}: {len(new)} stages\n\n" + "\n".join(sorted(new)) + trailer()
    return repository.commit(message, changed, tree=live, parents=[live, now.base])


def _moved(repository: Repository, base: str) -> dict[str, str]:
    before = windows(repository, f"{base}^")
    return {name: end for name, end in windows(repository, base).items() if before.get(name) != end}
