"""What lies in the store and beside the data → families that Prometheus scrapes, named cityloop_*.

Times are Unix seconds, and end in `_timestamp_seconds`. Those of data and forecasts are the data's, so that a simulated
city can be watched too. What is not known has no sample.
"""

import contextlib
import datetime as dt
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import UserError
from pipelines.core.params import Params, parse_instant
from pipelines.core.paths import Paths
from pipelines.release import predictions
from pipelines.release.beats import Servers
from pipelines.release.ledger import SETTLED, Ledger
from pipelines.release.objects import Unreachable
from pipelines.release.store import Store
from pipelines.watch.kept import Kept

if TYPE_CHECKING:
    from prometheus_client.core import Metric

DECISIONS = ("retrain", "watch", "fine")
METHODS = ("model", "last_value", "profile")
Read = Callable[[str], str | None]
"""The text of a file of the city, by its path below the root; None where there is none."""


class Book:
    """Families by name, filled sample by sample."""

    def __init__(self) -> None:
        self.families: dict[str, Metric] = {}

    def gauge(self, name: str, about: str, value: Any, **labels: str) -> None:
        """`value` None or not finite: no sample."""
        from prometheus_client.core import GaugeMetricFamily

        self._add(GaugeMetricFamily, name, about, value, labels)

    def counter(self, name: str, about: str, value: Any, **labels: str) -> None:
        from prometheus_client.core import CounterMetricFamily

        self._add(CounterMetricFamily, name, about, value, labels)

    def _add(self, kind: Any, name: str, about: str, value: Any, labels: dict[str, str]) -> None:
        if name not in self.families:
            self.families[name] = kind(f"cityloop_{name}", about, labels=list(labels))
        known: Any = self.families[name]
        with contextlib.suppress(TypeError, ValueError):  # a file said something that is no number
            if math.isfinite(number := float(value)):
                known.add_metric(list(labels.values()), number)


@dataclass
class Look:
    """Looks at one city again and again; remembers ledgers, whose records never change, and how heartbeats go on."""

    store: Store
    _servers: Servers = field(init=False)
    _ledgers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._servers = Servers(self.store, tidy=False)

    def __call__(self, city: Params, read: Read) -> "list[Metric]":
        """Raises Unreachable for a store that does not answer; a task whose records are broken is told as such."""
        book = Book()
        ends = _windows(city, read)
        for name in city.sources:
            _source(book, city, name, read, ends.get(name))
        for name, task in city.tasks.items():
            told = {"department": task.department, "objective": task.objective, "source": task.target.source}
            book.gauge("task", "What params.yaml says of a task", 1, task=name, **told)
            review = city.schedule.tasks.get(name)
            remind = (review and review.remind) or city.schedule.review.remind
            book.gauge("review_remind_seconds", "A review that waits longer is late", remind.total_seconds(), task=name)
            try:
                self._task(book, name, ends.get(task.target.source))
                readable = 1
            except Unreachable:
                raise
            except (UserError, KeyError, TypeError, AttributeError):
                readable = 0
            book.gauge("task_readable", "1 where ledger and pointer can be read", readable, task=name)
        self._living(book)
        return list(book.families.values())

    def _task(self, book: Book, task: str, end: dt.datetime | None) -> None:
        _monitored(book, task, Kept(self.store.objects, task), end)
        self._released(book, task)
        days = [n for n in self.store.objects.names(f"{predictions.FOLDER}/{task}") if n.startswith("date=")]
        if days:
            newest = _seconds(days[-1].removeprefix("date="))
            book.gauge("log_day_timestamp_seconds", "Newest day of the prediction log", newest, task=task)
        latest = _json(self.store, f"{predictions.FOLDER}/{task}/latest.json")
        issued = _seconds(_at(latest, "issued"))
        book.gauge("forecast_timestamp_seconds", "When the newest batch forecast was issued", issued, task=task)

    def _released(self, book: Book, task: str) -> None:
        """From ledger and pointer: what the promoter did, whoever it was and whether it runs now."""
        ledger = Ledger(self.store.objects, task)
        state, known = ledger.state(), self._ledgers.setdefault(task, [])
        if known and known[-1]["seq"] > state.seq:  # another store took this one's place
            known.clear()
        known += ledger.records(after=len(known) and known[-1]["seq"])
        pointer = self.store.pointer(task)
        versions = pointer.versions if pointer else {}
        for role, digest in (("champion", state.stable), ("previous", state.previous)):
            named = {"digest": digest or "", "version": str(versions.get(digest or "", ""))}
            book.gauge(role, f"1: the {role}, by the ledger", 1 if digest else None, task=task, **named)
        intents = {r["seq"]: r for r in known if r["state"] == "intended"}
        settled = [r for r in known if r["state"] in SETTLED]
        counts = dict.fromkeys(((a, s) for a in ("promote", "rollback") for s in SETTLED), 0)
        for record in settled:
            which = (str(record.get("action", "promote")), str(record["state"]))
            counts[which] = counts.get(which, 0) + 1
        for (action, outcome), count in counts.items():
            labels = {"task": task, "action": action, "outcome": outcome}
            book.counter("promotions", "Promotions and rollbacks, by the ledger", count, **labels)
        done = [r for r in settled if r["state"] == "serving"]
        since = _seconds(done[-1]["at"]) if done else None
        book.gauge("champion_since_timestamp_seconds", "Since when the champion serves", since, task=task)
        if settled and (intent := intents.get(settled[-1].get("of"))):
            took = _less(_seconds(settled[-1]["at"]), _seconds(intent["at"]))
            book.gauge("promotion_seconds", "From intent to outcome, of the newest one", took, task=task)
        begun = _seconds(state.pending["at"]) if state.pending else None
        book.gauge("promotion_under_way", "1 while a promotion is under way", state.pending is not None, task=task)
        book.gauge("promotion_begun_timestamp_seconds", "When the one under way began", begun, task=task)
        wrong = not state.pending and (pointer.stable if pointer else None) != state.stable
        book.gauge("pointer_wrong", "1 where the pointer says another release than the ledger", wrong, task=task)

    def _living(self, book: Book) -> None:
        beats = self._servers.look()
        book.gauge("servers", "Servers whose heartbeat goes on", len(beats))
        about = "1: what a server answers with, by its heartbeat"
        book.gauge("server_release", about, None, server="", task="", digest="")
        for server, told in beats.items():
            for task, mine in told.get("tasks", {}).items():
                labels = {"server": server, "task": task, "digest": str(mine.get("stable") or "")}
                book.gauge("server_release", about, 1, **labels)


