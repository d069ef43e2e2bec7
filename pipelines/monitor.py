"""predictions + arrivals → live error: what was answered, scored as soon as the truth is there.

    monitor/<task>/date=2025-04-07.json   in the store: sums over the answers issued on that day; what they rest on
    monitor/<task>/sensors/date=….json    the same sums by sensor, which only the last days' are read of
    monitor/<task>/drift/date=….json      what the champion's channels read on that day, against its reference
    monitor/<task>/summary.json           figures by release and role, beside baselines and frozen test
    monitor/<task>/glance.json            the latest of it in a few numbers; live.png: the error by day
    monitor/<task>/report.html            all of it for people: a file that anyone can open
    monitor/<task>/decision.json          whether to train anew, and why; decisions/<until>.json: all there were

A day is scored again, and its file replaced whole, when its prediction files or the readings under them have changed:
by late data, by corrected data, by steps that have ended since. Any other stays as it is, so an answer counts once,
whenever this was killed or called. A window that was asked twice counts twice, as the log has it. A day whose log is
gone keeps what was scored.

The truth is what validate let through, on the grid of `features`; what cannot be held against it, because units or
clocks differ, is counted by reason (`models.evaluation.sums`) and named, and the rest is scored. Where the step before
the first asked one was not read, `last_value` says what the profile says.
"""

import datetime as dt
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.core.watching import Monitor
from pipelines.models.evaluation import sums, tally
from pipelines.models.evaluation.logged import Truth
from pipelines.release import bundle, predictions
from pipelines.release.store import Store
from pipelines.watch import alerts, decisions, drift, noticed, report, routes, scoring, shown, waiting, week
from pipelines.watch import back as back_
from pipelines.watch.kept import GLANCE, Kept
from pipelines.watch.noticed import Noticing
from pipelines.watch.scoring import Room

Array = np.ndarray[Any, Any]
FORM = 3
"""Of a day's file. Another number: all is scored again."""
SENSORS = "sensors"
Back = Callable[[str, str, str], None]


def run(task: str, until: str | None = None, *, root: Path = Path(), back: Back | None = None) -> dict[str, Any]:
    """Score what was answered by what was read until `until` (ISO, UTC; None: the end of the target source's window).

    back: rolls a task back to a release, for a reason; asked where params say that this is automatic.

    Returns the summary. Raises UserError for a task of pictures or messages, without features, and where nothing was
    answered yet.
    """
    city, paths = params.load(root), Paths(root)
    asked = city.task(task)
    if asked.modality != "series":
        raise UserError(f"{task}: nothing tells yet what was right about a {asked.modality}; name a task of series")
    try:
        end = params.parse_instant(until) if until else city.window_end(asked.target.source)
    except ValueError as error:
        raise UserError(f"--until: {error}") from None
    with log.room("monitor", task) as told:
        store = Store.of(paths)
        kept = Kept(store.objects, task)
        kept.sweep()
        room = Room(task, store, _truth(city, paths, task, end), asked.label if asked.objective == "anomaly" else None)
        days, again = _days(room, kept)
        if not days:
            raise UserError(
                f"{store.where}: nothing was answered of {task}; `cityloop serve` or `cityloop predict {task}`"
            )
        summary = _summary(city, paths, room, days, end)
        summary["drift"] = drift.told(city, paths, store, kept, summary["champion"], end, days)
        sensors = functools.cache(lambda day: kept.read(kept.day(day, SENSORS)))
        classes = asked.classes.names if asked.classes else ()
        week.set_apart(summary, sensors, classes)
        summary["decision"] = _decision(city, paths, room, kept, summary, end)
        kept.write("summary.json", files.to_json(summary))
        found = week.of(days, sensors, summary["champion"], classes, _channels(room, summary))
        _show(city, paths, room, kept, summary, found)
        _roll_back(asked.monitor, kept, summary, back)
        _alert(city, room, kept, summary, end)
        counts = {k: summary["join"][k] for k in ("scored", "waiting", "missing")}
        told.update(counts, days=len(days), scored_now=again)
        told.update(tally.in_short(summary))
    return summary


