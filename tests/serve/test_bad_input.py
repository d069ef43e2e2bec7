"""Whatever a client sends, it gets a status that fits and one line with the way out; the server goes on."""

import json
from typing import Any

import numpy as np
import pytest
from served import JSON, START, TASK, Client, Server, arrays, tensor, v2

OK = np.full((1, 4, 3), 9.0)


def changed(number: int, **told: Any) -> dict[str, Any]:
    """A good V2 request with one of its tensors changed."""
    body = v2(OK)
    body["inputs"][number] |= told
    return body


V2: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b'{"inputs": [', 400, "not JSON"),
    "a NaN literal": (b'{"inputs": [{"name": "values", "data": [NaN]}]}', 400, "not JSON"),
    "no object": (b"[1, 2]", 400, "not an object"),
    "no inputs": ({}, 422, "inputs: expected a list"),
    "inputs of another kind": ({"inputs": [7]}, 422, "inputs: expected tensors named"),
    "no values": ({"inputs": [tensor("start", "INT64", [1], [START])]}, 422, "`values` is missing"),
    "no time": ({"inputs": [v2(OK)["inputs"][0]]}, 422, "either `start` or `end`"),
    "twice": ({"inputs": [v2(OK)["inputs"][0]] * 2}, 422, "given twice"),
    "another dtype": (changed(0, datatype="FP64"), 422, "datatype must be FP32"),
    "strings as numbers": (changed(0, data=["9"] * 12), 422, "found a string"),
    "a string among numbers": (changed(0, data=[None, "9", *[9] * 10]), 422, "found a string"),
    "truth values": (changed(0, data=[True] * 12), 422, "true or false"),
    "objects": (changed(0, data=[{}] * 12), 422, "an object"),
    "a shape too small": (changed(0, shape=[1, 4, 2]), 422, "12 numbers are not shape [1, 4, 2]"),
    "a shape of two": (changed(0, shape=[4, 3]), 422, "[windows, steps, sensors]"),
    "a negative shape": (changed(0, shape=[-1, 4, 3]), 422, "shape must be"),
    "a huge shape": (changed(0, shape=[2**31 - 1] * 3), 422, "are not shape"),
    "ragged": (changed(0, data=[[1, 2], [3]]), 422, "not equally long"),
    "0 sensors": (changed(0, shape=[1, 4, 0], data=[]), 422, "holds nothing"),
    "0 windows": (changed(0, shape=[0, 4, 3], data=[]), 422, "holds nothing"),
    "beyond float32": (changed(0, data=[1e39] * 12), 422, "infinity"),
    "nothing read": (v2(np.full((1, 4, 3), np.nan)), 422, "window 0 holds no reading"),
    "too many steps": (v2(np.full((1, 97, 3), 9.0)), 422, "at most 96"),
    "columns without names": (v2(np.full((1, 4, 2), 9.0)), 422, "the model reads 3"),
    "too few names": (v2(OK, sensor=["mast_1"]), 422, "sensor names 1"),
    "named twice": (v2(OK, sensor=["mast_1"] * 3), 422, "named twice"),
    "an unknown kind": (v2(OK, sensor=["mast_1", "mast_2", "mast_3"], kind=["no2"] * 3), 422, "reads no 'no2'"),
    "kinds without sensors": (v2(OK, kind=["pm25"] * 3), 422, "one for each sensor"),
    "a time off the grid": (v2(OK, START + 60), 422, "multiple of the model's step, 3600 s"),
    "a time of another age": (v2(OK, 10**15), 422, "1900 and 2200"),
    "a time with a fraction": (changed(1, data=[1.5]), 422, "whole unix seconds"),
    "two times for one window": (changed(1, shape=[2], data=[START] * 2), 422, "values has 1 windows"),
    "a future this model has not": (v2(OK, parameters={"ahead": 99}), 422, "ahead"),
    "bytes beyond the body": (changed(0, parameters={"binary_data_size": 48}), 422, "beyond the body"),
    "parameters of another kind": (v2(OK, parameters=3), 422, "parameters"),
    "an id of another kind": (v2(OK, id=3), 422, "id: expected a string"),
    "outputs of another kind": (v2(OK, outputs=[3]), 422, "outputs"),
}
PLAIN: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"", 400, "not JSON"),
    "nothing": ({}, 422, "give `rows`"),
    "a field of its own": ({"row": []}, 422, "'row' is not known"),
    "both forms": ({"rows": [], "values": []}, 422, "either `rows` or arrays"),
    "no row": ({"rows": []}, 422, "not an empty one"),
    "a row without a value": ({"rows": [{"time": "2025-04-01", "sensor": "mast_1"}]}, 422, "each needs time"),
    "rows of another kind": ({"rows": [3]}, 422, "each needs time"),
    "no such time": ({"rows": [{"time": "tomorrow", "sensor": "mast_1", "value": 1}]}, 422, "ISO times"),
    "a value of words": ({"rows": [{"time": "2025-04-01", "sensor": "mast_1", "value": "1"}]}, 422, "a string"),
    "a value of lists": ({"rows": [{"time": "2025-04-01", "sensor": "mast_1", "value": [1]}]}, 422, "one number"),
    "nothing read in rows": ({"rows": [{"time": "2025-04-01", "sensor": "mast_1", "value": None}]}, 422, "no reading"),
    "nothing read": (arrays(np.full((4, 3), np.nan)), 422, "all values are missing"),
    "0 sensors": ({"start": "2025-04-01", "sensors": [], "values": [[]]}, 422, "values"),
    "other numbers of sensors": (arrays(OK[0], sensors=["mast_1"]), 422, "sensors names 1"),
    "no time": ({"sensors": ["mast_1"], "values": [[1]]}, 422, "`start` or `times`"),
    "both times": (arrays(OK[0], times=["2025-04-01"]), 422, "`start` or `times`"),
    "too few times": ({"times": ["2025-04-01"], "sensors": ["mast_1"], "values": [[1], [2]]}, 422, "1 elements"),
    "times that are lists": ({"times": [[]], "sensors": ["mast_1"], "values": [[1]]}, 422, "ISO times"),
    "another format": (arrays(OK[0], format="xml"), 422, "`rows` or `columns`"),
    "unknown where that is refused": (
        arrays(OK[0], sensors=["mast_1", "mast_2", "new"], sensors_unknown="refuse"), 422, "'new'",
    ),
    "an unknown kind": (arrays(OK[0], kind="no2"), 422, "reads no 'no2'"),
}  # fmt: skip


