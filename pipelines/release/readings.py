"""Long readings put on a model's grid, as `join` would have put them there.

Rows are equally long columns: `time` (UTC datetime64), `sensor`, `kind`, `value`.
"""

from itertools import repeat
from typing import Any

import numpy as np

from pipelines.core.errors import UserError

Array = np.ndarray[Any, Any]
Channel = dict[str, Any]
FIRST, LAST = np.datetime64("1900-01-01", "s"), np.datetime64("2200-01-01", "s")
"""Times outside are mistakes, and zones know nothing of them."""


def sane(times: Array) -> Array:
    """Times as datetime64[s]. Raises UserError for one that is missing or of another age."""
    times = np.asarray(times).astype("datetime64[s]")
    if not ((times >= FIRST) & (times < LAST)).all():
        raise UserError(f"times must lie between {FIRST} and {LAST}, in UTC; one is missing or does not")
    return times


def columns(rows: dict[str, Array], channels: list[Channel]) -> Array:
    """Which of `channels` each row is of, int64 [R], -1 for none. Raises UserError for columns of unequal length."""
    if len({len(rows[name]) for name in ("time", "sensor", "kind", "value")}) > 1:
        raise UserError("time, sensor, kind and value of rows are not equally long")
    names = (dict.fromkeys(c[name] for c in channels) for name in ("sensor", "kind"))
    sensors, kinds = ({name: i for i, name in enumerate(known)} for known in names)
    number = np.full((len(sensors) + 1, len(kinds) + 1), -1)  # the last of each stands for -1, unknown
    for i, c in enumerate(channels):
        number[sensors[c["sensor"]], kinds[c["kind"]]] = i
    found: Array = number[_numbers(rows["sensor"], sensors), _numbers(rows["kind"], kinds)]
    return found


def _numbers(words: Any, known: dict[str, int]) -> Array:
    words = words.tolist() if isinstance(words, np.ndarray) else list(words)
    if words and words[0] == words[-1] and words.count(words[0]) == len(words):  # as kinds often are
        return np.full(len(words), known.get(words[0], -1))
    return np.fromiter(map(known.get, words, repeat(-1)), np.int64, len(words))


def placed(
    rows: dict[str, Array], column: Array, channels: list[Channel], targets: int, step: int, past: int, future: int
) -> tuple[Array, int]:
    """Readings of rows that are of channels `column` [R] as float32 [past + future, N], and the number of the first
    step since 1970, of `step` seconds each.

    The last `past` step is the newest of which one of the first `targets` channels was read; `future` ones are those of
    channels known ahead. A reading is known when the step it was measured in has ended; a coarser one holds until the
    next is due, finer ones of one step are aggregated as their kind is. Raises UserError when no target was read.
    """
    value, seconds = np.asarray(rows["value"], float), sane(rows["time"]).astype(np.int64)
    ours = (column >= 0) & np.isfinite(value)
    column, value, seconds = column[ours], value[ours], seconds[ours]
    asked = column < targets
    if not asked.any():
        raise UserError("no reading is of a target this model knows; see its `channels`")
    own = np.array([c.get("step_s", step) for c in channels])
    row = -(-((seconds // own[column] + 1) * own[column]) // step) - 1  # of the step that is known then
    hold = np.maximum(own // step, 1)
    early = int(hold.max()) - 1  # a value from before the window may still hold in it
    first = int(row[asked].max()) + 1 - past - early
    row -= first
    ahead = np.array([c.get("role") == "ahead" for c in channels])
    inside = (row >= 0) & (row < early + past + np.where(ahead[column], future, 0))
    row, column, value, seconds = row[inside], column[inside], value[inside], seconds[inside]
    if (seconds[1:] < seconds[:-1]).any():
        order = np.argsort(seconds, kind="stable")
        row, column, value = row[order], column[order], value[order]
    how = np.array([c.get("aggregate", "mean") for c in channels])
    grid = _aggregate(row, column, value, how, early + past + future)
    held = grid.copy() if early else grid
    for back in range(1, early + 1):
        free = np.isnan(held[back:]) & (hold > back)
        held[back:] = np.where(free, grid[:-back], held[back:])
    return held[early:].astype(np.float32), first + early


def _aggregate(row: Array, column: Array, value: Array, how: Array, length: int) -> Array:
    """Values that share a cell as one, as channels' aggregates `how` [N] say; in order of time. float [length, N], NaN
    where there is none."""
    cell, size = row * len(how) + column, length * len(how)
    total, count = np.bincount(cell, value, size), np.bincount(cell, minlength=size)
    out = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    for name, reduce in (("max", np.fmax), ("min", np.fmin), ("sum", np.add)):
        if (how == name).any():
            mine = (how == name)[column]
            out[cell[mine]] = 0.0 if name == "sum" else np.nan
            reduce.at(out, cell[mine], value[mine])
    last = (how == "last")[column]
    out[cell[last]] = value[last]  # of several, numpy keeps the last
    return out.reshape(length, -1)
