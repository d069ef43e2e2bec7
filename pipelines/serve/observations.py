"""The form a department would use: recent observations as rows or arrays, answered as rows or columns.

{"rows": [{"time": "2025-04-01T08:00", "sensor": "A1", "kind": "speed", "value": 51.5}, …]}
{"start": "2025-04-01T08:00", "sensors": ["A1", "A2"], "values": [[51.5, null], …]}     (or "times": […])

Times are ISO, UTC where they name no zone. A sensor takes part that is named, with null where nothing was read. `kind`
may be left out where the task answers one kind only; `format` is rows (as it is by default) or columns.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.serve import numbers
from pipelines.serve.answer import Answer
from pipelines.serve.model import Ask, Model, Part, some
from pipelines.serve.replies import Refusal, Reply
from pipelines.serve.wire import check

Array = np.ndarray[Any, Any]
FIELDS = {"rows", "times", "start", "sensors", "kind", "values", "format", "sensors_unknown"}


@dataclass(frozen=True)
class Observations:
    """A request as parsed.

    Of rows: each channel once in `sensors` and `kinds`, and `column` says whose each of `values` is. Of arrays:
    `values` [T, n], and no `column`. times: unix seconds of each value or step; one alone: of the first.
    """

    times: Array
    sensors: tuple[str, ...]
    kinds: tuple[str, ...] | None
    values: Array
    column: Array | None
    columns: bool
    strict: bool

    def ask(self, model: Model) -> Ask:
        """The question for `model`, on its grid. Raises Refusal 422."""
        part = model.part(self.sensors, self.kinds)
        if part.unknown and self.strict:
            raise Refusal(422, f"sensors the model never saw: {some(part.unknown)}")
        step, own = model.spec.step_s, part.predictor.channels
        times, column, values = self.times, self.column, self.values
        if column is None:
            times = times if len(times) == len(values) else times[0] + np.arange(len(values)) * step
            plain = all(c.get("step_s", step) == step and c.get("role") != "ahead" for c in own)
            if plain and (np.diff(times) == step).all():
                return self._regular(times // step * step, model, part)
            times, column = np.repeat(times, values.shape[1]), np.tile(np.arange(values.shape[1]), len(values))
            values = values.reshape(-1)
        named = {"sensor": self.sensors, "kind": self.kinds or model.target_kinds * len(self.sensors)}
        words = {name: np.array(each, object)[column] for name, each in named.items()}
        placed, start = part.predictor.window({"time": times.astype("datetime64[s]"), **words, "value": values})
        last = start.astype("datetime64[s]").astype(np.int64) + (model.spec.context - 1) * step
        sensors, kinds = (tuple(c[name] for c in own) for name in ("sensor", "kind"))
        return Ask(placed, np.array([last]), sensors, kinds, placed.shape[1] - model.spec.context)

    def _regular(self, times: Array, model: Model, part: Part) -> Ask:
        """Arrays that lie on the model's grid as they are, up to the last step of which a target was read."""
        read = np.asarray(np.isfinite(self.values[:, part.asked]).any(axis=1))
        if not read.any():
            raise Refusal(422, "no reading of a target: all values of its sensors are missing")
        end = len(read) - int(read[::-1].argmax())
        begin = max(0, end - model.spec.context)
        return Ask(self.values[None, begin:end], times[end - 1 : end], self.sensors, self.kinds)


def parse(body: bytes, sensors: int) -> Observations:
    """Raises Refusal 400 or 422; `sensors`: how many at most."""
    data = numbers.loads(body)
    if strange := [name for name in data if name not in FIELDS]:
        raise Refusal(422, f"{strange[0]!r} is not known here; expected `rows`, or `sensors` and `values` with `start`")
    form, unknown = data.get("format", "rows"), data.get("sensors_unknown", "answer")
    if form not in ("rows", "columns") or unknown not in ("answer", "refuse"):
        raise Refusal(422, "format is `rows` or `columns`, and sensors_unknown `answer` or `refuse`")
    shape = (form == "columns", unknown == "refuse")
    if "rows" in data:
        if strange := [name for name in ("values", "sensors", "times", "start", "kind") if name in data]:
            raise Refusal(422, f"give either `rows` or arrays, not `rows` and `{strange[0]}`")
        return _rows(data["rows"], sensors, shape)
    return _arrays(data, sensors, shape)


def _rows(rows: Any, most: int, shape: tuple[bool, bool]) -> Observations:
    if not isinstance(rows, list) or not rows:
        raise Refusal(422, "rows: expected a list of {time, sensor, value}, and not an empty one")
    try:
        times = [row["time"] for row in rows]
        sensors = [row["sensor"] for row in rows]
        values = [row["value"] for row in rows]
        kinds = [row.get("kind") for row in rows]
    except (TypeError, KeyError, AttributeError):
        raise Refusal(422, "rows: each needs time, sensor and value (null where nothing was read)") from None
    numbers.words(sensors, "sensor")
    if with_kind := [k for k in kinds if k is not None]:
        numbers.words(with_kind, "kind")
        if len(with_kind) < len(kinds):
            raise Refusal(422, "kind: give it in each row or in none")
    number: dict[tuple[str, str | None], int] = {}
    column = np.array([number.setdefault(c, len(number)) for c in zip(sensors, kinds, strict=True)])
    check(len(number), len(number), most, "")
    found = numbers.readings(values, "value")
    if found.ndim != 1:
        raise Refusal(422, "value: expected one number or null in each row")
    names, called = (tuple(part) for part in zip(*number, strict=True))
    return Observations(_instants(times, "time"), names, called if with_kind else None, found, column, *shape)


