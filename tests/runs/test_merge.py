"""Entries brought to live: by name, by compare and swap, and never twice."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from toy import TASKS, Toy

from pipelines.core.errors import UserError
from pipelines.runs import merge, start
from pipelines.runs.git import GitError, Repository
from pipelines.runs.refs import LIVE, Home


def made(toy: Toy, run: str, *stages: str, until: str | None = None, sources: tuple[str, ...] = ()) -> str:
    start.begin(run, until, sources, root=toy.root)
    for stage in stages:
        toy.stage(stage, run)
    return run


@pytest.fixture
def squared(toy: Toy) -> Toy:
    toy.powers(2)
    start.deploy(root=toy.root)
    return toy


def test_runs_that_are_merged_at_once_all_get_in(squared: Toy) -> None:
    runs = [made(squared, f"r{t}", f"fit@{t}") for t in TASKS[:4]]
    was = squared.entries()
    with ThreadPoolExecutor(4) as pool:
        commits = list(pool.map(lambda run: merge.merge_run(run, root=squared.root), runs))
    now = squared.entries()
    assert {stage for stage in now if now[stage] != was[stage]} == {f"fit@{t}" for t in TASKS[:4]}
    assert len(set(commits)) == 4
    for run, commit in zip(runs, commits, strict=True):
        assert f"fit@{run[1:]}" in squared.git("show", "-s", "--format=%B", commit)
        squared.git("merge-base", "--is-ancestor", commit, "live")


def test_a_push_that_another_run_forestalls_is_done_again_on_the_new_head(
    squared: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(squared, "r1", "fit@t1")
    made(squared, "r2", "fit@t2")
    push, done = Home.push, []

    def late(home: Home, repository: Repository, moves: Any, was: Any) -> bool:
        if not done:
            done.append(1)
            merge.merge_run("r2", root=squared.root)
        answer = push(home, repository, moves, was)
        done.append(answer)
        return answer

    monkeypatch.setattr(Home, "push", late)
    commit = merge.merge_run("r1", root=squared.root)
    assert done == [1, True, False, True]
    assert commit == squared.git("rev-parse", "live")
    assert squared.git("show", "-s", "--format=%s", "live^1") == "Run r2: 1 stages"


def test_merging_again_changes_nothing_even_after_a_later_run(squared: Toy) -> None:
    made(squared, "r1", "fit@t1")
    first = merge.merge_run("r1", root=squared.root)
    assert merge.merge_run("r1", root=squared.root) == first
    squared.powers(3)
    start.deploy(root=squared.root)
    made(squared, "r2", "fit@t1")
    second = merge.merge_run("r2", root=squared.root)
    assert merge.merge_run("r1", root=squared.root) == first
    assert squared.git("rev-parse", "live") == second, "an older run undid a newer one"


def test_windows_of_concurrent_runs_are_kept_by_source(toy: Toy) -> None:
    made(toy, "r1", "raw@a", until="2025-01-05", sources=("a",))
    made(toy, "r2", "raw@b", until="2025-01-06", sources=("b",))
    merge.merge_run("r1", root=toy.root)
    merge.merge_run("r2", root=toy.root)
    assert toy.git("show", "live:window.yaml").splitlines()[1:] == ['a: "2025-01-05"', 'b: "2025-01-06"']


def test_a_run_in_which_nothing_succeeded_leaves_live_alone(toy: Toy) -> None:
    live = toy.git("rev-parse", "live")
    start.begin("r", "2025-01-05", root=toy.root)
    assert merge.merge_run("r", root=toy.root) == live == toy.git("rev-parse", "live")


def test_code_deployed_while_a_run_was_on_stays(squared: Toy) -> None:
    made(squared, "r", "fit@t1")
    squared.commit("pipelines/tool.py", "SCALE = 7\n")
    start.deploy(root=squared.root)
    merge.merge_run("r", root=squared.root)
    assert squared.git("show", "live:pipelines/tool.py") == "SCALE = 7"
    planned = start.plan(start.begin(root=squared.root), root=squared.root)
    assert {one.stage for one in planned if one.state == "stale"} >= {"feat@a", "feat@b"}


def test_a_home_that_refuses_is_told_and_live_stays(squared: Toy) -> None:
    made(squared, "r", "fit@t1")
    live = squared.git("rev-parse", "live")
    hook = squared.root / ".git/hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'closed for the night' >&2; exit 1\n")
    hook.chmod(0o755)
    with pytest.raises(GitError, match="closed for the night"):
        merge.merge_run("r", root=squared.root)
    hook.unlink()
    assert squared.git("rev-parse", "live") == live
    assert merge.merge_run("r", root=squared.root) == squared.git("rev-parse", "live") != live


def test_who_has_live_checked_out_sees_it_move_on(squared: Toy) -> None:
    squared.git("checkout", "-q", "live")
    commit = merge.merge_run(made(squared, "r", "fit@t1"), root=squared.root)
    assert squared.git("rev-parse", "HEAD") == commit
    assert squared.git("status", "--porcelain") == ""
    assert "fit@t1" in (squared.root / "dvc.lock").read_text()


def test_edits_in_a_checkout_of_live_are_never_overwritten(squared: Toy) -> None:
    made(squared, "r", "fit@t1")
    squared.git("checkout", "-q", "live")
    squared.write("dvc.lock", "mine\n")
    with pytest.raises(UserError, match=re.escape("on branch live with edits (dvc.lock")):
        start.begin(root=squared.root)
    head = squared.git("rev-parse", LIVE)
    with pytest.raises(GitError):
        merge.merge_run("r", root=squared.root)
    assert (squared.root / "dvc.lock").read_text() == "mine\n"
    assert squared.git("rev-parse", LIVE) == head
    squared.git("checkout", "-q", "--", "dvc.lock")
    assert merge.merge_run("r", root=squared.root) == squared.git("rev-parse", "HEAD")


def test_a_calling_hooks_environment_leads_nothing_astray(
    squared: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made(squared, "r", "fit@t1")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    commit = merge.merge_run("r", root=squared.root)
    assert not (tmp_path / "index").exists()
    monkeypatch.undo()
    assert squared.git("rev-parse", "live") == commit
