"""A whole run: stages in parallel, merged into live in one commit; failures stop what needs them and nothing else."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy import CODE, TASKS, Toy

from pipelines.core.errors import UserError
from pipelines.runs import merge, run, start
from pipelines.runs.run import Outcome
from pipelines.runs.table import Table

ALL = {f"{what}@{key}" for what in ("raw", "feat") for key in "ab"} | {
    f"{w}@{t}" for w in ("join", "fit") for t in TASKS
}


def fresh_clone(toy: Toy, place: Path, *, cache: Path | None = None) -> Toy:
    """Live in a clone of its own, on the city's cache, or with an empty one."""
    toy.say("git", "clone", "-q", "-b", "live", str(toy.root), str(place))
    (place / ".cityloop").mkdir()
    clone = Toy(place, (("CITYLOOP_STATE", str(place / ".cityloop")), ("DVC_SITE_CACHE_DIR", str(place / ".dvc/site"))))
    if cache:
        clone.say("dvc", "cache", "dir", "--local", str(cache))
    return clone


def test_all_of_it_ran_at_once_and_is_on_live_in_one_commit(looped_once: tuple[Toy, Outcome]) -> None:
    toy, outcome = looped_once
    assert set(outcome.done) == ALL
    assert {one["state"] for one in outcome.done.values()} == {"ran"}
    assert (outcome.failed, outcome.blocked) == ({}, {})
    outcome.require()
    assert outcome.commit == toy.git("rev-parse", "live")
    assert set(toy.entries()) == ALL
    assert toy.git("rev-list", "--count", "--first-parent", "main..live") == "1"


def test_the_merged_head_makes_repro_a_no_op_and_restores_everything(toy: Toy, tmp_path: Path) -> None:
    clone = fresh_clone(toy, tmp_path / "clone", cache=toy.root / ".dvc/cache")
    clone.say("dvc", "checkout", "-q")
    assert "Data and pipelines are up to date." in clone.say("dvc", "repro")
    assert clone.ran() == []
    assert (clone.root / "models/t6/weights.txt").read_text() == "6"


def test_a_run_with_nothing_new_runs_nothing(toy: Toy) -> None:
    head = toy.git("rev-parse", "live")
    outcome = run.run(root=toy.root)
    assert (outcome.done, outcome.failed, outcome.commit) == ({}, {}, head)
    assert toy.ran() == []


def test_a_later_window_runs_what_it_changes_and_moves_with_the_merge(toy: Toy) -> None:
    outcome = run.run(until="2025-01-05", sources=["a"], targets=["fit@t1", "fit@t2"], jobs=4, root=toy.root)
    assert sorted(toy.ran()) == ["feat@a", "fit@t1", "join@t1", "join@t2", "raw@a"], "t2 is made of b alone"
    assert toy.git("show", "live:window.yaml").splitlines()[-2:] == ['a: "2025-01-05"', 'b: "2025-01-03"']
    assert toy.git("show", "main:window.yaml") == toy.git("show", f"{outcome.commit}^1:window.yaml")


def test_one_of_six_fails_five_are_merged_and_a_second_try_heals(toy: Toy, tmp_path: Path) -> None:
    toy.powers(2)
    start.deploy(root=toy.root)
    toy.write("notes.txt", "mine")
    toy.write("params.yaml", (toy.root / "params.yaml").read_text() + "# an edit\n")
    toy.git("add", "params.yaml")
    was, looked = toy.entries(), toy.looks()
    failing = toy.tell("fail", "fit@t3")
    outcome = run.run(jobs=6, root=toy.root)
    assert "fit@t3 has no data today" in outcome.failed["fit@t3"]
    assert {f"fit@{t}" for t in TASKS} - set(outcome.done) == {"fit@t3"}
    assert toy.looks() == looked, "a person's checkout was touched"
    assert not (toy.root / "dvc.lock").exists()
    assert not (toy.root / "models").exists()
    assert list((toy.state / "workspaces").glob("*/*")) == [], "something was left behind"
    with pytest.raises(UserError, match="fit@t3 has no data today"):
        outcome.require()
    now = toy.entries()
    assert now["fit@t3"] == was["fit@t3"]
    assert all(now[f"fit@{t}"] != was[f"fit@{t}"] for t in TASKS if t != "t3")

    failing.unlink()
    toy.ran()
    assert toy.stage("fit@t3", outcome.run)["state"] == "ran"
    healed = merge.merge_run(outcome.run, root=toy.root)
    assert toy.git("rev-parse", f"{healed}^1") == outcome.commit
    assert toy.ran() == ["fit@t3"]
    clone = fresh_clone(toy, tmp_path / "clone", cache=toy.root / ".dvc/cache")
    clone.say("dvc", "checkout", "-q")
    assert "Data and pipelines are up to date." in clone.say("dvc", "repro")


