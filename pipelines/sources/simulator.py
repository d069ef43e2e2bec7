"""The embedded city: a seeded simulation of four departments that share one world, and of what their feeds suffer.

The city is a function of (`city.seed`, time): neither end of the window changes a record within it. What was
spoiled on the way stands in a batch's `truth`, so that validation can be scored. With all faults 0 the feed is clean.
What `changes` from some day on (a road is closed for good, a cabinet breaks) changes nothing before it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import units
from pipelines.core.errors import UserError, nearest
from pipelines.core.params import City, Source
from pipelines.core.reads import SimulatorRead
from pipelines.core.records import RECORDS, TRUTH
from pipelines.sources import Batch, Feed, Items, Window
from pipelines.sources.simulated import pictures, talk
from pipelines.sources.simulated.air import Air
from pipelines.sources.simulated.changes import History
from pipelines.sources.simulated.energy import Energy
from pipelines.sources.simulated.faults import ABSENT, DUPLICATE, FAULTS, NULL
from pipelines.sources.simulated.ground import Array, Department, to_day
from pipelines.sources.simulated.phrases import DEPARTMENTS as WRITTEN_TO
from pipelines.sources.simulated.pictures import Pictures
from pipelines.sources.simulated.talk import Messages
from pipelines.sources.simulated.traffic import Traffic
from pipelines.sources.simulated.vehicles import CLASSES
from pipelines.sources.simulated.water import Water

DEPARTMENTS: dict[str, Any] = {"traffic": Traffic, "air": Air, "energy": Energy, "water": Water}
BATCH = 250_000
"""Records a batch, about."""


def read(source: Source, city: City, window: Window) -> Feed | Items:
    """Deliver the simulated `source.read.feed`. Raises UserError for kinds, units or steps that the city has not."""
    assert isinstance(source.read, SimulatorRead)
    if source.read.feed == "cameras":
        return Items(_pictures(source, source.read, city).batches(window))
    if source.read.feed == "messages":
        known = {"label": WRITTEN_TO, "spans": ("jam", "free")}
        _named(source, "messages", {name: known[name] for name in source.kinds})
        faults = _shares(talk.FAULTS, source.read)
        written = Messages(city, source.read.sensors, frozenset(source.kinds), source.read.labelled, faults)
        return Items(written.batches(window))
    department: Department = DEPARTMENTS[source.read.feed](city, source.read.sensors)
    _check(source, source.read.feed, department)
    for i, change in enumerate(source.read.changes):
        if unknown := [name for name in change.sensors if name not in department.sites.names]:
            hint = nearest(unknown[0], department.sites.names)
            raise UserError(f"simulator feed {source.read.feed}, changes.{i}: no sensor {unknown[0]!r}; {hint}")
    return Feed(department.sites.table(), _batches(source, city, window, department), department.sites.edge_table())


def _pictures(source: Source, read: SimulatorRead, city: City) -> Pictures:
    every = (read.every or source.step).total_seconds()
    if every < 60 or 86400 % every:
        raise UserError(
            f"simulator feed cameras: a frame every {every:.0f}s; mend `every` to a minute or more of a day"
        )
    if read.crops and "boxes" in source.kinds:
        raise UserError(
            "simulator feed cameras: `crops` are of one vehicle each and have no boxes; leave out kind boxes"
        )
    _named(source, "cameras", dict.fromkeys(source.kinds, CLASSES))
    faults = _shares(pictures.FAULTS, read)
    return Pictures(city, read.sensors, int(every), frozenset(source.kinds), read.crops, read.labelled, faults)


def _shares(own: Mapping[str, float], read: SimulatorRead) -> dict[str, float]:
    for name in read.spoiled:
        if name not in own:
            raise UserError(f"simulator feed {read.feed}, spoiled: no fault {name!r}; {nearest(name, own)}")
    return {**own, **read.spoiled}


def _named(source: Source, feed: str, labels: dict[str, tuple[str, ...]]) -> None:
    """Raises UserError where a contract lacks a label that the city's annotators use."""
    for kind, known in labels.items():
        lacks = [label for label in known if label not in source.kinds[kind].labels]
        if lacks:
            raise UserError(f"simulator feed {feed}, kind {kind}: annotated with {', '.join(known)}; add {lacks[0]!r}")


