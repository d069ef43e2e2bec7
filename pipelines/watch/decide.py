"""What is known of a champion → whether to train it anew, to watch it, or neither, with reasons. A pure function.

    decision = decide(Facts(summary, task.monitor, until, trained, earlier))
    decision["decision"], decision["reasons"]      # "watch", ["The error was above …"]

A reason is raised by so many days running, and over after so many without it. Training costs, and disturbs people with
reviews: it is asked for when there is enough new data, at most once in `retrain.every`, and not while a candidate for
the same reason waits. Broken sensors are for a mechanic, and a day that was hard for every method is not the model's
fault: neither is a reason to train.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from pipelines.core.values import parse_instant
from pipelines.core.watching import Monitor
from pipelines.watch import said
from pipelines.watch.judged import Day, Judged, Run

DRIFTING = 0.5
"""Of the margin between frozen test and gate: what is too much of an error where the city itself has changed."""
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Facts:
    """All that a decision follows from.

    data: until when there are any, None: `until`; trained: until when the champion learnt; earlier: the last decision
    before this one and those of as many days as count, in any order (later ones are left out); waiting: what a
    candidate made by the last training waits for, if one does; unit: of the error.
    """

    summary: dict[str, Any]
    settings: Monitor
    until: dt.datetime
    data: dt.datetime | None = None
    trained: dt.datetime | None = None
    earlier: Sequence[dict[str, Any]] = ()
    waiting: str | None = None
    unit: str = ""

    @property
    def end(self) -> dt.datetime:
        """Where the last whole day of data ends."""
        return min(self.until, self.data or self.until).replace(hour=0, minute=0, second=0, microsecond=0)

    @property
    def drift(self) -> dict[str, Any]:
        return self.summary.get("drift") or {}

    @cached_property
    def before(self) -> list[dict[str, Any]]:
        """Decisions before this one, oldest first."""
        return sorted((d for d in self.earlier if parse_instant(d["until"]) < self.until), key=lambda d: d["until"])

    @cached_property
    def of_champion(self) -> list[dict[str, Any]]:
        return [d for d in self.before if d["champion"] == self.summary["champion"]]

    @cached_property
    def asked(self) -> dt.datetime | None:
        """When training was asked for last."""
        last = self.before[-1]["asked"] if self.before else None
        return parse_instant(last) if last else None


class Cause(NamedTuple):
    """A reason to train anew. since: from when on data tells of it; regime: what was before is no longer so."""

    name: str
    since: dt.datetime
    regime: bool = False


def decide(facts: Facts) -> dict[str, Any]:
    """The decision, as `monitor/<task>/decision.json` has it.

    {task, until, decision, reasons, since, causes, asked, retrain, rollback, champion, error}; causes: since when, by
    name; asked: when training was asked for last.
    """
    judged = Judged.of(facts.summary, facts.settings, facts.until)
    raised = judged.run([day.worse > facts.settings.error for day in judged.days], facts.settings.days)
    reasons = [said.error(judged, raised, facts.settings.error, facts.unit)]
    wanted, watched = _of_error(facts, judged, raised, reasons)
    wanted += [*_of_sensors(facts, reasons), *_of_age(facts, reasons)]
    retrain = _retrain(facts, wanted[0], reasons) if wanted else None
    causes = [*wanted, *watched]
    since = min((cause.since for cause in causes), default=None)
    return {
        "task": facts.summary["task"],
        "until": _iso(facts.until),
        "decision": "retrain" if retrain else "watch" if causes or _lingers(facts, reasons) else "fine",
        "reasons": reasons,
        "since": f"{since:%F}" if since else None,
        "causes": {cause.name: f"{cause.since:%F}" for cause in causes},
        "asked": _iso(facts.until) if retrain else facts.asked and _iso(facts.asked),
        "retrain": retrain,
        "rollback": None,
        "champion": facts.summary["champion"],
        "error": {
            "live": judged.days[-1].live if judged.days else None,
            "gate": judged.limit(facts.settings.error),
            "metric": judged.metric,
            "days_above": raised.count,
        },
    }


def _of_error(facts: Facts, judged: Judged, raised: Run, reasons: list[str]) -> tuple[list[Cause], list[Cause]]:
    """What error and drift are a cause for: to train anew, and to watch."""
    settings, changed, days = facts.settings, facts.drift.get("changed_since"), judged.days
    if len(judged.blind) >= settings.days:
        reasons.append(said.blind(judged.blind, settings.missing))
        return [], [Cause("truth", _at(judged.blind[0]))]
    if changed:
        reasons.append(said.changed(facts.drift, changed))
        margin = settings.error * DRIFTING
        worse = judged.run([d.day >= changed and d.worse > margin for d in days], settings.days)
        if raised.raised or worse.raised:
            return [Cause("changed", _at(changed), regime=True)], []
        reasons.append(said.borne(margin, settings.days))
        return [], [Cause("drift", _at(changed))]
    if not raised.raised:
        return [], []
    cause = Cause("error", _at(raised.since or ""))
    if not judged.run([_apart(d) > settings.error for d in days], settings.days).raised:
        reasons.append(said.broken(facts.drift, days, raised))
        return [], [cause._replace(name="faults")]
    if not judged.run([d.beside(judged.higher) > settings.error for d in days], settings.days).raised:
        reasons.append(said.harder(days[-1]))
        return [], [cause._replace(name="harder")]
    return [cause], []


def _apart(day: Day) -> float:
    """How much worse, broken sensors left out; where nothing tells, a day that has some is not held against a model."""
    return day.apart if day.apart is not None else -1.0 if day.faults else day.worse


def _of_sensors(facts: Facts, reasons: list[str]) -> list[Cause]:
    new, every = facts.drift.get("new_sensors") or [], facts.drift.get("sensors") or 0
    if not new or len(new) < facts.settings.new_sensors * every:
        return []
    last = facts.of_champion[-1]["causes"] if facts.of_champion else {}
    reasons.append(said.strangers(new, every))
    return [Cause("sensors", _at(last.get("sensors") or f"{facts.end:%F}"))]


def _of_age(facts: Facts, reasons: list[str]) -> list[Cause]:
    if facts.trained is None or facts.settings.age is None or facts.until - facts.trained <= facts.settings.age:
        return []
    reasons.append(said.old(facts.trained, facts.until, facts.settings.age))
    return [Cause("age", facts.trained)]


def _retrain(facts: Facts, cause: Cause, reasons: list[str]) -> dict[str, Any] | None:
    """On what to train anew, as far as dates go; None where it is not to be done now."""
    settings = facts.settings.retrain
    test_from = facts.end - settings.test
    validation_from = test_from - settings.validation
    enough = cause.since + settings.learn + settings.validation + settings.test
    if facts.end < enough:
        reasons.append(said.later(cause.since, enough, settings))
        return None
    if facts.asked and facts.until - facts.asked < settings.every:
        reasons.append(said.lately(facts.asked, settings.every))
        return None
    if facts.asked and facts.waiting:
        reasons.append(said.waits(facts.waiting))
        return None
    return {
        "init": facts.summary["champion"] if settings.continual else None,
        "start": _iso(cause.since) if cause.regime else None,
        "validation_from": _iso(validation_from),
        "test_from": _iso(test_from),
    }


def _lingers(facts: Facts, reasons: list[str]) -> bool:
    """Whether there was a cause so lately that it does not count as over."""
    last = next((d for d in reversed(facts.of_champion) if d["since"]), None)
    if last is None or facts.until - (was := parse_instant(last["until"])) >= facts.settings.days * DAY:
        return False
    reasons.append(said.over(was, facts.settings.days))
    return True


def _at(day: str) -> dt.datetime:
    return parse_instant(day)


def _iso(moment: dt.datetime) -> str:
    return f"{moment:%FT%TZ}"
