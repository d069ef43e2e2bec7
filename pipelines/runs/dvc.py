"""DVC's own classes. They are internal to it and change with its versions, so they are used here and nowhere else.

All functions work in a workspace that nobody else uses; DVC is pinned exactly.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import UserError
from pipelines.runs.graph import Graph, Listing, Stage
from pipelines.runs.refs import CACHE, REMOTE, Home

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage.cache import StageCache


class StageFailed(UserError):
    """A stage's command ended with an exit code that is not 0."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


def read_yaml(text: str) -> Any:
    from dvc.utils.serialize import parse_yaml

    return parse_yaml(text, "dvc.lock")


def configure(place: Path, home: Home, *, linked: bool = False) -> None:
    """Let the workspace at `place` use this machine's cache and remote, and keep everything else to itself.

    linked: where the disk can, files are not copied out of the cache. For workspaces whose outputs are read alone.
    """
    from dvc.config import Config

    mine = Config(str(home.root / ".dvc")).load_config_to_level() if (home.root / ".dvc").is_dir() else {}
    cache, core = dict(mine.get("cache", {})), dict(mine.get("core", {}))
    cache["dir"] = os.environ.get(CACHE) or cache.get("dir") or home.root / ".dvc/cache"
    cache |= {"type": "reflink,hardlink,symlink,copy"} if linked else {}
    remotes = {name: {k: _plain(v) for k, v in given.items()} for name, given in mine.get("remote", {}).items()}
    if url := os.environ.get(REMOTE):
        remotes, core["remote"] = {**remotes, "cityloop": {"url": url}}, "cityloop"
    core |= {"site_cache_dir": str(place / ".dvc/tmp/site"), "autostage": False}
    with Config(str(place / ".dvc")).edit("local") as local:
        local["core"], local["remote"] = {k: _plain(v) for k, v in core.items()}, remotes
        local["cache"] = {k: str(Path(v).resolve()) if k == "dir" else v for k, v in cache.items()}


