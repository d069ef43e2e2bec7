"""The routes that tell: tasks, cards, forecasts known, models, documentation. They are FastAPI's."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from pipelines.core import pictures
from pipelines.core.errors import UserError
from pipelines.core.log import logger
from pipelines.release.objects import Unreachable
from pipelines.release.store import Store
from pipelines.serve import numbers, openapi, schemas, wire, wire_items
from pipelines.serve.answering import Desk
from pipelines.serve.edge import broken
from pipelines.serve.items import ItemModel
from pipelines.serve.known import forecast
from pipelines.serve.model import Model
from pipelines.serve.replies import JSON, Refusal, later
from pipelines.serve.swap import Serving

PAGE = Path(__file__).with_name("page")
"""The demonstration page: `index.html`, and what it loads from /page/."""
ABOUT = """Forecasts, alarms and states of the city's sensors, and what its pictures and messages show and say, by the
models that were reviewed and promoted.

Send `Authorization: Bearer KEY` (or `X-API-Key: KEY`). Errors are `{"error": "one line with the way out"}`."""


def build(store: Store, desk: Desk) -> FastAPI:
    """An application with these routes, and with all others in its documentation."""
    app = FastAPI(title="cityloop", version="1", description=ABOUT, redoc_url=None)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    for kind, answer in _ERRORS.items():
        app.add_exception_handler(kind, answer)
    _tasks(app, store, desk)
    _protocol(app, desk)
    _page(app)
    return app


def _tasks(app: FastAPI, store: Store, desk: Desk) -> None:
    cards: dict[str, str] = {}

    @app.get("/v1/tasks", tags=["tasks"], responses=schemas.errors(401, 429))
    async def tasks(request: Request) -> schemas.Tasks:
        """The tasks that this key may ask."""
        may = request.scope["call"].caller.may
        return schemas.Tasks(tasks=[_summary(s, desk) for task, s in sorted(desk.live.tasks.items()) if may(task)])

    @app.get("/v1/tasks/{task}", tags=["tasks"], responses=schemas.errors(401, 403, 404, 429, 503))
    async def about(task: str) -> schemas.Task | schemas.ItemTask:
        """What a task asks and answers: a series' of which sensors, others' of what pictures or messages."""
        return _described(desk.serving(task), desk)

    @app.get(
        "/v1/tasks/{task}/card", tags=["tasks"], response_class=Response,
        responses=schemas.text("text/markdown", 401, 403, 404, 429, 503),
    )  # fmt: skip
    async def card(task: str) -> Response:
        """The card of the release that answers, as it was reviewed (Markdown)."""
        model = desk.serving(task).stable
        assert model is not None
        text = cards.get(model.digest) or await _asked(store.card, task, model.digest)
        if text is None:
            raise Refusal(404, f"the store has no card of {task} {model.digest[:12]}")
        cards[model.digest] = text
        return Response(text, media_type="text/markdown; charset=utf-8")

    @app.get(
        "/v1/tasks/{task}/forecast", tags=["tasks"], response_class=Response,
        responses={200: {"model": schemas.Forecast}, **schemas.errors(401, 403, 404, 422, 429, 503)},
    )  # fmt: skip
    async def latest(
        task: str,
        sensor: Annotated[str | None, Query(description="One alone.")] = None,
        of: Annotated[Literal["latest", "example"], Query(description="Or the release's own example.")] = "latest",
    ) -> Response:
        """The latest answer known, without asking the model; `of` says whence: a batch forecast, a request, or, where
        there is neither, the release's own example, whose time is not known."""
        serving = desk.serving(task)
        told = await _asked(forecast, store, desk, serving, sensor, of == "example")
        return Response(numbers.dumps(told), media_type="application/json")


def _summary(serving: Serving, desk: Desk) -> schemas.Summary:
    model = serving.stable
    if model is None:
        return schemas.Summary(task=serving.task, ready=False)
    config = model.config
    return schemas.Summary(
        task=serving.task, ready=True, question=config["question"], objective=config["objective"],
        modality=model.modality, department=config.get("department"), digest=model.digest, version=model.version,
        age_s=round(time.monotonic() - model.since, 1), watched=_watched(desk.watched.get(serving.task), model.digest),
    )  # fmt: skip


def _watched(told: Any, digest: str) -> schemas.Watched | None:
    """None of another release, or where it is not in our form."""
    try:
        found = schemas.Watched.model_validate(told)
    except ValidationError:
        return None
    return found if found.champion == digest else None


