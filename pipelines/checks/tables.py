"""Small pieces of Ibis that the flags share."""

from typing import Any

Table = Any
"""An Ibis table or column expression."""


def beside(left: Table, right: Table, keys: list[str]) -> Table:
    return left.left_join(right, keys).drop(*(f"{key}_right" for key in keys))


def where(r: Table, found: Table) -> Table:
    """Filter by all of `found` at once: given `a & b`, Ibis lets a window in b see only the rows that a has left."""
    return r.mutate(found=found).filter(lambda x: x.found)


def slot_of(t: Table, step: int) -> Table:
    return ((t + step // 2) / step).floor().cast("int64")


def before(days: Table, keys: list[str], new: dict[str, str], reach: int, how: str = "median") -> Table:
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
