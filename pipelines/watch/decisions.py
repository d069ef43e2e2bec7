"""Decisions in the store: `monitor/<task>/decision.json`, the latest, and `decisions/<until>.json`, all of them."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipelines.core import files
from pipelines.core.params import parse_instant
from pipelines.core.watching import Monitor
from pipelines.release.ledger import Ledger
from pipelines.release.objects import Objects
from pipelines.watch.decide import DAY, Facts, decide
from pipelines.watch.kept import Kept

FOLDER, LATEST = "decisions", "decision.json"
Decision = dict[str, Any]
Waiting = Callable[[], str | None]
"""What a candidate waits for, if there is one."""


def made(
    kept: Kept,
    summary: dict[str, Any],
    settings: Monitor,
    until: dt.datetime,
    data: dt.datetime,
    config: dict[str, Any] | None,
    waiting: Waiting,
) -> Decision:
    """Decide by all there is. data: until when there are readings; config: the champion's, None where nothing serves.

    `waiting` is asked only where the answer counts.
    """
    told = config or {}
    ended = told.get("training", {}).get("until")
    facts = Facts(
        summary,
        settings,
        until,
        data,
        parse_instant(ended) if ended else None,
        earlier(kept, until, settings.days * DAY),
        unit=unit(config) if config else "",
    )
    found = decide(facts)
    if found["retrain"] and facts.asked and (waits := waiting()):
        found = decide(replace(facts, waiting=waits))
    return found


def unit(config: dict[str, Any]) -> str:
    """Of all a bundle's targets; none where they differ."""
    units = {channel.get("unit") or "" for channel in config["channels"][: config["targets"]]}
    return units.pop() if len(units) == 1 else ""


def write(kept: Kept, decision: Decision) -> None:
    data = files.to_json(decision)
    kept.write(f"{FOLDER}/{decision['until']}.json", data)
    last = kept.read(LATEST)
    if last is None or last["until"] <= decision["until"]:
        kept.write(LATEST, data)


def earlier(kept: Kept, until: dt.datetime, span: dt.timedelta) -> list[Decision]:
    """The last decision before `until`, and those of `span` before it; the newest first."""
    found: list[Decision] = []
    for name in reversed(_names(kept)):
        when = parse_instant(name)
        if when < until:
            if found and until - when > span:
                break
            found += [told] if (told := kept.read(f"{FOLDER}/{name}.json")) else []
    return found


def changes(objects: Objects, task: str, since: str = "") -> list[Decision]:
    """Decisions that differ from the one before, as far as the last of each day tell; and all that asked for training.

    Oldest first. since: none made before that moment (ISO).
    """
    kept = Kept(objects, task)
    last = {name[:10]: name for name in _names(kept) if name >= since}  # of each day
    found: dict[str, Decision] = {}
    before: Decision = {}
    for name in last.values():
        told = kept.read(f"{FOLDER}/{name}.json") or before
        new = told["asked"] not in (None, before.get("asked")) and told["asked"] >= since
        if new and (asked := kept.read(f"{FOLDER}/{told['asked']}.json")):
            found[told["asked"]] = asked
        if (told["decision"], [*told["causes"]]) != (before.get("decision"), [*before.get("causes", {})]):
            found[name] = told
        before = told
    return [found[name] for name in sorted(found)]


def _names(kept: Kept) -> list[str]:
    """When decisions were made, ISO, ascending."""
    return [name.removesuffix(".json") for name in kept.objects.names(kept.key(FOLDER))]


def frozen_test(objects: Objects, task: str, champion: str | None, found: dict[str, Any] | None) -> Any:
    """What the champion's frozen test told: `found`, the last evaluation here, if it is of it; else what the gate saw.

    Where neither is, it is `found` all the same.
    """
    if champion is None or (found and found["digest"] == champion):
        return found
    for record in reversed(Ledger(objects, task).records()):
        scores = record.get("verdict", {}).get("scores")
        if record.get("digest") == champion and scores:
            return {"digest": champion, **scores}
    return found
