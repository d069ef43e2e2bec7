"""Answers that were given, and the truth that came: sums by group, which any files and days add up to.

What answer or truth cannot be trusted in is counted by reason (`sums.QUARANTINED`) and not scored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pipelines.models.evaluation import regimes, sums
from pipelines.models.evaluation.logged import Release, Rows, Truth, numbered, pairs, placed
from pipelines.models.evaluation.sums import COUNTS, Sum

Array = np.ndarray[Any, Any]
Key = tuple[str, str, str]
"""Part, role and value of a group: of which part of the city or the time these answers are, and in which role."""
PARTS = ("all", "kind", "step", "district", "regime", "hour", "sensor")
"""Hours are the city's own. Regimes overlap, and leave hours out; a sensor that joined later is of no district."""
SECOND = 1_000_000


@dataclass
class Scored:
    """Sums of one release's answers: a row of numbers a group, laid out as `layout` says: (name, how many)."""

    layout: list[tuple[str, int]] = field(default_factory=list)
    groups: dict[Key, Array] = field(default_factory=dict)
    reaches: str = ""
    """Where the last step ends of those that are, or will be, held against what was read."""

    def add(self, other: "Scored") -> None:
        self.layout = other.layout or self.layout
        self.reaches = max(self.reaches, other.reaches)
        for key, values in other.groups.items():
            self.groups[key] = self.groups[key] + values if key in self.groups else values


def score(release: Release, rows: Rows, truth: Truth) -> tuple[Scored, Array]:
    """The rows' sums by group; and the grid's rows that these rest on, ascending."""
    series, step, length = truth.series, rows.step.astype(np.int64), truth.series.step_s * SECOND
    away = (rows.time - series.start).astype("timedelta64[us]").astype(np.int64)
    row, offset = np.divmod(away, length)
    state = _distrusted(release, rows, truth, offset)
    before = row - step  # the step before the first asked one
    unsettled = release.alarms & (step <= release.spec.horizon - release.spec.patch)
    trusted = state < 0
    due = trusted & (away + length <= truth.end * length) & ~unsettled
    inside = due & (row >= 0)
    plain = not release.alarms
    known = np.unique(np.concatenate([row[inside], before[inside & (before >= 0)] if plain else row[:0]]))
    read = series.gather(known, truth.columns).astype(np.float64)

    def at(where: Array, wanted: Array, label: str | None = None) -> Array:
        """What was read of the channel, or of its label, at rows of the grid, where it is wanted; else NaN."""
        column = truth.place(rows.sensor, rows.kind, label)
        out, some = np.full(len(where), np.nan), wanted & (column >= 0)
        out[some] = read[np.searchsorted(known, where[some]), column[some]]
        return out

    channel = release.channel(rows)
    if plain:
        real = release.truth(at(row, inside), channel)
        last, then = at(before, inside & (before >= 0)), release.usual(rows.time - step * series.step, channel)
        rivals = {"last_value": np.where(np.isfinite(last), last, then), "profile": release.usual(rows.time, channel)}
    elif release.label:
        real = at(row, inside, release.label)
        rivals = {"profile": release.away(at(row, inside) - release.usual(rows.time, channel), channel)}
    else:
        real, rivals = np.where(due, 0.0, np.nan), {}
    answered = _answered(release, rows)
    for name, which in {"unsettled": unsettled, "waiting": ~due, "missing": ~np.isfinite(real)}.items():
        state[(state < 0) & which] = COUNTS.index(name)
    state[state < 0] = np.where(answered, COUNTS.index("scored"), COUNTS.index("unanswered"))[state < 0]
    some = np.flatnonzero(state == COUNTS.index("scored"))
    given = {k: v[some] for k, v in rows.answer.items()}
    said = given.pop("given", np.full(len(some), np.nan))
    told = _sums(release, given, real[some], {k: v[some] for k, v in rivals.items()}, channel[some])
    if plain:
        spread = np.where(channel < 0, np.inf, release.tables["std"][channel])[some]
        told |= sums.of_requests(step[some] == 1, said, last[some], spread)
    made = Scored([*((name, 1) for name in COUNTS), *((name, one.size) for name, one in told.items())])
    if trusted.any():
        made.reaches = str(rows.time[trusted].max().astype("datetime64[s]") + series.step)
    for cells in (_by_channel(release, rows), _by_moment(release, rows, step, row, truth)):
        for key, values in cells.groups(_table(cells, state, some, told), rows.role.words):
            made.groups[key] = values
    return made, known


