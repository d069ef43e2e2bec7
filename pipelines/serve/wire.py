"""The Open Inference Protocol (V2): tensors in, tensors out, as JSON or binary.

in    values FP32 [B, T, n]     readings, NaN or null = missing; T may be shorter than the model reads
      start or end INT64 [B]    unix seconds when the first or the last step begins
      sensor, kind BYTES [n]    of each column; left out: all the model reads, in its order, of the target's kind
out   answer FP32 [B, H, targets, names], time INT64 [B, H], and what the objective adds: [B, H, targets] each

With the parameter `ahead` the last so many steps lie in the future: what is known of inputs ahead.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pipelines.serve import numbers
from pipelines.serve.answer import Answer
from pipelines.serve.model import Ask, Model
from pipelines.serve.replies import Refusal, Reply

Array = np.ndarray[Any, Any]
HEADER = b"inference-header-content-length"
DTYPES = {"values": "FP32", "start": "INT64", "end": "INT64", "sensor": "BYTES", "kind": "BYTES"}
MORE = {"class": "BYTES", "score": "FP32", "alarm": "BOOL", "filled": "FP32"}
_NUMPY: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8"), "BOOL": np.dtype("?")}


@dataclass(frozen=True)
class Infer:
    """A request as parsed: `inputs` by name; `wanted`: outputs by name and whether binary, none named = all."""

    id: str | None
    inputs: dict[str, Any]
    ahead: int
    wanted: dict[str, bool] = field(default_factory=dict)
    binary: bool = False

    def ask(self, model: Model, sensors: int) -> Ask:
        """The question for `model`. Raises Refusal 422 for shapes that do not go together."""
        values = self.inputs["values"]
        b, steps, n = values.shape
        named, kinds = self.inputs.get("sensor"), self.inputs.get("kind")
        columns = len(model.channels) if named is None else len(named)
        check(n, columns, sensors, "the model reads" if named is None else "sensor names")
        if kinds is not None and (named is None or len(kinds) != n):
            raise Refusal(422, f"kind must have {n} strings, one for each sensor named")
        last = _last(self.inputs, b, steps - self.ahead, model.spec.step_s)
        most = model.spec.context
        if steps - self.ahead > most or self.ahead > model.spec.future:
            told = f"{steps - self.ahead} steps and {self.ahead} ahead; this model reads at most {most}"
            raise Refusal(422, f"values has {told} and {model.spec.future} ahead")
        return Ask(values, last, named, kinds, self.ahead)


def check(n: int, columns: int, most: int, said: str) -> None:
    """Raises Refusal 422 for a number of channels that cannot be."""
    if n == 0:
        raise Refusal(422, "0 sensors: give readings of one at least")
    if n > most:
        raise Refusal(422, f"{n:,} sensors are too many at once; at most {most:,}")
    if n != columns:
        raise Refusal(422, f"values has {n} columns, but {said} {columns}: name the sensor of each")


def seen(values: Array) -> Array:
    """`values` [B, T, n]. Raises Refusal 422 where a window holds no reading."""
    there = np.isfinite(values)
    if not there.all() and (empty := ~there.any(axis=(1, 2))).any():
        raise Refusal(422, f"window {int(empty.argmax())} holds no reading: all values are missing")
    return values


def parse(body: bytes, header: bytes | None) -> Infer:
    """`header`: the JSON's length, where binary tensors follow it. Raises Refusal 400 or 422."""
    data, tail = parted(body, header)
    inputs = dict(_inputs(data.get("inputs"), tail))
    if "values" not in inputs:
        raise Refusal(422, "inputs: `values` is missing")
    ahead = parameters(data).get("ahead", 0)
    if type(ahead) is not int or not 0 <= ahead < max(1, inputs["values"].shape[1]):
        raise Refusal(422, "parameters.ahead: expected how many of the steps lie in the future")
    return Infer(given_id(data), inputs, ahead, *outputs(data))