@pytest.mark.parametrize("name", V2)
def test_a_v2_request_that_cannot_be_answered(client: Client, name: str) -> None:
    body, status, said = V2[name]
    answer = client.infer(body)
    assert (answer.status, said in answer.error) == (status, True), answer.body


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_request_that_cannot_be_answered(client: Client, name: str) -> None:
    body, status, said = PLAIN[name]
    answer = client.predict(body)
    assert (answer.status, said in answer.error) == (status, True), answer.body


def test_nan_in_binary_is_missing_and_infinity_is_an_error(client: Client) -> None:
    values = OK.astype("<f4")
    for bad, status in ((np.nan, 200), (np.inf, 422)):
        body = changed(0, parameters={"binary_data_size": values.nbytes})
        del body["inputs"][0]["data"]
        values[0, 0, 0] = bad
        head = json.dumps(body).encode()
        assert client.infer(head + values.tobytes(), inference_header_content_length=str(len(head))).status == status


def test_a_header_length_that_cannot_be(client: Client) -> None:
    for length in ("x", "-1", "999999"):
        assert client.infer(v2(OK), inference_header_content_length=length).status == 400


def test_100_000_sensors_are_too_many(client: Client) -> None:
    names = [f"s{i}" for i in range(100_000)]
    many = client.predict({"start": "2025-04-01", "sensors": names, "values": [[1.0] * len(names)]})
    assert (many.status, "at most 10,000" in many.error) == (422, True)
    rows = client.predict({"rows": [{"time": "2025-04-01", "sensor": name, "value": 1} for name in names]})
    assert (rows.status, "at most 10,000" in rows.error) == (422, True)
    wide = client.infer(v2(np.ones((1, 1, 100_000)), sensor=names))
    assert (wide.status, "at most 10,000" in wide.error) == (422, True)


def test_too_many_windows_are_refused_before_they_are_made(client: Client) -> None:
    answer = client.infer(v2(np.ones((20_000, 1, 3)), START))
    assert (answer.status, "readings; at most" in answer.error) == (422, True)


def test_50_mb_are_too_large(shared: tuple[Any, Server]) -> None:
    client, body = shared[1].client(), b"[" + b" " * (50 << 20)
    assert client.infer(body).status == 413
    assert client.get("/livez").status == 200, "the connection goes on"


def test_50_mb_in_chunks_are_too_large(shared: tuple[Any, Server]) -> None:
    client = shared[1].client()
    chunks = iter([b" " * (1 << 20)] * 50)
    client.connection.request("POST", f"/v2/models/{TASK}/infer", chunks, JSON, encode_chunked=True)
    assert client.connection.getresponse().status == 413


@pytest.mark.parametrize("path", ["/v2/models/nope/infer", "/v1/tasks/nope/predict"])
def test_an_unknown_task(client: Client, path: str) -> None:
    answer = client.post(path, v2(OK))
    assert (answer.status, answer.error) == (404, f"no task 'nope' is served here; tasks: {TASK}")


def test_other_paths_methods_and_types(client: Client) -> None:
    assert (client.get("/nope").status, client.get(f"/v1/tasks/{TASK}/predict").status) == (404, 405)
    assert client.post("/v1/tasks", {}).status == 405
    assert client.predict(b"rows=1", content_type="application/x-www-form-urlencoded").status == 415
    assert client.predict(arrays(OK[0]), content_encoding="gzip").status == 415
    assert client.get(f"/v1/tasks/{TASK}/forecast?sensor=nope").status == 404


def test_what_breaks_in_the_server_is_not_told_to_the_client(
    shared: tuple[Any, Server], client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a secret")

    monkeypatch.setattr("pipelines.serve.hot.observations.parse", broken)
    monkeypatch.setattr("pipelines.serve.routes._described", broken)
    for answer in (client.predict({}), client.get(f"/v1/tasks/{TASK}")):
        assert answer.status == 500
        assert answer.error.endswith(f"tell whoever runs the server: request {answer.headers['x-request-id']}")
    assert client.get("/livez").status == 200
