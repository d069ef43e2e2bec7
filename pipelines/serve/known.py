"""The latest answer known of a task, without asking its model: of a batch, a request, or the release's example."""

from typing import Any

import numpy as np

from pipelines.core.answers import calibrated, more
from pipelines.core.errors import UserError
from pipelines.core.log import logger
from pipelines.release import predictions
from pipelines.release.store import Store
from pipelines.serve.answer import Answer
from pipelines.serve.answering import Desk
from pipelines.serve.model import Model
from pipelines.serve.observations import iso, table
from pipelines.serve.replies import Refusal
from pipelines.serve.swap import Serving

Array = np.ndarray[Any, Any]
Told = dict[str, Any]


def forecast(store: Store, desk: Desk, serving: Serving, sensor: str | None, example: bool = False) -> Told:
    """`of` (batch, request or example), `issued`, `version`, `digest`, `units`, and `columns` of equal length.

    example: that alone. `observed`: of one sensor's first kind, the context that was read, where it is known. An
    example has steps and no times. Raises Refusal 404 for a sensor that the model does not answer, and for a task of
    pictures or messages: those that others sent are nobody's business.
    """
    model = serving.stable
    if not isinstance(model, Model):
        raise Refusal(404, f"{serving.task} answers what it is sent, and keeps none of it; POST to its /predict")
    answered = model.whole.channels
    if sensor is not None and sensor not in {c["sensor"] for c in answered}:
        raise Refusal(404, f"{serving.task} answers no sensor {sensor!r}; /v1/tasks/{serving.task} names those it does")
    latest = None if example else _batch(store, serving.task, sensor) or _request(desk, model, sensor)
    found = latest or _example(model, sensor)
    told = {"task": serving.task, "version": model.version, "digest": model.digest, "issued": None, "observed": None}
    return {**told, "units": {c["kind"]: c["unit"] for c in answered}, **found}


def _batch(store: Store, task: str, sensor: str | None) -> Told | None:
    try:
        found = predictions.latest(store.objects, task, sensor)
    except UserError as error:
        logger.warning("%s: the batch forecast cannot be read: %s", task, error)
        return None
    if found is None:
        return None
    digest, issued = str(found.pop("digest")[0]), found.pop("issued")[0]
    for name in ("request_id", "task", "role"):
        found.pop(name, None)
    times = [f"{t}Z" for t in np.datetime_as_string(found.pop("time"), unit="s").tolist()]
    columns = {"time": times, **{name: _plain(values) for name, values in found.items()}}
    return {"of": "batch", "issued": f"{np.datetime_as_string(issued, unit='s')}Z", "digest": digest, "version": None,
            "columns": columns}  # fmt: skip


def _request(desk: Desk, model: Model, sensor: str | None) -> Told | None:
    recent, step = desk.recent.get(model.task), model.spec.step_s
    for answer in reversed(list(recent.answers) if recent else []):
        chosen = [i for i, c in enumerate(answer.channels) if sensor is None or c["sensor"] == sensor]
        if chosen:
            told = {"of": "request", "issued": iso(answer.issued), "digest": answer.digest, "version": answer.version}
            times = [iso(t) for t in answer.times[0].tolist()]
            columns = _columns(answer.channels, chosen, times, table(answer))
            observed = _observed(answer, chosen[0], step) if sensor else None
            return {**told, "columns": columns, "observed": observed}
    return None


def _observed(answer: Answer, number: int, step: int) -> Told:
    """What the request held of the answer's channel `number`, up to its last step that does not lie in the future."""
    ask, channel = answer.ask, answer.channels[number]
    column = number
    if ask.sensors is not None:
        kinds = ask.kinds or (channel["kind"],) * len(ask.sensors)
        column = list(zip(ask.sensors, kinds, strict=True)).index((channel["sensor"], channel["kind"]))
    values = ask.values[0, : ask.values.shape[1] - ask.ahead, column]
    times = int(ask.last[0]) + (np.arange(len(values)) - len(values) + 1) * step
    return {"time": [iso(t) for t in times.tolist()], "value": np.ascontiguousarray(values)}


def _example(model: Model, sensor: str | None) -> Told:
    """The first of the golden answers."""
    from safetensors.numpy import load_file

    own = model.predictor
    assert own.folder is not None
    stored = load_file(own.folder / "golden.safetensors")
    answer = calibrated(stored["answer"][:1, :, : own.targets], own.tables.get("spread"))[0]
    values = stored["input.values"][0]
    given = values[model.known : model.known + len(answer), : own.targets]
    if len(given) < len(answer):
        given = np.full(answer.shape[:2], np.nan, np.float32)
    said = {name: answer[..., i] for i, name in enumerate(own.names)} | more(own.config, own.tables, answer, given)
    channels = model.whole.channels
    chosen = [i for i, c in enumerate(channels) if sensor is None or c["sensor"] == sensor]
    read = np.ascontiguousarray(values[: model.spec.context, chosen[0]])
    observed = {"time": None, "step": np.arange(len(read)) - model.known + 1, "value": read} if sensor else None
    return {"of": "example", "columns": _columns(channels, chosen, None, said), "observed": observed}


def _columns(channels: list[Told], chosen: list[int], times: list[str] | None, said: dict[str, Array]) -> Told:
    horizon, n = len(next(iter(said.values()))), len(chosen)
    out: Told = {
        "time": [times[h] if times else None for h in range(horizon) for _ in range(n)],
        "sensor": [channels[i]["sensor"] for i in chosen] * horizon,
        "kind": [channels[i]["kind"] for i in chosen] * horizon,
        "step": np.repeat(np.arange(1, horizon + 1), n),
    }
    return out | {name: _plain(values[:, chosen].reshape(-1)) for name, values in said.items()}


def _plain(values: Array) -> Any:
    """What JSON can be made of: numbers as they are, texts as a list."""
    return np.ascontiguousarray(values) if values.dtype.kind in "fiub" else values.tolist()
