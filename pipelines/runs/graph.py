"""The graph of stages at one commit, and which of them an assembled `dvc.lock` finds out of date.

Nothing here reads data: what a stage used is known from the entry of the stage that made it.
"""

import functools
import graphlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from pipelines.core.errors import UserError, nearest
from pipelines.runs import lock

State = Literal["fresh", "stale", "maybe", "former", "blocked"]
"""fresh: nothing to do. stale: its own command, code, parameters or inputs changed. maybe: something upstream is to
run first. former: failed in this run, its earlier outputs stand. blocked: needs what failed, by name."""

Listing = Callable[[str], list[dict[str, str]] | None]
"""The files of a folder's hash (`….dir`) as [{"md5", "relpath"}]; None when nobody has it."""


@dataclass(frozen=True)
class Stage:
    """One stage with everything resolved. `files` and `params` are what the commit itself holds, with their values;
    `inputs` are the paths that other stages make."""

    name: str
    cmd: Any
    files: dict[str, str]
    params: dict[str, dict[str, Any]]
    inputs: tuple[str, ...]
    outs: tuple[str, ...]


class Graph:
    def __init__(self, stages: Iterable[Stage]) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.makers = {out: stage.name for stage in self.stages.values() for out in stage.outs}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Graph":
        pairs = ({**s, "inputs": tuple(s["inputs"]), "outs": tuple(s["outs"])} for s in data["stages"])
        return cls(Stage(**s) for s in pairs)

    def dump(self) -> dict[str, Any]:
        return {"stages": [asdict(stage) for stage in self.stages.values()]}

    def __getitem__(self, name: str) -> Stage:
        try:
            return self.stages[name]
        except KeyError:
            raise UserError(f"no stage {name!r} in dvc.yaml; {nearest(name, self.stages)}") from None

    @functools.cached_property
    def order(self) -> list[str]:
        return list(graphlib.TopologicalSorter({name: self.upstream(name) for name in self.stages}).static_order())

    @functools.cache  # noqa: B019 (a graph lives as long as its run)
    def upstream(self, name: str) -> dict[str, bool]:
        """Stages that `name` uses outputs of → whether it names them, rather than the folder they lie in."""
        found: dict[str, bool] = {}
        for path in self.stages[name].inputs:
            for out, maker in self.makers.items():
                if maker != name and _related(path, out):
                    found[maker] = found.get(maker, False) or not _inside(out, path)
        return found

    def closure(self, names: Iterable[str]) -> set[str]:
        """`names` and everything upstream of them."""
        wanted, found = [self[name].name for name in names], set[str]()
        while wanted:
            name = wanted.pop()
            if name not in found:
                found.add(name)
                wanted += self.upstream(name)
        return found

    def sources_of(self, name: str) -> list[tuple[str, str]]:
        """(stage, output) of everything that `name` reads."""
        inputs = self[name].inputs
        return [(maker, out) for out, maker in self.makers.items() if any(_related(p, out) for p in inputs)]

    def states(
        self,
        entries: Mapping[str, str],
        listing: Listing,
        former: Collection[str] = (),
        names: Collection[str] | None = None,
    ) -> dict[str, tuple[State, str]]:
        """Each stage's state and its reason, judged by `entries` (stage → text of its entry); of all, or of `names`
        and what is upstream of them.

        `former` have failed in this run: who uses them only as part of a folder goes on with their earlier outputs,
        who names them is blocked.
        """
        found: dict[str, tuple[State, str]] = {}
        wanted = self.closure(names) if names else self.stages
        for name in filter(wanted.__contains__, self.order):
            found[name] = self._state(name, found, entries, listing, former)
        return found

    def _state(self, name: str, found: Mapping[str, tuple[State, str]], entries: Mapping[str, str],
               listing: Listing, former: Collection[str]) -> tuple[State, str]:  # fmt: skip
        if name in former:
            return ("former", "it failed") if name in entries else ("blocked", "it failed, and never ran before")
        above = {maker: (found[maker][0], named) for maker, named in self.upstream(name).items()}
        for maker, (state, named) in above.items():
            if state in ("former", "blocked") and (named or maker not in entries):
                return "blocked", f"needs {maker}"
        reason = self.own_change(name, entries)
        if reason is None and not any(state in ("stale", "maybe") for state, _ in above.values()):
            reason = self.input_change(name, entries, listing)
        if reason:
            return "stale", reason
        waits = [maker for maker, (state, _) in above.items() if state in ("stale", "maybe")]
        return ("maybe", f"after {', '.join(waits)}") if waits else ("fresh", "")

    def own_change(self, name: str, entries: Mapping[str, str]) -> str | None:
        """What of the commit itself differs from what the entry was made with."""
        stage = self[name]
        if name not in entries:
            return "it has not run yet"
        entry = lock.parse(entries[name])
        if entry.cmd != stage.cmd:
            return "its command changed"
        if set(entry.outs) != set(stage.outs):
            return "its outputs are others"
        if set(entry.deps) != {*stage.files, *stage.inputs}:
            return "its dependencies are others"
        for path, md5 in stage.files.items():
            if entry.deps[path] != md5:
                return f"{path} changed"
        for file in {*stage.params, *entry.params}:
            mine, theirs = stage.params.get(file, {}), entry.params.get(file, {})
            if mine != theirs:
                changed = sorted(k for k in {*mine, *theirs} if mine.get(k, ...) != theirs.get(k, ...))
                return f"{file}: {', '.join(changed)} changed"
        return None

    def input_change(self, name: str, entries: Mapping[str, str], listing: Listing) -> str | None:
        """Which input is not what its maker's entry says it is."""
        used = lock.parse(entries[name]).deps
        for path in self[name].inputs:
            if used[path] != self.hash_of(path, entries, listing):
                return f"{path} changed"
        return None

    def hash_of(self, path: str, entries: Mapping[str, str], listing: Listing) -> str | None:
        """DVC's hash of `path`: an output, a folder of outputs or a part of one; None if it cannot be told."""
        made: dict[str, str] = {}
        for out, maker in self.makers.items():
            if _related(path, out):
                if maker not in entries:
                    return None
                made[out] = lock.parse(entries[maker]).outs.get(out, "")
        if path in made:
            return made[path]
        files: dict[str, str] = {}
        for out, md5 in made.items():
            content = listing(md5) if md5.endswith(".dir") else [{"md5": md5, "relpath": ""}]
            if content is None:
                return None
            files |= {f"{out}/{item['relpath']}".rstrip("/"): item["md5"] for item in content}
        return files.get(path) or _folder_hash(path, files)


def _folder_hash(path: str, files: Mapping[str, str]) -> str | None:
    inside = sorted((f.removeprefix(f"{path}/"), md5) for f, md5 in files.items() if f.startswith(f"{path}/"))
    text = json.dumps([{"md5": md5, "relpath": name} for name, md5 in inside], sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir" if inside else None


def _inside(path: str, folder: str) -> bool:
    return PurePosixPath(folder) in PurePosixPath(path).parents


def _related(a: str, b: str) -> bool:
    return a == b or _inside(a, b) or _inside(b, a)