_REMOTES = ("aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "paramiko", "requests", "s3fs", "urllib3")
"""Who DVC lets raise errors of their own."""


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value  # paths known as relative would be written as such


@contextlib.contextmanager
def opened(place: Path) -> Iterator["Repo"]:
    """DVC in `place`, from where its addresses have no prefix. Its errors become UserErrors."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with contextlib.chdir(place):
        try:
            with Repo(str(place)) as repo:
                repo.stage_cache = _run_cache(repo)
                yield repo
        except DvcException as error:
            raise UserError(f"dvc: {error}" + (f" ({error.__cause__})" if error.__cause__ else "")) from error
        except Exception as error:
            if not type(error).__module__.startswith(_REMOTES):
                raise
            why = " ".join(str(error).split())
            raise UserError(f"the DVC remote does not answer as it should: {why}; again when it does") from error


def graph(repo: "Repo") -> Graph:
    """What dvc.yaml says, resolved, with the hashes of checked-in dependencies and the values of parameters."""
    from dvc.dependency.param import ParamsDependency

    stages = [stage for stage in repo.index.stages if stage.cmd]
    made = [out.fs_path for stage in stages for out in stage.outs]
    found = []
    for stage in sorted(stages, key=lambda s: s.name):
        if uncached := [str(out) for out in stage.outs if not out.use_cache]:
            raise UserError(f"dvc.yaml: {stage.name}: {uncached[0]}: `cache: false` cannot travel; let DVC cache it")
        params = [d for d in stage.deps if isinstance(d, ParamsDependency)]
        deps = [d for d in stage.deps if d not in params]
        inputs = [
            d for d in deps if any(repo.fs.isin_or_eq(*p) for m in made for p in ((d.fs_path, m), (m, d.fs_path)))
        ]
        values: dict[str, dict[str, Any]] = {}
        for dep in params:
            values[dep.def_path] = {**values.get(dep.def_path, {}), **dep.get_hash().value}
        files = {d.def_path: d.get_hash().value if d.exists else "" for d in deps if d not in inputs}
        paths = (tuple(d.def_path for d in inputs), tuple(o.def_path for o in stage.outs))
        found.append(Stage(stage.name, stage.cmd, files, json.loads(json.dumps(values)), *paths))
    return Graph(found)


def _run_cache(repo: "Repo") -> "StageCache":
    """DVC's run cache, passing over what a process left that was killed while it saved: an empty folder, over which
    DVC's own stumbles, or part of an entry, which it would take for a whole one."""
    from dvc.stage.cache import StageCache, _get_stage_hash

    class Whole(StageCache):
        def _load(self, stage: Any) -> Any:
            key = _get_stage_hash(stage)
            folder = Path(self._get_cache_dir(key)) if key else None
            if folder is None or not folder.is_dir():
                return None
            saved = [path for path in folder.iterdir() if not path.name.startswith(".")]
            newest = max(saved, key=lambda path: path.stat().st_mtime, default=None)
            return newest and self._load_cache(key, newest.name)

    return Whole(repo)


def cache_folder(place: Path) -> Path:
    """Where the workspace's cache keeps its files, as `<2 digits>/<the rest>`."""
    with opened(place) as repo:
        return Path(repo.cache.local.path).resolve()


def has_remote(repo: "Repo") -> bool:
    return bool(repo.config["core"].get("remote"))


def listing(repo: "Repo") -> Listing:
    """Reads folders' listings from the cache, else from the remote."""
    from dvc.exceptions import DvcException
    from dvc_objects.errors import ObjectFormatError

    def read(oid: str) -> list[dict[str, str]] | None:
        for here in (True, False)[: 1 + has_remote(repo)]:
            with contextlib.suppress(OSError, DvcException, ObjectFormatError, ValueError):
                odb = repo.cache.local if here else repo.cloud.get_remote_odb()
                items: list[dict[str, str]] = json.loads(odb.fs.cat_file(odb.oid_to_path(oid)))
                return items
        return None

    return read


def link(repo: "Repo", wanted: Iterable[tuple[str, str]]) -> None:
    """Bring (stage, output) pairs into the workspace as dvc.lock there has them, fetched first where they are not here.

    What dvc.yaml no longer has is passed over. Raises UserError when one is nowhere to be had.
    """
    from dvc.dvcfile import load_file

    stages = load_file(repo, "dvc.yaml").stages
    for name, path in wanted:
        out = next((o for o in stages[name].outs if o.def_path == path), None) if name in stages else None
        if out is None:
            continue
        if has_remote(repo) and out.changed_cache():
            with _remote(repo):
                for objects in out.get_used_objs().values():
                    repo.cloud.pull(objects)
        if out.changed_cache():
            raise UserError(f"{path} of {name} ({out.hash_info.value}) is neither in the DVC cache nor in a DVC remote")
        out.checkout(force=True)


def reproduce(repo: "Repo", stage: str) -> str:
    """`dvc repro --single-item`; gives `ran`, `cached` (restored from DVC's run cache) or `unchanged`.

    Raises StageFailed with the command's exit code.
    """
    from dvc.exceptions import ReproductionError
    from dvc.stage.exceptions import StageCmdFailedError

    told, logger = _Told(), logging.getLogger("dvc.stage.run")
    logger.addHandler(told)
    try:
        changed = repo.reproduce(targets=[stage], single_item=True)
    except ReproductionError as error:
        if not isinstance(error.__cause__, StageCmdFailedError):
            raise
        words = str(error.__cause__)
        code = int(words.rpartition(" ")[2])
        raise StageFailed(f"{stage}: {words}", code if code > 0 else 128 - code) from error
    finally:
        logger.removeHandler(told)
    return "ran" if told.ran else "cached" if changed else "unchanged"


class _Told(logging.Handler):
    """Notes whether DVC ran a command, rather than restoring what it once made."""

    ran = False

    def emit(self, record: logging.LogRecord) -> None:
        self.ran = self.ran or record.msg.startswith("Running stage ")


def nothing_to_do(repo: "Repo", stage: str) -> bool:
    """Whether `dvc repro` would pass over the stage, with its inputs and outputs lying here."""
    with repo.lock:
        return not repo.stage.load_one(name=stage).changed()


def push(repo: "Repo", stage: str) -> None:
    """Bring the stage's outputs to the remote, and see that each file of them is there. Raises UserError if not."""
    loaded = repo.stage.load_one(name=stage)
    oids = {out.hash_info.value for out in loaded.outs}
    for listed in [oid for oid in oids if oid.endswith(".dir")]:  # it may be there while its files are not
        oids |= {item["md5"] for item in listing(repo)(listed) or []}
    with _remote(repo):
        for objects in loaded.get_used_objs(push=True).values():
            repo.cloud.push(objects)
        missing = oids - set(repo.cloud.get_remote_odb().oids_exist(oids))
    if missing:
        raise UserError(f"{stage}: {len(missing)} of {len(oids)} files are not in the DVC remote after pushing; again")


@contextlib.contextmanager
def _remote(repo: "Repo") -> Iterator[None]:
    """Whatever goes wrong with a remote is told in one line; each kind of remote has errors of its own."""
    try:
        yield
    except Exception as error:
        name = repo.config["core"].get("remote")
        url = repo.config["remote"].get(name, {}).get("url", "")
        raise UserError(f"DVC remote {name} ({url}): {type(error).__name__}: {error}; again when it answers") from error
