"""What becomes of a command's answer, of a review that waits, and of a notification: tried in Airflow's own Python."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from workspaces import ROOT

PYTHON = ROOT / ".venv-airflow/bin/python"
ASSET = "cityloop://source/x"
DIGEST = "ab" * 32

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no Airflow here: make setup-airflow")


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tried")
    hidden = ("AIRFLOW", "CITYLOOP_", "MLFLOW_", "PYTHONPATH")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    environ |= {"AIRFLOW_HOME": str(folder), "PYTHONPATH": str(ROOT / "dags"), "CITYLOOP_ROOT": str(folder)}
    environ["AIRFLOW__API__BASE_URL"] = "http://airflow"
    command = [str(PYTHON), str(Path(__file__).with_name("tried_in_airflow.py")), str(folder)]
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)


def test_a_result_becomes_xcom_event_and_link(tried: Any) -> None:
    well = tried["commands"]["well"]
    assert well["error"] is None
    assert well["result"] == {"run": "r", "commit": "c0ffee0123456", "windows": {"x": "2025-04-08"}}
    told = {"run": "r", "commit": "c0ffee0123456", "window": {"x": "2025-04-08"}, "dag_run": "a_dag/a_run"}
    assert well["events"] == {ASSET: told}
    assert well["links"] == {"MLflow version": "", "Commit": "https://git.city.example/c/c0ffee0123456"}


def test_words_reach_the_command_as_they_are(tried: Any) -> None:
    assert tried["commands"]["words"]["result"] == "a b|$(id)|it's|"


def test_the_command_sees_nothing_of_airflows_own(tried: Any) -> None:
    secret, path, root = tried["commands"]["environment"]["result"].split(" ")
    assert (secret, path) == ("none", "none")
    assert Path(root).is_dir()


@pytest.mark.parametrize(
    ("case", "error", "why"),
    [
        ("nothing", "AirflowSkipException", "nothing to do: every stage is up to date"),
        ("fails", "AirflowSkipException", "worse"),
        ("nobody", "AirflowSkipException", "x: no version is its candidate; run"),
        ("broken", "AirflowFailException", "too broken (exit code 3: no retry would change it)"),
        ("away", "AirflowException", "MLflow does not answer (exit code 2)"),
        ("has no need to", "AirflowSkipException", "verify did not fail"),
    ],
)
def test_exit_codes_skip_fail_for_good_or_are_tried_again(tried: Any, case: str, error: str, why: str) -> None:
    told = tried["commands"][case]
    assert (told["error"], told["why"]) == (error, why)
    assert told["events"] == {}
    if error == "AirflowSkipException" and case != "has no need to":
        assert told["pushed"]["reason"] == why


def test_a_merge_after_a_failure_is_red_and_wakes_nobody(tried: Any) -> None:
    assert tried["commands"]["whole"]["error"] is None
    assert set(tried["commands"]["whole"]["events"]) == {ASSET}
    partial = tried["commands"]["partial"]
    assert partial["error"] == "Partly"
    assert partial["why"] == "what succeeded is on live, at c0ffee0123; red because of score (failed)"
    assert partial["events"] == {}


def test_rollback_is_for_a_verify_that_failed(tried: Any) -> None:
    assert tried["commands"]["rolls back"]["result"] == "back"


@pytest.mark.parametrize("how", ["limit", "signal"])
def test_a_command_told_to_end_saves_what_it_has(tried: Any, how: str) -> None:
    told = tried["told_to_end"][how]
    assert told["saved"]
    assert not told["left"]
    assert told["error"] == {"limit": "RuntimeError", "signal": "AirflowException"}[how]


def test_a_review_is_waited_for_and_ends_by_what_is_said(tried: Any) -> None:
    told = tried["reviews"]
    assert told["approved"]["result"]["by"] == ["ada"]
    for case in ("waiting", "one of two"):
        assert told[case]["error"] == "TaskDeferred"
        assert told[case]["next"] == "resumed"
        kwargs = told[case]["trigger"][1]
        assert (kwargs["task"], kwargs["version"], kwargs["digest"]) == ("t", "7", DIGEST)
        assert kwargs["until"] == told[case]["kwargs"]["until"]
    assert told["waiting"]["trigger"][1]["seen"] == {}
    assert told["one of two"]["trigger"][1]["seen"] == {"review.ada": f"approved:{DIGEST}"}
    reasons = {case: told[case]["pushed"]["reason"] for case in ("rejected", "superseded", "expired")}
    assert reasons["rejected"] == "version 7: w"
    assert reasons["superseded"] == "version 7: w"
    assert reasons["expired"].startswith("version 7 was not answered in 2 days")
    assert {told[case]["error"] for case in reasons} == {"AirflowSkipException"}
    assert told["misled"]["error"] == "AirflowFailException"


def test_a_form_tells_who_answered_or_that_nobody_did(tried: Any) -> None:
    assert tried["forms"]["late"]["error"] == "AirflowSkipException"
    assert tried["forms"]["late"]["pushed"]["reason"] == "nobody answered in 2 days, 0:00:00"
    answered = tried["forms"]["answered"]["result"]
    assert answered["responded_by_user"]["name"] == "ada"
    assert answered["chosen_options"] == ["Reject"]


def test_the_trigger_wakes_for_what_concerns_this_bundle_alone(tried: Any) -> None:
    fired, yes = tried["triggers"], f"approved:{DIGEST}"
    assert fired["another bundle"] == fired["seen"] == {"expired": True}
    assert fired["this one"] == fired["away"] == {"said": {"review.ada": yes}}
    assert fired["proof"] == {"said": {"review.ada": yes, "proof.ada": "jwt"}}
    assert fired["superseded"] == {"said": {"superseded": "by version 8"}}
    assert fired["newer"] == {"said": {"candidate": "8"}}
    assert fired["gone"] == {"said": {"gone": "true"}}
    assert "sqlite:///x.db" in fired["no server"]["error"]
    path, query, account = fired["asked"]
    assert (path, query) == ("/api/2.0/mlflow/model-versions/get", {"name": ["t"], "version": ["7"]})
    assert account.startswith("Basic ")


def test_who_is_told_learns_what_it_means_and_what_to_do(tried: Any) -> None:
    failure, late = tried["notifications"]
    assert failure["title"] == "a_dag: a_task failed"
    for words in ("Tasks keep the backbone they have", "Reason: out of memory", "Can it wait?", "What to do:",
                  "Owner: energy", "Log: http://airflow/log"):  # fmt: skip
        assert words in failure["message"]
    assert late["title"] == "a_dag: not over"
    assert "http://airflow/dags/a_dag/runs/a%2Brun" in late["message"]


DRIFT = "cityloop://drift/a"


def test_a_decision_wakes_training_and_nothing_else_does(tried: Any) -> None:
    told = tried["watching"]
    extra = {"commit": "c0ffee", "task": "a", "window": {}, "dag_run": "a_dag/a_run"}
    assert told["anew"]["events"] == told["died between"]["events"] == {DRIFT: extra}
    assert {name for name, one in told.items() if one["events"]} == {"anew", "died between"}
    assert told["no git"]["error"] == "AirflowException"
    for name, why in {
        "was anew": "a was to be trained anew already",
        "fine": "fine: The error is within the gate.",
        "by hand": "tasks.b.monitor.retrain.automatic is false: `cityloop retrain b --live`",
        "another serves": "another serves now",
    }.items():
        assert (told[name]["error"], told[name]["pushed"]["reason"]) == ("AirflowSkipException", why)


def test_what_nothing_answers_or_nobody_asked_for_is_skipped(tried: Any) -> None:
    told = tried["watching"]
    for name, why in {
        "not asked": "schedule.monitor.predict in params.yaml does not name b",
        "nothing serves": "a: no release serves yet",
        "pictures": "p: nothing tells yet what was right",
    }.items():
        assert (told[name]["error"], told[name]["pushed"]["reason"]) == ("AirflowSkipException", why)
    assert told["asked"]["error"] is None


def test_what_was_answered_is_scored_though_no_more_could_be(tried: Any) -> None:
    told = tried["watching"]
    assert (
        told["decided"]["result"]
        == told["alone"]["result"]
        == {"decision": "retrain", "reasons": ["The city has changed."]}
    )
    partly = told["with no more answers"]
    assert (partly["error"], partly["why"]) == ("Partly", "it did its own work; red because of predict (failed)")
    assert partly["pushed"]["return_value"]["decision"] == "retrain"
