"""Sentences for whoever is on duty: why a decision is what it is, with numbers, units and days."""

import datetime as dt
from typing import Any

from pipelines.core.watching import Retrain
from pipelines.models.evaluation.words import number
from pipelines.watch.judged import Day, Judged, Run

NAMED = 5
"""At most so many sensors or channels are named in a sentence."""
CALLED = {"mae": "mean absolute error", "macro_f1": "macro F1", "precision": "precision of alarms"}


def error(judged: Judged, raised: Run, margin: float, unit: str) -> str:
    """How the error stands to the gate."""
    what = CALLED.get(judged.metric, judged.metric)
    if judged.frozen is None:
        return f"There is no frozen test's {what} to hold the live one against."
    unit, less = (f" {unit}" if unit and not judged.higher else ""), "less" if judged.higher else "and"
    gate = f"the gate is {number(judged.limit(margin))}{unit}, the frozen test's {number(judged.frozen)}{unit}"
    gate += f" {less} {margin:.0%}"
    if not judged.days:
        return f"No whole day of answers could be judged yet; {gate}."
    last, side = judged.days[-1], "below" if judged.higher else "above"
    if raised.raised and raised.count:
        stands = f"is {side} the gate since {raised.since}, {_days(raised.count)} running"
    elif raised.raised:
        stands = f"was {side} the gate since {raised.since}, and is not for long enough to be over"
    elif raised.count:
        stands = f"is {side} the gate, {_days(raised.count)} running, which does not count yet"
    else:
        stands = "is within the gate"
    return f"The {what} {stands}: {number(last.live)}{unit} on {last.day}; {gate}."


def blind(days: list[str], missing: float) -> str:
    span = f"of {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
    return (
        f"The truth is missing: more than {missing:.0%} of the answers {span} met none; see why the source is silent."
    )


def changed(drift: dict[str, Any], since: str) -> str:
    latest = drift.get("days", {}).get(max(drift.get("days", {}), default=""), {})
    count, tested = len(latest.get("drifted", ())), latest.get("tested", 0)
    share = f": {count} of {tested} channels ({count / tested:.0%}) are not what the model learnt" if tested else ""
    return f"The city has changed since {since}{share}."


def borne(margin: float, days: int) -> str:
    worse = f"worse than the frozen test by more than {margin:.0%}"
    return f"Answers bear it so far: they were not {worse}, {_days(days)} running."


def broken(drift: dict[str, Any], days: list[Day], run: Run) -> str:
    mine = {name for day in days if day.day >= (run.since or "") for name in day.faults}
    told = sorted(drift.get("faulty") or mine)
    return f"Broken sensors, not the model: without them the error is within the gate; have them mended: {some(told)}."


def harder(day: Day) -> str:
    return (f"The city is harder to foretell, for every method: last value too is worse than in the frozen test, by "
            f"{day.rival or 0:.0%} on {day.day}, the model by {day.worse:.0%}; training would not help.")  # fmt: skip


def strangers(new: list[str], every: int) -> str:
    return f"{len(new)} of {every} sensors are unknown to the model: {some(sorted(new))}."


def old(trained: dt.datetime, until: dt.datetime, age: dt.timedelta) -> str:
    return f"The model learnt from data until {trained:%F}, {span(until - trained)} ago; {span(age)} are allowed."


def later(since: dt.datetime, enough: dt.datetime, settings: Retrain) -> str:
    parts = f"{span(settings.learn)} to learn from, {span(settings.validation)} to choose by"
    return (f"There will be enough data to train anew on {enough:%F}: from {since:%F} on, {parts} and "
            f"{span(settings.test)} to judge by.")  # fmt: skip


def lately(asked: dt.datetime, every: dt.timedelta) -> str:
    return f"Training was asked for at {moment(asked)}; it is at most once in {span(every)}."


def waits(what: str) -> str:
    return f"What was trained then waits for {what}; it is not trained again until that is answered."


def over(was: dt.datetime, days: int) -> str:
    return f"There was reason to watch until {moment(was)}; it is over after {_days(days)} without any."


def line(decision: dict[str, Any]) -> str:
    """The whole of it, for a terminal."""
    back = decision["rollback"]
    said = [*decision["reasons"], *([back["why"]] if back else [])]
    return f"{decision['task']}: {decision['decision']}. {' '.join(said)}"


def some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def span(length: dt.timedelta) -> str:
    hours = round(length.total_seconds() / 3600)
    return f"{hours} h" if hours < 48 and hours % 24 else f"{round(hours / 24)} d"


def moment(when: dt.datetime) -> str:
    return f"{when:%F %H:%M} UTC"


def _days(count: int) -> str:
    return f"{count} day{'s' * (count != 1)}"
