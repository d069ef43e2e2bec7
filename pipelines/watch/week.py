"""A champion's last week: by part of the city and of the day, and sensor by sensor; and how it is, at a glance, which
`cityloop status` and the page of a server show."""

import datetime as dt
import math
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.models.evaluation.sums import RIVALS
from pipelines.models.evaluation.tally import Days, Total

Told = dict[str, Any]
Sensors = Callable[[str], Told | None]
"""Of a day, what `scoring.score` keeps apart; None where there is none."""
LENGTH, LATEST = 7, 31
"""Days of a report; and for how many broken sensors are told apart."""
ROLES = ("stable", "batch")
"""In which a champion answers."""
PARTS = ("hour", "regime", "district", "kind", "step")
SCORES = ("macro_f1", "precision")
"""Metrics of which more is better; of an alarm rate it is neither."""
SAID = 3
"""Reasons that are told at a glance."""


def of(days: Days, sensors: Sensors, champion: str | None, classes: tuple[str, ...], channels: Sequence[Told]) -> Any:
    """Figures of the week that ends with the champion's latest day, in the role in which it answered most.

    channels: of its bundle, for where a sensor is. None where it answered nothing.
    """
    mine = {day: told for day, told in days.items() if champion in told["releases"]}
    if not mine or champion is None:
        return None
    total, last = Total.of(mine, champion, classes), max(mine)
    span, before = (_days(last, i * LENGTH) for i in (0, 1))
    rows = {role: total.figures((role,), span)["rows"] for role in ROLES if total.days((role,)) & span}
    if not rows:
        return None
    role = max(rows, key=lambda name: rows[name])
    each = {day: told for day in sorted(span & set(mine)) if (told := sensors(day)) and champion in told["releases"]}
    by_sensor = Total.of(each, champion, classes).by("sensor", role) if each else {}
    where = {c["sensor"]: {k: c.get(k) for k in ("latitude", "longitude", "district")} for c in reversed(channels)}
    return {
        "from": min(span & set(mine)),
        "until": last,
        "role": role,
        **total.figures((role,), span),
        "before": total.figures((role,), before) if total.days((role,)) & before else None,
        **{f"by_{part}": total.by(part, role, span) for part in PARTS},
        "by_sensor": {sensor: {**told, **where.get(sensor, {})} for sensor, told in by_sensor.items()},
    }


def _days(last: str, gone: int) -> set[str]:
    """The week that ended so many days before the end of `last`."""
    end = dt.date.fromisoformat(last) - dt.timedelta(days=gone)
    return {f"{end - dt.timedelta(days=i)}" for i in range(LENGTH)}


def set_apart(summary: Told, sensors: Sensors, classes: tuple[str, ...]) -> None:
    """Say of the champion's latest days on which sensors were broken what its figures are without them: `apart`."""
    champion, drift = summary["champion"], summary.get("drift") or {}
    broken = {day: told["faults"] for day, told in drift.get("days", {}).items() if told["faults"]}
    for day in sorted(broken)[-LATEST:]:
        answered = [
            told["by_day"][day] for told in summary["releases"].get(champion, {}).values() if day in told["by_day"]
        ]
        told = sensors(day) if answered else None
        if not told or champion not in told["releases"]:
            continue
        total = Total.of({day: told}, champion, classes)
        names = {channel.rpartition("/")[0] for channel in broken[day]}
        for role, found in summary["releases"][champion].items():
            if day in found["by_day"]:
                found["by_day"][day]["apart"] = total.without(role, names)["model"]


def glance(summary: Told, found: Told | None, unit: str) -> Told:
    """How a task's champion is, in a few numbers. found: its week; unit: of its targets, if they have one."""
    metric, decision, drift = summary["primary"], summary.get("decision") or {}, summary.get("drift") or {}
    error = decision.get("error") or {}
    latest = max(drift.get("days", {}), default=None)
    counted = drift["days"][latest] if latest else {}
    return {
        "task": summary["task"],
        "until": summary["until"],
        "champion": summary["champion"],
        "metric": metric,
        "unit": unit if metric == "mae" else "",
        "higher_is_better": metric in SCORES,
        "week": {
            "from": found["from"],
            "until": found["until"],
            "model": number(found["model"].get(metric)),
            **{name: number(found[name].get(metric)) for name in RIVALS if name in found},
            "scored": found["scored"],
            "coverage": number(found["coverage"]),
        }
        if found
        else None,
        "latest": number(error.get("live")),
        "gate": number(error.get("gate")),
        "frozen_test": number(((summary.get("frozen_test") or {}).get("model") or {}).get(metric)),
        "drift": {
            "day": latest,
            "tested": counted.get("tested", 0),
            "drifted": len(counted.get("drifted", ())),
            "faulty": len(drift.get("faulty") or ()),
            "new_sensors": len(drift.get("new_sensors") or ()),
            "changed_since": drift.get("changed_since"),
        }
        if latest
        else None,
        "decision": decision.get("decision"),
        "since": decision.get("since"),
        "reasons": list(decision.get("reasons") or ())[:SAID],
    }


def number(value: Any) -> float | None:
    """None for what is no finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
