"""A task's week as one HTML file that anyone can open: nothing is loaded from elsewhere, and no script runs.

    kept.write("report.html", page(Facts("traffic_speed", city.task("traffic_speed"), summary, week, decisions)))

Equal facts give equal bytes.
"""

import datetime as dt
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.core.params import Task
from pipelines.models.evaluation import LABELS, words
from pipelines.models.evaluation.sums import COUNTS, QUARANTINED, RIVALS
from pipelines.watch import plots, week
from pipelines.watch.plots import Line, Rule, Spot
from pipelines.watch.week import number

NAME = "report.html"
TEMPLATE = Path(__file__).with_name(NAME)
SHOWN, WORST, TOLD = 60, 10, 10
"""Days over time, sensors, and decisions that are shown."""
FEWEST = 20
"""Scored answers that a sensor must have to be among the worst."""
REGIMES = {"rush_hour": "rush hour", "night": "night", "weekend_holiday": "weekend or holiday"}
STATES = {
    "scored": "scored",
    "waiting": "their time has not come",
    "unsettled": "not judged: before a window's last patch",
    "missing": "nothing was read",
    "unanswered": "the answer is missing",
    "other_unit": "what was read is in another unit",
    "off_grid": "at a time that is no step's",
    "future": "by readings from after the answer",
    "hindsight": "answered when all of it had been read",
}
Told = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """All that a report tells. week: `watch.week.of`; decisions: the newest last."""

    name: str
    task: Task
    summary: Told
    week: Told | None
    glance: Told
    decisions: Sequence[Told] = ()

    @property
    def metric(self) -> str:
        return str(self.summary["primary"])

    @property
    def higher(self) -> bool:
        return self.metric in week.SCORES

    @property
    def what(self) -> str:
        """The metric, and its unit."""
        return ", ".join(filter(None, (words.name(self.metric), str(self.glance["unit"]))))

    @property
    def drift(self) -> Told:
        return self.summary.get("drift") or {}

    @cached_property
    def broken(self) -> set[str]:
        """Sensors that are, at present."""
        return {channel.rpartition("/")[0] for channel in self.drift.get("faulty") or {}}

    def of(self, figures: Told | None, method: str = "model") -> float | None:
        return number(((figures or {}).get(method) or {}).get(self.metric))


def page(facts: Facts) -> bytes:
    import jinja2

    world = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    world.filters.update(number=words.number, share=_share, day=_day)
    told = {
        "facts": facts,
        "glance": facts.glance,
        "tiles": list(_tiles(facts)),
        "over_time": _over_time(facts),
        "drift": _drift(facts),
        "decisions": [*reversed(facts.decisions)][:TOLD],
        "join": _join(facts),
        "releases": list(_releases(facts)),
        "beside": _beside(facts),
        "labels": LABELS,
        **_week(facts),
    }
    return (world.from_string(TEMPLATE.read_text()).render(told) + "\n").encode()


def _share(value: float | None) -> str:
    return "–" if number(value) is None else f"{value:.1%}".replace(".0%", "%").replace("%", " %")


def _day(iso: str) -> str:
    """25 Apr"""
    day = dt.date.fromisoformat(iso[:10])
    return f"{day.day} {day:%b}"


def _tiles(facts: Facts) -> Iterable[tuple[str, str, str]]:
    """Label, value and what it stands beside."""
    glance, found = facts.glance, facts.week
    if found:
        now, before = facts.of(found), facts.of(found["before"])
        than = _than(now, before) if now and before else f"{_day(found['from'])} to {_day(found['until'])}"
        yield f"Live {facts.what}", words.number(now), than
    gate, frozen = glance["gate"], glance["frozen_test"]
    yield "Gate", words.number(gate), f"the frozen test's {words.number(frozen)}, and what params allow"
    rivals = {name: value for name in RIVALS if (value := facts.of(found, name)) is not None}
    if rivals:
        best = (max if facts.higher else min)(rivals, key=lambda name: rivals[name])
        yield f"Best baseline: {LABELS[best]}", words.number(rivals[best]), "in the same hours, of the same sensors"
    if found:
        yield "Truth has come for", _share(found["coverage"]), f"{found['scored']:,} answers scored"
    if drift := glance["drift"]:
        since = drift["changed_since"]
        changed = f"the city has changed since {_day(since)}" if since else "the city has not changed"
        yield "Channels that drifted", f"{drift['drifted']} of {drift['tested']}", f"on {_day(drift['day'])}; {changed}"
        yield "Broken sensors", str(len(facts.broken)), "told apart from a changed city"


