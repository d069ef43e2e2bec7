"""The champion's answer for all sensors at one moment, into the store: what a server would have said, without a server.

It lies under predictions/ beside what servers answered, see `release.predictions`, with `role` batch and `issued` the
moment given. The same moment and champion make the same file again.

What a task of pictures or messages finds is counted by camera and step. The counts lie there too, and in
data/counts/<task>.parquet as a table that a series source reads, see `models.items.counts`.
"""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipelines.core import files, log, params, windows
from pipelines.core.answers import more
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.models.items import counts, questions
from pipelines.models.items.held import Items
from pipelines.release import items as items_of
from pipelines.release import predictions
from pipelines.release.predictions import Answered
from pipelines.release.predictor import Predictor
from pipelines.release.store import Store

Array = np.ndarray[Any, Any]
T = TypeVar("T")
BACK = dt.timedelta(days=7)
NAMED = 5
"""At most so many channels are named in a warning."""


def run(
    task: str, until: str | None = None, *, since: str | None = None, every: str | None = None, root: Path = Path()
) -> None:
    """Answer what can be known at `until` (ISO, UTC; None: the end of the target source's window).

    With `every` (such as 1h) also what could be known so long before, and so on, back to `since`, or to the newest
    answer there is, BACK at most: of a series, where an answer knows nothing of what came after its moment. Back to the
    newest, moments that nothing can be said of are passed over. Raises UserError when nothing serves yet, there is no
    joined data, or it does not reach from a context before each moment up to it.
    """
    city, paths = params.load(root), Paths(root)
    source = city.task(task).target.source
    end = _said("--until", until, params.parse_instant) or city.window_end(source)
    first = _said("--since", since, params.parse_instant)
    apart = _said("--every", every, params.parse_duration)
    if first and (apart is None or first > end):
        raise UserError("--since goes with --every: from when on, and how far apart, up to --until")
    if city.task(task).modality != "series":
        if first:
            raise UserError(f"{task}: answers at many moments are for series; leave out --since and --every")
        return _counted(city, task, end, paths)
    with log.room("predict", task) as told:
        store, series = Store.of(paths), _joined(paths, task)
        predictor = _welcoming(_champion(store, task), series)
        moments, silent = _moments(store, task, end, apart, first), list[str]()
        for moment in log.progress(moments, f"predict {task}", len(moments), "moments"):
            try:
                forecast = answered(task, predictor, series, np.datetime64(moment.replace(tzinfo=None), "us"))
            except UserError as error:
                if first or moment == end:
                    raise
                silent.append(str(error))
                continue
            steps, sensors = forecast.answer.shape[:2]
            key = predictions.publish(store.objects, forecast)
            told.update(channels=sensors, steps=steps, digest=predictor.digest[:12], into=key)
        if silent:
            log.logger.warning("predict %s: %d moments are passed over; the last: %s", task, len(silent), silent[-1])
        told.update({"moments": len(moments) - len(silent)} if apart else {})


