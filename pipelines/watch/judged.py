"""The champion's whole days by the summary of `cityloop monitor`: which were worse than the gate allows, and why."""

import datetime as dt
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipelines.core.watching import Monitor

ROLES = ("stable", "batch")
"""In which a champion answers."""
SCORES = ("macro_f1", "precision")
"""Metrics of which more is better; those of the others that have a gate are errors."""
DUE = ("waiting", "missing", "unanswered", "scored")
"""Answers whose truth should have come, or is to."""
FEWEST = 0.1
"""Of the answers that are scored of a usual day, a day has at least this share, or says nothing."""
FEWEST_ALARMS = 20
"""A day's precision is judged by no fewer."""


class Day(NamedTuple):
    """A whole day. `worse`: by which share the error was above the frozen test's (of scores: below); `rival`: how much
    worse last value was, which no model is to blame for; `apart`: `worse` without sensors that are broken.

    None: that cannot be said.
    """

    day: str
    live: float
    worse: float
    rival: float | None = None
    apart: float | None = None
    faults: tuple[str, ...] = ()

    def beside(self, higher: bool) -> float:
        """How much worse than the frozen test by the measure of what last value met on that day."""
        if self.rival is None or self.rival <= 0:
            return self.worse
        if higher:
            return 1 - (1 - self.worse) / (1 - self.rival) if self.rival < 1 else 0.0
        return (1 + self.worse) / (1 + self.rival) - 1


@dataclass(frozen=True)
class Run:
    """Days above a limit. `raised`: so many running that it counts, and not so many since that it is over."""

    raised: bool = False
    since: str | None = None
    """The first day of the run that raised it; of one that is not raised, of the run that may come to it."""
    count: int = 0
    """Days above running, up to the latest."""


@dataclass(frozen=True)
class Judged:
    """All whole days that could be judged, oldest first; `blind`: the latest ones running whose truth is missing."""

    metric: str
    higher: bool
    frozen: float | None
    days: list[Day] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, summary: dict[str, Any], settings: Monitor, until: dt.datetime) -> "Judged":
        """Days that ended by `until`. Later ones, and those with too little truth yet or for good, are not judged."""
        metric, tested = summary["primary"], summary.get("frozen_test") or {}
        frozen, rival = (_number(tested.get(name, {}).get(metric)) for name in ("model", "last_value"))
        made = cls(metric, metric in SCORES, frozen if metric != "alarm_rate" else None)
        told, by_day = (summary.get("drift") or {}).get("days", {}), _by_day(summary)
        usual = statistics.median(found["scored"] for found in by_day.values()) if by_day else 0
        for day, found in by_day.items():
            if dt.date.fromisoformat(day) + dt.timedelta(days=1) > _day(until):
                continue
            due, live = sum(found[name] for name in DUE), _number(found["model"].get(metric))
            if found["missing"] + found["unanswered"] > settings.missing * due:
                made.blind.append(day)
                continue
            made.blind.clear()
            few = found["scored"] < FEWEST * usual or _few_alarms(found, metric)
            if live is None or not made.frozen or few or due - found["scored"] > settings.missing * due:
                continue
            made.days.append(
                Day(
                    day,
                    live,
                    made.worse(live) or 0.0,
                    _ratio(made.higher, _number((found.get("last_value") or {}).get(metric)), rival),
                    made.worse(_number((found.get("apart") or {}).get(metric))),
                    tuple(told.get(day, {}).get("faults", ())),
                )
            )
        return made

    def worse(self, live: float | None) -> float | None:
        return _ratio(self.higher, live, self.frozen)

    def limit(self, margin: float) -> float | None:
        """The figure that is `margin` worse than the frozen test's."""
        return None if self.frozen is None else self.frozen * (1 - margin if self.higher else 1 + margin)

    def run(self, above: Iterable[bool], needed: int) -> Run:
        """above: of each day, whether it was. `needed` running raise it, as many running not above end it."""
        raised, since, count, under = False, None, 0, 0
        for day, is_above in zip(self.days, above, strict=True):
            if is_above:
                since, count, under = since or day.day, count + 1, 0
                raised = raised or count >= needed
            else:
                count, under = 0, under + 1
                raised = raised and under < needed
                since = since if raised else None
        return Run(raised, since, count)


def _by_day(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By day the champion's figures in the role that was scored most."""
    roles = summary["releases"].get(summary["champion"], {})
    days: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        for day, found in roles.get(role, {}).get("by_day", {}).items():
            if day not in days or found["scored"] > days[day]["scored"]:
                days[day] = found
    return dict(sorted(days.items()))


def _few_alarms(found: dict[str, Any], metric: str) -> bool:
    return metric == "precision" and (found["model"].get("alarm_rate") or 0) * found["scored"] < FEWEST_ALARMS


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _ratio(higher: bool, live: float | None, frozen: float | None) -> float | None:
    if live is None or not frozen:
        return None
    return 1 - live / frozen if higher else live / frozen - 1


def _day(moment: dt.datetime) -> dt.date:
    return moment.astimezone(dt.UTC).date()
