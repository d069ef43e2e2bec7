"""What people are to be told of a task: by its decision, its sensors, and by what its champion itself foretells."""

import datetime as dt
from collections.abc import Iterator
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from pipelines.core.params import Task, parse_instant
from pipelines.core.watching import Above
from pipelines.core.windows import Spec
from pipelines.watch import said
from pipelines.watch.alerts import Alert
from pipelines.watch.said import some

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]
FORECAST = "forecast"
"""What keys of alerts begin with that rest on the latest batch forecast."""
LINES = 20
"""At most so many sensors have a line of a message."""


class Noticing(NamedTuple):
    """A task, by name; the clock that people live by; where more is to be seen."""

    name: str
    task: Task
    zone: ZoneInfo
    page: str

    def alert(self, key: str, title: str, lines: list[str], marks: list[str] | tuple[str, ...]) -> Alert:
        told = [*lines, f"More: {self.page}"]
        return Alert(key, f"{self.name}: {title}", "\n".join(line for line in told if line), tuple(marks))

    def of_summary(self, summary: dict[str, Any]) -> list[Alert]:
        """Of decision, proposed rollback and broken sensors."""
        decision, drift = summary["decision"], summary.get("drift") or {}
        return [*self._decided(decision), *self._back(decision), *self._broken(drift.get("faulty") or {})]

    def _decided(self, decision: dict[str, Any]) -> Iterator[Alert]:
        if decision["decision"] == "fine":
            return
        lines = [*decision["reasons"], self._remedy(decision)]
        if decision["decision"] == "retrain":
            yield self.alert("decision", "the model is to be trained anew", lines, ("watch", "retrain"))
        else:
            yield self.alert("decision", "the model is to be watched", lines, ("watch",))

    def _remedy(self, decision: dict[str, Any]) -> str:
        if decision["decision"] == "retrain":
            if not self.task.monitor.retrain.automatic:
                return f"What to do: `cityloop retrain {self.name}`; params say that training does not start by itself."
            return "What to do: nothing yet; training starts by itself, and what it makes will wait for review."
        for cause, do in (
            ("faults", "have the sensors mended"),
            ("truth", f"see why {self.task.target.source} is silent"),
        ):
            if cause in decision["causes"]:
                return f"What to do: {do}; the model goes on serving."
        return "What to do: nothing yet; it is judged again with each new day."

    def _back(self, decision: dict[str, Any]) -> Iterator[Alert]:
        if found := decision["rollback"]:
            do = f"What to do: look, and if you agree, `cityloop rollback {self.name}`."
            lines = [found["why"], "" if self.task.monitor.rollback == "automatic" else do]
            yield self.alert("rollback", "what served before would do better", lines, (found["to"],))

    def _broken(self, faulty: dict[str, Any]) -> Iterator[Alert]:
        if not faulty:
            return
        names = sorted(faulty)
        lines = _cut([f"{name}: {faulty[name]['why']}, since {faulty[name]['since']}" for name in names])
        lines.append("What to do: have them mended; the model is told nothing by them meanwhile.")
        yield self.alert("faults", f"{len(names)} broken sensors: {some(names)}", lines, names)

    def of_forecast(self, latest: Columns, until: dt.datetime, config: dict[str, Any]) -> list[Alert] | None:
        """Of limits that the latest batch forecast goes beyond, or of what it raised an alarm about.

        latest: as `predictions.latest` gives it; config: of the bundle that made it. None: it tells nothing of `until`.
        """
        spec, now = Spec.from_json(config["spec"]), np.datetime64(until.replace(tzinfo=None), "us")
        age = now - latest["issued"].max()
        if not np.timedelta64(0) <= age < np.timedelta64(spec.horizon * spec.step_s, "s"):
            return None
        if self.task.objective == "anomaly":
            return list(self._alarmed(latest, spec.horizon - spec.patch, config))
        return [one for limit in self.task.alerts.limits for one in self._beyond(limit, latest, now, config)]

    def _beyond(self, limit: Above, latest: Columns, now: np.datetime64, config: dict[str, Any]) -> Iterator[Alert]:
        asked = (latest["kind"] == limit.kind) & ((latest["time"] >= now) | (limit.mean is not None))
        values, sensor, time = (latest[name][asked] for name in (f"q{limit.quantile:g}", "sensor", "time"))
        sign = 1 if limit.above is not None else -1
        found: list[tuple[float, str, np.datetime64]] = []
        sensors = np.unique(sensor)
        for name in sensors:
            mine = np.flatnonzero(sensor == name)
            mine = mine[np.argsort(time[mine])]
            own, when = _means(values[mine], time[mine], limit.mean)
            beyond = np.flatnonzero(sign * own > sign * limit.limit)
            if len(beyond):
                worst = beyond[np.argmax(sign * own[beyond])]
                found.append((float(own[worst]), str(name), when[beyond[0]]))
        if not found:
            return
        found.sort(key=lambda one: (-sign * one[0], one[1]))
        places = _places(config)
        unit, names = places.get(found[0][1], {}).get("unit") or "", [name for _, name, _ in found]
        side, span = (
            "above" if sign > 0 else "below",
            f", of the mean over {said.span(limit.mean)}" if limit.mean else "",
        )
        title = f"{limit.kind} {side} {limit.limit:g} {unit} foretold at {len(found)} of {len(sensors)}: {some(names)}"
        lines = [f"With a probability of {limit.sure:.0%} or more{span}:"]
        lines += _cut([
            f"{name}{_where(places, name)}: {value:.4g} {unit}, from {self._local(when)}" for value, name, when in found
        ])  # fmt: skip
        lines += [f"What to do: {limit.do}"] if limit.do else []
        yield self.alert(f"{FORECAST}/{limit.kind}/{side}/{limit.limit:g}/{limit.sure:g}", title, lines, names)

    def _alarmed(self, latest: Columns, before: int, config: dict[str, Any]) -> Iterator[Alert]:
        """`before`: steps that are not settled yet."""
        raised = latest["alarm"].astype(bool) & (latest["step"] > before)
        if not raised.any() or not self.task.alerts.alarms:
            return
        places, names = _places(config), sorted({str(name) for name in latest["sensor"][raised]})
        begun = {name: latest["time"][raised & (latest["sensor"] == name)].min() for name in names}
        lines = _cut([f"{name}{_where(places, name)}: since {self._local(begun[name])}" for name in names])
        lines.append("What to do: have somebody look there.")
        yield self.alert(f"{FORECAST}/alarms", f"unusual readings at {len(names)} sensors: {some(names)}", lines, names)

    def _local(self, moment: np.datetime64) -> str:
        when = parse_instant(str(moment.astype("datetime64[s]"))).astimezone(self.zone)
        return f"{when:%a %d %b %H:%M}"


def _places(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["sensor"]: c for c in config["channels"][: config["targets"]]}


def _where(places: dict[str, dict[str, Any]], sensor: str) -> str:
    district = places.get(sensor, {}).get("district")
    return f" ({district})" if district else ""


def _cut(lines: list[str]) -> list[str]:
    return [*lines[:LINES], *([f"and {len(lines) - LINES} more"] if len(lines) > LINES else [])]


def _means(values: Array, time: Array, span: dt.timedelta | None) -> tuple[Array, Array]:
    """Means over `span` of steps that follow each other, and when each begins; too few steps make none."""
    if span is None or len(time) < 2:
        return values, time
    size = round(span / (time[1] - time[0]).astype("timedelta64[s]").item())
    if len(values) < size:
        return values[:0], time[:0]
    return np.convolve(values, np.full(size, 1 / size), "valid"), time[: len(values) - size + 1]