def _source(book: Book, city: Params, name: str, read: Read, end: dt.datetime | None) -> None:
    source = city.sources[name]
    book.gauge("source", "What params.yaml says of a source", 1, source=name, department=source.department,
               modality=source.modality)  # fmt: skip
    limit = source.contract.freshness.total_seconds()
    book.gauge("source_freshness_limit_seconds", "The newest record is at most so much older", limit, source=name)
    follows = city.schedule.until == "now"
    book.gauge("source_follows_clock", "1 where the window's end is to be the present", follows, source=name)
    until = end.timestamp() if end else None
    book.gauge("source_window_timestamp_seconds", "Where the window of data ends", until, source=name)
    try:
        told = json.loads(read(str(Paths().metrics("validate", name))) or "{}")
    except ValueError:
        told = {}
    age = _at(told, "age_h")
    newest = until - 3600 * age if until is not None and isinstance(age, int | float) else None
    book.gauge("source_newest_timestamp_seconds", "Of the newest validated record", newest, source=name)
    book.gauge("source_records", "Records in the window", _at(told, "records"), source=name)
    book.gauge("source_quarantined", "Of them, in quarantine", _at(told, "quarantined"), source=name)
    warnings = _at(told, "expectations", "warnings")
    book.gauge("source_warnings", "Expectations that the data strain", warnings, source=name)


def _monitored(book: Book, task: str, kept: Kept, end: dt.datetime | None) -> None:
    """What `cityloop monitor` found last."""
    summary, decision = kept.read("summary.json"), kept.read("decision.json")
    until = _seconds(_at(summary, "until"))
    book.gauge("monitor_until_timestamp_seconds", "Until when monitor has looked", until, task=task)
    lag = max(0.0, end.timestamp() - until) if end and until is not None else None
    book.gauge("monitor_lag_seconds", "Data that monitor has not looked at, as time", lag, task=task)
    metric = str(_at(summary, "primary") or "")
    for release in ("champion", "candidate"):
        for role, found in _items(_at(summary, "releases", str(_at(summary, release)))):
            days = {day: told for day, told in _items(_at(found, "by_day")) if _at(told, "scored")}
            for method in METHODS if days else ():
                labels = {"task": task, "metric": metric, "release": release, "role": role, "method": method}
                value = _at(days[max(days)], method, metric)
                book.gauge("live_score", "Error or score of the newest day that has any", value, **labels)
    for method in METHODS:
        value = _at(summary, "frozen_test", method, metric)
        book.gauge("frozen_score", "The same on the frozen test", value, task=task, metric=metric, method=method)
    for state, found in _items(_at(summary, "join")):
        if isinstance(found, int) and state not in ("rows", "days"):
            book.gauge("answers", "Logged answers, by what became of them", found, task=task, state=state)
    unknown = sum(count for _, count in _items(_at(summary, "join", "unknown")) if isinstance(count, int))
    about = "Logged answers, by what became of them"
    book.gauge("answers", about, unknown if summary else None, task=task, state="unknown")
    book.gauge("join_coverage", "Of answers that are due, the share with truth", _at(summary, "join", "coverage"),
               task=task)  # fmt: skip
    unreadable = _at(summary, "join", "unreadable")
    count = len(unreadable) if isinstance(unreadable, list) else None
    book.gauge("log_files_unreadable", "Files of the prediction log that cannot be read", count, task=task)
    _drifted(book, task, _at(summary, "drift"))
    _decided(book, task, decision if isinstance(decision, dict) else _at(summary, "decision"))


