"""Put a task's target, its label and its inputs on one grid: the target source's.

DVC cannot name a list of dependencies that differs from task to task. So this cheap stage depends on all features
of the modality, and its output stays byte-identical while nothing that the task uses changes: that stops the wave
before training.

An input on another step never looks into the future. A value of the input's step [t, t+s) is known at t+s, and the
row that begins at u may use what is known by its own end, u+S. A coarser input holds its last known value, NaN if
that was missing; a finer one is aggregated over the row by its kind's `aggregate`. Rows before the input begins
or after it ends are NaN.

An input with `ahead` lies here like any other; that its later rows are shown to the model is the windows' matter.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import files, grid, log, params
from pipelines.core.errors import UserError
from pipelines.core.params import Params, Select, Task
from pipelines.core.paths import Paths
from pipelines.items import join as items

Array = np.ndarray[Any, Any]


def run(key: str, *, root: Path = Path()) -> None:
    """Join the grids of task `key`. Raises UserError for missing features, an empty selection or a channel twice."""
    city = params.load(root)
    task = city.task(key)
    paths = Paths(root)
    if task.modality != "series":
        return items.run(key, city, paths)
    with log.room("join", key) as told:
        target = _open(paths, city, task.target.source)
        parts, roles = _parts(paths, city, task, key, target)
        channels = pa.concat_tables([part.channels for part in parts])
        _no_twins(channels, key)
        # How often each channel was measured: a predictor must place single readings as they were placed here.
        files.write_json(paths.joined(key) / "steps.json", [part.series.step_s for part in parts for _ in part.columns])
        grid.write(
            paths.joined(key),
            start=target.when(0),
            step=dt.timedelta(seconds=target.step_s),
            months=_months(target, parts),
            channels=channels,
            splits=target.splits,
            edges=_edges(target, parts[0].channels),
            roles=roles,
            timezone=target.timezone,
        )
        told.update(steps=target.length, **{role: hi - lo for role, (lo, hi) in roles.items()})


@dataclass(frozen=True)
class Part:
    """Some channels of one grid, in that grid's order; `aggregates` has one for each."""

    series: grid.Series
    columns: Array
    aggregates: tuple[str, ...]

    @property
    def channels(self) -> pa.Table:
        return self.series.channels.take(self.columns)


def _open(paths: Paths, city: Params, source: str) -> grid.Series:
    folder = paths.features(city.source(source).modality, source)
    try:
        return grid.Series.open(folder)
    except FileNotFoundError:
        raise UserError(f"{folder}: no features; run `cityloop features {source}`") from None


def _parts(
    paths: Paths, city: Params, task: Task, key: str, target: grid.Series
) -> tuple[list[Part], dict[str, tuple[int, int]]]:
    """What is joined, in order, and the column ranges of target, label, input and, last, inputs known ahead."""
    at = f"{params.PARAMS}: tasks.{key}"
    parts = [_part(target, city, task.target, f"{at}.target")]
    ends = [len(parts[0].columns)]
    if task.label:
        label = _part(target, city, Select(source=task.target.source, kinds=(task.label,)), f"{at}.label")
        sensors = pc.unique(parts[0].channels["sensor"])
        own = label.columns[pc.is_in(label.channels["sensor"], sensors).to_numpy(zero_copy_only=False)]
        parts.append(Part(target, own, label.aggregates[: len(own)]))
    ends.append(ends[0] + sum(len(part.columns) for part in parts[1:]))
    for i, chosen in sorted(enumerate(task.inputs), key=lambda pair: pair[1].ahead):
        series = target if chosen.source == task.target.source else _open(paths, city, chosen.source)
        parts.append(_part(series, city, chosen, f"{at}.inputs.{i}"))
    ahead = sum(chosen.ahead for chosen in task.inputs)
    known = sum(len(part.columns) for part in parts[len(parts) - ahead :])
    ends.append(sum(len(part.columns) for part in parts) - known)
    roles = {"target": (0, ends[0]), "label": (ends[0], ends[1]), "input": (ends[1], ends[2])}
    return parts, {**roles, **({"ahead": (ends[2], ends[2] + known)} if ahead else {})}


