"""Branch live, the beginning of a run, and what is planned in it."""

import re
from pathlib import Path

import pytest
from toy import FILES, TASKS, Toy

from pipelines.core import log
from pipelines.core.errors import UserError
from pipelines.runs import lock, merge, refs, start


def stages(planned: list[start.Planned]) -> dict[str, str]:
    return {one.stage: one.state for one in planned}


def test_the_first_deploy_makes_live_of_head(tmp_path: Path) -> None:
    toy = Toy.make(tmp_path / "city")
    head = toy.git("rev-parse", "HEAD")
    assert start.deploy(root=toy.root) == head == toy.git("rev-parse", "live")
    assert start.deploy(root=toy.root) == head


def test_the_first_deploy_goes_on_from_what_was_reproduced_in_the_checkout(tmp_path: Path) -> None:
    toy = Toy.make(tmp_path / "city")
    toy.say("dvc", "repro", "-q", "join@t1", "join@t2")
    looks = toy.looks()
    start.deploy(root=toy.root)
    run = start.begin(root=toy.root)
    assert set(stages(start.plan(run, root=toy.root))) == {f"join@{t}" for t in TASKS[2:]} | {f"fit@{t}" for t in TASKS}
    assert toy.looks() == looks


def test_deploy_brings_code_and_keeps_lock_and_windows(toy: Toy) -> None:
    merge.merge_run(_made(toy, until="2025-01-04"), root=toy.root)
    before = toy.git("show", "live:dvc.lock"), toy.git("show", "live:window.yaml")
    toy.commit("pipelines/tool.py", "SCALE = 5\n")
    toy.commit("dvc.lock", "not a lock at all: main's own business\n")
    toy.commit("window.yaml", 'a: "2020-01-01"\nb: "2020-01-01"\n')
    live = toy.git("rev-parse", "live")
    commit = start.deploy(root=toy.root)
    assert toy.git("rev-parse", f"{commit}^1", f"{commit}^2").split() == [live, toy.git("rev-parse", "main")]
    assert (toy.git("show", "live:dvc.lock"), toy.git("show", "live:window.yaml")) == before
    assert toy.git("show", "live:pipelines/tool.py") == "SCALE = 5"
    assert start.deploy(root=toy.root) == commit, "there is nothing more to bring"


def _made(toy: Toy, until: str | None = None) -> str:
    run = start.begin(until=until, root=toy.root)
    toy.stage("raw@a", run)
    return run


def test_deploy_brings_windows_of_new_sources_and_drops_those_of_removed_ones(toy: Toy) -> None:
    merge.merge_run(_made(toy, until="2025-01-04"), root=toy.root)
    toy.commit("window.yaml", 'a: "2025-01-03"\nc: "2025-01-09"\n')
    start.deploy(root=toy.root)
    assert toy.git("show", "live:window.yaml").splitlines()[1:] == ['a: "2025-01-04"', 'c: "2025-01-09"']


def test_deploying_what_is_not_there_is_told(toy: Toy) -> None:
    with pytest.raises(UserError, match="no release-9 there to deploy"):
        start.deploy("release-9", root=toy.root)


def test_outside_a_checkout_and_below_its_top_the_way_out_is_told(tmp_path: Path, toy: Toy) -> None:
    with pytest.raises(UserError, match="not the top of a git checkout"):
        start.deploy(root=tmp_path)
    with pytest.raises(UserError, match="CITYLOOP_GIT"):
        start.deploy(root=toy.root / "pipelines")


def test_names_of_runs_sort_by_time_and_airflows_ids_can_be_refs() -> None:
    names = [refs.new_run() for _ in range(20)]
    assert len(set(names)) == 20
    assert [n[:15] for n in names] == sorted(n[:15] for n in names)
    assert refs.run_name("scheduled__2025-04-07T00:00:00+00:00") == "scheduled__2025-04-07T00-00-00-00-00"
    with pytest.raises(UserError, match="letters or digits"):
        refs.run_name("::")


def test_a_run_begun_again_keeps_its_windows(toy: Toy) -> None:
    assert start.begin("r", "2025-01-04", ["a"], root=toy.root) == "r"
    base = toy.git("rev-parse", "refs/runs/r/base")
    assert toy.git("show", f"{base}:window.yaml").splitlines() == ['a: "2025-01-04"', 'b: "2025-01-03"']
    assert start.begin("r", "2025-01-09", root=toy.root) == "r"
    assert toy.git("rev-parse", "refs/runs/r/base") == base
    assert toy.git("rev-parse", f"{base}^") == toy.git("rev-parse", "live")


