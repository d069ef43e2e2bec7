"""Days of sums that `live` made, as `cityloop monitor` keeps them → the figures of its summary, and their plot."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipelines.models import figures
from pipelines.models.evaluation import live

Array = np.ndarray[Any, Any]
Days = dict[str, dict[str, Any]]
"""The content of each day's file."""
STABLE, TRIED = ("stable",), ("canary", "shadow")


class Group(NamedTuple):
    """What one row of sums is over."""

    day: str
    role: str
    kind: str
    step: int


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
        mine = [i for i, n in enumerate(self.names) if n.role in roles and (days is None or n.day in days)]
        return self._figures(self.sums[mine].sum(0))

    def by(self, part: str, role: str) -> dict[str, Any]:
        """Of a role, by one part of the groups' names."""
        mine = [i for i, name in enumerate(self.names) if name.role == role]
        values: list[Any] = sorted({getattr(self.names[i], part) for i in mine})
        number = {value: i for i, value in enumerate(values)}
        total = np.zeros((len(values), self.sums.shape[1]))
        np.add.at(total, [number[getattr(self.names[i], part)] for i in mine], self.sums[mine])
        return {str(value): self._figures(total[i]) for value, i in number.items()}

    def days(self, roles: Container[str]) -> set[str]:
        return {name.day for name in self.names if name.role in roles}

    def _figures(self, total: Array) -> dict[str, Any]:
        cuts = np.cumsum([size for _, size in self.layout])[:-1]
        sums = {name: part for (name, _), part in zip(self.layout, np.split(total, cuts), strict=True)}
        return live.figures(sums, self.classes)


def report(days: Days, classes: tuple[str, ...], champion: str | None, candidate: str | None) -> dict[str, Any]:
    """`releases`: figures by digest and role, whole and by day, kind, step. `join`: what became of all that was logged.

    `side_by_side`, where there is such a day: champion and candidate over the days on which both answered requests.
    """
    totals = {d: Total.of(days, d, classes) for d in sorted({d for told in days.values() for d in told["releases"]})}
    releases = {
        digest: {
            role: {
                **total.figures((role,)),
                **{f"by_{part}": total.by(part, role) for part in ("day", "kind", "step")},
            }
            for role in sorted({name.role for name in total.names})
        }
        for digest, total in totals.items()
    }
    found = {"releases": releases, "join": _join(releases, days)}
    if champion in totals and candidate in totals:
        one, two = totals[champion], totals[candidate]
        if both := one.days(STABLE) & two.days(TRIED):
            beside = {"champion": one.figures(STABLE, both), "candidate": two.figures(TRIED, both)}
            found["side_by_side"] = {"days": sorted(both), **beside}
    return found


def _join(releases: dict[str, Any], days: Days) -> dict[str, Any]:
    each = [told for roles in releases.values() for told in roles.values()]
    found: dict[str, Any] = {name: sum(told[name] for told in each) for name in live.COUNTS}
    due = found["rows"] - found["waiting"] - found["unsettled"]
    unknown: dict[str, int] = {}
    for told in days.values():
        for digest, rows in told["unknown"].items():
            unknown[digest] = unknown.get(digest, 0) + rows
    unreadable = [key for told in days.values() for key in told["unreadable"]]
    share = found["scored"] / due if due else float("nan")
    return {**found, "coverage": share, "days": len(days), "unknown": unknown, "unreadable": unreadable}


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
            for name, dash in zip(live.RIVALS, (":", "--"), strict=True):
                if name in told:
                    values = [d[name][primary] for d in by_day.values()]
                    axes.plot(when, values, dash, lw=1, alpha=0.6, color=line.get_color(), label=f"  {name}")
    frozen = (summary["frozen_test"] or {}).get("model", {}).get(primary)
    if frozen is not None:
        axes.axhline(frozen, color="black", lw=1, label="frozen test")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.tick_params(axis="x", labelrotation=30, labelsize=8)
    return figures.png(figure)
