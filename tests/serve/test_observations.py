"""Rows and arrays as a department sends them: answered as `Predictor.predict_rows` answers."""

import datetime as dt
import json
from typing import Any

import carded
import numpy as np
import pytest
from safetensors.numpy import load, save
from served import START, TASK, Client, Place, Server, arrays, eventually, serving, v2

from pipelines.core import files
from pipelines.release import predictions
from pipelines.release.predictions import Answered

Array = np.ndarray[Any, Any]
BEGIN = np.datetime64("2025-04-01T08", "s")


def rows(n: int = 3, steps: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    moments = [dt.datetime(2025, 4, 1, 8) + dt.timedelta(hours=i) for i in range(steps)]
    made = [
        {"time": f"{t:%Y-%m-%dT%H:%M}", "sensor": sensor, "value": None if rng.random() < 0.2 else rng.uniform(5, 30)}
        for t in moments
        for sensor in carded.SENSORS[:n]
    ]
    rng.shuffle(made)
    return made


def columns(given: list[dict[str, Any]]) -> dict[str, Array]:
    """Rows as `predict_rows` takes them."""
    return {
        "time": np.array([r["time"] for r in given], "datetime64[s]"),
        "sensor": np.array([r["sensor"] for r in given], object),
        "kind": np.array([r.get("kind", "pm25") for r in given], object),
        "value": np.array([np.nan if r["value"] is None else r["value"] for r in given], float),
    }


def same(told: list[dict[str, Any]], want: dict[str, Array]) -> None:
    """Whether the rows of an answer, in any order of sensors, are those of the Predictor."""
    found = {(r["time"], r["sensor"], r["kind"]): r for r in told}
    assert len(found) == len(want["time"])
    for i, at in enumerate(want["time"]):
        row = found[f"{at}Z", want["sensor"][i], want["kind"][i]]
        for name in want.keys() - {"time", "sensor", "kind"}:
            value = want[name][i].item()
            assert row[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name


@pytest.mark.parametrize("n", [3, 2, 1])
def test_rows_are_answered_as_the_predictor_does(shared: tuple[Place, Server], client: Client, n: int) -> None:
    place, _ = shared
    digest = place.store.pointer(TASK).stable
    answer = client.predict({"rows": rows(n)})
    assert answer.status == 200
    told = answer.json
    assert (told["task"], told["digest"], told["version"], told["units"]) == (TASK, digest, "3", {"pm25": "ug/m3"})
    assert told["request_id"] == answer.headers["x-request-id"]
    assert abs(dt.datetime.fromisoformat(told["issued"]) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    same(told["rows"], place.predictor(digest).predict_rows(columns(rows(n))))


def test_a_sensor_that_the_model_never_saw_is_answered_and_said_to_be_unknown(
    shared: tuple[Place, Server], client: Client
) -> None:
    place, _ = shared
    given = [*rows(1), {"time": "2025-04-02T10:00", "sensor": "new", "value": 40}]
    told = client.predict({"rows": given}).json
    assert told["unknown"] == ["new"]
    predictor = place.predictor(place.store.pointer(TASK).stable)
    same(told["rows"], predictor.joined_by([("new", "pm25")]).predict_rows(columns(given)))


def test_zones_are_taken_to_utc(client: Client) -> None:
    def at(text: str) -> Any:
        return client.predict({"start": text, "sensors": ["mast_1"], "values": [[7.0]]}).json["rows"]

    assert at("2025-04-01T10:00+02:00") == at("2025-04-01T08:00Z") == at("2025-04-01T08:00")
    assert at("2025-04-01T08:00")[0]["time"] == "2025-04-01T09:00:00Z"


def test_arrays_off_the_grid_are_put_on_it(client: Client) -> None:
    """Half-hourly readings are averaged; a window ends with its last reading."""
    times = [f"2025-04-01T{h:02}:{m}" for h in (8, 9) for m in ("00", "30")] + ["2025-04-01T10:00"]
    body = {"times": times, "sensors": ["mast_1"], "values": [[10], [20], [30], [40], [None]]}
    hourly = client.predict({"start": times[0], "sensors": ["mast_1"], "values": [[15], [35]]}).json["rows"]
    assert client.predict(body).json["rows"] == hourly


def test_what_comes_after_the_last_reading_does_not_count(client: Client) -> None:
    cut = client.predict(arrays([[1, 2, 3], [4, 5, 6]])).json["rows"]
    assert client.predict(arrays([[1, 2, 3], [4, 5, 6], [np.nan] * 3])).json["rows"] == cut


def objective(place: Place, **told: Any) -> str:
    """A toy release of another objective; its graph goes on answering four numbers."""
    made = carded.contents("odd")
    tables = load(made["tables.safetensors"])
    tables |= {"decision": np.ones(4, np.float32), "misfit": np.full(3, 0.1, np.float32)}
    if told["objective"] != "anomaly":
        del tables["misfit"]
    config = json.loads(made["config.json"]) | told
    changed = {"config.json": files.to_json(config), "tables.safetensors": save(tables)}
    return place.release(task="odd", **changed)


@pytest.mark.parametrize(
    ("told", "more"),
    [
        ({"objective": "classify", "names": ["jam", "slow", "free", "50%"]}, {"class"}),
        ({"objective": "anomaly", "reconstruct": True, "alarm": {"span": 2, "threshold": 0.5}}, {"score", "alarm"}),
        ({"objective": "impute", "reconstruct": True}, {"filled"}),
    ],
    ids=["classify", "anomaly", "impute"],
)
def test_objectives_answer_their_further_columns(place: Place, told: dict[str, Any], more: set[str]) -> None:
    digest = objective(place, **told)
    place.point(digest, "odd")
    given = [{**r, "value": r["value"] or 3.0} for r in rows(steps=96)]
    with serving(place) as server:
        client = server.client()
        plain = client.predict({"rows": given}, "odd")
        shuffled = client.predict({"rows": [r for r in given if r["sensor"] != "mast_2"]}, "odd")
        held = columns(given)
        window, start = place.predictor(digest, "odd").window(held)
        begin = int(start.astype("datetime64[s]").astype(int))
        tensors = client.infer(v2(window, begin), "odd")
    assert plain.status == 200, plain.body
    predictor = place.predictor(digest, "odd")
    assert more <= plain.json["rows"][0].keys()
    same(plain.json["rows"], predictor.predict_rows(held))
    same(shuffled.json["rows"], predictor.predict_rows(columns([r for r in given if r["sensor"] != "mast_2"])))
    out = {o["name"]: o for o in tensors.json["outputs"]}
    by_sensor = {(r["time"], r["sensor"]): r for r in plain.json["rows"]}
    times = [f"{np.datetime64(t, 's')}Z" for t in out["time"]["data"]]
    for name in more:
        want = [by_sensor[t, s][name] for t in times for s in carded.SENSORS]
        assert out[name]["shape"] == [1, 24, 3]
        assert out[name]["data"] == want


def test_an_anomaly_of_an_unknown_sensor_cannot_be_told(place: Place) -> None:
    place.point(objective(place, objective="anomaly", reconstruct=True, alarm={"span": 2, "threshold": 0.5}), "odd")
    with serving(place) as server:
        answer = server.client().predict({"start": "2025-04-01", "sensors": ["new"], "values": [[1.0]]}, "odd")
    assert (answer.status, "'new' is unknown" in answer.error) == (422, True)


def test_what_is_known_is_told_without_asking_the_model(place: Place) -> None:
    """First the release's example, then the latest request, then a batch forecast."""
    digest = place.release()
    place.point(digest, versions={digest: "3"})
    place.store.keep_card(TASK, digest, "It answers.\n\n# The card")
    predictor = place.predictor(digest)
    with serving(place) as server:
        client = server.client()
        path = f"/v1/tasks/{TASK}/forecast?sensor=mast_2"
        example = client.get(path).json
        client.predict(arrays([[1, 20, 3]]))
        request = client.get(path).json
        window = np.full((1, 96, 3), 12, np.float32)
        answer = predictor.predict(window, np.array([BEGIN]))[0]
        told = Answered(TASK, predictor, "batch", "b", BEGIN, BEGIN + np.timedelta64(96, "h"), answer)
        predictions.publish(place.store.objects, told)
        batch = client.get(path).json
        card = client.get(f"/v1/tasks/{TASK}/card")
        summary, tasks = client.get(f"/v1/tasks/{TASK}").json, client.get("/v1/tasks").json["tasks"]
    assert (example["of"], example["columns"]["time"][0], len(example["observed"]["value"])) == ("example", None, 96)
    assert (request["of"], request["columns"]["time"][0], request["columns"]["q0.5"][0]) == (
        "request", "2025-04-01T09:00:00Z", 20,
    )  # fmt: skip
    assert (request["observed"]["time"], request["observed"]["value"]) == (["2025-04-01T08:00:00Z"], [20])
    assert (batch["of"], batch["columns"]["q0.5"], batch["digest"]) == ("batch", [12.0] * 24, digest)
    assert set(batch["columns"]["sensor"]) == {"mast_2"}
    assert (card.status, card.body, card.headers["content-type"]) == (
        200, b"It answers.\n\n# The card", "text/markdown; charset=utf-8",
    )  # fmt: skip
    assert (summary["context"], summary["horizon"], summary["step_s"]) == (96, 24, 3600)
    assert [s["sensor"] for s in summary["sensors"]] == list(carded.SENSORS)
    assert [t["task"] for t in tasks] == [TASK]


def test_every_answer_is_in_the_prediction_log(place: Place) -> None:
    digest = place.release()
    place.point(digest)
    with serving(place) as server:
        client = server.client()
        one = client.predict(arrays([[1, 2, 3]]))
        windows = v2([[[5, 6]], [[7, 8]]], [START, START + 3600], sensor=["mast_3", "mast_1"])
        two = client.infer(windows, x_request_id="mine.1")
        assert two.headers["x-request-id"] == "mine.1"
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = place.store.objects.find(f"predictions/{TASK}")
    logged = pa.concat_tables(pq.read_table(pa.BufferReader(place.store.objects.get(key))) for key in keys).to_pylist()
    assert len(logged) == 24 * 3 + 2 * 24 * 2
    mine = [r for r in logged if r["request_id"] == "mine.1"]
    assert {(r["sensor"], r["q0.5"]) for r in mine} == {("mast_3", 5), ("mast_1", 6), ("mast_3", 7), ("mast_1", 8)}
    assert {(r["digest"], r["role"], r["task"]) for r in logged} == {(digest, "stable", TASK)}
    assert {r["request_id"] for r in logged} == {"mine.1", one.json["request_id"]}
    eventually(lambda: place.store.beats() == {})
