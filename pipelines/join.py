"""Put a task's target, its label and its inputs on one grid: the target source's.

    data/joined/<task>/   all there is: for evaluation, gate and forecasts
    data/learn/<task>/    what training reads of it: nothing of the test period

DVC cannot name a list of dependencies that differs from task to task. So this cheap stage depends on all features
of the modality, and its output stays byte-identical while nothing that the task uses changes. What training reads is
byte-identical while nothing of it changes before the test: that stops the wave of a new day before training.

An input on another step never looks into the future, see `core.aligned`.

An input with `ahead` lies here like any other; that its later rows are shown to the model is the windows' matter.
"""

import datetime as dt
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import cut, files, grid, log, params
from pipelines.core.aligned import Part, aligned
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
            splits=_splits(city, key, target),
            edges=cut.edges(target.edges, parts[0].channels),
            roles=roles,
            timezone=target.timezone,
        )
        _learn(paths, key)
        told.update(steps=target.length, **{role: hi - lo for role, (lo, hi) in roles.items()})


def _splits(city: Params, key: str, target: grid.Series) -> dict[str, tuple[int, int]]:
    """Row ranges: the source's, or by the dates of this task's retraining. Raises UserError when one is empty."""
    if city.retrain.get(key) is None:
        return target.splits
    # Not from its `start` on: usual week and spreads, which no few days tell, still are of all there is.
    cuts = [0, *(min(target.row(when), target.length) for when in city.dates(key)[1:]), target.length]
    splits = dict(zip(("train", "validation", "test"), itertools.pairwise(cuts), strict=True))
    for name, (lo, hi) in splits.items():
        if lo >= hi:
            raise UserError(f"{params.RETRAIN}: {key}: no step of {city.task(key).target.source} is left for {name}")
    return splits


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


def _learn(paths: Paths, key: str) -> None:
    """Write what training reads of it: all before the test, of the channels that were read by then.

    New days and sensors come after that, so they start no training. Raises UserError when no target was read.
    """
    joined = grid.Series.open(paths.joined(key))
    until = joined.splits["test"][0]
    there = cut.seen(joined, until)
    columns = np.flatnonzero(there)
    ends = {role: [int(there[:edge].sum()) for edge in span] for role, span in joined.roles.items()}
    first, last = ends["target"]
    if first == last:
        raise UserError(
            f"{joined.folder}: no target was read before {joined.when(until):%Y-%m-%d}, where the test begins"
        )
    steps, channels = files.read_json(joined.folder / "steps.json"), joined.channels.take(columns)
    files.write_json(paths.learn(key) / "steps.json", [steps[i] for i in columns])
    grid.write(
        paths.learn(key),
        start=joined.when(0),
        step=dt.timedelta(seconds=joined.step_s),
        months=cut.months(joined, until, columns),
        channels=channels,
        splits={**joined.splits, "test": (until, until)},
        scalers=joined.scalers[:, columns],
        edges=cut.edges(joined.edges, channels),
        roles={role: (lo, hi) for role, (lo, hi) in ends.items()},
        timezone=joined.timezone,
    )


def _months(target: grid.Series, parts: list[Part]) -> Iterator[tuple[str, Array]]:
    for file, lo, hi in log.progress(target.chunks, "join", len(target.chunks), "months"):
        blocks = [aligned(part, target.start + lo * target.step, target.step, hi - lo) for part in parts]
        yield Path(file).stem, np.concatenate(blocks, axis=1)