def _than(now: float, before: float) -> str:
    change = f"{abs(now / before - 1):.0%}"
    return (
        "as in the week before"
        if change == "0%"
        else f"{change} {'more' if now > before else 'less'} than the week before"
    )


def _over_time(facts: Facts) -> Told | None:
    """The primary figure of whoever answered most on each day."""
    daily: dict[str, Told] = {}
    for digest, roles in facts.summary["releases"].items():
        for role in (r for r in week.ROLES if r in roles):
            for day, figures in roles[role]["by_day"].items():
                if day not in daily or figures["rows"] > daily[day]["rows"]:
                    daily[day] = {**figures, "digest": digest}
    days = sorted(daily)[-SHOWN:]
    drawn = [
        Line(LABELS[name], name, [facts.of(daily[day], name) for day in days], dots=name == "model")
        for name in (*reversed(RIVALS), "model")
    ]
    drawn = [line for line in drawn if any(v is not None for v in line.values)]
    if not drawn:
        return None
    told = {"gate": facts.glance["gate"], "frozen test": facts.glance["frozen_test"]}
    rules = [Rule(name, name.partition(" ")[0], value) for name, value in told.items() if value is not None]
    changed = facts.drift.get("changed_since")
    since = next((i for i, day in enumerate(days) if changed and day >= changed), None)
    sentence = f"Live {facts.what} by the day of the answer, {_day(days[0])} to {_day(days[-1])}"
    picture = plots.lines(sentence, [_day(day) for day in days], drawn, rules, since)
    rows = [
        (day, (told := daily[day])["digest"][:12], *(facts.of(told, m) for m in ("model", *RIVALS)), told["scored"])
        for day in reversed(days)
    ]
    return {"picture": picture, "lines": [*reversed(drawn)], "rules": rules, "changed": since is not None, "rows": rows}


def _week(facts: Facts) -> Told:
    found = facts.week
    if not found:
        return dict.fromkeys(("hours", "regimes", "districts", "map", "worst", "parts"))
    hours = [str(h) for h in range(24) if str(h) in found["by_hour"]]
    drawn = [Line(LABELS[m], m, [facts.of(found["by_hour"][h], m) for h in hours]) for m in ("model", *RIVALS)]
    drawn = [line for line in drawn if line.name == LABELS["model"] or any(v is not None for v in line.values)]
    sentence = f"{facts.what} by hour of the local day, {_day(found['from'])} to {_day(found['until'])}"
    names = [f"{int(h):02}" for h in hours]
    return {
        "hours": {"picture": plots.bars(sentence, names, drawn[0], drawn[1:]), "lines": drawn} if hours else None,
        "regimes": _rows(facts, {REGIMES.get(k, k): v for k, v in found["by_regime"].items()}),
        "districts": _worst_first(facts, _rows(facts, found["by_district"])),
        "parts": {part: _rows(facts, found[f"by_{part}"]) for part in ("kind", "step") if len(found[f"by_{part}"]) > 1},
        "map": _map(facts, found),
        "worst": _worst(facts, found),
    }


def _rows(facts: Facts, by: dict[str, Told]) -> list[tuple[Any, ...]]:
    """Name, figures of the model and of the baselines, answers scored."""
    return [(name, *(facts.of(told, m) for m in ("model", *RIVALS)), told["scored"]) for name, told in by.items()]