def _described(serving: Serving, desk: Desk) -> schemas.Task | schemas.ItemTask:
    model = serving.stable
    if isinstance(model, ItemModel):
        bounds = pictures.BOUNDS
        image = {"pixels": bounds.pixels, "least_side": bounds.side[0], "bytes": desk.settings.body_bytes}
        most = image if model.modality == "image" else {"characters": desk.settings.characters}
        names = list(model.predictor.names)
        return schemas.ItemTask(
            **_summary(serving, desk).model_dump(by_alias=True),
            names=names,
            most={"items": desk.settings.items, **most},
        )
    assert isinstance(model, Model)
    spec, predictor = model.spec, model.predictor
    return schemas.Task(
        **_summary(serving, desk).model_dump(by_alias=True),
        context=spec.context, horizon=spec.horizon, step_s=spec.step_s, timezone=spec.timezone,
        ahead=predictor.steps - spec.context, names=list(predictor.columns)[3:],
        units={c["kind"]: c["unit"] for c in model.channels},
        sensors=[
            schemas.Sensor(
                sensor=c["sensor"], kind=c["kind"], unit=c["unit"],
                role="target" if i < predictor.targets else c["role"],
                latitude=c.get("latitude"), longitude=c.get("longitude"), district=c.get("district"),
            )
            for i, c in enumerate(model.channels)
        ],
    )  # fmt: skip


def _protocol(app: FastAPI, desk: Desk) -> None:
    @app.get("/v2", tags=["v2"])
    async def server() -> schemas.Server:
        return schemas.Server()

    refusals = schemas.errors(401, 403, 404, 429, 503)

    @app.get("/v2/models/{model}", tags=["v2"], responses=refusals)
    @app.get("/v2/models/{model}/versions/{version}", tags=["v2"], responses=refusals)
    async def metadata(model: str, version: str | None = None) -> schemas.Metadata:
        return _metadata(desk.serving(model), version)

    @app.get("/v2/models/{model}/ready", tags=["v2"], responses=refusals)
    @app.get("/v2/models/{model}/versions/{version}/ready", tags=["v2"], responses=refusals)
    async def model_ready(model: str, version: str | None = None) -> schemas.ModelReady:
        serving = desk.serving(model)
        if version is not None:
            serving.named(version)
        return schemas.ModelReady(name=model, ready=True)


def _metadata(serving: Serving, version: str | None) -> schemas.Metadata:
    model = serving.named(version) if version is not None else serving.stable
    assert model is not None
    platform = "onnxruntime_onnx"
    loaded = [m.digest for m in (serving.stable, None if serving.shadow else serving.canary) if m is not None]
    if isinstance(model, ItemModel):
        outputs = wire_items.OUTPUTS[model.config["objective"]]
        return schemas.Metadata(
            name=serving.task, versions=loaded, platform=platform,
            inputs=[schemas.TensorAbout(name=model.modality, datatype="BYTES", shape=[-1])],
            outputs=[schemas.TensorAbout(name=n, datatype=kind, shape=shape) for n, (kind, shape) in outputs.items()],
            parameters={"labels": ",".join(model.predictor.names)},
        )  # fmt: skip
    assert isinstance(model, Model)
    predictor = model.predictor
    shapes = {"values": [-1, -1, -1], "start": [-1], "end": [-1], "sensor": [-1], "kind": [-1]}
    out = {"answer": [-1, model.spec.horizon, -1, len(predictor.names)], "time": [-1, model.spec.horizon]}
    more = {name: [-1, model.spec.horizon, -1] for name in predictor.columns if name in wire.MORE}
    types = {"answer": "FP32", "time": "INT64", **wire.MORE}
    return schemas.Metadata(
        name=serving.task, versions=loaded, platform=platform,
        inputs=[schemas.TensorAbout(name=n, datatype=wire.DTYPES[n], shape=s) for n, s in shapes.items()],
        outputs=[schemas.TensorAbout(name=n, datatype=types[n], shape=s) for n, s in {**out, **more}.items()],
    )  # fmt: skip


class _Page(StaticFiles):
    """Files that may load nothing but one another, and ask nobody but this server."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_SAFE)
        return response


def _page(app: FastAPI) -> None:
    files = _Page(directory=PAGE, check_dir=False)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.mount("/page", files)


async def _asked(call: Callable[..., Any], *args: Any) -> Any:
    """What `call` says, asked on a thread. Raises Refusal 503 where the store does not answer."""
    try:
        return await asyncio.to_thread(call, *args)
    except Unreachable as error:
        logger.warning("%s", error)
        raise later(503, "the store does not answer; try again", 5) from None


async def _refused(_: Request, error: Any) -> Response:
    headers = {name.decode(): value.decode() for name, value in [*JSON, *error.headers]}
    return Response(error.body, error.status, headers)


async def _wrong(_: Request, error: Any) -> Response:
    first = error.errors()[0]
    return Response(Refusal(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}").body, 422, dict(_JSON))


async def _status(_: Request, error: Any) -> Response:
    said = {404: "no such path; see /docs", 405: "not with this method; see /docs"}.get(
        error.status_code, str(error.detail)
    )
    return Response(Refusal(error.status_code, said).body, error.status_code, {**(error.headers or {}), **_JSON})


async def _user(_: Request, error: Any) -> Response:
    return Response(Refusal(422, str(error)).body, 422, _JSON)


async def _broken(request: Request, _: Any) -> Response:
    call = request.scope["call"]
    return Response(Refusal(500, broken(call)).body, 500, _JSON)


_SAFE = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; object-src 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_JSON = {name.decode(): value.decode() for name, value in JSON}
_ERRORS: dict[type[Exception], Any] = {
    Refusal: _refused, RequestValidationError: _wrong, HTTPException: _status, UserError: _user, Exception: _broken,
}  # fmt: skip
