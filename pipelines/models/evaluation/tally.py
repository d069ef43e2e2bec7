"""Days of sums that `live` made, as `cityloop monitor` keeps them → the figures of its summary, and their plot."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipelines.models import figures
from pipelines.models.evaluation import sums
from pipelines.models.evaluation.sums import COUNTS, RIVALS

Array = np.ndarray[Any, Any]
Days = dict[str, dict[str, Any]]
"""The content of each day's file."""
BY = ("day", "kind", "step", "district", "regime", "hour")
STABLE, TRIED = ("stable",), ("canary", "shadow")


class Group(NamedTuple):
    """What one row of sums is over; see `live.PARTS`."""

    day: str
    part: str
    role: str
    value: str


@dataclass(frozen=True)
class Total:
    """Groups of one release over all days: a row of `sums` [G, K] each, laid out as `layout` says."""

    layout: list[tuple[str, int]]
    names: list[Group]
    sums: Array
    classes: tuple[str, ...]

    @classmethod
    def of(cls, days: Days, digest: str, classes: tuple[str, ...]) -> "Total":
        mine = {day: told["releases"][digest] for day, told in days.items() if digest in told["releases"]}
        names = [Group(day, *group[:3]) for day, told in mine.items() for group in told["groups"]]
        sums = np.array([group[3] for told in mine.values() for group in told["groups"]], float)
        return cls(next(iter(mine.values()))["layout"], names, sums, classes)

    def figures(self, roles: Container[str], days: Container[str] | None = None) -> dict[str, Any]:
        """Of all that was answered in these roles, on these days (None: all)."""
        mine = [
            i
            for i, n in enumerate(self.names)
            if n.part == "all" and n.role in roles and (days is None or n.day in days)
        ]
        return self.told(self.sums[mine].sum(0))

    def by(self, part: str, role: str, days: Container[str] | None = None) -> dict[str, Any]:
        """Of a role, by the values of a part, or by `day`; on these days (None: all)."""
        wanted, of = ("all", "day") if part == "day" else (part, "value")
        mine = [i for i, n in enumerate(self.names)
                if n.part == wanted and n.role == role and (days is None or n.day in days)]  # fmt: skip
        values = sorted({getattr(self.names[i], of) for i in mine}, key=lambda v: (int(v) if v.isdecimal() else 0, v))
        number = {value: i for i, value in enumerate(values)}
        total = np.zeros((len(values), self.sums.shape[1]))
        np.add.at(total, [number[getattr(self.names[i], of)] for i in mine], self.sums[mine])
        return {value: self.told(total[i]) for value, i in number.items()}

    def without(self, role: str, sensors: Container[str]) -> dict[str, Any]:
        """Of a role, but for these sensors."""
        mine = [i for i, n in enumerate(self.names) if (n.part, n.role) == ("sensor", role) and n.value not in sensors]
        return self.told(self.sums[mine].sum(0))

    def days(self, roles: Container[str]) -> set[str]:
        return {name.day for name in self.names if name.role in roles}

    def told(self, total: Array) -> dict[str, Any]:
        """Figures of sums [K]."""
        cuts = np.cumsum([size for _, size in self.layout])[:-1]
        by_name = {name: part for (name, _), part in zip(self.layout, np.split(total, cuts), strict=True)}
        return sums.figures(by_name, self.classes)


def report(days: Days, classes: tuple[str, ...], champion: str | None, candidate: str | None) -> dict[str, Any]:
    """`releases`: figures by digest and role, whole and by each of BY. `join`: what became of all that was logged.

    `side_by_side`: champion and candidate over the requests that both answered, as they do where one is the other's
    shadow; else over the days on which both answered some. It is left out where there are none.
    """
    totals = {d: Total.of(days, d, classes) for d in sorted({d for told in days.values() for d in told["releases"]})}
    releases = {
        digest: {
            role: {
                **total.figures((role,)),
                **{f"by_{part}": total.by(part, role) for part in BY},
            }
            for role in sorted({name.role for name in total.names})
        }
        for digest, total in totals.items()
    }
    found = {"releases": releases, "join": _join(releases, days)}
    if champion and candidate and champion in totals and candidate in totals:
        found |= _beside(days, totals[champion], totals[candidate], (champion, candidate))
    return found


def _beside(days: Days, one: Total, two: Total, digests: tuple[str, str]) -> dict[str, Any]:
    pairs = {day: p for day, told in days.items() for p in told["pairs"] if (p["champion"], p["candidate"]) == digests}
    if pairs:
        champion, candidate = (np.sum([p["sums"][i] for p in pairs.values()], axis=0) for i in (0, 1))
        told = {"days": sorted(pairs), "requests": sum(p["requests"] for p in pairs.values())}
        return {"side_by_side": {**told, "champion": one.told(champion), "candidate": two.told(candidate)}}
    if both := one.days(STABLE) & two.days(TRIED):
        told = {"days": sorted(both), "requests": None}
        return {"side_by_side": {**told, "champion": one.figures(STABLE, both), "candidate": two.figures(TRIED, both)}}
    return {}


def _join(releases: dict[str, Any], days: Days) -> dict[str, Any]:
    each = [told for roles in releases.values() for told in roles.values()]
    found: dict[str, Any] = {name: sum(told[name] for told in each) for name in COUNTS}
    due = found["rows"] - found["waiting"] - found["unsettled"]
    unknown: dict[str, int] = {}
    for told in days.values():
        for digest, rows in told["unknown"].items():
            unknown[digest] = unknown.get(digest, 0) + rows
    distrusted = {key: counts for told in days.values() for key, counts in told["distrusted"].items()}
    units = {digest: channels for told in days.values() for digest, channels in told["units"].items()}
    unreadable = [key for told in days.values() for key in told["unreadable"]]
    share = found["scored"] / due if due else float("nan")
    return {**found, "coverage": share, "days": len(days), "unknown": unknown, "unreadable": unreadable,
            "distrusted": distrusted, "units": units}  # fmt: skip


def in_short(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The primary figure of each release and role, and of the frozen test."""
    primary = summary["primary"]
    for digest, roles in summary["releases"].items():
        for role, told in roles.items():
            yield f"{digest[:12]} {role}", f"{told['model'][primary]:.4g}"
    frozen = (summary["frozen_test"] or {}).get("model", {}).get(primary)
    if frozen is not None:
        yield "frozen test", f"{frozen:.4g}"
    yield "metric", primary


def drawn(task: str, summary: dict[str, Any]) -> bytes:
    """A PNG of the primary figure by day; the frozen test's as a line."""
    from matplotlib.figure import Figure

    figure, primary = Figure(figsize=(9, 3.6), layout="constrained"), summary["primary"]
    axes = figure.subplots()
    figures.panel(axes, f"{task}: live {primary} by the day of the answer")
    for digest, roles in summary["releases"].items():
        for role, told in roles.items():
            by_day = told["by_day"]
            when, values = np.array(list(by_day), "datetime64[D]"), [d["model"][primary] for d in by_day.values()]
            (line,) = axes.plot(when, values, "o-", ms=3, label=f"{digest[:8]} {role}")
            for name, dash in zip(RIVALS, (":", "--"), strict=True):
                if name in told:
                    values = [d[name][primary] for d in by_day.values()]
                    axes.plot(when, values, dash, lw=1, alpha=0.6, color=line.get_color(), label=f"  {name}")
    frozen = (summary["frozen_test"] or {}).get("model", {}).get(primary)
    if frozen is not None:
        axes.axhline(frozen, color="black", lw=1, label="frozen test")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.tick_params(axis="x", labelrotation=30, labelsize=8)
    return figures.png(figure)
