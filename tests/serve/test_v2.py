"""The Open Inference Protocol: JSON and binary say the same as the Predictor, and the same as rows do."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from served import START, TASK, Client, Place, Server, arrays, tensor, v2

Array = np.ndarray[Any, Any]
STARTS = np.array([START, START + 7 * 3600])


def readings(b: int = 2, steps: int = 96, n: int = 3) -> Array:
    values = np.random.default_rng(3).uniform(5, 30, (b, steps, n)).astype(np.float32)
    values[0, 3, 0] = np.nan
    return values


def outputs(answer: Any) -> dict[str, Any]:
    return {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in answer.json["outputs"]}


def binary(body: dict[str, Any], values: Array) -> tuple[bytes, str]:
    """The same request with its first tensor in bytes, and the header's length."""
    first = body["inputs"][0]
    del first["data"]
    first["parameters"] = {"binary_data_size": values.nbytes}
    head = json.dumps({**body, "parameters": {"binary_data_output": True}}).encode()
    return head + values.tobytes(), str(len(head))


def test_json_says_what_the_predictor_says(shared: tuple[Place, Server], client: Client) -> None:
    place, _ = shared
    values, digest = readings(), place.store.pointer(TASK).stable
    answer = client.infer(v2(values, STARTS, id="mine"))
    assert answer.status == 200
    told = answer.json
    assert (told["model_name"], told["model_version"], told["id"]) == (TASK, digest, "mine")
    assert told["parameters"] == {"digest": digest, "version": "3"}
    want = place.predictor(digest).predict(values, STARTS.astype("datetime64[s]"))
    assert np.array_equal(outputs(answer)["answer"].astype(np.float32), want)
    assert np.array_equal(outputs(answer)["time"], STARTS[:, None] + (96 + np.arange(24)) * 3600)


def test_binary_says_what_json_says(client: Client) -> None:
    values = readings()
    plain = outputs(client.infer(v2(values, STARTS)))
    body, length = binary(v2(values, STARTS), values)
    answer = client.infer(body, content_type="application/octet-stream", inference_header_content_length=length)
    assert answer.status == 200
    cut = int(answer.headers["inference-header-content-length"])
    head, tail, at = json.loads(answer.body[:cut]), answer.body[cut:], 0
    for output, dtype in zip(head["outputs"], ("<f4", "<i8"), strict=True):
        size = output["parameters"]["binary_data_size"]
        found = np.frombuffer(tail[at : at + size], dtype).reshape(output["shape"])
        assert np.array_equal(found, plain[output["name"]].astype(dtype))
        at += size
    assert at == len(tail)


def test_rows_arrays_and_tensors_agree(client: Client) -> None:
    values = readings(1)[0]
    told = outputs(client.infer(v2(values[None])))["answer"][0]
    columns = client.predict(arrays(values, format="columns")).json["columns"]
    rows = client.predict(arrays(values)).json["rows"]
    assert [r["q0.1"] for r in rows] == columns["q0.1"]
    assert np.array_equal(np.array(columns["q0.1"]).reshape(24, 3), told[..., 0])
    assert [r["sensor"] for r in rows[:3]] == ["mast_1", "mast_2", "mast_3"]


def test_end_is_when_the_last_step_begins(client: Client) -> None:
    values = readings(1)
    body = v2(values)
    body["inputs"][1] = tensor("end", "INT64", [1], [START + 95 * 3600])
    assert client.infer(body).json["outputs"] == client.infer(v2(values)).json["outputs"]


def test_a_short_window_is_one_whose_beginning_is_missing(client: Client) -> None:
    values = readings(1)
    values[:, :90] = np.nan
    short, whole = client.infer(v2(values[:, 90:], START + 90 * 3600)), client.infer(v2(values))
    assert short.json["outputs"] == whole.json["outputs"]


def test_sensors_come_in_any_order_and_number(client: Client) -> None:
    values = readings(1)
    values[:] = [10, 20, 30]
    answer = client.infer(v2(values[..., [2, 0]], sensor=["mast_3", "mast_1"], kind=["pm25", "pm25"]))
    assert np.allclose(outputs(answer)["answer"][0, 0, :, 1], [30, 10])


def test_binary_strings_name_sensors(client: Client) -> None:
    body = v2(np.full((1, 4, 2), 5), sensor=["mast_2", "mast_1"])
    words = b"".join(struct.pack("<I", len(w)) + w for w in (b"mast_2", b"mast_1"))
    del body["inputs"][2]["data"]
    body["inputs"][2]["parameters"] = {"binary_data_size": len(words)}
    head = json.dumps(body).encode()
    answer = client.infer(head + words, inference_header_content_length=str(len(head)))
    assert answer.status == 200, answer.body
    assert outputs(answer)["answer"].shape == (1, 24, 2, 4)


def test_outputs_can_be_chosen(client: Client) -> None:
    answer = client.infer(v2(readings(), STARTS, outputs=[{"name": "time"}]))
    assert [o["name"] for o in answer.json["outputs"]] == ["time"]
    assert "no 'score'" in client.infer(v2(readings(), STARTS, outputs=[{"name": "score"}])).error


@pytest.mark.parametrize("version", ["3", "whole", "prefix"])
def test_a_version_is_a_digest_its_beginning_or_the_registrys_number(
    shared: tuple[Place, Server], client: Client, version: str
) -> None:
    digest = shared[0].store.pointer(TASK).stable
    named = {"3": "3", "whole": digest, "prefix": digest[:8]}[version]
    path = f"/v2/models/{TASK}/versions/{named}"
    assert client.post(f"{path}/infer", v2(readings(1))).status == 200
    assert client.get(path).json["versions"] == [digest]
    assert client.get(f"{path}/ready").json["ready"] is True


@pytest.mark.parametrize("version", ["4", "abcdef", "0" * 64])
def test_another_version_is_not_there(client: Client, version: str) -> None:
    answer = client.post(f"/v2/models/{TASK}/versions/{version}/infer", v2(readings(1)))
    assert answer.status == 404
    assert "(version 3)" in answer.error


def test_the_server_and_its_models_tell_of_themselves(client: Client) -> None:
    assert client.get("/v2").json["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json == {"live": True}
    assert client.get("/v2/health/ready").json == {"ready": True, "tasks": {TASK: True}}
    told = client.get(f"/v2/models/{TASK}").json
    assert {t["name"]: t["datatype"] for t in told["inputs"]} == {
        "values": "FP32", "start": "INT64", "end": "INT64", "sensor": "BYTES", "kind": "BYTES",
    }  # fmt: skip
    assert told["outputs"][0] == {"name": "answer", "datatype": "FP32", "shape": [-1, 24, -1, 4]}