def parted(body: bytes, header: bytes | None) -> tuple[dict[str, Any], memoryview]:
    """A body's JSON, and what follows it. Raises Refusal 400."""
    if header is None:
        return numbers.loads(body), memoryview(b"")
    if not header.isdigit() or int(header) > len(body):
        raise Refusal(400, f"Inference-Header-Content-Length: expected a number up to the body's {len(body)} bytes")
    whole, size = memoryview(body), int(header)
    return numbers.loads(whole[:size]), whole[size:]


def given_id(data: dict[str, Any]) -> str | None:
    given = data.get("id")
    if given is not None and not isinstance(given, str):
        raise Refusal(422, "id: expected a string")
    return given


def _inputs(tensors: Any, tail: memoryview) -> Iterator[tuple[str, Any]]:
    if not isinstance(tensors, list):
        raise Refusal(422, "inputs: expected a list of tensors")
    at, names = 0, set()
    for tensor in tensors:
        if not isinstance(tensor, dict) or tensor.get("name") not in DTYPES:
            raise Refusal(422, f"inputs: expected tensors named {', '.join(DTYPES)}")
        name = tensor["name"]
        if name in names:
            raise Refusal(422, f"inputs: {name} is given twice")
        names.add(name)
        if tensor.get("datatype") != DTYPES[name]:
            raise Refusal(422, f"{name}: datatype must be {DTYPES[name]}")
        shape = _shape(tensor, name)
        size = parameters(tensor).get("binary_data_size")
        if size is None:
            yield name, _from_json(tensor.get("data"), name, shape)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - at:
            raise Refusal(422, f"{name}: binary_data_size goes beyond the body")
        yield name, _from_bytes(tail[at : at + size], name, shape)
        at += size
    if at != len(tail):
        raise Refusal(422, f"the body goes on for {len(tail) - at} bytes after its tensors")


def _shape(tensor: dict[str, Any], name: str) -> tuple[int, ...]:
    shape, rank = tensor.get("shape"), 3 if name == "values" else 1
    if not isinstance(shape, list) or len(shape) != rank or not all(type(s) is int and 0 <= s < 2**31 for s in shape):
        raise Refusal(422, f"{name}: shape must be [{'windows, steps, sensors' if rank == 3 else 'one number'}]")
    return tuple(shape)


def _from_json(data: Any, name: str, shape: tuple[int, ...]) -> Any:
    if DTYPES[name] == "BYTES":
        return _counted(numbers.words(data, name), name, shape)
    if DTYPES[name] == "INT64":
        return _counted(numbers.moments(data, name), name, shape)
    return seen(_sized(numbers.readings(data, name), name, shape))


def _from_bytes(data: memoryview, name: str, shape: tuple[int, ...]) -> Any:
    if DTYPES[name] == "BYTES":
        return _counted(_strings(data, name), name, shape)
    dtype = _NUMPY[DTYPES[name]]
    if len(data) != dtype.itemsize * math.prod(shape):
        raise Refusal(422, f"{name}: {len(data)} bytes are not shape {list(shape)} of {DTYPES[name]}")
    found = np.frombuffer(data, dtype)
    if name == "values":
        return seen(_sized(numbers.finite(found, name), name, shape))
    return numbers.moments(found.tolist(), name)


def _sized(values: Array, name: str, shape: tuple[int, ...]) -> Array:
    if values.size != math.prod(shape):
        raise Refusal(422, f"{name}: {values.size} numbers are not shape {list(shape)}")
    if not values.size:
        raise Refusal(422, f"{name}: shape {list(shape)} holds nothing; give one window, step and sensor at least")
    return values.reshape(shape)


def _counted(found: Any, name: str, shape: tuple[int, ...]) -> Any:
    if len(found) != shape[0]:
        raise Refusal(422, f"{name}: {len(found)} elements are not shape {list(shape)}")
    return found


def _strings(data: memoryview, name: str) -> tuple[str, ...]:
    try:
        return tuple(part.decode() for part in pieces(data, name))
    except UnicodeDecodeError:
        raise Refusal(422, f"{name}: not a sequence of lengths and UTF-8 strings") from None