def _distrusted(release: Release, rows: Rows, truth: Truth, offset: Array) -> Array:
    """The number of the reason for which each row is not scored, int [P]; −1: there is none."""
    state, spec, step = np.full(len(offset), -1), release.spec, truth.series.step
    if truth.late is not None:
        first = rows.time - (rows.step.astype(np.int64) - 1) * step
        inside = release.config[
            "reconstruct"
        ]  # the asked steps lie inside the window, which ends with the last reading
        newest = first + (spec.future + spec.after) * step if inside else first
        if not inside:
            state[rows.issued - first > spec.horizon * step + truth.late] = COUNTS.index("hindsight")
        state[newest - rows.issued > step] = COUNTS.index("future")
    state[offset != 0] = COUNTS.index("off_grid")
    if other := release.other_units(truth):
        names = {pair: int(pair in other) for pair in pairs(rows.sensor, rows.kind)}
        state[placed(rows.sensor, rows.kind, names) > 0] = COUNTS.index("other_unit")
    return state


class Cells(NamedTuple):
    """Rows that are alike in some ways: which cell each is in, [P], and of which role each cell is, [C].

    parts: of which word each cell is, [C], −1 for none; by the name of a part, which may come again.
    """

    of: Array
    role: Array
    parts: list[tuple[str, Array, list[str]]]

    def groups(self, table: Array, roles: list[str]) -> Iterator[tuple[Key, Array]]:
        """The sums of the groups that the cells' sums [C, K] make."""
        for part, codes, words in self.parts:
            there = codes >= 0
            found, group = np.unique(self.role[there] * len(words) + codes[there], return_inverse=True)
            total = np.zeros((len(found), table.shape[1]))
            np.add.at(total, group, table[there])
            for code, values in zip(found.tolist(), total, strict=True):
                yield (part, roles[code // len(words)], words[code % len(words)]), values


def _table(cells: Cells, state: Array, some: Array, told: Mapping[str, Sum]) -> Array:
    """Sums [C, K] of each cell: how many rows are in which state, then those of `some` rows, as `told` says."""
    count, of = len(cells.role), cells.of[some]
    states = np.bincount(cells.of * len(COUNTS) + state, minlength=count * len(COUNTS)).reshape(count, -1)
    states[:, 0] = states.sum(1)
    blocks = [states.astype(float)]
    for one in told.values():
        cell = of if one.cell is None else of * one.size + one.cell
        blocks.append(np.bincount(cell, one.weight, count * one.size).reshape(count, -1).astype(float))
    return np.concatenate(blocks, axis=1)


def _by_channel(release: Release, rows: Rows) -> Cells:
    sensors, kinds = len(rows.sensor.words), len(rows.kind.words)
    codes = (rows.role.codes.astype(np.int64) * sensors + rows.sensor.codes) * kinds + rows.kind.codes
    found, of = numbered(codes)
    channel = found % (sensors * kinds)
    each = [release.district.get(pair, "") for pair in pairs(rows.sensor, rows.kind)]
    names = sorted(set(each) - {""})
    number = np.array([names.index(name) if name else -1 for name in each])
    parts = [
        ("all", np.zeros(len(found), np.int64), [""]),
        ("kind", channel % kinds, rows.kind.words),
        ("sensor", channel // kinds, rows.sensor.words),
        ("district", number[channel], names),
    ]
    return Cells(of, found // (sensors * kinds), parts)


def _by_moment(release: Release, rows: Rows, step: Array, row: Array, truth: Truth) -> Cells:
    there, when = numbered(row)
    moments, steps = truth.series.start + there * truth.series.step, int(step.max()) + 1
    found, of = numbered((rows.role.codes.astype(np.int64) * steps + step) * len(moments) + when)
    role, number, when = found // (steps * len(moments)), found // len(moments) % steps, found % len(moments)
    hour = regimes.local_hour(moments, release.spec)
    parts = [("step", number, [str(i) for i in range(steps)]), ("hour", hour[when], [str(h) for h in range(24)])]
    for name, inside in regimes.of(moments, release.spec).items():
        parts.append(("regime", np.where(inside[when], 0, -1), [name]))
    return Cells(of, role, parts)


def _answered(release: Release, rows: Rows) -> Array:
    names = ["score"] if release.alarms else release.config["names"]
    return np.logical_and.reduce([np.isfinite(rows.answer[name]) for name in names])


def _sums(
    release: Release, given: dict[str, Array], real: Array, rivals: dict[str, Array], channel: Array
) -> dict[str, Sum]:
    """Of points with truth `real` [P]."""
    if release.alarms:
        return sums.of_alarms(given, real, rivals.get("profile"))
    if release.classes:
        said = {name: release.truth(value, channel) for name, value in rivals.items()}
        return sums.of_classes(given, real, said, release.classes)
    return sums.of_values(given, real, rivals)