def _truth(city: Params, paths: Paths, task: str, end: dt.datetime) -> Truth:
    """Of the task's targets, and of the label that says what was an anomaly."""
    asked = city.task(task)
    folder = paths.features("series", asked.target.source)
    try:
        series = Series.open(folder)
    except FileNotFoundError:
        raise UserError(f"{folder}: no features; run `cityloop features {asked.target.source}`") from None
    kinds = {*city.kinds(asked.target), asked.label if asked.objective == "anomaly" else None}
    there = np.array([kind in kinds for kind in series.channels["kind"].to_pylist()], bool)
    ended = int((np.datetime64(end.replace(tzinfo=None), "s") - series.start) // series.step)
    source = city.source(asked.target.source)
    simulated = source.read.connector == "simulator"  # its clock is not that of the servers
    late = None if simulated else np.timedelta64(source.contract.freshness)
    return Truth(series, np.flatnonzero(there), max(0, min(ended, series.length)), late)


def _days(room: Room, kept: Kept) -> tuple[dict[str, dict[str, Any]], int]:
    """Every day's file as it should be now, and how many were made again."""
    given: dict[str, dict[str, str]] = {}
    for key, mark in room.store.objects.marks(f"{predictions.FOLDER}/{room.task}").items():
        if found := predictions.DATED.search(key):
            given.setdefault(found[1], {})[key] = mark
    old = {day: _of_form(kept.read(kept.day(day))) for day in kept.days()}
    days, again = {day: told for day, told in old.items() if told and day not in given}, 0
    for day, marks in log.progress(sorted(given.items()), "monitor", len(given), "days"):
        told = old.get(day)
        if told is None or not _holds(told, room, marks):
            told, sensors = scoring.score(room, day, marks)
            told, again = {"form": FORM, **told}, again + 1
            # The day's own file comes last: with it the other one is whole too.
            kept.write(kept.day(day, SENSORS), _line(sensors))
            kept.write(kept.day(day), _line(told))
        days[day] = told
    return dict(sorted(days.items())), again


def _line(told: dict[str, Any]) -> bytes:
    return (json.dumps(told, sort_keys=True) + "\n").encode()


def _of_form(told: Any) -> dict[str, Any] | None:
    """None for a day that is not ours, or of another form."""
    return told if isinstance(told, dict) and told.get("form") == FORM else None


def _holds(told: dict[str, Any], room: Room, marks: dict[str, str]) -> bool:
    """Whether a day's file is made of just what there is now."""
    return bool(
        told["predictions"] == marks
        and told["until"] == room.end(told["reaches"])
        and told["late"] == room.late
        and told["truth"]["sha256"] == room.truth.sha256(told["truth"]["spans"])
        and not any(room.store.holds(room.task, digest) for digest in told["unknown"])
    )


def _summary(
    city: Params, paths: Paths, room: Room, days: dict[str, dict[str, Any]], end: dt.datetime
) -> dict[str, Any]:
    asked, pointer = city.task(room.task), room.store.pointer(room.task)
    champion, candidate = (pointer.stable, pointer.canary) if pointer else (None, None)
    alarm = "precision" if room.label else "alarm_rate"
    return {
        "task": room.task,
        "until": f"{end:%FT%TZ}",
        "primary": {"classify": "macro_f1", "anomaly": alarm}.get(asked.objective, "mae"),
        "frozen_test": decisions.frozen_test(room.store.objects, room.task, champion, _frozen(paths, room.task)),
        "champion": champion,
        "candidate": candidate,
        **tally.report(days, asked.classes.names if asked.classes else (), champion, candidate),
    }


def _decision(
    city: Params, paths: Paths, room: Room, kept: Kept, summary: dict[str, Any], end: dt.datetime
) -> dict[str, Any]:
    release = room.release(summary["champion"]) if summary["champion"] else None
    read = room.truth.series.when(room.truth.end)
    made = decisions.made(
        kept, summary, city.task(room.task).monitor, end, read,
        release.config if release else None, functools.partial(waiting.answer, city, paths, room.task),
    )  # fmt: skip
    begun = back_.since(made)
    if release and begun:
        made["rollback"] = back_.proposed(
            room.store, room.task, city.task(room.task), paths.joined(room.task), summary["champion"], begun, read,
            decisions.unit(release.config),
        )  # fmt: skip
    decisions.write(kept, made)
    return made


def _roll_back(settings: Monitor, kept: Kept, summary: dict[str, Any], back: Back | None) -> None:
    """By itself, where params say so and this is the latest decision."""
    proposed = summary["decision"]["rollback"]
    latest = kept.read(decisions.LATEST)["until"] == summary["decision"]["until"]
    if not (proposed and latest and back and settings.rollback == "automatic"):
        return
    try:
        back(summary["task"], proposed["to"], proposed["why"])
    except UserError as error:
        log.logger.warning("monitor %s: not rolled back: %s", summary["task"], error)


def _alert(city: Params, room: Room, kept: Kept, summary: dict[str, Any], end: dt.datetime) -> None:
    """Tell the department what it is to know. Here, since it rests on all that was just found."""
    asked = city.task(room.task)
    page = f"{os.environ.get('CITYLOOP_PAGES') or room.store.where}/{kept.key('report.html')}"
    about = Noticing(room.task, asked, ZoneInfo(city.timezone(asked.target.source)), page)
    found, unknown = about.of_summary(summary), tuple[str, ...]()
    if asked.objective == "anomaly" or asked.alerts.limits:
        told = _of_latest(room, about, end)
        found, unknown = [*found, *(told or ())], (noticed.FORECAST,) if told is None else ()
    alerts.tell(kept, found, end, routes.of(asked.department), asked.alerts, unknown)


def _of_latest(room: Room, about: Noticing, end: dt.datetime) -> list[alerts.Alert] | None:
    try:
        latest = predictions.latest(room.store.objects, room.task)
    except UserError as error:
        log.logger.warning("monitor %s: %s", room.task, error)
        return None
    release = room.release(str(latest["digest"][0])) if latest else None
    return about.of_forecast(latest, end, release.config) if latest and release else None


def _show(
    city: Params, paths: Paths, room: Room, kept: Kept, summary: dict[str, Any], found: dict[str, Any] | None
) -> None:
    """What people look at. found: the champion's week."""
    units = {c.get("unit") or "" for c in _channels(room, summary)}
    glance = week.glance(summary, found, units.pop() if len(units) == 1 else "")
    kept.write(GLANCE, files.to_json(glance))
    kept.write("live.png", tally.drawn(room.task, summary))
    since = f"{params.parse_instant(summary['until']) - report.SHOWN * dt.timedelta(days=1):%FT%TZ}"
    made = decisions.changes(room.store.objects, room.task, since)
    page = report.page(report.Facts(room.task, city.task(room.task), summary, found, glance, made))
    kept.write(report.NAME, page)
    shown.tell(paths, kept, glance, page)


def _channels(room: Room, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What the champion answers about, as its bundle has it; nothing where there is none."""
    release = room.release(summary["champion"]) if summary["champion"] else None
    return release.targets if release else []


def _frozen(paths: Paths, task: str) -> dict[str, Any] | None:
    """Figures of the last evaluation here, and of which bundle."""
    report, made = paths.metrics("evaluate", task), paths.task(task)
    if not report.is_file():
        return None
    told = files.read_json(report)
    methods = {name: told[name] for name in ("model", *sums.RIVALS) if name in told}
    return {"digest": bundle.digest(made) if (made / bundle.MANIFEST).is_file() else None, **methods}
