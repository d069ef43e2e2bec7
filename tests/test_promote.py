"""Promotion on real stores and registries: who may, what is verified and written, and kills between any two steps."""

import shutil
import threading
from pathlib import Path

import promoted
import pytest
from promoted import TASK, Registry

from pipelines import history, promote, register, review, status
from pipelines.core.errors import Refused, UserError
from pipelines.core.paths import Paths
from pipelines.core.tracking import connect
from pipelines.release.ledger import Taken
from pipelines.release.store import Pointer


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("CITYLOOP_STATE", str(folder))
        with connect(Paths(folder)):
            pass
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str, str]:
    """A city in which release 1 serves and candidate 2 is approved; its folder and both digests. Copied by tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "CITYLOOP_STATE", "CITYLOOP_STORE"):
            patch.delenv(name, raising=False)
        registry = Registry.of(tmp_path_factory.mktemp("city"), empty_store)
        first = registry.candidate(1.0)
        registry.approve(first)
        promote.run(TASK, root=registry.root)
        second = registry.candidate(2.0)
        registry.approve(second)
    return registry.root, first, second


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "CITYLOOP_STATE", "CITYLOOP_STORE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def city(made: tuple[Path, str, str], tmp_path: Path) -> Registry:
    """A copy. MLflow's files name the first folder, which lies there unchanged."""
    shutil.copytree(made[0], tmp_path / "copy", symlinks=True)
    return Registry(Paths(tmp_path / "copy"))


@pytest.fixture
def digests(made: tuple[Path, str, str]) -> tuple[str, str]:
    return made[1:]


def run(city: Registry) -> None:
    promote.run(TASK, root=city.root)


def test_a_promotion_names_who_what_why_and_on_which_data(city: Registry, digests: tuple[str, str]) -> None:
    first, second = digests
    city.agrees(first)
    review.run(TASK, decision="approved", name="bob", note="better at night", root=city.root)
    promote.run(TASK, by="ada", root=city.root)
    city.agrees(second, first)
    assert "candidate" not in city.aliases()
    record = city.ledger.records()[-1]
    assert {
        "action": "promote",
        "state": "serving",
        "version": "2",
        "reason": "better at night",
    }.items() <= record.items()
    assert record["reviewers"] == ["ada", "bob"]
    assert record["lineage"] == city.tags(second)["lineage"]
    assert "2024-10-07" in record["data_window"]
    assert city.tags(second)["release"].startswith("promote: serving since")
    assert (city.store.fetch(TASK, second) / "model.onnx").is_file()
    assert "Verdict" in (city.store.card(TASK, second) or "")
    told = history.run(TASK, root=city.root)
    assert [r["digest"] for r in told if r["state"] == "serving"] == [first, second]
    assert "approved by ada, bob" in history.table(told)
    at = history.run(TASK, at=told[1]["at"], root=city.root)
    assert at[0]["state"] == "serving"
    with pytest.raises(UserError, match="nothing served at 2020"):
        history.run(TASK, at="2020-01-01", root=city.root)
    serving = status.run(root=city.root)["tasks"][TASK]
    assert (serving["champion"], serving["previous"], serving["version"]) == (second, first, "2")


def test_without_an_approval_of_this_bundle_nothing_moves(city: Registry, digests: tuple[str, str]) -> None:
    third = city.candidate(3.0)
    with pytest.raises(Refused, match="0 of 1 approvals"):
        run(city)
    city.approve(third, decision="rejected")
    with pytest.raises(Refused, match="rejected by ada"):
        run(city)
    city.agrees(digests[0])
    assert city.tags(digests[1])["superseded"] == "by version 3"


def test_a_change_of_champion_after_the_review_asks_for_a_new_one(city: Registry, digests: tuple[str, str]) -> None:
    run(city)
    third = city.candidate(3.0)
    city.approve(third)
    promote.rollback(TASK, root=city.root)
    with pytest.raises(Refused, match=r"compares with champion .* have it reviewed again"):
        run(city)
    from pipelines import gate

    gate.run(TASK, root=city.root)
    with pytest.raises(Refused, match="0 of 1 approvals"):
        run(city)
    city.approve(third)
    run(city)
    city.agrees(third, digests[0])


def test_bytes_that_are_not_what_was_reviewed_are_refused(city: Registry, digests: tuple[str, str]) -> None:
    with connect(city.paths) as tracking:
        tracking.client.set_model_version_tag(TASK, "2", "digest", "f" * 64)
    city.approve("f" * 64)
    with pytest.raises(Refused, match="somebody changed it"):
        run(city)
    city.agrees(digests[0])


def test_a_champion_whose_bytes_changed_stops_a_promotion(city: Registry, digests: tuple[str, str]) -> None:
    path = city.root / ".cityloop/store/releases" / TASK / digests[0] / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"model\.onnx: not the bytes"):
        run(city)
    assert city.ledger.state().stable == digests[0]


