"""From a decision, or a person's dates, to retrain.yaml; and what that file may say."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from small_city import city, source

from pipelines.__main__ import main
from pipelines.core import files, params
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.release import bundle
from pipelines.release.store import Pointer, Store
from pipelines.watch.kept import Kept

TASK = {
    "department": "d",
    "question": "?",
    "objective": "forecast",
    "backbone": "series",
    "target": {"source": "x"},
    "context": "1d",
    "horizon": "1h",
}
DATES = {
    "start": "2025-02-24T00:00:00Z",
    "validation_from": "2025-02-26T00:00:00Z",
    "test_from": "2025-02-28T12:00:00Z",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tasks t and u on source x, 2025-01-20 to 2025-03-05; a champion of t serves."""
    monkeypatch.delenv("CITYLOOP_STATE", raising=False)
    monkeypatch.delenv("CITYLOOP_STORE", raising=False)
    city(tmp_path, {"x": source()}, tasks={"t": {**TASK, "finetune": {"init": "0" * 64, "replay": 0.5}}, "u": TASK})
    store(tmp_path).point(Pointer("t", 1, champion(tmp_path)))
    return tmp_path


def store(root: Path) -> Store:
    return Store.of(Paths(root))


def champion(root: Path, words: str = "one") -> str:
    bundle.write(root / words, {"config.json": words.encode()})
    return store(root).put("t", root / words)


def decide(root: Path, decision: str = "retrain", **more: Any) -> dict[str, Any]:
    """Write the decision about t; its `retrain`."""
    serves = store(root).pointer("t")
    entry = {"init": serves and serves.stable, **DATES}
    told = {"until": "2025-03-05T00:00:00Z", "decision": decision, "reasons": ["A road closed.", "It shows."]}
    told |= {"retrain": entry if decision == "retrain" else None, "champion": entry["init"], **more}
    Kept(store(root).objects, "t").write("decision.json", files.to_json(told))
    return entry


