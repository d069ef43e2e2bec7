"""Record flags as Ibis expressions: written once, run by DuckDB here and by Spark on a cluster.

A flag on a record of day d looks at d's own file and at the LOOKBACK days before it, never further
and never ahead, whatever else happens to be in the table. So a day gets the same flags alone, in a
batch of days or years later. Every window below is bounded or masked accordingly.
"""

from pipelines.checks import mixups as unit_mixups
from pipelines.checks.rules import DAY, REASONS, REFERENCE, Rules
from pipelines.checks.tables import Table, before, beside, slot_of, where

IDLE = 0.6
"""Share of a run's day for which another kind must rest to excuse it."""


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
        found.append(unit_mixups.rows(good, mixups, rule))
    out = single
    for name, rows in zip(("stuck", "spike", "unit_mixup"), found, strict=False):
        rows = rows.select("row").distinct().mutate(**{name: True})
        out = beside(out, rows, ["row"])
    if not len(rule.mixups):
        out = out.mutate(unit_mixup=False)
    return out.select("row", "day", **{reason: out[reason].fill_null(False) for reason in REASONS})


def _single(records: Table, kinds: Table, sensors: Table, rule: Rules) -> Table:
    """Flags that need no more than the record and those of the same moment."""
    import ibis

    r = beside(beside(records, kinds, ["kind"]), sensors, ["sensor"])
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
    r = near.mutate(slot=slot_of(near.t, rule.step), rests=rests)
    quiet = [
        r.filter(r.rests & (r.kind == other)).select("sensor", "day", "slot").mutate(kind=ibis.literal(kind), quiet=1.0)
        for kind, other in rule.constant_with
    ]
    r = r.filter(r.stuck_us.notnull() & ~r.rests)
    if quiet:
        r = beside(r, ibis.union(*quiet, distinct=True), ["sensor", "day", "slot", "kind"])
    else:
        r = r.mutate(quiet=ibis.null("float64"))
    order = {"group_by": ["sensor", "kind"], "order_by": [r.t, r.row]}
    fresh = r.p1.isnull() | (r.p1 != r.value) | (r.t - r.tp1 > ibis.greatest(r.stuck_us, min(2 * rule.step, DAY)))
    r = r.mutate(began=fresh.ifelse(r.t, None))
    r = r.mutate(began=r.began.max().over(ibis.cumulative_window(**order)))
    today = ibis.window(group_by=["sensor", "kind", "day", "began"])
    r = r.mutate(long=r.t.max().over(today) - r.began >= r.stuck_us, idle=r.quiet.fill_null(0.0).mean().over(today))
    return where(r, r.long & (r.t > r.began) & (r.idle < IDLE))


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
    r = r.mutate(off=r.value - middle, slot=slot_of(r.t, rule.step), block=(r.t % DAY) // (DAY // 8))
    moment = ["kind", "day", "slot"]  # the day, too: a fast clock's last record belongs to tomorrow's first slot
    peers = r.group_by(*moment).agg(shared=r.off.median(), peers=r.off.count())
    r = r.join(peers, moment)
    r = r.mutate(off=(r.peers >= 5).ifelse(r.off - r.shared, r.off))
    # The day itself counts: a day of incidents is rough, and nothing is known before the first one.
    r = r.mutate(today=r.off.abs().median().over(ibis.window(group_by=["sensor", "kind", "day"])))
    rough = r.group_by("sensor", "kind", "block", "day").agg(rough=r.off.abs().median())
    now = rough.rename(now="rough")
    usual = before(rough, ["sensor", "kind", "block"], {"usual": "rough"}, REFERENCE)
    keys = ["sensor", "kind", "block", "day"]
    r = beside(beside(r, now, keys), usual, keys)
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
