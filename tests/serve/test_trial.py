"""A release on trial: a share of the requests, or copies of them; nobody loses an answer by it."""

from typing import Any

import carded
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from served import TASK, Place, Server, arrays, eventually, serving, v2

from pipelines.serve.answering import drawn

ASK = arrays([[10, 10, 10]])
WIDTH = 0.2
"""Of the toy's 80 % interval, relative to its median."""


def failing(place: Place, below: float | None = None) -> str:
    """A release whose golden answers are right, and that fails on windows whose mean is below a limit (None: never)."""
    made = carded.contents(TASK, 2.0)
    graph = onnx.load_from_string(made["model.onnx"])
    # A gather beyond its end is an error of the runtime: at 1 where the smallest reading is below the limit.
    nodes = [
        onnx.helper.make_node("ReduceMin", ["values"], ["least"], keepdims=0),
        onnx.helper.make_node("Less", ["least", "limit"], ["bad"]),
        onnx.helper.make_node("Cast", ["bad"], ["at"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("Gather", ["ones", "at"], ["one"]),
        onnx.helper.make_node("Mul", ["raw", "one"], ["answer"]),
    ]
    graph.graph.node[-1].output[0] = "raw"
    graph.graph.node.extend(nodes)
    constants = {"limit": np.array(-1e9 if below is None else below, np.float32), "ones": np.ones(1, np.float32)}
    graph.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items())
    return place.release(2.5, **{**made, "model.onnx": graph.SerializeToString(deterministic=True)})


def counts(place: Place, digest: str) -> Any:
    return place.beat["counts"].get(digest, {})


def ask(server: Server, n: int) -> list[Any]:
    client = server.client()
    answers = [client.predict(ASK) for _ in range(n)]
    assert {a.status for a in answers} == {200}
    return [a.json for a in answers]


def test_a_canary_answers_its_share_by_the_requests_id(place: Place) -> None:
    one, two = place.release(1.0), place.release(1.1)
    place.point(one, canary=two, share=0.3)
    with serving(place) as server:
        told = ask(server, 200)
        by = [t["digest"] for t in told]
        assert by == [two if drawn(t["request_id"]) < 0.3 else one for t in told]
        assert 30 < by.count(two) < 90
        client = server.client()
        again = {client.predict(ASK, x_request_id="always-me").json["digest"] for _ in range(5)}
        assert len(again) == 1, "a request that is tried again meets the same release"
        for digest in (one, two):
            path = f"/v2/models/{TASK}/versions/{digest}/infer"
            assert client.post(path, v2(np.full((1, 1, 3), 9.0))).json["model_version"] == digest


def test_answers_of_the_two_are_compared(place: Place) -> None:
    one, two = place.release(1.0), place.release(1.1)
    place.point(one, canary=two, share=0.5)
    with serving(place) as server:
        ask(server, 20)
        told = eventually(lambda: (c := counts(place, two)).get("compared", 0) >= 15 and c)
        mean = told["disagreement"] / told["compared"]
        assert mean == pytest.approx(0.1 / WIDTH, rel=1e-3), "the stable is 10 wide 2, and the canary says 11"
        assert told["errors"] == counts(place, one)["errors"] == 0
        assert counts(place, one)["compared"] == 0
        assert told["requests"] >= told["compared"] / 2


def test_a_shadow_answers_copies_and_nobody_sees_it(place: Place) -> None:
    """Requests from before it came are copied too."""
    one, two = place.release(1.0), place.release(2.0)
    place.point(one)
    with serving(place) as server:
        ask(server, 5)
        place.point(one, canary=two, share=1.0, shadow=True)
        eventually(lambda: counts(place, two).get("compared") == 5)
        assert {t["digest"] for t in ask(server, 5)} == {one}
        told = eventually(lambda: (c := counts(place, two)).get("compared") == 10 and c)
        assert told["requests"] == 10
        assert told["disagreement"] == pytest.approx(10 * 1 / WIDTH, rel=1e-3)
        hidden = server.client().get(f"/v2/models/{TASK}/versions/{two}")
        assert hidden.status == 404, "what is not promoted is not answered with"
        place.point(two)
        eventually(lambda: {t["digest"] for t in ask(server, 1)} == {two})
        eventually(lambda: counts(place, two)["requests"] >= 11)  # what was loaded goes on, and its counts with it
    keys = place.store.objects.find(f"predictions/{TASK}")
    logged = pa.concat_tables(pq.read_table(pa.BufferReader(place.store.objects.get(key))) for key in keys).to_pylist()
    roles = {(r["role"], r["digest"]) for r in logged}
    assert roles == {("stable", one), ("shadow", two), ("stable", two)}


def test_a_canary_that_fails_costs_nobody_an_answer(place: Place) -> None:
    one, two = place.release(1.0), failing(place, below=100)
    place.point(one)
    with serving(place) as server:
        place.point(one, canary=two, share=1.0)
        assert "refused" in eventually(lambda: place.beat["error"]), "it fails on its own golden inputs"
    good = failing(place, below=2.0)
    place.point(one, canary=good, share=1.0)
    with serving(place) as server:
        eventually(lambda: place.beat["canary"] == good)
        assert {t["digest"] for t in ask(server, 3)} == {good}
        client = server.client()
        told = client.predict(arrays([[1, 1, 1]]))
        assert (told.status, told.json["digest"]) == (200, one)
        assert eventually(lambda: counts(place, good)["errors"]) == 1
        assert counts(place, one)["errors"] == 0


def test_a_shadow_that_fails_is_seen_in_its_counts(place: Place) -> None:
    one, two = place.release(1.0), failing(place, below=2.0)
    place.point(one, canary=two, shadow=True)
    with serving(place) as server:
        eventually(lambda: place.beat["canary"] == two)
        assert server.client().predict(arrays([[1, 1, 1]])).json["digest"] == one
        assert eventually(lambda: counts(place, two)["errors"]) == 1
        assert counts(place, one)["errors"] == 0


def test_what_both_refuse_is_no_fault_of_the_canary(place: Place) -> None:
    one, two = place.release(1.0), place.release(2.0)
    place.point(one, canary=two, share=1.0)
    with serving(place) as server:
        client = server.client()
        assert client.predict(arrays([[np.nan] * 3])).status == 422
        assert client.infer(v2(np.full((1, 1, 3), 9.0), kind=["pm25"])).status == 422
        client.predict(ASK)
        assert eventually(lambda: counts(place, two)["requests"]) == 1
        assert counts(place, two)["errors"] == 0


def test_a_canary_that_must_not_serve_leaves_the_stable_alone(place: Place) -> None:
    one, two = place.release(1.0), place.release(2.0)
    place.store.remove(TASK, two)
    place.point(one)
    with serving(place) as server:
        place.point(one, canary=two, share=0.5)
        beat = eventually(lambda: place.beat["error"] and place.beat)
        assert (beat["seq"], beat["stable"], beat["canary"]) == (2, one, None)
        assert {t["digest"] for t in ask(server, 5)} == {one}