def _arrays(data: dict[str, Any], most: int, shape: tuple[bool, bool]) -> Observations:
    if "values" not in data or "sensors" not in data or ("times" in data) == ("start" in data):
        raise Refusal(422, "give `rows`, or `sensors` and `values` with either `start` or `times`")
    values = numbers.readings(data["values"], "values")
    sensors = numbers.words(data["sensors"], "sensors")
    if values.ndim != 2 or not values.size:
        raise Refusal(422, "values: expected a list of steps, each a list with a number or null for every sensor")
    check(values.shape[1], len(sensors), most, "sensors names")
    if not np.isfinite(values).any():
        raise Refusal(422, "no reading: all values are missing")
    times = _instants([data["start"]] if "start" in data else data["times"], "start" if "start" in data else "times")
    if "times" in data and len(times) != len(values):
        raise Refusal(422, f"times has {len(times)} elements, but values {len(values)} steps")
    return Observations(times, sensors, _kinds(data.get("kind"), len(sensors)), values, None, *shape)


def _kinds(given: Any, n: int) -> tuple[str, ...] | None:
    if given is None or isinstance(given, str):
        return (given,) * n if given else None
    kinds = numbers.words(given, "kind")
    if len(kinds) != n:
        raise Refusal(422, f"kind has {len(kinds)} elements, but there are {n} sensors; one for all may be a string")
    return kinds


def _instants(times: Any, name: str) -> Array:
    """ISO texts as unix seconds; the same text is read once."""
    if not isinstance(times, list):
        raise Refusal(422, f"{name}: expected a list of ISO times")
    try:
        known = {text: _instant(text) for text in dict.fromkeys(times)}
    except (TypeError, ValueError, OverflowError):
        raise Refusal(422, f"{name}: expected ISO times between 1900 and 2200, such as 2025-04-01T08:00Z") from None
    return np.array([known[text] for text in times], np.int64)


def _instant(text: Any) -> int:
    if not isinstance(text, str):
        raise TypeError
    when = dt.datetime.fromisoformat(text)
    seconds = int((when if when.tzinfo else when.replace(tzinfo=dt.UTC)).timestamp())
    if not numbers.EARLIEST <= seconds <= numbers.LATEST:
        raise ValueError
    return seconds


def encode(answer: Answer, observations: Observations) -> Reply:
    """The answer to one window as JSON."""
    told = {
        "request_id": answer.request_id,
        "task": answer.task,
        "version": answer.version,
        "digest": answer.digest,
        "issued": iso(answer.issued),
        "units": {c["kind"]: c["unit"] for c in answer.channels},
        **({"unknown": list(answer.unknown)} if answer.unknown else {}),
    }
    head = numbers.dumps(told)[:-1]
    return Reply(b"".join([head, *(_columns(answer) if observations.columns else _as_rows(answer)), b"}"]))


def iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def table(answer: Answer) -> dict[str, Array]:
    """What the answer to the first window says, [H, n] each, by column."""
    out = {name: answer.array[0, ..., i] for i, name in enumerate(answer.names)}
    return {**out, **{name: column[0] for name, column in answer.more.items()}}


def _columns(answer: Answer) -> list[bytes]:
    horizon, n = answer.array.shape[1:3]
    times = [iso(t) for t in answer.times[0].tolist()]
    out: dict[str, Any] = {
        "time": [t for t in times for _ in range(n)],
        "sensor": [c["sensor"] for c in answer.channels] * horizon,
        "kind": [c["kind"] for c in answer.channels] * horizon,
    }
    for name, values in table(answer).items():
        flat = np.ascontiguousarray(values).reshape(-1)
        out[name] = flat.tolist() if flat.dtype.kind == "U" else flat
    return [b',"columns":', numbers.dumps(out)]


def _as_rows(answer: Answer) -> list[bytes]:
    """Numbers are written a column at a time; here their texts are put between the names."""
    columns = [_texts(values) for values in table(answer).values()]
    times = [b'{"time":"%b",' % iso(t).encode() for t in answer.times[0].tolist()]
    heads = [b'"sensor":%b,"kind":%b' % (numbers.dumps(c["sensor"]), numbers.dumps(c["kind"])) for c in answer.channels]
    row = b"%b%b" + b"".join(b",%b:%%b" % numbers.dumps(name).replace(b"%", b"%%") for name in table(answer)) + b"}"
    firsts = [(time, head) for time in times for head in heads]
    lines = [row % (*first, *texts) for first, texts in zip(firsts, zip(*columns, strict=True), strict=True)]
    return [b',"rows":[', b",".join(lines), b"]"]


def _texts(values: Array) -> list[bytes]:
    """Each of [H, n] as JSON has it."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype.kind == "U":
        texts = {word: numbers.dumps(word) for word in set(flat.tolist())}
        return [texts[word] for word in flat.tolist()]
    return numbers.dumps(flat)[1:-1].split(b",")
