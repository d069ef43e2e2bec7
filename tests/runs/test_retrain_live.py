"""A task's retraining on branch `live`: a commit of its own that deploys and merges leave alone."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import FILES, TASKS, Toy

from pipelines.core.errors import UserError
from pipelines.runs import merge, retrain, start
from pipelines.runs.git import Repository
from pipelines.runs.refs import Home

WORDS = ("--init", "7" * 64, "--validation-from", "2025-01-02", "--test-from", "2025-01-03")
ENTRY = {"init": "7" * 64, "validation_from": "2025-01-02", "test_from": "2025-01-03"}


def entries(toy: Toy, revision: str = "live") -> dict[str, Any]:
    """Entries that are none but null are left out."""
    found = yaml.safe_load(toy.git("show", f"{revision}:retrain.yaml"))
    assert list(found) == sorted(found)
    return {task: {k: v for k, v in e.items() if v is not None} for task, e in found.items() if e}


def planned(toy: Toy) -> dict[str, str]:
    return {one.stage: one.state for one in start.plan(start.begin(root=toy.root), root=toy.root)}


def test_an_entry_is_a_commit_on_live_that_concerns_its_task_alone(toy: Toy) -> None:
    before, looks = toy.git("rev-parse", "live"), toy.looks()
    commit, changed = retrain.commit("t1", WORDS, "Train t1 anew\n\nThe error was too high.", root=toy.root)
    assert changed
    assert commit == toy.git("rev-parse", "live")
    assert toy.git("rev-parse", "live^") == before
    assert toy.git("diff", "--name-only", before, "live") == "retrain.yaml"
    assert "The error was too high." in toy.git("show", "-s", "--format=%B", "live")
    assert entries(toy) == {"t1": ENTRY}
    assert toy.looks() == looks
    assert planned(toy) == {"join@t1": "stale", "fit@t1": "maybe"}
    toy.stage("join@t1", run := start.begin(root=toy.root))
    # Its data came out as they were, so nothing is trained for nothing.
    assert start.plan(run, root=toy.root) == []


def test_the_same_again_changes_nothing_and_clearing_goes_back(toy: Toy) -> None:
    commit, _ = retrain.commit("t1", WORDS, "Train t1 anew", root=toy.root)
    assert retrain.commit("t1", WORDS, "Train t1 anew", root=toy.root) == (commit, False)
    _, changed = retrain.commit("t1", ["--clear"], "t1 as before", root=toy.root)
    assert changed
    assert entries(toy) == {}
    assert planned(toy) == {}


def test_a_deploy_keeps_it_and_brings_keys_of_new_tasks_and_takes_those_of_removed_ones(toy: Toy) -> None:
    retrain.commit("t1", WORDS, "Train t1 anew", root=toy.root)
    retrain.commit("t6", WORDS, "Train t6 anew", root=toy.root)
    toy.commit("retrain.yaml", f"t2: {ENTRY}\n")  # main's own business
    text = FILES["params.yaml"].replace("  t6: {", "  t7: {")
    toy.commit("params.yaml", text)
    commit = start.deploy(root=toy.root)
    assert entries(toy) == {"t1": ENTRY}
    assert set(yaml.safe_load(toy.git("show", "live:retrain.yaml"))) == {*TASKS[:5], "t7"}
    assert planned(toy)["join@t7"] == "stale"
    assert start.deploy(root=toy.root) == commit


def test_the_first_deploy_of_a_city_without_the_file_brings_it(tmp_path: Path) -> None:
    toy = Toy.make(tmp_path / "city")
    toy.git("rm", "-q", "retrain.yaml")
    toy.git("commit", "-q", "-m", "No such file")
    commit = start.deploy(root=toy.root)
    assert toy.git("rev-parse", f"{commit}^") == toy.git("rev-parse", "main")
    assert toy.git("show", "live:retrain.yaml") == FILES["retrain.yaml"].strip()
    assert start.deploy(root=toy.root) == commit
    assert "join@t1" in planned(toy)


def test_a_run_that_was_on_meanwhile_leaves_it_alone(toy: Toy) -> None:
    toy.stage("raw@a", start.begin("r", "2025-01-05", root=toy.root))
    retrain.commit("t1", WORDS, "Train t1 anew", root=toy.root)
    merge.merge_run("r", root=toy.root)
    assert entries(toy) == {"t1": ENTRY}
    assert "2025-01-05" in toy.git("show", "live:window.yaml")


def test_when_live_moves_meanwhile_it_is_done_again(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    push, done = Home.push, []

    def late(home: Home, repository: Repository, moves: Any, was: Any) -> bool:
        if not done:
            done.append(1)
            retrain.commit("t2", WORDS, "Train t2 anew", root=toy.root)
        answer = push(home, repository, moves, was)
        done.append(answer)
        return answer

    monkeypatch.setattr(Home, "push", late)
    commit, _ = retrain.commit("t1", WORDS, "Train t1 anew", root=toy.root)
    assert done == [1, True, False, True]
    assert commit == toy.git("rev-parse", "live")
    assert entries(toy) == {"t1": ENTRY, "t2": ENTRY}


def test_what_the_citys_own_command_refuses_leaves_live_alone(toy: Toy) -> None:
    toy.commit("pipelines/__main__.py", "import sys; sys.exit('error: t1: test_from: no test is left')\n")
    start.deploy(root=toy.root)
    live = toy.git("rev-parse", "live")
    with pytest.raises(UserError, match=r"^t1: test_from: no test is left$"):
        retrain.commit("t1", WORDS, "Train t1 anew", root=toy.root)
    assert toy.git("rev-parse", "live") == live
