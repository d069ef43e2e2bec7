"""A stage in its own workspace: what is published is true of the commit it was made at, or nothing is published."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from toy import Toy

from pipelines.core.errors import UserError
from pipelines.runs import dvc, lock, refs, stage, start, workspace
from pipelines.runs.refs import Home


@pytest.fixture
def squared(toy: Toy) -> Toy:
    """The toy city with another power deployed, and a run `r` begun: `fit@…` are to run."""
    toy.powers(2)
    start.deploy(root=toy.root)
    start.begin("r", root=toy.root)
    return toy


def published(toy: Toy, run: str = "r") -> set[str]:
    names = toy.git("for-each-ref", "--format=%(refname)", f"refs/runs/{run}/").split()
    return {name.split("/")[3] for name in names} - {"base", "graph", "merged"}


def test_the_result_is_one_line_and_a_second_time_nothing_is_done(squared: Toy) -> None:
    first = squared.stage("fit@t6", "r")
    assert (first["stage"], first["run"], first["state"]) == ("fit@t6", "r", "ran")
    assert list(first["outs"]) == ["models/t6"]
    assert published(squared) == {"fit@t6"}
    again = squared.stage("fit@t6", "r")
    assert (again["state"], again["outs"]) == ("unchanged", first["outs"])
    assert squared.stage("raw@a", "r")["state"] == "unchanged"
    assert squared.ran() == ["fit@t6"]
    assert not (squared.state / "workspaces/r/fit@t6").exists()


def test_what_was_made_once_is_restored_without_running(squared: Toy) -> None:
    made = squared.stage("fit@t6", "r")
    squared.ran()
    start.begin("again", root=squared.root)
    restored = squared.stage("fit@t6", "again")
    assert (restored["state"], restored["outs"]) == ("cached", made["outs"])
    assert squared.ran() == []


def test_data_is_linked_not_copied(squared: Toy) -> None:
    squared.tell("sleep", "fit@t1", "60")
    process = squared.start("fit@t1", "r")
    squared.wait("fit@t1", process)
    linked = squared.state / "workspaces/r/fit@t1/data/joined/t1.txt"
    md5 = lock.parse(squared.entries()["join@t1"]).outs["data/joined/t1.txt"]
    cached = squared.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    assert linked.samefile(cached) or _reflinks(squared.root)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


def _reflinks(folder: Path) -> bool:
    (folder / "x").write_text("x")
    done = subprocess.run(["cp", "--reflink=always", "x", "y"], cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


def test_a_stage_may_go_on_from_its_earlier_output(toy: Toy) -> None:
    start.begin("r", "2025-01-04", root=toy.root)
    was = lock.parse(toy.entries()["raw@a"]).outs["data/raw/a"]
    made = toy.stage("raw@a", "r")["outs"]["data/raw/a"]
    with workspace.opened(Home.of(toy.root)) as repository:
        repository("fetch", "-q", str(toy.root), "live")
        repository("checkout", "-q", "FETCH_HEAD")
        dvc.configure(repository.folder, Home.of(toy.root))
        with dvc.opened(repository.folder) as repo:
            names = [[f["relpath"] for f in dvc.listing(repo)(oid) or []] for oid in (was, made)]
    assert names == [["1.txt", "2.txt"], ["1.txt", "2.txt", "3.txt"]]


def test_upstream_that_is_to_run_comes_first(toy: Toy) -> None:
    start.begin("r", "2025-01-04", sources=["a"], root=toy.root)
    assert "begin with cityloop run-stage raw@a" in toy.refused("fit@t1", "r")
    assert toy.ran() == []
    assert published(toy) == set()


def test_a_word_that_names_nothing_is_told(squared: Toy) -> None:
    assert "no stage 'fit@t9' in dvc.yaml; did you mean 'fit@t" in squared.refused("fit@t9", "r")
    assert "no run 's'" in squared.refused("fit@t1", "s")


def test_a_failing_command_publishes_nothing_and_gives_its_exit_code(squared: Toy) -> None:
    squared.tell("fail", "fit@t1")
    process = squared.start("fit@t1", "r")
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert "no data today" in err
    assert published(squared) == set()
    assert not (squared.state / "workspaces/r/fit@t1").exists()


# What `dvc repro --single-item` alone would let pass.


def test_an_input_that_changed_while_the_stage_ran_is_refused(squared: Toy) -> None:
    squared.tell("edit", "fit@t1", "data/joined/t1.txt 9")
    assert "already out of date (data/joined/t1.txt changed" in squared.refused("fit@t1", "r")
    assert published(squared) == set()


def test_code_that_changed_while_the_stage_ran_is_refused(toy: Toy) -> None:
    toy.commit("pipelines/tool.py", "SCALE = 2\n")
    start.deploy(root=toy.root)
    start.begin("r", root=toy.root)
    toy.tell("edit", "feat@a", "pipelines/tool.py SCALE = 3\n")
    assert "already out of date (pipelines/tool.py changed" in toy.refused("feat@a", "r")
    assert published(toy) == set()


def test_a_stage_that_edits_what_is_checked_in_is_refused(squared: Toy) -> None:
    squared.tell("edit", "fit@t1", "pipelines/tool.py SCALE = 3\n")  # no dependency of this one: its entry is right
    assert "it changed pipelines/tool.py, which is checked in" in squared.refused("fit@t1", "r")
    assert published(squared) == set()


def test_a_stage_that_dvc_would_run_again_at_once_is_refused(toy: Toy) -> None:
    toy.commit(
        "dvc.yaml",
        (toy.root / "dvc.yaml")
        .read_text()
        .replace("deps: [data/feat]", "always_changed: true\n      deps: [data/feat]"),
    )
    toy.commit("params.yaml", (toy.root / "params.yaml").read_text().replace("source: a", "source: b"))
    start.deploy(root=toy.root)
    start.begin("r", root=toy.root)
    assert "dvc repro would run it again at once" in toy.refused("join@t1", "r")
    assert published(toy) == set()


def test_a_missing_entry_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(lock.join({"other": "  other:\n    cmd: x\n"}))
    with pytest.raises(UserError, match=r"dvc\.lock has no entry of it"):
        stage._entry(tmp_path, "fit@t1")


def test_an_entry_made_from_other_data_than_its_maker_names_is_refused(toy: Toy) -> None:
    """The entries as `repro --single-item --allow-missing` publishes them: nothing ran, all looks well."""
    start.begin("r", root=toy.root)
    home = Home.of(toy.root)
    with workspace.opened(home) as repository:
        now = refs.read(home, repository, "r")
        repository("checkout", "-q", now.base)
        dvc.configure(repository.folder, home)
        with dvc.opened(repository.folder) as repo:
            listing = dvc.listing(repo)
            stage.check(now.graph, "join@t1", now.lock, listing)
            stage.check(now.graph, "fit@t1", now.lock, listing)
            other = now.lock["feat@a"].replace(
                lock.parse(now.lock["feat@a"]).outs["data/feat/a"], lock.parse(now.lock["feat@b"]).outs["data/feat/b"]
            )
            with pytest.raises(UserError, match="data/feat changed"):
                stage.check(now.graph, "join@t1", {**now.lock, "feat@a": other}, listing)
            md5 = lock.parse(now.lock["join@t1"]).outs["data/joined/t1.txt"]
            with pytest.raises(UserError, match=r"data/joined/t1\.txt changed"):
                stage.check(
                    now.graph, "fit@t1", {**now.lock, "join@t1": now.lock["join@t1"].replace(md5, "0" * 32)}, listing
                )


def test_data_that_nobody_has_is_told_before_anything_runs(squared: Toy) -> None:
    md5 = lock.parse(squared.entries()["join@t1"]).outs["data/joined/t1.txt"]
    (squared.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    assert "neither in the DVC cache nor in a DVC remote" in squared.refused("fit@t1", "r")
    assert squared.ran() == []


def test_other_code_than_the_workspaces_is_refused(squared: Toy, tmp_path: Path) -> None:
    """With PYTHONSAFEPATH `python -m pipelines` does not look where it is, and finds whatever was installed."""
    other = tmp_path / "other/pipelines"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    place = tmp_path / "workspace"
    (place / "pipelines").mkdir(parents=True)
    (place / "pipelines/__init__.py").write_text("")
    environ = workspace.environment(Home.of(squared.root))
    workspace.checks_code(place, environ)
    with pytest.raises(UserError, match=r"imports .*other/pipelines, not the code that lies there"):
        workspace.checks_code(place, {**environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(other.parent)})


# Stopped, killed, started twice.


def test_sigterm_lets_the_command_save_and_gives_143(squared: Toy) -> None:
    squared.tell("save", "fit@t1")
    squared.tell("sleep", "fit@t1", "60")
    process = squared.start("fit@t1", "r")
    squared.wait("fit@t1", process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "")
    assert "stopped by SIGTERM" in err
    assert (squared.state / "saved").read_text() == "fit@t1"
    assert published(squared) == set()


def test_killed_in_mid_command_the_next_attempt_ends_what_still_runs_and_makes_it(squared: Toy) -> None:
    sleep = squared.tell("sleep", "fit@t1", "60")
    process = squared.start("fit@t1", "r")
    squared.wait("fit@t1", process)
    orphan = int((squared.state / "pid-fit@t1").read_text())
    process.kill()
    process.wait()
    os.kill(orphan, 0)  # it outlived its parent
    sleep.unlink()
    assert squared.stage("fit@t1", "r")["state"] == "ran"
    assert _gone(orphan)
    assert squared.ran() == ["fit@t1", "fit@t1"]


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_killed_at_any_moment_a_repetition_makes_it_whole(squared: Toy) -> None:
    expected = squared.stage("fit@t3", "r")
    for n in range(1, 9):
        process = squared.start("fit@t1", "r")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2 + expected["seconds"] * n / 8)
        process.kill()  # of no effect if it has come through
        process.communicate()
    result = squared.stage("fit@t1", "r")
    assert result["outs"]["models/t1"] == expected["outs"]["models/t3"], "the same data and power give the same model"
    entry = squared.git("show", "refs/runs/r/fit@t1:dvc.lock") + "\n"
    assert lock.parse(lock.split(entry)["fit@t1"]).outs == result["outs"]
    assert list((squared.state / "workspaces/r").glob("*")) == []


@pytest.mark.parametrize("left", [None, "cmd: true\nouts: []\n"], ids=["an empty folder", "part of an entry"])
def test_killed_while_dvc_saved_to_its_run_cache(squared: Toy, left: str | None) -> None:
    made = squared.stage("fit@t1", "r")
    entry = max((squared.root / ".dvc/cache/runs").glob("*/*/*"), key=lambda path: path.stat().st_mtime)
    assert "models/t1" in entry.read_text()
    entry.unlink()
    if left:
        (entry.parent / ".JVeYxRbaSL3JJhUtmiNcUS.tmp").write_text(left)
    start.begin("again", root=squared.root)
    again = squared.stage("fit@t1", "again")
    assert (again["state"], again["outs"]) == ("ran", made["outs"])
    start.begin("third", root=squared.root)
    assert squared.stage("fit@t1", "third")["state"] == "cached"


def test_killed_before_its_entry_is_pushed_it_need_not_run_again(squared: Toy) -> None:
    """A hook of the home holds up the push; the process dies in it."""
    hook = squared.root / ".git/hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {squared.state}/pushing; sleep 30\n")
    hook.chmod(0o755)
    process = squared.start("fit@t1", "r")
    while not (squared.state / "pushing").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    hook.unlink()
    assert squared.stage("fit@t1", "r")["state"] == "cached"
    assert squared.ran() == ["fit@t1"]


def test_started_twice_the_second_waits_and_finds_it_done(squared: Toy) -> None:
    squared.tell("sleep", "fit@t1", "2")
    both = [squared.start("fit@t1", "r") for _ in range(2)]
    lines = [json.loads(process.communicate()[0]) for process in both]
    assert sorted(line["state"] for line in lines) == ["ran", "unchanged"]
    assert lines[0]["outs"] == lines[1]["outs"]
    assert squared.ran() == ["fit@t1"]


def test_workspaces_of_the_living_are_not_swept(tmp_path: Path, squared: Toy) -> None:
    home = Home.of(squared.root)
    with workspace.opened(home, "r/fit@t1") as repository:
        seen: list[list[str]] = []
        thread = threading.Thread(target=lambda: seen.append(workspace.in_use(home)))
        thread.start()
        thread.join()
        workspace.sweep(home)
        assert (repository.folder / ".git").is_dir()
        assert seen == [["r/fit@t1"]]
    left = home.workspaces / "r/fit@t2"
    left.mkdir(parents=True)
    left.with_name("fit@t2.lock").touch()
    workspace.sweep(home)
    assert not left.exists()
    assert list(home.workspaces.glob("*")) == []