def test_a_failed_source_stops_who_names_it_while_others_use_its_earlier_data(toy: Toy) -> None:
    was = toy.entries()
    toy.tell("fail", "raw@b")
    outcome = run.run(until="2025-01-04", targets=["fit@t1", "fit@t2"], jobs=4, root=toy.root)
    assert set(outcome.failed) == {"raw@b"}
    assert set(outcome.blocked) == {"feat@b"}
    assert set(outcome.done) == {"raw@a", "feat@a", "join@t1", "join@t2", "fit@t1"}
    now = toy.entries()
    assert {"raw@b", "feat@b", "fit@t2"} <= {n for n in ALL if now[n] == was[n]}


def test_what_never_ran_cannot_stand_in_for_itself(tmp_path: Path) -> None:
    toy = Toy.make(tmp_path / "city")
    toy.tell("fail", "raw@b")
    outcome = run.run(jobs=4, root=toy.root)
    assert set(outcome.failed) == {"raw@b"}
    assert set(outcome.done) == {"raw@a", "feat@a"}
    assert set(outcome.blocked) == ALL - {"raw@a", "feat@a", "raw@b"}


def test_sigterm_reaches_the_stages_and_the_run_goes_on_later(toy: Toy) -> None:
    live = toy.git("rev-parse", "live")
    toy.tell("save", "raw@a")
    toy.tell("sleep", "raw@a", "60")
    start.begin("stopped", "2025-01-04", root=toy.root)
    code = "import sys, pathlib; from pipelines.runs.run import run; run(run='stopped', root=pathlib.Path(sys.argv[1]))"
    words = [sys.executable, "-c", code, str(toy.root)]
    process = subprocess.Popen(words, cwd=CODE, env=toy.environ, stderr=subprocess.PIPE, text=True)
    toy.wait("raw@a", process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert "Interrupted" in said
    assert (toy.state / "saved").read_text() == "raw@a"
    assert toy.git("rev-parse", "live") == live, "half a run was merged"
    (toy.state / "sleep-raw@a").unlink()
    toy.ran()
    outcome = run.run(run="stopped", targets=["feat@a", "feat@b"], jobs=4, root=toy.root)
    assert {"raw@a", "feat@a"} <= set(outcome.done)
    assert sorted(toy.ran()) in (["feat@a", "feat@b", "raw@a"], ["feat@a", "feat@b", "raw@a", "raw@b"])


class Terminal:
    """As much of a terminal as the table asks for."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_the_table_on_a_terminal_takes_its_live_lines_away_again() -> None:
    out = Terminal()
    table = Table(out)  # type: ignore[arg-type]
    table.draw({"fit@t1": 1.0, "fit@t2": 2.0}, waiting=3)
    assert "2 at work, 3 waiting" in out.text
    table.ended("fit@t1", "failed", 1.0, "no data")
    assert "\033[3A\033[J\033[31mx fit@t1" in out.text
    table.ended("fit@t2", "ran", 1.0)
    assert out.text.count("\033[3A") == 1


def test_the_steps_of_a_scheduler_one_by_one(toy: Toy) -> None:
    def say(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "-C", str(toy.root), *words], cwd=CODE, capture_output=True, text=True,
            check=False, env={**toy.environ, "CITYLOOP_DAG_RUN": "ingest_a/manual__1"},
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.stdout else done.stderr

    before = toy.git("rev-parse", "live")
    code, begun = say("begin", "a", "--until", "2025-01-05", "--run", "r1", "--json")
    assert (code, begun["run"], begun["windows"]) == (0, "r1", {"a": "2025-01-05", "b": "2025-01-03"})
    code, planned = say("plan", "r1", "feat@a", "--json", "--needed")
    assert (code, [p["stage"] for p in planned]) == (0, ["raw@a", "feat@a"])
    code, made = say("run", "feat@a", "--run", "r1", "--no-merge")
    assert (code, set(made["done"]), made["failed"]) == (0, {"raw@a", "feat@a"}, {})
    assert before == toy.git("rev-parse", "live"), "nothing is merged"
    assert say("plan", "r1", "feat@a", "--json", "--needed") == (3, [])
    code, merged = say("merge-run", "r1", "--json")
    assert (code, merged["stages"], merged["windows"]["a"]) == (0, ["feat@a", "raw@a"], "2025-01-05")
    assert merged["commit"] == toy.git("rev-parse", "live") != before
    assert "Dag-Run: ingest_a/manual__1" in toy.git("log", "-1", "--format=%(trailers)", "live")