def test_two_promotes_at_once_make_one(city: Registry, digests: tuple[str, str]) -> None:
    gate, said = threading.Barrier(2), []

    def one() -> None:
        gate.wait()
        try:
            run(city)
            said.append("done")
        except UserError as error:  # Taken, Refused (under way, or serves already)
            said.append(type(error).__name__)

    both = [threading.Thread(target=one) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert "done" in said
    assert len([r for r in city.ledger.records() if r["state"] == "intended" and r["digest"] == digests[1]]) == 1
    city.agrees(digests[1], digests[0])


def test_a_rollback_needs_no_registry_and_says_so_later(city: Registry, digests: tuple[str, str]) -> None:
    run(city)
    (city.paths.state / "mlflow.db").rename(city.paths.state / "away.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        promote.rollback(TASK, by="op", why="jams", root=city.root)
    assert city.pointer().stable == digests[0]
    (city.paths.state / "away.db").rename(city.paths.state / "mlflow.db")
    assert city.aliases()["champion"] == digests[1], "MLflow was away"
    promote.reconcile([], root=city.root)
    city.agrees(digests[0], digests[1])
    assert "jams" in city.tags(digests[0])["release"]
    register.run(TASK, root=city.root)
    assert "candidate" not in city.aliases(), "what was rolled back is no candidate again"


def test_mlflow_may_go_away_once_a_promotion_has_begun(
    city: Registry, digests: tuple[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = promote.Promoter._tell

    def away(self: promote.Promoter, step: str) -> None:
        if step == "flip the pointer":
            monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        told(self, step)

    monkeypatch.setattr(promote.Promoter, "_tell", away)
    run(city)
    assert (city.ledger.state().stable, city.pointer().stable) == (digests[1], digests[1])
    assert "--reconcile` does it later" in caplog.text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert city.aliases()["champion"] == digests[0]
    promote.reconcile([TASK], root=city.root)
    city.agrees(digests[1], digests[0])


def test_a_rollback_goes_to_what_served_and_nothing_else(city: Registry, digests: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="nothing served before"):
        promote.rollback(TASK, root=city.root)
    with pytest.raises(UserError, match=r"no release '2' ever served; served have: version 1"):
        promote.rollback(TASK, to="2", root=city.root)
    run(city)
    promote.rollback(TASK, to=digests[0][:10], root=city.root)
    city.agrees(digests[0], digests[1])
    promote.rollback(TASK, to="2", root=city.root)
    city.agrees(digests[1], digests[0])
    with pytest.raises(UserError, match="serves already"):
        promote.rollback(TASK, to="2", root=city.root)


@pytest.mark.parametrize("again", ["promote", "reconcile"])
@pytest.mark.parametrize("step", range(6))
def test_killed_before_any_step_a_second_call_finishes_or_undoes(
    city: Registry, digests: tuple[str, str], step: int, again: str
) -> None:
    first, second = digests
    steps = promoted.die_at(step, "promote", city.root)
    assert len(steps) == step
    flipped = "flip the pointer" in steps
    assert city.pointer().stable == (second if flipped else first)
    if again == "promote":
        run(city)
        city.agrees(second, first)
    else:
        promote.reconcile([TASK], root=city.root)
        city.agrees(*((second, first) if flipped else (first, None)))
        if not flipped:
            assert city.aliases()["candidate"] == second, "it can be promoted yet"
            run(city)
            city.agrees(second, first)


@pytest.mark.parametrize("step", range(4))
def test_a_rollback_killed_before_any_step_is_finished_or_undone(
    city: Registry, digests: tuple[str, str], step: int
) -> None:
    run(city)
    steps = promoted.die_at(step, "rollback", city.root)
    assert len(steps) == step
    promote.reconcile([TASK], root=city.root)
    back = "flip the pointer" in steps
    city.agrees(*(digests if back else reversed(digests)))


def test_a_promoter_that_slept_cannot_undo_a_later_decision(city: Registry, digests: tuple[str, str]) -> None:
    asleep = promote.Promoter.of(TASK, city.root, "sleeper")
    state = asleep.ledger.state()
    intent = asleep.rollout.begin(state, "promote", digests[1], {"host": "elsewhere", "token": "t"})
    promote.reconcile([TASK], root=city.root)
    with pytest.raises(Taken, match="took over"):
        asleep.rollout.carry_out(intent, intent, city.paths.task(TASK))
    city.agrees(digests[0])


def test_the_watcher_promotes_what_is_approved_and_nothing_else(city: Registry, digests: tuple[str, str]) -> None:
    third = city.candidate(3.0)
    looks = iter([False, False, True])
    promote.watch([TASK], root=city.root, stop=lambda: next(looks))
    city.agrees(digests[0])
    city.approve(third)
    looks = iter([False, True])
    promote.watch([TASK], root=city.root, stop=lambda: next(looks))
    city.agrees(third, digests[0])


def test_the_watcher_does_not_try_again_what_was_undone(city: Registry, digests: tuple[str, str]) -> None:
    city.params(release={"wait": 1})
    beat = {
        "beat": 1,
        "every_s": 60.0,
        "tasks": {TASK: {"seq": 99, "stable": digests[0], "refused": digests[1], "error": "golden answers differ"}},
    }
    city.store.beat("server", beat)
    looks = iter([False, False, True])
    promote.watch([TASK], root=city.root, stop=lambda: next(looks))
    city.agrees(digests[0])
    aborted = [r for r in city.ledger.records() if r["state"] == "aborted"]
    assert len(aborted) == 1
    assert "server refuses it: golden answers differ" in aborted[0]["why"]
    assert "golden answers differ" in city.tags(digests[1])["release"]


def test_old_releases_go_and_those_that_may_be_needed_stay(city: Registry, digests: tuple[str, str]) -> None:
    city.params(release={"keep": 1})
    run(city)
    third = city.candidate(3.0)
    city.approve(third)
    other = city.store.put(TASK, _other(city))
    run(city)
    assert set(city.store.releases(TASK)) == {digests[1], third, other}, "only what once served is old"
    promote.rollback(TASK, root=city.root)
    with pytest.raises(UserError, match="no bundle"):
        promote.rollback(TASK, to="1", root=city.root)


def _other(city: Registry) -> Path:
    import carded

    from pipelines.release import bundle

    bundle.write(city.root / "other", carded.contents(TASK, 9.0))
    return city.root / "other"


def test_a_pointer_that_somebody_wrote_is_mended_from_the_ledger(city: Registry, digests: tuple[str, str]) -> None:
    city.store.point(Pointer(TASK, 99, digests[1]))
    assert "reconcile" in status.run(root=city.root)["tasks"][TASK]["under_way"]
    promote.reconcile([TASK], root=city.root)
    city.agrees(digests[0])
    city.store.objects.put(f"current/{TASK}.json", b"{half")
    with pytest.raises(UserError, match="reconcile"):
        city.store.pointer(TASK)
    promote.reconcile([TASK], root=city.root)
    city.agrees(digests[0])


def test_a_review_from_a_shell_is_the_tag_a_person_would_set(city: Registry, digests: tuple[str, str]) -> None:
    third = city.candidate(3.0)
    page = review.run(TASK, root=city.root)
    assert third in page
    assert "reviews: none yet" in page
    review.run(TASK, decision="rejected", name="bob", note="no", root=city.root)
    assert city.tags(third)["review.bob"] == f"rejected:{third}"
    assert "bob: rejected" in review.run(TASK, root=city.root)
    with pytest.raises(UserError, match="--as NAME"):
        review.run(TASK, decision="approved", root=city.root)
    with pytest.raises(UserError, match="no version 9"):
        review.run(TASK, version="9", root=city.root)


def test_an_answer_or_a_promotion_of_another_bundle_is_refused(city: Registry, digests: tuple[str, str]) -> None:
    first, second = digests
    with pytest.raises(Refused, match=f"version 2 is bundle {second[:12]}, and the answer is about {first[:12]}"):
        review.run(TASK, decision="approved", name="bob", version="2", expected=first, root=city.root)
    assert "review.bob" not in city.tags(second)
    with pytest.raises(Refused, match="the candidate is version 2"):
        promote.run(TASK, digest="0" * 64, root=city.root)
    city.agrees(first)


def test_what_a_promotion_came_to_is_told_and_names_its_dag_run(
    city: Registry, digests: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = digests
    assert promote.run(TASK, digest=first, root=city.root)["digest"] == first, "it serves already"
    waiting = review.told(TASK, root=city.root)
    assert (waiting["version"], waiting["digest"], waiting["decision"]) == ("2", second, "approved")
    monkeypatch.setenv("CITYLOOP_DAG_RUN", "promote_toy/manual__1")
    told = promote.run(TASK, digest=second, root=city.root)
    assert told == {"task": TASK, "version": "2", "digest": second, "record": told["record"], "servers": 0}
    assert city.ledger.records()[-1]["dag_run"] == "promote_toy/manual__1"
    assert status.verify(TASK, second, root=city.root, patience=0) == 0
    with pytest.raises(Refused, match=f"{second[:12]} is to serve, not {first[:12]}"):
        status.verify(TASK, first, root=city.root, patience=0)


def test_a_promotion_waits_for_another_that_brings_the_same_bundle(city: Registry, digests: tuple[str, str]) -> None:
    _, second = digests
    told: list[dict[str, object]] = []
    both = [
        threading.Thread(target=lambda: told.append(promote.run(TASK, digest=second, root=city.root))) for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one["digest"] for one in told] == [second, second]
    assert sum(r["state"] == "intended" and r["digest"] == second for r in city.ledger.records()) == 1


def test_reviews_told_to_a_scheduler(city: Registry, digests: tuple[str, str]) -> None:
    _, second = digests
    city.approve(second, "bob", "rejected")
    told = review.told(TASK, root=city.root)
    assert (told["decision"], told["by"], told["why"]) == ("rejected", ["bob"], "rejected by bob")
    third = city.candidate(3.0)
    assert review.told(TASK, root=city.root)["decision"] == "waiting"
    assert review.told(TASK, version="3", root=city.root)["digest"] == third
    assert review.told(TASK, version="2", root=city.root)["decision"] == "rejected"
    city.candidate(4.0)
    assert review.told(TASK, version="3", root=city.root)["decision"] == "superseded"
