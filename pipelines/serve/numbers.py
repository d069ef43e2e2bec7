"""Numbers out of JSON and into it, with no Python object a number on the way out."""

import itertools
from typing import Any

import numpy as np
import orjson

from pipelines.serve.replies import Refusal

Array = np.ndarray[Any, Any]
EARLIEST, LATEST = -2_208_988_800, 7_258_118_400
"""Unix seconds of 1900 and 2200: what lies outside was meant as something else."""


def loads(data: bytes | memoryview) -> dict[str, Any]:
    """Raises Refusal 400 for what is no JSON object; NaN and Infinity are no JSON."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error} (a missing value is null)") from None
    if not isinstance(found, dict):
        raise Refusal(400, "the body is JSON, but not an object; see /docs")
    return found


def dumps(data: Any) -> bytes:
    return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)


def readings(data: Any, name: str) -> Array:
    """Nested lists of numbers and nulls as float32, null = NaN. Raises Refusal 422, `name` saying of what."""
    if not isinstance(data, list):
        raise Refusal(422, f"{name}: expected a list of numbers (null = missing)")
    try:
        found = np.array(data)
    except ValueError:
        raise Refusal(422, f"{name}: the rows are not equally long") from None
    if found.dtype.kind == "O":  # a null makes it so; numpy would read a number out of a string too
        if strange := {type(v) for v in found.reshape(-1)} - {float, int, type(None)}:
            raise Refusal(422, f"{name}: expected numbers or null, found {_called(strange)}")
    elif found.dtype.kind not in "fiu" and found.size:
        raise Refusal(422, f"{name}: expected numbers or null, found {_called({type(found.flat[0].item())})}")
    return finite(found, name)


def finite(values: Array, name: str) -> Array:
    """As float32. Raises Refusal 422 for an infinity: missing is null or NaN."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float32, copy=False)
    if not np.isfinite(found).all() and np.isinf(found).any():
        raise Refusal(422, f"{name}: holds infinity, or a number beyond float32; a missing reading is null or NaN")
    return found


def moments(data: Any, name: str) -> Array:
    """A list of whole numbers as int64 unix seconds. Raises Refusal 422."""
    if not isinstance(data, list) or not all(type(v) is int for v in data):
        raise Refusal(422, f"{name}: expected a list of whole unix seconds")
    if not all(EARLIEST <= v <= LATEST for v in data):
        raise Refusal(422, f"{name}: expected unix seconds between the years 1900 and 2200")
    return np.array(data, np.int64)


def words(data: Any, name: str) -> tuple[str, ...]:
    """A list of strings, or of lists of them. Raises Refusal 422."""
    if isinstance(data, list) and data and isinstance(data[0], list):
        data = list(itertools.chain.from_iterable(d if isinstance(d, list) else [d] for d in data))
    if not isinstance(data, list) or not all(type(v) is str for v in data):
        raise Refusal(422, f"{name}: expected a list of strings")
    return tuple(data)


def _called(types: set[type]) -> str:
    names = {str: "a string", bool: "true or false", dict: "an object", list: "a list"}
    return names.get(next(iter(types)), "something else")
