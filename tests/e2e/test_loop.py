"""Real servers, and no hand but those that say yes or no: from new data to answers; and each names all the others."""

import json
import time

import pictures
import pytest
import yaml
from looping import Loop, until
from workspaces import Workspace

AIR, TRAFFIC = "air_quality", "traffic_speed"


@pytest.mark.slow
def test_from_new_data_to_an_answer_without_a_hand_but_one(loop: Loop) -> None:
    ingest, train, promote = "ingest_air", f"train_{AIR}", f"promote_{AIR}"
    loop.ready(train, promote, f"promote_{TRAFFIC}")
    loop.ready(ingest)  # its clock is switched on, so that it runs
    ingested = loop.new_run(ingest, {})
    loop.succeeds(ingest, ingested)

    run = loop.new_run(train, {})
    loop.succeeds(train, run, 400)
    made = loop.said(train, run, "register")
    waiting = loop.new_run(promote, {})
    loop.waits(promote, waiting, "review", "deferred")
    assert loop.asks(AIR) is None, "nobody has said yes"
    pictures.take(loop, "airflow-train", "airflow", f"/dags/{train}/runs/{run}", "finetune", "g")
    pictures.take(
        loop,
        "mlflow-version",
        "mlflow",
        f"/#/models/{AIR}/versions/{made['version']}?workspace=default",
        made["digest"],
    )

    began = time.monotonic()
    loop.tag(AIR, made["version"], f"approved:{made['digest']}")
    until(lambda: loop.asks(AIR) == made["digest"], 30, "the new version to answer")
    print(f"tag to answer: {time.monotonic() - began:.1f} s")
    loop.succeeds(promote, waiting)

    # Ledger, version, commit and DAG run name one another.
    record, tags = loop.ledger(AIR)[-1], loop.version(AIR, made["version"])
    assert (record["state"], record["digest"], record["reviewers"]) == ("serving", made["digest"], ["reviewer"])
    assert record["version"] == made["version"]
    assert record["commit"] == tags["commit"] == made["commit"] == loop.git("rev-parse", "live")
    assert record["dag_run"] in (f"{train}/{run}", f"{promote}/{waiting}")
    assert tags["dag_run"] == f"{train}/{run}"
    assert f"Dag-Run: {train}/{run}" in loop.git("log", "-1", "--format=%(trailers)", "live")
    assert loop.said(train, run, "merge")["commit"] == record["commit"]
    assert f"/models/{AIR}/versions/1" in (loop.links(train, run, "register")["MLflow version"] or "")
    events = loop.airflow("GET", "/assets/events?limit=100")["asset_events"]
    (event,) = (e for e in events if e["source_dag_id"] == ingest)
    assert event["extra"]["window"]["air"] == "2025-04-08"
    assert event["extra"]["dag_run"] == f"{ingest}/{ingested}"


@pytest.mark.slow
def test_no_and_then_yes_through_airflows_form(loop: Loop) -> None:
    dag, digest = f"promote_{TRAFFIC}", loop.digest(TRAFFIC)
    loop.say("register", TRAFFIC, "--commit", loop.git("rev-parse", "live"))
    run = loop.trigger(dag)
    (form,) = until(loop.forms, 120, "the form")
    pictures.take(loop, "airflow-form", "airflow", f"/dags/{dag}/runs/{run}/tasks/form/required_actions", "Approve")
    assert digest in form["body"]
    assert "# " in form["body"], "the card is shown"
    loop.answer(form, "Reject", note="worse at night; $(touch /tmp/x) 'quoted'")
    states = loop.succeeds(dag, run)
    assert (states["record"], states["review"], states["promote"]) == ("success", "skipped", "skipped")
    assert "worse at night" in loop.why(dag, run, "review")
    tags = loop.version(TRAFFIC, "1")
    assert tags["review.reviewer"] == f"rejected:{digest}"
    assert tags["review_note"] == "worse at night; $(touch /tmp/x) 'quoted'"
    assert loop.asks(TRAFFIC) is None

    run = loop.trigger(dag)
    (form,) = until(loop.forms, 120, "the form")
    loop.answer(form, "Approve", note="it was the clocks")
    states = loop.succeeds(dag, run)
    assert (states["promote"], states["verify"], states["rollback"]) == ("success", "success", "skipped")
    assert loop.asks(TRAFFIC) == digest
    record = loop.ledger(TRAFFIC)[-1]
    assert (record["reviewers"], record["reason"]) == (["reviewer"], "it was the clocks")
    assert "proof.reviewer" in loop.version(TRAFFIC, "1"), "the door vouches for who answered"


