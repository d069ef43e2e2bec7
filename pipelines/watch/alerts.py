"""Alerts, each told once to each route, again after a stated time while it lasts, and an all-clear when it is over.

What was told lies in the store, `monitor/<task>/alerts.json`, written after it was sent: one who is killed in between
tells again, and nothing is lost. A route that fails is tried again with the next call; the others are not told twice.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipelines.core import files
from pipelines.core.params import parse_instant
from pipelines.core.watching import Alerts
from pipelines.watch.kept import Kept
from pipelines.watch.routes import Route

STATE = "alerts.json"
PATIENCE = dt.timedelta(days=7)
"""An all-clear that a route does not take for so long is given up."""
Entry = dict[str, Any]


class Alert(NamedTuple):
    """What is so at present. key: what tells it from others; marks: what it is about, told at once where one is new."""

    key: str
    title: str
    body: str
    marks: tuple[str, ...] = ()


def tell(
    kept: Kept,
    alerts: Sequence[Alert],
    until: dt.datetime,
    routes: Sequence[Route],
    settings: Alerts,
    unknown: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Tell what is new, and what is over, at `until`; gives what is then in the store.

    unknown: beginnings of keys of which nobody can say now whether they are so; they stay as they are. An earlier
    moment than the last one tells nothing.
    """
    state = kept.read(STATE) or {"until": "", "alerts": {}}
    now = f"{until:%FT%TZ}"
    if now < state["until"]:
        return state
    entries: dict[str, Entry] = {key: dict(entry) for key, entry in state["alerts"].items()}
    active = {alert.key: alert for alert in alerts}
    for key, alert in active.items():
        entry = entries.setdefault(key, {"since": now, "told": {}, "over": None})
        since = now if entry["over"] else entry["since"]
        entry |= {
            "since": since,
            "last": now,
            "title": alert.title,
            "body": alert.body,
            "over": None,
            "marks": sorted({*alert.marks}),
        }
        for route in routes:
            _told(entry, alert, route, until, settings)
    for key in [k for k in entries if k not in active and not k.startswith(unknown)]:
        entry = entries[key]
        if until - parse_instant(entry["last"]) < settings.clear:
            continue
        entry["over"] = entry["over"] or now
        _cleared(entry, routes)
        if not entry["told"] or until - parse_instant(entry["over"]) > PATIENCE:
            del entries[key]
    told = {"until": now, "alerts": entries}
    if told != state:
        kept.write(STATE, files.to_json(told))
    return told


def _told(entry: Entry, alert: Alert, route: Route, until: dt.datetime, settings: Alerts) -> None:
    """told: of each route when, and all that it was told of since it began."""
    last = entry["told"].get(route.name)
    new = last is None or not {*alert.marks} <= {*last["marks"]}
    if not new and until - parse_instant(last["at"]) < settings.repeat:
        return
    again = "" if last is None or new else f"Still so, since {_short(entry['since'])}.\n"
    if route.send(alert.title, again + alert.body):
        marks = sorted({*alert.marks, *(last["marks"] if last else ())})
        entry["told"][route.name] = {"at": f"{until:%FT%TZ}", "marks": marks}


def _cleared(entry: Entry, routes: Sequence[Route]) -> None:
    """Whoever was told hears that it is over; one that is no route any more does not."""
    by_name = {route.name: route for route in routes}
    body = f"It was so from {_short(entry['since'])} to {_short(entry['last'])}; nothing is to be done any more."
    for name in list(entry["told"]):
        if name not in by_name or by_name[name].send(f"Over: {entry['title']}", body, bad=False):
            del entry["told"][name]


def _short(iso: str) -> str:
    return f"{parse_instant(iso):%F %H:%M} UTC"
