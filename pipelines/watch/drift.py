"""Does the city still read as it did when the champion learnt it? Day by day, by the reference in its bundle.

    monitor/<task>/drift/date=2025-04-10.json   in the store: what was found of a UTC day, and what the next one needs

A day is tested by `watch.tested`. The city has changed once enough channels of enough sensors, that are not broken, are
different in the same way on so many days running.

A day is made again when its readings, the champion, or what the day before left to it have changed.
"""

import datetime as dt
import functools
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.core.watching import Monitor
from pipelines.models import referred
from pipelines.release.objects import Unreachable
from pipelines.release.store import Store
from pipelines.watch import answers
from pipelines.watch.inputs import Inputs
from pipelines.watch.kept import Kept
from pipelines.watch.tested import Told, Watched

FOLDER = "drift"


def told(
    city: Params,
    paths: Paths,
    store: Store,
    kept: Kept,
    champion: str | None,
    until: dt.datetime,
    live: Mapping[str, Told],
) -> Told | None:
    """summary["drift"] of the task of `kept`, its days brought up to date; None where nothing serves.

    {days, changed_since, faulty, new_sensors, sensors, skew}, and `why` where it cannot be told. live: the days of live
    scores, of which those are told that answers drifted on.
    """
    from safetensors.numpy import load_file

    if champion is None:
        return None
    try:
        folder = store.fetch(kept.task, champion)
    except Unreachable:
        raise
    except UserError as error:
        return {"why": str(error), **_nothing()}
    found, config = of_bundle(city, paths, kept, champion, folder, until), files.read_json(folder / "config.json")
    limit, std = city.task(kept.task).monitor.false_discoveries, load_file(folder / "tables.safetensors")["std"]
    for day, one in answers.by_day(live, champion, config, std, limit).items():
        if day in found["days"]:
            found["days"][day]["predictions"] = one
    sensors = functools.partial(_sensors, kept)
    return {**found, "skew": answers.skew(live, sensors, champion)}


def _sensors(kept: Kept, day: str) -> Told | None:
    found: Told | None = kept.read(kept.day(day, "sensors"))
    return found


def of_bundle(city: Params, paths: Paths, kept: Kept, digest: str, folder: Path, until: dt.datetime) -> Told:
    """As `told`, of the bundle in `folder`."""
    from safetensors.numpy import load_file

    config = files.read_json(folder / "config.json")
    reference = referred.read(folder, config)
    if reference is None:
        return {"why": "made before references, or of too few days: train anew", **_nothing()}
    since, profile = reference.about["until"][:10], load_file(folder / "tables.safetensors")["profile"]
    inputs = Inputs.of(city, paths, config, profile, since)
    if inputs is None:
        return {"why": f"no features of {config['target']['source']}", **_nothing()}
    settings = city.task(kept.task).monitor
    found = days(Watched(digest, reference, inputs, settings), kept, inputs.days(since, until))
    new, sensors = inputs.strangers(until)
    return {**summed(found, settings), "new_sensors": new, "sensors": sensors}


def days(watched: Watched, kept: Kept, wanted: list[str]) -> list[Told]:
    """Every wanted day, oldest first, made again where it must be."""
    there, out, state = set(kept.days(FOLDER)), [], Told()
    for day in wanted:
        told = kept.read(kept.day(day, FOLDER)) if day in there else None
        if not (isinstance(told, dict) and watched.holds(told, state)):
            told = watched.day(day, state)
            kept.write(kept.day(day, FOLDER), (json.dumps(told, sort_keys=True) + "\n").encode())
        out.append(told)
        state = told["state"]
    return out


def summed(found: list[Told], settings: Monitor) -> Told:
    """What the days come to."""
    shown = ("tested", "drifted", "faults", "share", "worst")
    return {
        "days": {told["day"]: {k: told[k] if k != "faults" else sorted(told[k]) for k in shown} for told in found},
        "changed_since": changed_since(found, settings),
        "faulty": _faulty(found),
    }


def changed_since(found: Iterable[Told], settings: Monitor) -> str | None:
    """The first of the days on which the city is different, if it still is.

    It is, once enough channels have been different on `settings.days` days running; and no longer, once too few have
    drifted on as many. Of a change that was seen on working days none at a weekend is no sign that it is over. A day
    that could not be tested says nothing.
    """
    since, calm, like = None, 0, set[bool]()
    for told in found:
        if not told["tested"]:
            continue
        if since is None:
            if _enough(told["lasting"], told["tested"], settings):
                since, calm, like = told["since"], 0, {told["off"]}
        elif _enough(told["drifted"], told["tested"], settings):
            calm, like = 0, like | {told["off"]}
        elif told["off"] in like:
            calm += 1
        if calm >= settings.days:
            since, calm = None, 0
    return since


def _enough(channels: list[str], tested: int, settings: Monitor) -> bool:
    """One sensor alone is no city, unless there are but few."""
    least = min(2, math.ceil(tested / 4))
    sensors = {name.partition("/")[0] for name in channels}
    return len(sensors) >= least and len(channels) >= settings.drifted * tested


def _faulty(found: list[Told]) -> dict[str, Told]:
    """Channels that are broken on the last day, since when, and why."""
    out: dict[str, Told] = {}
    for told in found:
        out = {
            name: {"since": out.get(name, {"since": told["day"]})["since"], "why": why}
            for name, why in told["faults"].items()
        }
    return out


def _nothing() -> Told:
    return {"days": {}, "changed_since": None, "faulty": {}, "new_sensors": [], "sensors": 0, "skew": None}