def _drifted(book: Book, task: str, drift: Any) -> None:
    days = dict(_items(_at(drift, "days")))
    newest = days[max(days)] if days else None
    book.gauge("drift_share", "Of the channels tested on the newest day, those that drifted", _at(newest, "share"),
               task=task)  # fmt: skip
    for state, key in (("drifted", "drifted"), ("faulty", "faults")):
        found = _at(newest, key)
        count = len(found) if isinstance(found, list) else None
        book.gauge("drift_channels", "Channels on the newest day", count, task=task, state=state)
    since = _seconds(_at(drift, "changed_since"))
    book.gauge("changed_since_timestamp_seconds", "Since when the city differs from what is known", since, task=task)
    faulty = _at(drift, "faulty")
    count = len(faulty) if isinstance(faulty, dict) else None
    book.gauge("faulty_channels", "Channels whose sensor is broken at present", count, task=task)
    new = _at(drift, "new_sensors")
    count = len(new) if isinstance(new, list) else None
    book.gauge("new_sensors", "Sensors that the champion does not know", count, task=task)
    off = _at(drift, "skew", "off")
    book.gauge("skew_share", "Of served features, those unlike the feature stage's", off, task=task)


def _decided(book: Book, task: str, decision: Any) -> None:
    said = _at(decision, "decision")
    for word in DECISIONS:
        value = said == word if said in DECISIONS else None
        book.gauge("decision", "1: what was decided last", value, task=task, decision=word)
    since = _seconds(_at(decision, "since"))
    book.gauge("decision_since_timestamp_seconds", "Since when it is so, in data's time", since, task=task)
    metric = str(_at(decision, "error", "metric") or "")
    for name, key, about in (
        ("judged_score", "live", "Error or score that was judged last"),
        ("gate_score", "gate", "What it is held against"),
        ("error_days_above", "days_above", "Days running on which it was beyond that"),
    ):
        book.gauge(name, about, _at(decision, "error", key), task=task, metric=metric)
    rollback = bool(_at(decision, "rollback")) if decision else None
    book.gauge("rollback_proposed", "1 where the previous release would have been better", rollback, task=task)


def waiting(candidates: dict[str, dict[str, Any]]) -> "list[Metric]":
    """Of `watch.waiting.candidates`."""
    book = Book()
    for task, told in candidates.items():
        labels = {"task": task, "digest": told["candidate"], "version": told["candidate_version"]}
        book.gauge("candidate", "1: the newest version that does not serve", 1, **labels, verdict=told["verdict"])
        since = _seconds(told["candidate_since"]) if told["review"] else None
        about = "Since when a person's answer is waited for"
        book.gauge("review_waiting_timestamp_seconds", about, since, task=task)
    return list(book.families.values())


def _windows(city: Params, read: Read) -> dict[str, dt.datetime]:
    """Where windows end, by window.yaml as `read` finds it, which may be another branch's than the parameters."""
    import yaml

    try:
        told = yaml.safe_load(read("window.yaml") or "{}")
        return {name: parse_instant(str(end)) for name, end in told.items() if name in city.sources}
    except (yaml.YAMLError, ValueError, AttributeError):
        return {}


def _at(told: Any, *keys: str) -> Any:
    """What is at a path of keys; None where there is no such path."""
    for key in keys:
        told = told.get(key) if isinstance(told, dict) else None
    return told


def _items(told: Any) -> list[tuple[str, Any]]:
    return list(told.items()) if isinstance(told, dict) else []


def _seconds(when: Any) -> float | None:
    """Of an ISO instant, UTC where it does not say."""
    try:
        found = dt.datetime.fromisoformat(when)
    except (TypeError, ValueError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).timestamp()


def _less(a: float | None, b: float | None) -> float | None:
    return a - b if a is not None and b is not None else None


def _json(store: Store, key: str) -> Any:
    try:
        return json.loads(store.objects.get(key))
    except (FileNotFoundError, ValueError):
        return None
