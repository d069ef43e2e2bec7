"""What nobody needs goes; what live, a branch, a release, a young run or the checkout needs stays."""

import datetime as dt
import json
import time
from pathlib import Path

import pytest
from test_run import fresh_clone
from toy import Toy

from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.release.store import Store
from pipelines.runs import lock, merge, start, workspace
from pipelines.runs.gc import forget, gc
from pipelines.runs.refs import Home

FUTURE = time.time() + 86400


def outs(toy: Toy, revision: str = "live") -> set[str]:
    return {md5 for text in toy.entries(revision).values() for md5 in lock.parse(text).outs.values()}


def cached(toy: Toy) -> set[str]:
    return {p.parent.name + p.name for p in (toy.root / ".dvc/cache/files/md5").glob("??/*")}


@pytest.fixture
def moved(toy: Toy) -> tuple[Toy, str]:
    """The toy city after a second run that replaced the data of a; and the commit of the first."""
    first = toy.git("rev-parse", "live")
    start.begin("second", "2025-01-04", ["a"], root=toy.root)
    toy.stage("raw@a", "second")
    toy.stage("feat@a", "second")
    merge.merge_run("second", root=toy.root)
    return toy, first


def test_what_nothing_needs_is_removed(moved: tuple[Toy, str], tmp_path: Path) -> None:
    toy, first = moved
    gone = outs(toy, first) - outs(toy)
    looks = toy.looks()
    assert gone
    assert gone <= cached(toy)
    removed = gc(FUTURE, root=toy.root)
    assert len(removed.runs) == 2
    assert "second" in removed.runs
    assert toy.git("for-each-ref", "refs/runs/") == ""
    assert not cached(toy) & gone
    assert removed.files >= len(gone)
    assert toy.looks() == looks
    clone = fresh_clone(toy, tmp_path / "clone", cache=toy.root / ".dvc/cache")
    clone.say("dvc", "checkout", "-q")
    assert (clone.root / "data/feat/a/sum.txt").read_text() == "6"
    assert gc(FUTURE, root=toy.root).files == 0


def test_what_is_younger_stays(moved: tuple[Toy, str]) -> None:
    toy, first = moved
    began = int(toy.git("show", "-s", "--format=%ct", "refs/runs/second/base"))
    had = cached(toy)
    removed = gc(began, root=toy.root)
    assert len(removed.runs) == 1
    assert "second" not in removed.runs
    assert outs(toy, first) & cached(toy) == outs(toy, first) & had - _unneeded_and_older(toy, began)


def _unneeded_and_older(toy: Toy, moment: float) -> set[str]:
    files = (toy.root / ".dvc/cache/files/md5").glob("??/*")
    return {p.parent.name + p.name for p in files if p.stat().st_ctime < moment} - outs(toy)


def test_data_of_a_release_a_branch_and_the_checkout_stays(moved: tuple[Toy, str]) -> None:
    toy, first = moved
    (toy.state / "store/releases/t1/abc").mkdir(parents=True)
    ledger = toy.state / "store/ledger/t1"
    ledger.mkdir(parents=True)
    record = {"seq": 1, "state": "serving", "digest": "abc", "commit": first}
    (ledger / "00000001.json").write_text(json.dumps(record))
    gc(FUTURE, root=toy.root)
    assert outs(toy, first) <= cached(toy)

    (toy.state / "store/releases/t1/abc").rmdir()
    toy.git("branch", "kept", first)
    gc(FUTURE, root=toy.root)
    assert outs(toy, first) <= cached(toy)

    toy.write("dvc.lock", toy.git("show", f"{first}:dvc.lock") + "\n")
    toy.git("branch", "-q", "-D", "kept")
    gc(FUTURE, root=toy.root)
    assert outs(toy, first) <= cached(toy)

    (toy.root / "dvc.lock").unlink()
    gone = outs(toy, first) - outs(toy)
    gc(FUTURE, root=toy.root)
    assert not cached(toy) & gone


def test_while_a_stage_is_at_work_nothing_is_removed(moved: tuple[Toy, str]) -> None:
    toy, _ = moved
    had = cached(toy)
    with workspace.opened(Home.of(toy.root), "second/fit@t3"), pytest.raises(UserError, match="second/fit@t3 at work"):
        gc(FUTURE, root=toy.root)
    assert cached(toy) == had


def test_a_cache_that_others_may_share_is_left_alone(moved: tuple[Toy, str], tmp_path: Path) -> None:
    toy, _ = moved
    (toy.root / ".dvc/cache").rename(tmp_path / "shared")
    toy.say("dvc", "cache", "dir", "--local", "../shared")
    count = len(list((tmp_path / "shared").rglob("*")))
    assert gc(FUTURE, root=toy.root).files == 0
    assert len(list((tmp_path / "shared").rglob("*"))) == count


def test_answers_go_only_by_their_age(tmp_path: Path) -> None:
    store = Store.of(Paths(tmp_path)).objects
    today = dt.datetime.now(dt.UTC).date()
    for age in (0, 399, 402):
        store.put(f"predictions/air/date={today - dt.timedelta(days=age)}/s-0.parquet", b"answers")
    assert forget(400, root=tmp_path) == 1
    assert len(store.find("predictions")) == 2
