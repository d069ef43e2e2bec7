"""What /openapi.json says is so: Schemathesis sends what the schema allows and what it does not; nothing breaks."""

import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from served import TASK, Client, Place, Server, arrays, serving, v2

from pipelines.serve import keys

schemathesis = pytest.importorskip("schemathesis", reason="no schemathesis to make requests with")
EXAMPLES = 15


def test_every_route_is_documented(client: Client) -> None:
    told = client.get("/openapi.json").json
    assert {
        "/livez", "/readyz", "/metrics", "/v1/tasks", "/v1/tasks/{task}", "/v1/tasks/{task}/card",
        "/v1/tasks/{task}/forecast", "/v1/tasks/{task}/predict", "/v2", "/v2/health/live", "/v2/health/ready",
        "/v2/models/{model}", "/v2/models/{model}/ready", "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}", "/v2/models/{model}/versions/{version}/ready",
        "/v2/models/{model}/versions/{version}/infer",
    } == told["paths"].keys()  # fmt: skip
    assert client.get("/docs").status == 200


def test_answers_are_as_documented(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is whoever may not ask."""
    monkeypatch.setenv("CITYLOOP_STATE", str(place.root / "state"))
    key = {"X-API-Key": keys.add("someone")}
    place.point(place.release())
    with serving(place, no_auth=False) as server:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        for name, path, body in (
            ("task", "/v1/tasks/{task}/predict", arrays([[1, 2, 3]])),
            ("model", "/v2/models/{model}/infer", v2([[[1, 2, 3]]])),
        ):
            case = schema[path]["POST"].Case(
                path_parameters={name: TASK}, body=body, media_type="application/json", headers=key
            )
            answer = case.call()
            assert answer.status_code == 200
            case.validate_response(answer)
        for path in ("/livez", "/readyz", "/v1/tasks", "/v2", "/v2/health/live", "/v2/health/ready"):
            schema[path]["GET"].Case(headers=key).call_and_validate()
        for path in ("/v1/tasks/{task}", "/v1/tasks/{task}/forecast", "/v2/models/{model}", "/v2/models/{model}/ready"):
            name = path.split("{")[1].split("}")[0]
            schema[path]["GET"].Case(path_parameters={name: TASK}, headers=key).call_and_validate()


def test_no_request_breaks_the_server(shared: tuple[Place, Server], client: Client) -> None:
    """Tasks are real in half of the requests, so that bodies are looked at."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{shared[1].port}/openapi.json")
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def send(case: object) -> None:
            nonlocal tried
            tried += 1
            if tried % 2:
                case.path_parameters = dict.fromkeys(case.path_parameters or {}, TASK)  # type: ignore[attr-defined]
            answer = case.call(timeout=10)  # type: ignore[attr-defined]
            assert answer.status_code < 500, (case, answer.content)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            send()
    assert tried > 100
    assert client.get("/livez").status == 200
