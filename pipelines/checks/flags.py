"""Record flags as Ibis expressions: written once, run by DuckDB here and by Spark on a cluster.

A flag on a record of day d looks at d's own file and at the LOOKBACK days before it, never further
and never ahead, whatever else happens to be in the table. So a day gets the same flags alone, in a
batch of days or years later. Every window below is bounded or masked accordingly.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core import units
from pipelines.core.errors import UserError
from pipelines.core.params import Kind, Source

Table = Any
"""An Ibis table or column expression."""

REASONS = (
    "clock_skew",
    "duplicate",
    "missing",
    "out_of_range",
    "outside_bounds",
    "spike",
    "stuck",
    "unit_mixup",
    "unknown_kind",
    "unknown_sensor",
)
DAY = 86_400_000_000
LOOKBACK = 8
IDLE = 0.6
REFERENCE = LOOKBACK - 1
"""Days that make up what is usual; the day before them is there for the neighbours of their first records."""


@dataclass(frozen=True)
class Rules:
    """What a contract asks of single records, with times in microseconds."""

    step: int
    tolerance: float
    sigma: float
    kinds: pa.Table
    mixups: pa.Table
    constant_ok: tuple[tuple[str, tuple[float, ...]], ...]
    constant_with: tuple[tuple[str, str], ...]


KINDS = pa.schema(
    [
        ("kind", pa.string()),
        ("lo", pa.float64()),
        ("hi", pa.float64()),
        ("stuck_us", pa.int64()),
        ("spikes", pa.bool_()),
    ]
)
MIXUPS = pa.schema(
    [
        ("kind", pa.string()),
        ("unit", pa.string()),
        ("scale", pa.float64()),
        ("shift", pa.float64()),
        ("logarithmic", pa.bool_()),
    ]
)


def _rows(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def _linear(kind: str, unit: str, wrong: str) -> tuple[float, float]:
    """A reading in `wrong` is scale * (the reading in `unit`) + shift."""
    shift, one = units.convert(np.array([0.0, 1.0]), kind, unit, wrong).tolist()
    return one - shift, shift


def micros(span: dt.timedelta) -> int:
    return span // dt.timedelta(microseconds=1)


def stuck_after(kind: Kind, source: Source) -> int | None:
    """Microseconds; None where constant values are normal."""
    span = kind.stuck_after if kind.stuck_after is not None else source.contract.stuck_after
    return None if span == "never" else micros(span)


def rules(name: str, source: Source) -> Rules:
    """Raises UserError when a kind names an unknown unit or a freeze longer than the look-back can see."""
    kinds, mixups = [], []
    longest = 0
    for kind, spec in source.kinds.items():
        stuck = stuck_after(spec, source)
        longest = max(longest, stuck or 0)
        kinds.append((kind, *spec.range, stuck, spec.spikes and not spec.label))
        try:
            wrong = [(unit, *_linear(kind, spec.unit, unit)) for unit in spec.mixups]
        except ValueError as error:
            raise UserError(f"params.yaml: sources.{name}.kinds.{kind}.mixups: {error}") from None
        logarithmic = spec.range[0] >= 0 and not any(shift for _, _, shift in wrong)
        mixups += [(kind, unit, scale, shift, logarithmic) for unit, scale, shift in wrong]
    if 2 * longest > LOOKBACK * DAY:  # see `_stuck`
        raise UserError(
            f"params.yaml: sources.{name}: stuck_after of {longest / DAY:g} days is longer than validation looks back; "
            f"give at most {LOOKBACK // 2}d, or never"
        )
    return Rules(
        step=micros(source.step),
        tolerance=source.contract.clock_tolerance,
        sigma=source.contract.spike_sigma,
        kinds=_rows(kinds, KINDS),
        mixups=_rows(mixups, MIXUPS),
        constant_ok=tuple((k, spec.constant_ok) for k, spec in source.kinds.items() if spec.constant_ok),
        constant_with=tuple((k, other) for k, spec in source.kinds.items() for other in spec.constant_with),
    )


def flag(records: Table, kinds: Table, mixups: Table, sensors: Table, rule: Rules) -> Table:
    """One boolean column a reason for each record.

    `records`: row (unique, in order of arrival within equal times), day (days since 1970), t (microseconds
    since 1970, UTC), sensor, kind, value. `sensors`: sensor, inside. Returns row, day and REASONS.
    """
    single = _single(records, kinds, sensors, rule)
    good = single.filter(single.good).select("row", "day", "t", "sensor", "kind", "value", "stuck_us", "spikes")
    near = _neighbours(good)
    found = [_stuck(near, rule), _spikes(near, rule)]
    if len(rule.mixups):
        found.append(_unit_mixups(good, mixups, rule))
    out = single
    for name, rows in zip(("stuck", "spike", "unit_mixup"), found, strict=False):
        rows = rows.select("row").distinct().mutate(**{name: True})
        out = _beside(out, rows, ["row"])
    if not len(rule.mixups):
        out = out.mutate(unit_mixup=False)
    return out.select("row", "day", **{reason: out[reason].fill_null(False) for reason in REASONS})


def _single(records: Table, kinds: Table, sensors: Table, rule: Rules) -> Table:
    """Flags that need no more than the record and those of the same moment."""
    import ibis

    r = _beside(_beside(records, kinds, ["kind"]), sensors, ["sensor"])
    r = r.mutate(missing=r.value.isnull() | r.value.isnan())  # NaN is above all numbers to DuckDB and Spark
    r = r.mutate(
        unknown_kind=r.lo.isnull(),
        unknown_sensor=r.inside.isnull(),
        outside_bounds=~r.inside.fill_null(True),
        out_of_range=(~r.missing & ((r.value < r.lo) | (r.value > r.hi))).fill_null(False),
        clock_skew=_off_grid(r.t, rule.step) > int(rule.tolerance * rule.step),
    )
    # A value wins over a missing one of the same moment; among equals the first to arrive does.
    same = ibis.window(group_by=["sensor", "kind"], order_by=[r.t, r.missing, r.row])
    r = r.mutate(duplicate=(r.t.lag(1).over(same) == r.t).fill_null(False))
    bad = r.missing | r.unknown_kind | r.unknown_sensor | r.outside_bounds | r.out_of_range | r.duplicate
    return r.mutate(good=~bad)


def _beside(left: Table, right: Table, keys: list[str]) -> Table:
    return left.left_join(right, keys).drop(*(f"{key}_right" for key in keys))


def _where(r: Table, found: Table) -> Table:
    """Filter by all of `found` at once: given `a & b`, Ibis lets a window in b see only the rows that a has left."""
    return r.mutate(found=found).filter(lambda x: x.found)


def _off_grid(t: Table, step: int) -> Table:
    import ibis

    past = t % step
    return ibis.least(past, step - past)


def _neighbours(good: Table) -> Table:
    """Beside each record the two before it, and the two after it if they are of the same day."""
    import ibis

    order = ibis.window(group_by=["sensor", "kind"], order_by=[good.t, good.row])
    columns: dict[str, Table] = {}
    for i in (1, 2):
        columns |= {f"p{i}": good.value.lag(i).over(order), f"tp{i}": good.t.lag(i).over(order)}
        columns |= {f"n{i}": good.value.lead(i).over(order), f"tn{i}": good.t.lead(i).over(order)}
        columns |= {f"dn{i}": good.day.lead(i).over(order)}
    near = good.mutate(**columns)
    for i in (1, 2):
        today = near[f"dn{i}"] == near.day
        near = near.mutate(**{f"n{i}": today.ifelse(near[f"n{i}"], None), f"tn{i}": today.ifelse(near[f"tn{i}"], None)})
    return near


def _stuck(near: Table, rule: Rules) -> Table:
    """Rows of freezes: all but the first record of a run that has lasted `stuck_after` by the end of its day.

    A run is excused if most of its day another kind of the sensor rests that excuses it. A pause longer than
    `stuck_after` ends a run. So a run that reaches back beyond the look-back, which is at least twice as long, is
    seen to be long enough from any starting point: the flag is the same in any batch.
    """
    import ibis

    rests = ibis.literal(False)
    for kind, values in rule.constant_ok:
        rests |= (near.kind == kind) & near.value.isin(values)
    r = near.mutate(slot=_slot(near.t, rule.step), rests=rests)
    quiet = [
        r.filter(r.rests & (r.kind == other)).select("sensor", "day", "slot").mutate(kind=ibis.literal(kind), quiet=1.0)
        for kind, other in rule.constant_with
    ]
    r = r.filter(r.stuck_us.notnull() & ~r.rests)
    if quiet:
        r = _beside(r, ibis.union(*quiet, distinct=True), ["sensor", "day", "slot", "kind"])
    else:
        r = r.mutate(quiet=ibis.null("float64"))
    order = {"group_by": ["sensor", "kind"], "order_by": [r.t, r.row]}
    fresh = r.p1.isnull() | (r.p1 != r.value) | (r.t - r.tp1 > ibis.greatest(r.stuck_us, min(2 * rule.step, DAY)))
    r = r.mutate(began=fresh.ifelse(r.t, None))
    r = r.mutate(began=r.began.max().over(ibis.cumulative_window(**order)))
    today = ibis.window(group_by=["sensor", "kind", "day", "began"])
    r = r.mutate(long=r.t.max().over(today) - r.began >= r.stuck_us, idle=r.quiet.fill_null(0.0).mean().over(today))
    return _where(r, r.long & (r.t > r.began) & (r.idle < IDLE))


def _spikes(near: Table, rule: Rules) -> Table:
    """Rows that leave their neighbours, alone among their peers, and return.

    off is the distance from the middle of up to two records on either side, less the median of that distance over
    the sensors of the moment. sigma is its usual size for the channel at this time of day. Without a record after it
    (the last of a day, or before a gap) a spike must stand out from the way the values were going, too, and by more.
    """
    import ibis

    r = near.filter(near.spikes)
    reach = min(3 * rule.step, DAY)
    for side, i in (("p", 1), ("p", 2), ("n", 1), ("n", 2)):
        gap = (r.t - r[f"t{side}{i}"]).abs()
        r = r.mutate(**{f"{side}{i}": (gap <= reach).ifelse(r[f"{side}{i}"], None)})
    four = [r.p1, r.p2, r.n1, r.n2]
    count = sum((x.notnull().cast("int64") for x in four), start=ibis.literal(0))
    total = sum((x.fill_null(0.0) for x in four), start=ibis.literal(0.0))
    inner = total - ibis.greatest(*four) - ibis.least(*four)
    middle = ibis.cases((count == 4, inner / 2), (count == 3, inner), (count > 0, total / count))
    r = r.mutate(off=r.value - middle, slot=_slot(r.t, rule.step), block=(r.t % DAY) // (DAY // 8))
    moment = ["kind", "day", "slot"]  # the day, too: a fast clock's last record belongs to tomorrow's first slot
    peers = r.group_by(*moment).agg(shared=r.off.median(), peers=r.off.count())
    r = r.join(peers, moment)
    r = r.mutate(off=(r.peers >= 5).ifelse(r.off - r.shared, r.off))
    # The day itself counts: a day of incidents is rough, and nothing is known before the first one.
    r = r.mutate(today=r.off.abs().median().over(ibis.window(group_by=["sensor", "kind", "day"])))
    rough = r.group_by("sensor", "kind", "block", "day").agg(rough=r.off.abs().median())
    now = rough.rename(now="rough")
    usual = _before(rough, ["sensor", "kind", "block"], {"usual": "rough"}, REFERENCE)
    keys = ["sensor", "kind", "block", "day"]
    r = _beside(_beside(r, now, keys), usual, keys)
    enough = DAY // 8 // rule.step >= 12
    block = ibis.greatest(r.usual.fill_null(0.0), r.now if enough else 0.0)
    sigma = 1.4826 * ibis.greatest(r.today, block)
    up = r.off > 0
    alone = [x.isnull() | ((r.value > x) == up) for x in four]
    leap = ibis.least((r.value - r.p1).abs(), (r.value - r.n1).abs())
    onward = ibis.least((r.value - r.p1).abs(), (r.value - (2 * r.p1 - r.p2)).abs(), r.off.abs())
    returns = ibis.cases(
        (r.p1.notnull() & r.n1.notnull(), leap > 0.6 * r.off.abs()),
        (r.p2.notnull(), onward > 1.5 * rule.sigma * sigma),
        else_=False,
    )
    return r.filter(
        (sigma > 0) & (r.off.abs() > rule.sigma * sigma) & alone[0] & alone[1] & alone[2] & alone[3] & returns
    )


def _slot(t: Table, step: int) -> Table:
    return ((t + step // 2) / step).floor().cast("int64")


def _before(days: Table, keys: list[str], new: dict[str, str], reach: int, how: str = "median") -> Table:
    """For each key and day the median (or maximum) over the `reach` days before it, and over how many (`seen`)."""
    past = days.select(*keys, *new.values(), past="day")
    pairs = days.select(*keys, "day").join(past, keys)
    pairs = pairs.filter((pairs.past < pairs.day) & (pairs.past >= pairs.day - reach))
    tell = {
        "median": lambda x: x.median(),
        "max": lambda x: x.max(),
        "spread": lambda x: x.quantile(0.75) - x.quantile(0.25),
    }
    values = {name: tell[how](pairs[old]) for name, old in new.items()}
    return pairs.group_by(*keys, "day").agg(seen=pairs.count(), **values)


def _unit_mixups(good: Table, mixups: Table, rule: Rules) -> Table:
    """Rows of stretches that read as if the sensor had been set to a wrong unit.

    v is the value, or its logarithm where a mix-up is a factor; u is v less the median of v over the sensors of that
    moment. A mix-up shifts u by `size`. A stretch is found by its edges, u leaping by `size` in one step and staying
    there, if its level does not speak against it; or by its level alone, if that fits what is usual for the channel
    at this time of day only after conversion, both in u and in v.
    """
    import ibis

    r = good.join(mixups, "kind")
    r = r.filter(~r.logarithmic | (r.value > 0))
    right = (r.value - r["shift"]) / r.scale
    r = r.mutate(
        slot=_slot(r.t, rule.step),
        v=r.logarithmic.ifelse(ibis.greatest(r.value, 1e-9).ln(), r.value),
        w=r.logarithmic.ifelse(ibis.greatest(right, 1e-9).ln(), right),
        block=(r.t % DAY) // (DAY // 8),
    )
    moment = ["kind", "unit", "day", "slot"]
    base = r.group_by(*moment).agg(base=r.v.median(), peers=r.v.count())
    r = r.join(base, moment)
    r = r.mutate(u=(r.peers >= 5).ifelse(r.v - r.base, r.v), size=r.v - r.w)
    r = r.filter(r["size"].abs() > 0)
    r = r.select("row", "day", "t", *_CHANNEL, "block", "value", "logarithmic", "base", "u", "v", "size")
    r = _usual(_edges(r, rule))
    stretch = ibis.window(group_by=[*_CHANNEL, "day", "inside", "since"])
    mean = {name: r[name].mean().over(stretch) for name in ("qu", "qv", "spread_v", "strange")}
    fits = mean["qu"].between(0.6, 1.4) & (mean["qv"].between(0.5, 1.5) | (mean["spread_v"] > VAGUE))
    by_edges = _where(r, r.inside & fits & (mean["strange"] > 3)).select("row")
    return by_edges.union(_by_level(r, rule))


_CHANNEL = ("sensor", "kind", "unit")
VAGUE = 0.3
"""A v that spreads wider from day to day, in sizes of the mix-up, has no say: pollution, unlike speed."""
MEMORY = 3
"""Days for which the edge of a stretch is remembered."""


def _edges(r: Table, rule: Rules) -> Table:
    """Adds `inside`: between a leap by `size` and one back, known to be at least `hold` apart by the end of the day."""
    import ibis

    order = ibis.window(group_by=_CHANNEL, order_by=[r.t, r.row])
    columns = {f"p{i}": r.u.lag(i).over(order) for i in (1, 2, 3)}
    columns |= {f"n{i}": r.u.lead(i).over(order) for i in (1, 2)} | {f"d{i}": r.day.lead(i).over(order) for i in (1, 2)}
    columns["psize"] = r["size"].lag(1).over(order)  # what a leap back from the record before would be
    columns["tp"] = r.t.lag(3).over(order)
    columns["tn"] = r.t.lead(2).over(order)
    r = r.mutate(**columns)
    near = (r.t - r.tp <= DAY) & (r.tn - r.t <= DAY)
    leap, first = _middle(r.u, r.n1, r.n2) - _middle(r.p1, r.p2, r.p3), r.u - r.p1
    start = near & (leap / r["size"]).between(0.45, 1.55) & (first / r["size"]).between(0.5, 1.5)
    end = near & (leap / r.psize).between(-1.55, -0.45) & (first / r.psize).between(-1.5, -0.5)
    own = r.d2 == r.day
    r = r.mutate(start=start.ifelse(r.t, None), end=end.ifelse(r.t, None))
    r = r.mutate(own_start=own.ifelse(r.start, None), own_end=own.ifelse(r.end, None))
    past = r.group_by(*_CHANNEL, "day").agg(start=r.start.max(), end=r.end.max())
    old = _before(past, list(_CHANNEL), {"old_start": "start", "old_end": "end"}, MEMORY, "max")
    r = _beside(r, old.drop("seen"), [*_CHANNEL, "day"])
    so_far = ibis.cumulative_window(group_by=[*_CHANNEL, "day"], order_by=[r.t, r.row])
    rest = ibis.window(group_by=[*_CHANNEL, "day"], order_by=[r.t, r.row], rows=(0, None))
    whole = ibis.window(group_by=[*_CHANNEL, "day"])
    r = r.mutate(
        since=ibis.greatest(r.own_start.max().over(so_far), r.old_start),
        ended=ibis.greatest(r.own_end.max().over(so_far), r.old_end),
        until=ibis.coalesce(r.own_end.min().over(rest), r.t.max().over(whole)),
    )
    hold = max(4 * rule.step, DAY // 6)
    inside = r.since.notnull() & (r.ended.isnull() | (r.since > r.ended)) & (r.until - r.since >= hold)
    return r.mutate(inside=inside)


def _middle(a: Table, b: Table, c: Table) -> Table:
    import ibis

    return a + b + c - ibis.greatest(a, b, c) - ibis.least(a, b, c)


def _usual(r: Table) -> Table:
    """Adds how far each record is from what is usual for its channel at this time of day over the past week.

    qu, qv: in u and in v, in sizes of the mix-up: near 0 if it is as usual, near 1 if only converted. spread_v: how
    far v itself spreads from day to day, in the same measure. strange: in the channel's usual errors.
    """
    import ibis

    day, block = [*_CHANNEL, "day"], [*_CHANNEL, "block", "day"]
    daily = r.group_by(*block).agg(du=r.u.median(), dv=r.v.median())
    usual = _before(daily, block[:-1], {"ru": "du", "rv": "dv"}, REFERENCE)
    spread = _before(daily, block[:-1], {"spread_u": "du", "spread_v": "dv"}, REFERENCE, "spread")
    r = _beside(_beside(r, usual.drop("seen"), block), spread.drop("seen"), block)

    def off(u: Table) -> Table:
        return (r.value - r.logarithmic.ifelse(ibis.least(r.base + u, 100.0).exp(), r.base + u)).abs()

    own = r.u.median().over(ibis.window(group_by=day))
    errors = r.mutate(error=off(own)).group_by(*day).agg(error=lambda x: x.error.median())
    r = r.mutate(off=off(r.ru))
    r = _beside(r, _before(errors, list(_CHANNEL), {"error": "error"}, REFERENCE).drop("seen"), day)
    q = {f"q{name}": ((r[name] - r[f"r{name}"]) / r["size"]).clip(-1.0, 2.0) for name in ("u", "v")}
    spreads = {name: r[name] / r["size"].abs() for name in ("spread_u", "spread_v")}
    return r.mutate(**q, **spreads, strange=r.off / ibis.greatest(r.error, 1e-9))


def _by_level(r: Table, rule: Rules) -> Table:
    """Rows that are, with most of those of some hours before or after them, as usual once converted, in u and in v.

    Where v is too vague to tell, u alone does, if it is steady and far off.
    """
    import ibis

    hold = min(max(6 * rule.step, DAY // 6), DAY)
    back = ibis.range_window(group_by=_CHANNEL, order_by=r.t, preceding=hold, following=0)
    ahead = ibis.range_window(group_by=[*_CHANNEL, "day"], order_by=r.t, preceding=0, following=hold)
    vague = (r.spread_v > VAGUE) & (r.spread_u < 0.25) & (r.strange > 5)
    fits = r.qu.between(0.6, 1.4) & (r.qv.between(0.6, 1.4) | vague) & (r.strange > 3.5)
    r = r.mutate(fits=fits.fill_null(False).cast("float64"))
    sides = [
        (r.fits.count().over(w) >= 0.6 * hold / rule.step) & (r.fits.mean().over(w) >= 0.75) for w in (back, ahead)
    ]
    return _where(r, (r.fits > 0) & (sides[0] | sides[1])).select("row")