def _worst_first(facts: Facts, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    known = [row for row in rows if row[1] is not None]
    return sorted(known, key=lambda row: row[1], reverse=not facts.higher)


def _map(facts: Facts, found: Told) -> Told | None:
    spots = []
    for sensor, told in found["by_sensor"].items():
        place = [number(told.get(k)) for k in ("latitude", "longitude")]
        if place[0] is not None and place[1] is not None:
            value = facts.of(told)
            parts = [sensor, told.get("district"), f"{words.name(facts.metric)} {words.number(value)}",
                     "broken" if sensor in facts.broken else None]  # fmt: skip
            text, district = ", ".join(filter(None, parts)), told.get("district") or ""
            spots.append(Spot(place[0], place[1], value, text, district, sensor in facts.broken))
    values = [s.value for s in spots if s.value is not None]
    if len(values) < 2:
        return None
    limits = plots.bounds(values)
    ends = [words.number(v) for v in (min(values), *limits, max(values))]
    key = [(f"l{i}", f"{a} to {b}") for i, (a, b) in enumerate(itertools.pairwise(ends))]
    sentence = f"{len(spots)} sensors where they stand, coloured by their {facts.what}"
    return {"picture": plots.places(sentence, spots, limits), "key": key, "rings": any(s.ring for s in spots)}


def _worst(facts: Facts, found: Told) -> list[Told]:
    rows = [(told, row) for told, row in zip(found["by_sensor"].values(), _rows(facts, found["by_sensor"]), strict=True)
            if row[1] is not None and row[-1] >= FEWEST]  # fmt: skip
    rows.sort(key=lambda each: each[1][1], reverse=not facts.higher)
    return [
        {"row": row, "district": told.get("district"), "broken": row[0] in facts.broken} for told, row in rows[:WORST]
    ]


def _drift(facts: Facts) -> Told | None:
    drift = facts.drift
    days = sorted(drift.get("days", {}))[-SHOWN:]
    if not days:
        return {"why": drift["why"]} if drift.get("why") else None
    told = [drift["days"][day] for day in days]
    line = Line("share of channels that drifted, %", "model", [100 * day["share"] for day in told])
    sentence = f"Share of channels that drifted, {_day(days[0])} to {_day(days[-1])}"
    faulty = sorted((drift.get("faulty") or {}).items())
    return {
        "picture": plots.bars(sentence, [_day(day) for day in days], line, height=150),
        "day": days[-1],
        "latest": told[-1],
        "faulty": [(channel, about.get("since"), about.get("why")) for channel, about in faulty],
        "changed_since": drift.get("changed_since"),
        "new_sensors": drift.get("new_sensors") or [],
        "sensors": drift.get("sensors"),
        "skew": drift.get("skew"),
        "why": None,
    }


def _join(facts: Facts) -> Told:
    join = facts.summary["join"]
    rows = [
        (STATES[name], join[name], name in QUARANTINED) for name in reversed(COUNTS) if name != "rows" and join[name]
    ]
    named = [
        f"{key}: " + ", ".join(f"{STATES[k]}: {n:,}" for k, n in counts.items())
        for key, counts in join["distrusted"].items()
    ]
    named += [f"{channel}: {read} was read, {digest[:12]} answers in {own}"
              for digest, channels in join["units"].items() for channel, (own, read) in channels.items()]  # fmt: skip
    named += [f"{key}: cannot be read" for key in join["unreadable"]]
    named += [
        f"{digest[:12]}: {n:,} answers by a release that the store has not" for digest, n in join["unknown"].items()
    ]
    return {"rows": rows, "all": join["rows"], "coverage": join["coverage"], "days": join["days"], "named": named}


def _releases(facts: Facts) -> Iterable[tuple[Any, ...]]:
    names = {facts.summary["champion"]: "champion", facts.summary["candidate"]: "candidate"}
    for digest, roles in facts.summary["releases"].items():
        for role, told in roles.items():
            days = list(told["by_day"])
            yield digest[:12], names.get(digest, ""), role, days[0], days[-1], told["scored"], facts.of(told)


def _beside(facts: Facts) -> Told | None:
    """Champion and candidate, every figure that both have."""
    side = facts.summary.get("side_by_side")
    if not side:
        return None
    both = [k for k in side["champion"]["model"] if k in side["candidate"]["model"]]
    rows = [(words.name(k), side["champion"]["model"][k], side["candidate"]["model"][k]) for k in both]
    return {"days": side["days"], "requests": side.get("requests"), "rows": rows}