def _check(source: Source, feed: str, department: Department) -> None:
    step = source.step.total_seconds()
    if step % department.step_s:
        raise UserError(
            f"simulator feed {feed}: step {step:.0f}s is no multiple of its own {department.step_s}s; mend step"
        )
    for name, kind in source.kinds.items():
        if name not in department.units:
            raise UserError(f"simulator feed {feed} has no kind {name!r}; {nearest(name, department.units)}")
        for unit, of in ((kind.unit, department.units[name][0]), *((mixup, kind.unit) for mixup in kind.mixups)):
            try:
                units.convert(np.zeros(1), name, of, unit)
            except ValueError as error:
                raise UserError(f"simulator feed {feed}, kind {name}: {error}; mend unit or mixups") from None


def _batches(source: Source, city: City, window: Window, department: Department) -> Iterator[Batch]:
    assert isinstance(source.read, SimulatorRead)

    read = source.read

    def changed(closed: frozenset[str]) -> Department:
        return Traffic(city, read.sensors, closed) if closed else department

    names = pa.array(department.sites.names)
    history = History(source, city.seed, department.sites.names, changed, _measured)
    # a skewed clock carries records over midnight: look one day to either side
    first, last = to_day(window.start) - 1, to_day(window.end) + 1
    span = max(1, BATCH // max(history.records, 1))
    for day in range(first, last + 1, span):
        parts = [_tables(d, history, names) for d in range(day, min(day + span, last + 1))]
        records, truth = (pa.concat_tables([part[i] for part in parts]) for i in (0, 1))
        records, truth = _within(records, window), _within(truth, window)
        if len(records) or len(truth):
            yield Batch(records, truth)


def _measured(source: Source, department: Department, day: int) -> Array:
    """What the sensors truly show on `day`, in the contract's kinds, units and step, [steps, kinds, n]."""
    values, steps = department.day(day), 86400 // int(source.step.total_seconds())
    out = []
    for name, kind in source.kinds.items():
        unit, decimals = department.units[name]
        fine = values[name]
        fine = fine.reshape(steps, len(fine) // steps, -1)
        pick: Any = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}.get(kind.aggregate)
        coarse = pick(fine, axis=1) if pick else fine[:, -1]
        out.append(np.round(units.convert(coarse, name, unit, kind.unit), decimals if unit == kind.unit else 3))
    return np.stack(out, axis=1)


def _tables(day: int, history: History, names: pa.Array) -> tuple[pa.Table, pa.Table]:
    """A day's records and truth, ordered by time, kind and sensor; duplicates follow at the end."""
    clean, spoiled = history.clean(day), history.spoiled(day)
    kinds, faults = pa.array(history.kinds), pa.array(FAULTS)
    real = np.isfinite(clean)

    def columns(at: tuple[Array, ...]) -> list[pa.Array]:
        seconds = day * 86400 + at[0] * history.step_s + spoiled.shift[at]
        time = pa.array((seconds * 1_000_000).astype(np.int64)).cast(RECORDS.field("time").type)
        return [time, names.take(pa.array(at[2])), kinds.take(pa.array(at[1]))]

    at = np.nonzero(real & (spoiled.form != ABSENT))
    value, form = spoiled.value[at], spoiled.form[at]
    value = np.where(form > 0, np.nan, value)
    extra = spoiled.again
    records = pa.table([*columns(at), pa.array(value, mask=form == NULL)], schema=RECORDS)
    at = np.nonzero(real & (spoiled.code > 0))
    fault = faults.take(pa.array(spoiled.code[at]))
    truth = pa.table([*columns(at), fault, spoiled.size[at], clean[at]], schema=TRUTH)
    if extra:
        again = pa.table([*columns(extra), spoiled.again_value], schema=RECORDS)
        fault = pa.array([FAULTS[DUPLICATE]] * len(again), pa.string())
        twice = pa.table([*columns(extra), fault, np.zeros(len(again)), clean[extra]], schema=TRUTH)
        records, truth = pa.concat_tables([records, again]), pa.concat_tables([truth, twice])
    return records, truth


def _within(table: pa.Table, window: Window) -> pa.Table:
    time, kind = table["time"], table.schema.field("time").type
    start, end = pa.scalar(window.start, kind), pa.scalar(window.end, kind)
    return table.filter(pc.and_(pc.greater_equal(time, start), pc.less(time, end)))
