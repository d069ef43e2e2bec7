"""On several machines: a git server, a DVC remote, and workers that share nothing else."""

import contextlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_run import ALL, fresh_clone
from toy import TASKS, Toy

from pipelines.core.errors import UserError
from pipelines.runs import dvc, lock, merge, refs, start, workspace
from pipelines.runs.refs import Home
from pipelines.runs.run import run


@dataclass(frozen=True)
class Cluster:
    """`author` pushes code to `server`; `worker(name)` has a folder, a state and a cache of its own."""

    author: Toy
    server: Path
    remote: Path | str

    @classmethod
    def make(cls, folder: Path, remote: Path | str) -> "Cluster":
        author, server = Toy.make(folder / "author"), folder / "server.git"
        author.say("git", "clone", "-q", "--bare", str(author.root), str(server))
        author.git("remote", "add", "server", str(server))
        return cls(author, server, remote)

    def worker(self, name: str) -> Toy:
        root = self.author.root.parent / name
        (root / "state").mkdir(parents=True, exist_ok=True)
        extra = {
            "CITYLOOP_GIT": f"file://{self.server}",
            "CITYLOOP_DVC_REMOTE": str(self.remote),
            "CITYLOOP_CACHE": str(root / "cache"),
            "CITYLOOP_STATE": str(root / "state"),
        }
        return Toy(root, tuple(extra.items()))

    def publish(self) -> None:
        self.author.git("push", "-q", "server", "main")


def at(worker: Toy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is now that worker's."""
    for name, value in worker.extra:
        monkeypatch.setenv(name, value)
    return worker.root


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster.make(tmp_path, tmp_path / "remote")


def pulled(cluster: Cluster, place: Path) -> Toy:
    """Live in a clone with an empty cache, all its data pulled."""
    clone = fresh_clone(Toy(cluster.server), place)
    clone.say("dvc", "remote", "add", "--local", "-d", "store", str(cluster.remote))
    clone.say("dvc", "pull", "-q")
    return clone


def test_workers_that_share_git_and_a_remote_alone(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = cluster.worker("one"), cluster.worker("two")
    outcome = run(jobs=4, root=at(one, monkeypatch))
    assert set(outcome.done) == ALL
    clone = pulled(cluster, tmp_path / "clone")
    assert "Data and pipelines are up to date." in clone.say("dvc", "repro")
    assert {str(p.relative_to(clone.root)) for p in clone.root.glob("models/*/weights.txt")} == {
        f"models/{t}/weights.txt" for t in TASKS
    }

    cluster.author.powers(2)
    cluster.publish()
    start.deploy(root=at(two, monkeypatch))
    name = start.begin("r", "2025-01-04", ["a"], root=two.root)
    assert "raw@a" in {one.stage for one in start.plan(name, root=two.root)}
    for stage, worker in (("raw@a", two), ("feat@a", one), ("join@t1", two), ("fit@t1", one)):
        assert worker.stage(stage, name)["state"] == "ran", stage
    assert set(two.ran()) == {"raw@a", "join@t1"}
    commit = merge.merge_run(name, root=two.root)
    clone = pulled(cluster, tmp_path / "again")
    assert clone.git("rev-parse", "HEAD") == commit
    assert (clone.root / "models/t1/weights.txt").read_text() == "36"
    assert (clone.root / "data/raw/a/3.txt").read_text() == "3"

    _remote_away(cluster, name, one)
    _listing_without_its_files(cluster, two)


def _remote_away(cluster: Cluster, name: str, worker: Toy) -> None:
    """For a minute nothing can be pushed: nothing is published, and afterwards the same command ends well."""
    away = cluster.remote.with_name("away")
    cluster.remote.rename(away)
    cluster.remote.write_text("no folder")
    said = worker.refused("join@t3", name)
    assert said.startswith(f"error: DVC remote cityloop ({cluster.remote}): "), said
    server = Toy(cluster.server)
    assert "refs/runs/r/join@t3" not in server.git("for-each-ref")
    cluster.remote.unlink()
    away.rename(cluster.remote)
    assert worker.stage("join@t3", name)["state"] in ("ran", "cached")


def _listing_without_its_files(cluster: Cluster, worker: Toy) -> None:
    """A remote that has a folder's listing but lost a file of it gets the file again, or the push says so."""
    server = Toy(cluster.server)
    entry = lock.parse(lock.split(server.git("show", "refs/runs/r/raw@a:dvc.lock") + "\n")["raw@a"])
    home = Home.of(worker.root)
    with workspace.opened(home) as repository:
        now = refs.read(home, repository, "r")
        repository("checkout", "-q", now.base)
        dvc.configure(repository.folder, home)
        (repository.folder / lock.FILE).write_text(lock.join(now.entries))
        with dvc.opened(repository.folder) as repo:
            dvc.push(repo, "raw@a")
            (md5, *_) = [f["md5"] for f in dvc.listing(repo)(entry.outs["data/raw/a"]) or []]
            lost = cluster.remote / "files/md5" / md5[:2] / md5[2:]
            lost.unlink()
            with contextlib.suppress(UserError):
                dvc.push(repo, "raw@a")
                assert lost.exists(), "it said that all is there"


def test_the_checkouts_own_remote_and_cache_are_used(toy: Toy, tmp_path: Path) -> None:
    """As `dvc remote add --local` and `dvc cache dir --local` set them, relative to the checkout."""
    shutil.move(toy.root / ".dvc/cache", tmp_path / "shared")
    toy.say("dvc", "cache", "dir", "--local", "../shared")
    toy.say("dvc", "remote", "add", "--local", "-d", "store", "../store")
    toy.powers(2)
    start.deploy(root=toy.root)
    start.begin("r", root=toy.root)
    made = toy.stage("fit@t1", "r")["outs"]["models/t1"]
    for place in (tmp_path / "shared", tmp_path / "store"):
        assert (place / "files/md5" / made[:2] / made[2:]).is_file()
    assert not (toy.root / ".dvc/cache").exists()


def test_a_server_that_cannot_be_reached_is_told(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYLOOP_GIT", "file:///nowhere.git")
    with pytest.raises(UserError, match=r"nowhere\.git"):
        start.begin(root=toy.root)
    assert subprocess.run(["git", "status"], cwd=toy.root, capture_output=True, check=False).returncode == 0
