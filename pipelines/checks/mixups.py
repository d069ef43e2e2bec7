"""Stretches of records in a wrong unit: found by their edges or by their level, as Ibis expressions."""

from pipelines.checks.rules import DAY, REFERENCE, Rules
from pipelines.checks.tables import Table, before, beside, slot_of, where

_CHANNEL = ("sensor", "kind", "unit")
VAGUE = 0.3
"""A v that spreads wider from day to day, in sizes of the mix-up, has no say: pollution, unlike speed."""
MEMORY = 3
"""Days for which the edge of a stretch is remembered."""


def rows(good: Table, mixups: Table, rule: Rules) -> Table:
    """Rows of stretches that read as if the sensor had been set to a wrong unit.

    v is the value, or its logarithm where a mix-up is a factor; u is v less the median of v over the sensors of that
    moment. A mix-up shifts u by `size`. A stretch is found by its edges, u leaping by `size` in one step and staying
    there, if its level does not speak against it; or by its level alone, if that fits what is usual for the channel
    at this time of day only after conversion, both in u and in v. What lies between two found parts belongs to it.
    """
    import ibis

    r = good.join(mixups, "kind")
    r = r.filter(~r.logarithmic | (r.value > 0))
    right = (r.value - r["shift"]) / r.scale
    r = r.mutate(
        slot=slot_of(r.t, rule.step),
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
    found = _by_edges(r).fill_null(False) | _by_level(r, rule).fill_null(False) | _by_end(r).fill_null(False)
    r = _between(r.mutate(found=found), rule)
    return where(r, r.found | r.between).select("row")


def _edges(r: Table, rule: Rules) -> Table:
    """Adds `inside`: between a leap by `size` and one back, known to be at least `hold` apart by the end of the day."""
    import ibis

    order = ibis.window(group_by=_CHANNEL, order_by=[r.t, r.row])
    columns = {f"p{i}": r.u.lag(i).over(order) for i in (1, 2, 3)}
    columns |= {f"n{i}": r.u.lead(i).over(order) for i in (1, 2)} | {f"d{i}": r.day.lead(i).over(order) for i in (1, 2)}
    columns |= {f"m{i}": r.v.lead(i).over(order) for i in (1, 2)}
    columns["psize"] = r["size"].lag(1).over(order)  # what a leap back from the record before would be
    columns["tp"] = r.t.lag(3).over(order)
    columns["tn"] = r.t.lead(2).over(order)
    r = r.mutate(**columns)
    near = (r.t - r.tp <= DAY) & (r.tn - r.t <= DAY)
    r = r.mutate(after_u=_middle(r.u, r.n1, r.n2), after_v=_middle(r.v, r.m1, r.m2))
    leap, first = r.after_u - _middle(r.p1, r.p2, r.p3), r.u - r.p1
    start = near & (leap / r["size"]).between(0.45, 1.55) & (first / r["size"]).between(0.5, 1.5)
    end = near & (leap / r.psize).between(-1.55, -0.45) & (first / r.psize).between(-1.5, -0.5)
    own = r.d2 == r.day
    r = r.mutate(start=start.ifelse(r.t, None), end=end.ifelse(r.t, None))
    r = r.mutate(own_start=own.ifelse(r.start, None), own_end=own.ifelse(r.end, None))
    past = r.group_by(*_CHANNEL, "day").agg(start=r.start.max(), end=r.end.max())
    old = before(past, list(_CHANNEL), {"old_start": "start", "old_end": "end"}, MEMORY, "max")
    r = beside(r, old.drop("seen"), [*_CHANNEL, "day"])
    so_far = ibis.cumulative_window(group_by=[*_CHANNEL, "day"], order_by=[r.t, r.row])
    rest = ibis.window(group_by=[*_CHANNEL, "day"], order_by=[r.t, r.row], rows=(0, None))
    whole = ibis.window(group_by=[*_CHANNEL, "day"])
    r = r.mutate(
        since=ibis.greatest(r.own_start.max().over(so_far), r.old_start),
        ended=ibis.greatest(r.own_end.max().over(so_far), r.old_end),
        until=ibis.coalesce(r.own_end.min().over(rest), r.t.max().over(whole)),
    )
    first_end = r.group_by(*_CHANNEL, "day").agg(first_end=r.own_end.min(), end_v=r.after_v.argmin(r.own_end))
    r = beside(r, first_end, [*_CHANNEL, "day"])
    hold = max(4 * rule.step, DAY // 6)
    inside = r.since.notnull() & (r.ended.isnull() | (r.since > r.ended)) & (r.until - r.since >= hold)
    return r.mutate(inside=inside)


def _by_edges(r: Table) -> Table:
    """Whether a record lies inside edges, the day's mean level there not speaking against it."""
    import ibis

    stretch = ibis.window(group_by=[*_CHANNEL, "day", "inside", "since"])
    mean = {name: r[name].mean().over(stretch) for name in ("qu", "qv", "spread_v", "strange")}
    fits = mean["qu"].between(0.6, 1.4) & (mean["qv"].between(0.5, 1.5) | (mean["spread_v"] > VAGUE))
    return r.inside & fits & (mean["strange"] > 3)


def _by_end(r: Table) -> Table:
    """In a channel's first two days, with little or nothing usual yet: from midnight to a leap back, some hours later.

    Most of it must be off by a mix-up from what follows the leap, in v: of u's hours nothing is known yet.
    """
    import ibis

    opening = (r.seen.fill_null(0) <= 1) & r.since.isnull() & (r.t < r.first_end)
    fits = ((r.v - r.end_v) / r["size"]).between(0.6, 1.4).cast("float64")
    share = opening.ifelse(fits, None).mean().over(ibis.window(group_by=[*_CHANNEL, "day"]))
    began = r.t.min().over(ibis.window(group_by=[*_CHANNEL, "day"]))
    return opening & (r.first_end - began >= DAY // 6) & (share >= 0.8)


def _between(r: Table, rule: Rules) -> Table:
    """Adds `between`: found records lie on both sides, six hours apart at most, and hardly any between them is usual.

    So a stretch goes on through a jam or another hour of which the level says nothing.
    """
    import ibis

    reach = DAY // 4
    usual = r.qu.between(-0.35, 0.35) & (r.qv.between(-0.35, 0.35) | (r.spread_v > VAGUE))
    so_far = ibis.cumulative_window(group_by=_CHANNEL, order_by=[r.t, r.row])
    r = r.mutate(count=usual.fill_null(False).cast("int64").sum().over(so_far))
    back = ibis.range_window(group_by=_CHANNEL, order_by=r.t, preceding=reach, following=0)
    ahead = ibis.range_window(group_by=[*_CHANNEL, "day"], order_by=r.t, preceding=0, following=reach)
    time, count = r.found.ifelse(r.t, None), r.found.ifelse(r["count"], None)
    apart = time.min().over(ahead) - time.max().over(back)
    between = count.min().over(ahead) - count.max().over(back)
    inside = (apart <= reach) & (between <= reach // rule.step // 10)
    return r.mutate(between=inside.fill_null(False))


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
    usual = before(daily, block[:-1], {"ru": "du", "rv": "dv"}, REFERENCE)
    spread = before(daily, block[:-1], {"spread_u": "du", "spread_v": "dv"}, REFERENCE, "spread")
    r = beside(beside(r, usual, block), spread.drop("seen"), block)

    def off(u: Table) -> Table:
        return (r.value - r.logarithmic.ifelse(ibis.least(r.base + u, 100.0).exp(), r.base + u)).abs()

    own = r.u.median().over(ibis.window(group_by=day))
    errors = r.mutate(error=off(own)).group_by(*day).agg(error=lambda x: x.error.median())
    r = r.mutate(off=off(r.ru))
    r = beside(r, before(errors, list(_CHANNEL), {"error": "error"}, REFERENCE).drop("seen"), day)
    q = {f"q{name}": ((r[name] - r[f"r{name}"]) / r["size"]).clip(-1.0, 2.0) for name in ("u", "v")}
    spreads = {name: r[name] / r["size"].abs() for name in ("spread_u", "spread_v")}
    return r.mutate(**q, **spreads, strange=r.off / ibis.greatest(r.error, 1e-9))


def _by_level(r: Table, rule: Rules) -> Table:
    """Whether a record and most of those of some hours before or after it are as usual once converted, in u and in v.

    Where v is too vague to tell, u alone does, if it is steady and far off.
    """
    import ibis

    hold = min(max(6 * rule.step, DAY // 6), DAY)
    back = ibis.range_window(group_by=_CHANNEL, order_by=r.t, preceding=hold, following=0)
    ahead = ibis.range_window(group_by=[*_CHANNEL, "day"], order_by=r.t, preceding=0, following=hold)
    vague = (r.spread_v > VAGUE) & (r.spread_u < 0.25) & (r.strange > 5)
    fits = r.qu.between(0.6, 1.4) & (r.qv.between(0.6, 1.4) | vague) & (r.strange > 3.5)
    fits = fits.fill_null(False).cast("float64")
    sides = [(r.t.count().over(w) >= 0.6 * hold / rule.step) & (fits.mean().over(w) >= 0.75) for w in (back, ahead)]
    return (fits > 0) & (sides[0] | sides[1])
