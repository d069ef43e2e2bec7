"""What the routes of FastAPI answer. What the others take and give is in `serve.openapi`."""

from importlib import metadata
from typing import Any, Literal

from pydantic import BaseModel, Field

JsonObject = dict[str, Any]
SAID = {
    400: "Not JSON",
    401: "No key, or one that is not good",
    403: "The key may not ask this",
    404: "Nothing of that name",
    405: "Not with this method",
    408: "The body came too slowly",
    413: "The body is too large",
    415: "Neither JSON nor tensors",
    422: "What was sent cannot be answered",
    429: "Too many requests: see Retry-After",
    500: "Something broke here",
    503: "Not loaded yet: see Retry-After",
    504: "No answer in time",
}


class Error(BaseModel):
    error: str = Field(description="One line, with the way out.")


class Week(BaseModel):
    """Of live answers."""

    since: str = Field(alias="from")
    until: str
    model: float | None
    last_value: float | None = None
    profile: float | None = None
    coverage: float | None = Field(description="For which share of the answers the truth has come.")


class Drift(BaseModel):
    day: str
    tested: int
    drifted: int = Field(description="Channels that are not what the release learnt.")
    faulty: int
    new_sensors: int
    changed_since: str | None


class Watched(BaseModel):
    """Of the release that serves, as it was found when readings reached `until`."""

    until: str
    champion: str | None
    metric: str
    unit: str
    week: Week | None
    gate: float | None = Field(description="What the week's figure is held against.")
    frozen_test: float | None
    drift: Drift | None
    decision: Literal["retrain", "watch", "fine"] | None
    since: str | None
    reasons: list[str]


class Summary(BaseModel):
    task: str
    ready: bool
    question: str | None = None
    objective: str | None = None
    modality: str | None = Field(default=None, description="series, image or text.")
    department: str | None = None
    digest: str | None = Field(default=None, description="Of the release that answers.")
    version: str | None = Field(default=None, description="Its version in the registry.")
    age_s: float | None = Field(default=None, description="Seconds since this server loaded it.")
    watched: Watched | None = Field(default=None, description="How it does, where somebody watches it.")


class Tasks(BaseModel):
    tasks: list[Summary]


class Sensor(BaseModel):
    sensor: str
    kind: str
    unit: str
    role: str = Field(description="target: it is answered; input, ahead: it helps.")
    latitude: float | None
    longitude: float | None
    district: str | None


class Task(Summary):
    context: int = Field(description="Steps that the model reads.")
    horizon: int = Field(description="Steps that it answers.")
    step_s: int
    timezone: str
    ahead: int = Field(description="Steps of the future that it may be given of inputs known ahead.")
    names: list[str] = Field(description="Columns of an answer.")
    units: dict[str, str]
    sensors: list[Sensor]


class ItemTask(Summary):
    names: list[str] = Field(description="Labels that an answer may hold.")
    most: dict[str, int] = Field(description="What a request may hold: items, and pixels and bytes, or characters.")


class Observed(BaseModel):
    time: list[str] | None
    step: list[int] | None = Field(default=None, description="Where there are no times, as in the answer: 1 its first.")
    value: list[float | None]


class Forecast(BaseModel):
    task: str
    of: Literal["batch", "request", "example"]
    issued: str | None
    version: str | None
    digest: str
    units: dict[str, str]
    columns: dict[str, list[Any]] = Field(description="time, sensor, kind, step, and the answer's; equally long.")
    observed: Observed | None


class Server(BaseModel):
    name: str = "cityloop"
    version: str = Field(default_factory=lambda: metadata.version("cityloop"))
    extensions: list[str] = ["binary_tensor_data"]


class ModelReady(BaseModel):
    name: str
    ready: Literal[True]


class TensorAbout(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class Metadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorAbout]
    outputs: list[TensorAbout]
    parameters: dict[str, str] | None = None


def errors(*codes: int) -> dict[int | str, JsonObject]:
    """Documentation of refusals, for FastAPI. What can happen anywhere is always among them."""
    return {code: {"model": Error, "description": SAID[code]} for code in (*codes, 500)}


def text(media: str, *codes: int) -> dict[int | str, JsonObject]:
    return {200: {"description": "Text", "content": {media: {"schema": {"type": "string"}}}}, **errors(*codes)}