def _said(option: str, text: str | None, parse: Callable[[str], T]) -> T | None:
    try:
        return parse(text) if text else None
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def _moments(
    store: Store, task: str, end: dt.datetime, apart: dt.timedelta | None, first: dt.datetime | None
) -> list[dt.datetime]:
    """When answers are made, the latest last. first: the earliest; None: what follows the newest answer."""
    if apart is None:
        return [end]
    if first is None:
        newest = predictions.newest(store.objects, task)
        last = params.parse_instant(newest["issued"]) if newest else end - apart
        first = max(last, end - BACK) + dt.timedelta(microseconds=1)
    return [end - i * apart for i in reversed(range((end - first) // apart + 1))]


def _counted(city: Params, task: str, end: dt.datetime, paths: Paths) -> None:
    """Count what the champion finds in all the source's pictures or messages before `end`."""
    import pyarrow as pa

    asked, source = city.task(task), city.source(city.task(task).target.source)
    with log.room("predict", task) as told:
        store = Store.of(paths)
        champion = _champion(store, task)
        folder = paths.features(asked.modality, asked.target.source)
        items, issued = (
            Items.open(folder, asked.target.source, "features"),
            np.datetime64(end.replace(tzinfo=None), "us"),
        )
        items.fits({"size": champion.config.get("size")}, folder)
        items = items.take(items.times < issued)
        objective = questions.load(asked.objective)
        step_s = int(source.step.total_seconds())
        rows = counts.table(objective, objective.ask(champion), items, asked.target.source, champion.names, step_s)
        if not len(rows["time"]):
            raise UserError(f"{folder}: nothing with a time before {issued}; give another --until")
        found = pa.table({**rows, "time": pa.array(rows["time"], pa.timestamp("us", "UTC"))})
        name = f"batch-{champion.digest[:16]}-{end:%Y%m%dT%H%M%SZ}.parquet"
        key = f"{predictions.FOLDER}/{task}/date={end:%F}/{name}"
        table = paths.root / "data/counts" / f"{task}.parquet"
        files.write_table(table, found)
        store.objects.put(key, table.read_bytes())
        told.update(items=len(items), rows=len(found), digest=champion.digest[:12], into=key)


def answered(task: str, predictor: Predictor, series: Series, issued: np.datetime64) -> Answered:
    """The answer from the latest context before `issued`, and readings after it of channels known ahead.

    Raises UserError where the grid has no such context, or no reading of a target in it.
    """
    spec = predictor.spec
    row = _row(series, issued, spec.context)
    start = series.start + row * series.step
    values = _window(predictor, series, row)
    if not np.isfinite(values[: spec.context, : predictor.targets]).any():
        raise UserError(
            f"{series.folder}: no reading of a target from {start} to {issued}; see why the source is silent, "
            "or give another --until"
        )
    answer = predictor.predict(values[None], np.array([start]))[0]
    known = windows.known_steps(spec, predictor.reconstruct)
    given = values[known : known + spec.horizon, : predictor.targets]
    said = more(predictor.config, predictor.tables, answer, given)
    request = f"batch-{np.datetime_as_string(issued, unit='s')}Z-{predictor.digest[:16]}"
    return Answered(task, predictor, "batch", request, issued, start + known * series.step, answer, said)


def _joined(paths: Paths, task: str) -> Series:
    folder = paths.joined(task)
    if not (folder / "roles.json").exists():
        raise UserError(f"{folder}: no joined data; run `cityloop join {task}` first")
    return Series.open(folder)


def _champion(store: Store, task: str) -> Any:
    pointer = store.pointer(task)
    if pointer is None or pointer.stable is None:
        raise UserError(f"{task}: no release serves yet; approve a version, then run `cityloop promote {task}`")
    return items_of.load(store.fetch(task, pointer.stable))


def _row(series: Series, issued: np.datetime64, context: int) -> int:
    """The first of `context` rows that have ended by `issued`."""
    end = int((issued - series.start) // series.step)
    if end > series.length:
        raise UserError(
            f"--until {issued}: {series.folder} reaches until {series.when(series.length):%Y-%m-%dT%H:%M}; bring newer "
            "data in (dvc repro), or give an earlier time"
        )
    if end < context:
        raise UserError(
            f"--until {issued}: this model reads {context} steps before it, and {series.folder} has "
            f"{max(end, 0)}; give {series.when(context):%Y-%m-%dT%H:%M} or later"
        )
    return end - context


def _window(predictor: Predictor, series: Series, row: int) -> Array:
    """Readings in the model's own order, [steps, N]; NaN where the grid has none or they are not known yet."""
    columns = _columns(predictor, series)
    gone = [(c["sensor"], c["kind"]) for c, column in zip(predictor.channels, columns, strict=True) if column < 0]
    if gone:
        log.logger.warning("predict %s: without data, and missing: %s", predictor.config["task"], _some(gone))
    have = np.flatnonzero(columns >= 0)
    have = have[np.argsort(columns[have])]
    values = np.full((predictor.steps, len(columns)), np.nan, np.float32)
    values[:, have] = series.read(row, row + predictor.steps, columns[have])
    values[predictor.spec.context :, ~predictor.ahead] = np.nan
    return values


def _columns(predictor: Predictor, series: Series) -> Array:
    """Where each channel of the model lies in the grid, -1: nowhere."""
    names = zip(series.channels["sensor"].to_pylist(), series.channels["kind"].to_pylist(), strict=True)
    where = {name: i for i, name in enumerate(names)}
    return np.array([where.get((c["sensor"], c["kind"]), -1) for c in predictor.channels])


def _welcoming(predictor: Predictor, series: Series) -> Predictor:
    """With the grid's targets that the model never saw, where it can answer them; all of them are named."""
    known = {(c["sensor"], c["kind"]) for c in predictor.channels}
    targets = series.channels.slice(0, series.roles["target"][1]).to_pylist()
    new = [(c["sensor"], c["kind"]) for c in targets if (c["sensor"], c["kind"]) not in known]
    if not new:
        return predictor
    kinds = {c["kind"] for c in predictor.channels[: predictor.targets]}
    try:
        joined = predictor.joined_by(name for name in new if name[1] in kinds)
    except UserError as error:
        joined = predictor
        log.logger.warning("predict %s: %s", predictor.config["task"], error)
    said = {(c["sensor"], c["kind"]) for c in joined.channels}
    for told, names in (
        ("new to this model, and taken for a usual one of its kind", [n for n in new if n in said]),
        ("new to this model, and not answered", [n for n in new if n not in said]),
    ):
        if names:
            log.logger.warning("predict %s: %s: %s", predictor.config["task"], told, _some(names))
    return joined


def _some(names: list[tuple[str, str]]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(" ".join(name) for name in names[:NAMED]) + more