def _part(series: grid.Series, city: Params, chosen: Select, at: str) -> Part:
    wanted = city.kinds(chosen)
    kinds = series.channels["kind"].to_pylist()
    columns = np.array([i for i, kind in enumerate(kinds) if kind in wanted], np.int64)
    if not len(columns):
        raise UserError(f"{at}: {chosen.source} has no channel of kind {' or '.join(wanted) or '(none)'}")
    aggregates = series.channels["aggregate"].to_pylist()
    return Part(series, columns, tuple(aggregates[i] for i in columns))


def _no_twins(channels: pa.Table, key: str) -> None:
    """Raises UserError when a (sensor, kind) occurs twice: nobody could tell the two apart."""
    seen = set()
    for name in zip(channels["sensor"].to_pylist(), channels["kind"].to_pylist(), strict=True):
        if name in seen:
            at = f"{params.PARAMS}: tasks.{key}.inputs"
            raise UserError(f"{at}: sensor {name[0]!r}, kind {name[1]!r} occurs twice; drop one of the two")
        seen.add(name)


def _edges(target: grid.Series, channels: pa.Table) -> pa.Table | None:
    if target.edges is None:
        return None
    sensors = pc.unique(channels["sensor"])
    return target.edges.filter(
        pc.and_(pc.is_in(target.edges["source"], sensors), pc.is_in(target.edges["target"], sensors))
    )


def _months(target: grid.Series, parts: list[Part]) -> Iterator[tuple[str, Array]]:
    for file, lo, hi in log.progress(target.chunks, "join", len(target.chunks), "months"):
        blocks = [aligned(part, target.start + lo * target.step, target.step, hi - lo) for part in parts]
        yield Path(file).stem, np.concatenate(blocks, axis=1)


def aligned(part: Part, begin: np.datetime64, step: np.timedelta64, rows: int) -> Array:
    """The values of `part` that are known by the end of each of `rows` steps from `begin` on, float32 [rows, K]."""
    own, size, offset = (
        int(span / np.timedelta64(1, "s")) for span in (part.series.step, step, begin - part.series.start)
    )
    if own >= size:
        last = (offset + size * np.arange(1, rows + 1)) // own - 1  # the newest step that has ended
        lo = int(last[0])
        return part.series.read(lo, int(last[-1]) + 1, part.columns)[last - lo]
    lo, hi = offset // own, (offset + size * rows) // own  # steps that end after `begin`, and by the last row's end
    row = -(-((np.arange(lo, hi) + 1) * own - offset) // size) - 1
    starts = np.searchsorted(row, np.arange(rows))
    values = part.series.read(lo, hi, part.columns)
    out = np.empty((rows, len(part.columns)), np.float32)
    for how in sorted(set(part.aggregates)):
        same = np.array([a == how for a in part.aggregates])
        out[:, same] = AGGREGATES[how](values[:, same], starts)
    return out


def _mean(values: Array, starts: Array) -> Array:
    seen = np.isfinite(values)
    total = np.add.reduceat(np.where(seen, values, 0).astype(np.float64), starts, axis=0)
    count = np.add.reduceat(seen.astype(np.int64), starts, axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _sum(values: Array, starts: Array) -> Array:
    seen = np.isfinite(values)
    total = np.add.reduceat(np.where(seen, values, 0).astype(np.float64), starts, axis=0)
    return np.where(np.logical_or.reduceat(seen, starts, axis=0), total, np.nan)


def _last(values: Array, starts: Array) -> Array:
    """The last value that is there in each run of rows."""
    place = np.where(np.isfinite(values), np.arange(len(values))[:, None], -1)
    last = np.maximum.reduceat(place, starts, axis=0)
    found = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    return np.where(last >= starts[:, None], found, np.nan)


AGGREGATES: dict[str, Callable[[Array, Array], Array]] = {
    "mean": _mean,
    "sum": _sum,
    "max": lambda values, starts: np.fmax.reduceat(values, starts, axis=0),
    "min": lambda values, starts: np.fmin.reduceat(values, starts, axis=0),
    "last": _last,
}
"""How the finer steps of a row become one value: float [t, K] and the first of them for each row, to [rows, K]."""