def test_code_that_was_not_deployed_is_told(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    start.begin(root=toy.root)
    assert "deploy" not in capsys.readouterr().err
    toy.powers(2)
    start.begin(root=toy.root)
    assert "live lacks 1 commits of main; cityloop deploy brings them" in capsys.readouterr().err


def test_a_word_that_the_citys_own_window_command_refuses_begins_nothing(toy: Toy) -> None:
    toy.commit("pipelines/__main__.py", "import sys; sys.exit('error: --until: not a date; write it so')\n")
    start.deploy(root=toy.root)
    with pytest.raises(UserError, match=r"^--until: not a date; write it so$"):
        start.begin("r", "soon", root=toy.root)
    assert toy.git("for-each-ref", "refs/runs/r/") == ""


def test_a_stage_called_as_runs_call_their_own_refs_is_refused(toy: Toy) -> None:
    toy.commit("dvc.yaml", FILES["dvc.yaml"] + "  base: {cmd: touch x, outs: [x]}\n")
    start.deploy(root=toy.root)
    with pytest.raises(UserError, match="stage 'base'"):
        start.begin(root=toy.root)


def test_an_output_that_is_not_cached_is_refused(toy: Toy) -> None:
    toy.commit("dvc.yaml", FILES["dvc.yaml"] + "  odd: {cmd: touch x, outs: [{x: {cache: false}}]}\n")
    start.deploy(root=toy.root)
    with pytest.raises(UserError, match="odd: x: `cache: false` cannot travel"):
        start.begin(root=toy.root)


# What is planned: certain where the stage itself changed, possible below it.


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("params.yaml", "t1: {power: 1", "t1: {power: 2", {"fit@t1": "stale"}),
        ("params.yaml", "1, source: a}", "1, source: b}", {"join@t1": "stale", "fit@t1": "maybe"}),
        ("pipelines/tool.py", "SCALE = 1", "SCALE = 2", {"feat@a": "stale", "feat@b": "stale"}
         | {f"{what}@{t}": "maybe" for what in ("join", "fit") for t in TASKS}),
        ("dvc.yaml", "pipelines fit ${key}", "pipelines  fit ${key}", {f"fit@{t}": "stale" for t in TASKS}),
        ("params.yaml", "t6: {", "t7: {power: 1, source: a}\n  t6: {", {"join@t7": "stale", "fit@t7": "stale"}),
        ("README", "", "words", {}),
    ],
)  # fmt: skip
def test_what_is_planned(toy: Toy, file: str, old: str, new: str, expected: dict[str, str]) -> None:
    text = (toy.root / file).read_text() if old else ""
    assert old in text
    toy.commit(file, text.replace(old, new, 1) if old else new)
    start.deploy(root=toy.root)
    planned = start.plan(start.begin(root=toy.root), root=toy.root)
    assert stages(planned) == expected
    names = [one.stage for one in planned]
    assert all(names.index(above) < names.index(one.stage) for one in planned for above in one.after)


def test_what_may_have_to_run_is_decided_once_its_upstream_is_in(toy: Toy) -> None:
    toy.commit("pipelines/tool.py", "SCALE = 1  # the same\n")
    start.deploy(root=toy.root)
    run = start.begin(root=toy.root)
    assert stages(start.plan(run, ["fit@t1"], root=toy.root)) == {
        "feat@a": "stale", "feat@b": "stale", "join@t1": "maybe", "fit@t1": "maybe",
    }  # fmt: skip
    toy.stage("feat@a", run)
    assert set(stages(start.plan(run, ["fit@t1"], root=toy.root))) == {"feat@b", "join@t1", "fit@t1"}
    toy.stage("feat@b", run)
    assert start.plan(run, root=toy.root) == [], "the features came out as they were"


def test_reasons_and_order_can_be_read_by_programs(toy: Toy) -> None:
    run = start.begin(until="2025-01-04", sources=["a"], root=toy.root)
    (first, second) = start.as_json(start.plan(run, ["feat@a"], root=toy.root))
    assert first == {"stage": "raw@a", "state": "stale", "reason": "window.yaml: a changed", "after": []}
    assert second == {"stage": "feat@a", "state": "maybe", "reason": "after raw@a", "after": ["raw@a"]}


def test_a_lock_is_split_and_joined_byte_for_byte(toy: Toy) -> None:
    text = toy.git("show", "live:dvc.lock") + "\n"
    assert lock.join(lock.split(text)) == text
    assert lock.split("schema: '2.0'\n") == {} == lock.split("")
    for broken in (text.replace("  raw@a:", "<<<<<<< HEAD\n  raw@a:"), text + "junk\n"):
        with pytest.raises(UserError, match=re.escape("not as DVC writes it")):
            lock.split(broken)


def test_values_that_other_yaml_would_misread_are_no_change(toy: Toy) -> None:
    """Norway, hours and exponents, as DVC reads and writes them."""
    params = FILES["params.yaml"].replace("t1: {power: 1,", "t1: {power: {land: no, at: 12:30, rate: 1e-3},")
    toy.commit("params.yaml", params)
    toy.commit("pipelines/__main__.py", FILES["pipelines/__main__.py"].replace('params["tasks"][key]["power"]', "1"))
    start.deploy(root=toy.root)
    run = start.begin(root=toy.root)
    toy.stage("raw@a", run)
    toy.stage("raw@b", run)
    assert toy.stage("fit@t1", run)["state"] == "ran"
    assert "fit@t1" not in stages(start.plan(run, root=toy.root))