@pytest.mark.slow
def test_nothing_new_is_green_and_does_nothing(loop: Loop) -> None:
    head, dag = loop.git("rev-parse", "live"), f"train_{AIR}"
    began = time.monotonic()
    states = loop.succeeds(dag, loop.trigger(dag))
    assert time.monotonic() - began < 60
    assert (states["plan"], states["finetune"], states["register"]) == ("skipped", "skipped", "skipped")
    assert loop.git("rev-parse", "live") == head
    assert loop.versions(AIR) == ["1"]


@pytest.mark.slow
def test_a_no_through_mlflow_then_a_yes_and_the_way_back(loop: Loop) -> None:
    train, promote, first = f"train_{AIR}", f"promote_{AIR}", loop.asks(AIR)
    assert first is not None
    city, before = Workspace(loop.root), loop.runs(promote)
    params = city.params()
    params["tasks"][AIR]["question"] = "How much fine dust will there be tomorrow?"  # it stands in the bundle
    city.put_params(params)
    city.run("git", "commit", "-qam", "Another question")
    loop.say("deploy")
    run = loop.trigger(train)
    loop.succeeds(train, run, 400)
    made = loop.said(train, run, "register")
    assert (made["version"], made["digest"] == first) == ("2", False)
    waiting = loop.new_run(promote, before)
    loop.waits(promote, waiting, "review", "deferred")
    loop.tag(AIR, made["version"], f"rejected:{made['digest']}")
    states = loop.succeeds(promote, waiting)
    assert (states["review"], states["promote"], states["verify"]) == ("skipped", "skipped", "skipped")
    assert "rejected by reviewer" in loop.why(promote, waiting, "review")
    assert loop.asks(AIR) == first
    assert loop.ledger(AIR)[-1]["digest"] == first

    loop.tag(AIR, made["version"], f"approved:{made['digest']}")
    loop.succeeds(promote, loop.trigger(promote))
    until(lambda: loop.asks(AIR) == made["digest"], 30, "the second version to answer")
    loop.say("rollback", AIR, "--why", "worse in the mornings")
    until(lambda: loop.asks(AIR) == first, 30, "the first version to answer again")
    record = loop.ledger(AIR)[-1]
    assert (record["state"], record["digest"], record["reason"]) == ("serving", first, "worse in the mornings")


@pytest.mark.slow
def test_a_task_that_is_to_be_trained_anew_trains_by_itself_and_waits_for_a_yes(loop: Loop) -> None:
    """Its model is older than the city now allows: the one reason for which no weeks need pass."""
    monitor, train, promote, serves = "monitor", f"train_{AIR}", f"promote_{AIR}", loop.asks(AIR)
    city = Workspace(loop.root)
    params = city.params()
    spans = {"learn": "1d", "validation": "3d", "test": "3d"}
    params["tasks"][AIR]["monitor"] = {"age": "1d", "retrain": spans}
    city.put_params(params)
    city.run("git", "commit", "-qam", "Models of air are trained anew after a day")
    loop.say("deploy")
    trained, promoted = loop.runs(train), loop.runs(promote)
    loop.ready(monitor)  # its clock is switched on, so that it runs
    run = loop.new_run(monitor, {})
    loop.succeeds(monitor, run)
    assert loop.mapped(monitor, run) == {
        ("predict", TRAFFIC): "success", ("monitor", TRAFFIC): "success", ("retrain", TRAFFIC): "skipped",
        ("predict", AIR): "success", ("monitor", AIR): "success", ("retrain", AIR): "success",
    }  # fmt: skip
    decision = json.loads(loop.store.objects.get(f"monitor/{AIR}/decision.json"))
    assert (decision["decision"], [*decision["causes"]]) == ("retrain", ["age"])
    assert decision["champion"] == decision["retrain"]["init"] == serves

    began = loop.new_run(train, trained)
    assert loop.woken_by(train, began) == [(f"cityloop://drift/{AIR}", monitor)]
    loop.succeeds(train, began, 400)
    made = loop.said(train, began, "register")
    waiting = loop.new_run(promote, promoted)
    loop.waits(promote, waiting, "review", "deferred")
    assert (made["digest"] == serves, loop.asks(AIR)) == (False, serves), "it waits"
    entry = yaml.safe_load(loop.git("show", "live:retrain.yaml"))
    assert (entry[AIR]["init"], entry[TRAFFIC]) == (serves, None)
    assert f"Dag-Run: {monitor}/{run}" in loop.git("log", "-1", "--format=%(trailers)", "live", "--", "retrain.yaml")

    trained = loop.runs(train)
    again = loop.trigger(monitor)
    loop.succeeds(monitor, again)
    assert loop.mapped(monitor, again)["retrain", AIR] == "skipped", "not twice for one decision"
    assert loop.runs(train) == trained


@pytest.mark.slow
def test_lineage_events_went_where_they_were_asked_to_go(loop: Loop) -> None:
    lines = (loop.root.parent / "lineage.json").read_text().splitlines()
    jobs = {json.loads(line)["job"]["name"] for line in lines}
    assert f"train_{AIR}.finetune" in jobs