def pieces(data: memoryview, name: str) -> list[bytes]:
    """Each four bytes of length, little-endian, and then so many bytes. Raises Refusal 422."""
    out, at = [], 0
    while at < len(data):
        size = struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else len(data)
        if at + 4 + size > len(data):
            raise Refusal(422, f"{name}: not a sequence of lengths and UTF-8 strings")
        out.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return out


def parameters(data: dict[str, Any]) -> dict[str, Any]:
    found = data.get("parameters")
    if found is not None and not isinstance(found, dict):
        raise Refusal(422, "parameters: expected an object")
    return found or {}


def outputs(data: dict[str, Any]) -> tuple[dict[str, bool], bool]:
    """The outputs wanted, and whether each comes as bytes; and whether all do, where none is named."""
    wanted, binary = data.get("outputs"), parameters(data).get("binary_data_output") is True
    if wanted is not None and not isinstance(wanted, list):
        raise Refusal(422, "outputs: expected a list")
    found = {}
    for one in wanted or ():
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise Refusal(422, "outputs: expected objects with a name")
        found[one["name"]] = parameters(one).get("binary_data", binary) is True
    return found, binary


def _last(inputs: dict[str, Any], b: int, steps: int, step_s: int) -> Array:
    """When the last step before now begins, from `start` or `end`."""
    given = [name for name in ("start", "end") if name in inputs]
    if len(given) != 1:
        raise Refusal(422, "inputs: give either `start` or `end`, unix seconds when the first or last step begins")
    moments: Array = inputs[given[0]]
    if len(moments) != b:
        raise Refusal(422, f"{given[0]} has {len(moments)} elements, but values has {b} windows")
    if (moments % step_s).any():
        raise Refusal(422, f"{given[0]} must be a multiple of the model's step, {step_s} s")
    return moments + (steps - 1) * step_s if given[0] == "start" else moments


class Tensor(NamedTuple):
    datatype: str
    values: Array


def encode(answer: Answer, infer: Infer) -> Reply:
    """The answer on the wire. Raises Refusal 422 for an output that it does not have."""
    tensors = {"answer": Tensor("FP32", answer.array), "time": Tensor("INT64", answer.times)}
    tensors |= {name: Tensor(MORE[name], column) for name, column in answer.more.items()}
    more = {"unknown": ",".join(answer.unknown)} if answer.unknown else {}
    return reply(answer, tensors, infer, **more)


def reply(answer: Any, tensors: dict[str, Tensor], infer: Any, **more: str) -> Reply:
    """`answer`, `infer`: of any modality; more: further parameters. What the protocol allows as such are plain values,
    and no null. Raises Refusal 422."""
    told = {"digest": answer.digest, **({"version": answer.version} if answer.version is not None else {}), **more}
    wanted = infer.wanted or dict.fromkeys(tensors, infer.binary)
    if strange := [name for name in wanted if name not in tensors]:
        raise Refusal(422, f"outputs: no {strange[0]!r}; there are {', '.join(tensors)}")
    listed, tail = [], []
    for name, binary in wanted.items():
        datatype, values = tensors[name]
        about: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if binary:
            tail.append(_bytes(datatype, values))
            about["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            flat = np.ascontiguousarray(values).reshape(-1)
            about["data"] = flat.tolist() if datatype == "BYTES" else flat
        listed.append(about)
    head = numbers.dumps(
        {
            "model_name": answer.task,
            "model_version": answer.digest,
            "id": infer.id or answer.request_id,
            "parameters": told,
            "outputs": listed,
        }
    )
    if not tail:
        return Reply(head)
    headers = [(b"content-type", b"application/octet-stream"), (HEADER, str(len(head)).encode())]
    return Reply(b"".join([head, *tail]), headers)


def _bytes(datatype: str, values: Array) -> bytes:
    if datatype == "BYTES":
        strings = [word.encode() for word in values.reshape(-1).tolist()]
        return b"".join(struct.pack("<I", len(s)) + s for s in strings)
    return np.ascontiguousarray(values, _NUMPY[datatype]).tobytes()