def say(root: Path, *words: str) -> tuple[int, str]:
    """Exit code and the last line that was said."""
    done = CliRunner().invoke(main, ["-C", str(root), "retrain", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, (done.output.strip().splitlines() or [""])[-1]


def entries(root: Path) -> Any:
    return yaml.safe_load((root / "retrain.yaml").read_text())


def test_the_decision_becomes_the_entry_once(root: Path) -> None:
    champion = decide(root)["init"]
    code, line = say(root, "t", "--json")
    expected = {"init": champion, "start": "2025-02-24", "validation_from": "2025-02-26"}
    expected |= {"test_from": "2025-02-28T12:00:00Z"}
    assert (code, json.loads(line)) == (0, {"task": "t", "changed": True, "entry": expected, "commit": None})
    assert entries(root) == {"t": expected, "u": None}
    before = (root / "retrain.yaml").stat().st_ino
    code, line = say(root, "t")
    assert code == 0
    assert "was to be trained anew already from bundle" in line
    assert (root / "retrain.yaml").stat().st_ino == before
    read = params.load(root)
    assert read.dates("t") == tuple(params.parse_instant(DATES[k]) for k in DATES)
    assert read.dates("u") == tuple(params.parse_instant(d) for d in ("2025-01-20", "2025-02-10", "2025-02-20"))
    assert (read.trained("t").finetune.init, read.trained("t").finetune.replay) == (champion, 0)
    assert read.trained("u") == read.task("u")


def test_clearing_goes_back_to_the_dates_of_params(root: Path) -> None:
    decide(root)
    say(root, "t")
    assert say(root, "t", "--clear") == (0, "t goes by the dates of params.yaml again")
    assert entries(root) == {"t": None, "u": None}
    assert say(root, "t", "--clear") == (0, "t goes by the dates of params.yaml as it is")
    assert params.load(root).trained("t").finetune.init == "0" * 64
    assert say(root, "t", "--clear", "--start", "2025-02-24")[0] == 2


@pytest.mark.parametrize("decision", ["watch", "fine"])
def test_another_decision_is_refused_with_its_reasons(root: Path, decision: str) -> None:
    decide(root, decision)
    code, line = say(root, "t")
    assert code == 4
    assert line.endswith(f"is `{decision}`: A road closed.; It shows.")
    assert not (root / "retrain.yaml").exists()


def test_no_decision_and_one_about_another_champion_are_refused(root: Path) -> None:
    assert say(root, "t") == (
        4, "error: t: nothing was decided yet; run `cityloop monitor t`, or give --test-from"
    )  # fmt: skip
    decide(root)
    store(root).point(Pointer("t", 2, champion(root, "two")))
    code, line = say(root, "t")
    assert code == 4
    assert "serves now; run `cityloop monitor t` again" in line
    assert not (root / "retrain.yaml").exists()


def test_by_hand_without_any_decision(root: Path) -> None:
    serves = store(root).pointer("t").stable
    assert say(root, "t", "--test-from", "2025-03-03")[0] == 0
    # Validation is as long as the task's settings say, and training goes on from what serves.
    expected = {"init": serves, "start": None, "validation_from": "2025-03-02", "test_from": "2025-03-03"}
    assert entries(root)["t"] == expected
    assert say(root, "t", "--validation-from", "2025-03-01", "--from-backbone", "--start", "2025-02-27")[0] == 0
    assert entries(root)["t"] == {
        "init": None, "start": "2025-02-27", "validation_from": "2025-03-01", "test_from": "2025-03-04"
    }  # fmt: skip
    other = champion(root, "two")
    assert say(root, "t", "--test-from", "2025-03-03", "--init", other)[0] == 0
    assert entries(root)["t"]["init"] == other
    # A task of which nothing serves begins with the backbone.
    assert say(root, "u", "--test-from", "2025-03-03")[0] == 0
    assert entries(root)["u"]["init"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--test-from", "soon"], "'soon' is not a date"),
        (["--test-from", "2025-03-05"], "test_from: 2025-03-05 leaves no test; the source's window ends on 2025-03-05"),
        (["--test-from", "2025-01-21"], "validation_from: 2025-01-20 leaves nothing to learn from"),
        (["--test-from", "2025-03-01", "--start", "2025-01-01"], "start: 2025-01-01 lies before the source's start"),
        (["--test-from", "2025-03-01", "--start", "2025-03-01"], "dates must run start < validation_from < test_from"),
        (["--test-from", "2025-03-01", "--init", "abc"], "'abc' is not a SHA-256"),
        (["--test-from", "2025-03-01", "--init", "9" * 64], "to go on from; try --from-backbone"),
        (["--init", "9" * 64, "--from-backbone"], "give one of them"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_no_entry(root: Path, words: list[str], says: str) -> None:
    code, line = say(root, "t", *words)
    assert code == 2
    assert says in line
    assert not (root / "retrain.yaml").exists() or entries(root) == {"t": None, "u": None}


def test_every_task_gets_a_key_and_those_of_removed_ones_go(root: Path) -> None:
    (root / "retrain.yaml").write_text(f"t: {json.dumps({'init': None, **DATES})}\ngone: {json.dumps(DATES)}\n")
    with pytest.raises(
        UserError, match=r"retrain\.yaml: gone: no such task; `cityloop retrain` without a task drops it"
    ):
        params.load(root)
    code, line = say(root, "--json")
    assert code == 0
    assert set(json.loads(line)) == set(entries(root)) == {"t", "u"}
    assert entries(root)["t"] == {"init": None, **DATES}
    assert params.load(root).retrain["u"] is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t: {validation_from: '2025-02-26'}", "t.test_from: missing; this key is required"),
        ("t: {validation_from: 2025-02-26, test_from: '2025-03-01'}", "write the date in quotes"),
        ("t: {init: abc, validation_from: '2025-02-26', test_from: '2025-03-01'}", "t.init: 'abc' is not a SHA-256"),
        ("t: {validation_from: '2025-03-01', test_from: '2025-02-26'}", "t: dates must run start < validation_from"),
        ("t: {validation_from: '2025-02-26', test_from: '2025-04-01'}", "t.test_from: 2025-04-01 leaves no test"),
        ("t: {valid_from: '2025-02-26', test_from: '2025-03-01'}", "did you mean 'validation_from'"),
        ("t: soon", "retrain.yaml: t: "),
        ("- t", "expected a mapping"),
    ],
)
def test_a_faulty_file_is_one_line_that_names_it(root: Path, text: str, says: str) -> None:
    (root / "retrain.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        params.load(root)
    assert str(error.value).startswith(f"{root / 'retrain.yaml'}: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_entries_have_no_place_in_params_yaml(root: Path) -> None:
    with (root / "params.yaml").open("a") as file:
        file.write("retrain: {}\n")
    with pytest.raises(UserError, match=r"retrain: unknown key; retrainings belong in retrain\.yaml"):
        params.load(root)
