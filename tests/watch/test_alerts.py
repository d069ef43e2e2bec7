"""Alerts, as they arrive at real receivers: a web hook and a mail server on this machine."""

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from receivers import Hook, Mail

from pipelines.core.params import Select, Task
from pipelines.core.watching import Above, Alerts
from pipelines.release import objects
from pipelines.watch import alerts, routes
from pipelines.watch.alerts import Alert
from pipelines.watch.kept import Kept
from pipelines.watch.noticed import Noticing

BEGIN = dt.datetime(2025, 4, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
SETTINGS = Alerts(repeat=24 * HOUR, clear=3 * HOUR)
DUST = Alert("dust", "air: pm25 above 25", "at s1", ("s1",))


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def mail() -> Iterator[Mail]:
    made = Mail()
    yield made
    made.loop.call_soon_threadsafe(made.loop.stop)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(objects.of(str(tmp_path)), "air")


def given(monkeypatch: pytest.MonkeyPatch, **addresses: str) -> None:
    for name in ("", "_ENVIRONMENT", "_PUBLIC_WORKS"):
        monkeypatch.delenv(f"CITYLOOP_NOTIFY{name}", raising=False)
    for name, value in addresses.items():
        monkeypatch.setenv(name, value)


def tell(kept: Kept, now: list[Alert], hour: float, **more: Any) -> dict[str, Any]:
    return alerts.tell(kept, now, BEGIN + hour * HOUR, routes.of("environment"), SETTINGS, **more)


def test_each_route_is_told_once_and_hears_when_it_is_over(
    kept: Kept, hook: Hook, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, CITYLOOP_NOTIFY_ENVIRONMENT=f"{hook.address} {mail.address}")
    for hour in range(4):
        tell(kept, [DUST], hour)
        tell(kept, [DUST], hour)
    assert hook.titles() == ["air: pm25 above 25"]
    assert hook.got[0]["message"] == "at s1"
    (letter,) = mail.got
    assert (letter["Subject"], letter["To"]) == ("air: pm25 above 25", "duty@city.example")
    assert "at s1" in letter.get_body().get_content()
    for hour in (4, 5):  # gone for a moment only
        tell(kept, [], hour)
    tell(kept, [DUST], 5.5)
    assert len(hook.got) == len(mail.got) == 1
    for hour in (6, 8, 9, 10):
        tell(kept, [], hour)
    assert hook.titles()[1:] == ["Over: air: pm25 above 25"]
    assert "from 2025-04-01 00:00 UTC to 2025-04-01 05:30 UTC" in hook.got[1]["message"]
    assert [letter["Subject"] for letter in mail.got][1:] == ["Over: air: pm25 above 25"]
    assert kept.read("alerts.json")["alerts"] == {}
    tell(kept, [DUST], 11)
    assert hook.titles()[2:] == ["air: pm25 above 25"]


def test_what_lasts_is_told_again_after_a_stated_time_and_what_is_new_at_once(
    kept: Kept, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, CITYLOOP_NOTIFY=hook.address)
    for hour in range(48):
        tell(kept, [DUST], hour)
    assert [one["message"] for one in hook.got] == ["at s1", "Still so, since 2025-04-01 00:00 UTC.\nat s1"]
    wider = DUST._replace(body="at s1, s2", marks=("s1", "s2"))
    for now in (wider, DUST, wider, wider):
        tell(kept, [now], 48)
    assert [one["message"] for one in hook.got[2:]] == ["at s1, s2"]


def test_a_route_that_fails_is_tried_again_and_no_other_is_told_twice(
    kept: Kept, hook: Hook, mail: Mail, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given(monkeypatch, CITYLOOP_NOTIFY=f"{hook.address} {mail.address} json://127.0.0.1:9/nobody nonsense://")
    hook.up = False
    tell(kept, [DUST], 0)
    assert (len(hook.got), len(mail.got)) == (0, 1)
    assert any("alert not sent to json://127.0.0.1" in line for line in caplog.messages)
    assert any("its address 4 is none that Apprise knows" in line for line in caplog.messages)
    hook.up = True
    tell(kept, [DUST], 1)
    assert (len(hook.got), len(mail.got)) == (1, 1)
    hook.up = False
    tell(kept, [], 5)
    assert [letter["Subject"] for letter in mail.got[1:]] == ["Over: air: pm25 above 25"]
    assert kept.read("alerts.json")["alerts"]["dust"]["over"]
    hook.up = True
    tell(kept, [], 6)
    assert hook.titles()[1:] == ["Over: air: pm25 above 25"]
    assert len(mail.got) == 2
    assert kept.read("alerts.json")["alerts"] == {}
    assert "a-secret-token" not in caplog.text


def test_one_killed_after_it_sent_sends_again(kept: Kept, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, CITYLOOP_NOTIFY=hook.address)
    with monkeypatch.context() as killing:
        killing.setattr(Kept, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tell(kept, [DUST], 0)
    tell(kept, [DUST], 0)
    tell(kept, [DUST], 0)
    assert len(hook.got) == 2


def test_the_store_learns_no_secret(kept: Kept, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, CITYLOOP_NOTIFY=hook.address)
    state = tell(kept, [DUST], 0)
    (route,) = state["alerts"]["dust"]["told"]
    assert "127.0.0.1" in route
    assert "a-secret-token" not in json.dumps(kept.read("alerts.json"))


def test_without_routes_it_is_written_down_and_told_once_there_is_one(
    kept: Kept, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch)
    assert tell(kept, [DUST], 0)["alerts"]["dust"]["since"] == "2025-04-01T00:00:00Z"
    given(monkeypatch, CITYLOOP_NOTIFY=hook.address)
    tell(kept, [DUST], 1)
    assert len(hook.got) == 1
    given(monkeypatch)
    tell(kept, [], 5)
    assert kept.read("alerts.json")["alerts"] == {}


def test_what_nobody_knows_stays_and_an_earlier_moment_tells_nothing(
    kept: Kept, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, CITYLOOP_NOTIFY=hook.address)
    tell(kept, [DUST], 0)
    tell(kept, [], 9, unknown=("du",))
    tell(kept, [], 1)
    tell(kept, [DUST._replace(key="older")], 2)
    assert len(hook.got) == 1
    tell(kept, [], 10)
    assert len(hook.got) == 2


def test_a_department_has_its_own_routes_or_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, CITYLOOP_NOTIFY="json://all", CITYLOOP_NOTIFY_PUBLIC_WORKS="json://own json://other")
    assert [r.name for r in routes.of("public works")] == [r.name for r in routes.of("Public-Works")]
    assert len(routes.of("public works")) == 2
    assert len(routes.of("environment")) == 1
    given(monkeypatch)
    assert routes.of("environment") == []


TASK = Task(
    department="environment", question="?", objective="forecast", backbone="series",
    target=Select(source="air", kinds=("pm25",)), context=dt.timedelta(days=2), horizon=4 * HOUR,
    alerts=Alerts(limits=(Above(kind="pm25", above=25, do="close the windows"),)),
)  # fmt: skip
CONFIG = {
    "targets": 2,
    "channels": [
        {"sensor": s, "kind": "pm25", "unit": "ug/m3", "district": d} for s, d in (("s1", "north"), ("s2", ""))
    ],
    "spec": {"step_s": 3600, "context": 48, "horizon": 4, "timezone": "UTC", "holidays": [], "after": 0},
}


def latest(**quantiles: list[list[float]]) -> dict[str, Any]:
    """A forecast of four hours for two stations; quantiles [stations][hours]."""
    hours = np.datetime64("2025-04-01T00:00", "us") + np.arange(4) * np.timedelta64(1, "h")
    return {
        "sensor": np.repeat(["s1", "s2"], 4),
        "kind": np.repeat(["pm25"], 8),
        "time": np.tile(hours, 2),
        "step": np.tile(np.arange(1, 5), 2),
        "issued": np.repeat(hours[:1], 8),
        **{name.replace("_", "."): np.array(values, np.float32).reshape(-1) for name, values in quantiles.items()},
    }


def noticed(limit: Above | None, columns: dict[str, Any], hour: float = 0, task: Task = TASK) -> list[Alert] | None:
    told = task.model_copy(update={"alerts": Alerts(limits=(limit,))}) if limit else task
    about = Noticing("air_quality", told, ZoneInfo("Europe/Amsterdam"), "s3://city/report.html")
    return about.of_forecast(columns, BEGIN + hour * HOUR, CONFIG)


def test_a_limit_is_told_of_with_where_when_how_much_and_what_to_do() -> None:
    columns = latest(q0_5=[[20, 30, 41.5, 10], [10, 10, 10, 10]])
    (alert,) = noticed(None, columns) or []
    assert alert.title == "air_quality: pm25 above 25 ug/m3 foretold at 1 of 2: s1"
    assert alert.body.splitlines() == [
        "With a probability of 50% or more:",
        "s1 (north): 41.5 ug/m3, from Tue 01 Apr 03:00",
        "What to do: close the windows",
        "More: s3://city/report.html",
    ]
    assert alert.marks == ("s1",)
    assert noticed(None, columns, 3) == []
    assert noticed(None, columns, 4) is None
    assert noticed(None, columns, -1) is None


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (Above(kind="pm25", above=25, sure=0.9), ["s1"]),
        (Above(kind="pm25", above=25, sure=0.5), ["s1", "s2"]),
        (Above(kind="pm25", above=45, sure=0.1), ["s1"]),
        (Above(kind="pm25", above=45, sure=0.5), []),
        (Above(kind="pm25", below=15, sure=0.9), []),
        (Above(kind="pm25", below=22, sure=0.9), ["s2"]),
        (Above(kind="pm25", below=9, sure=0.1), ["s2"]),
        (Above(kind="pm25", above=25, mean=4 * HOUR), ["s1"]),
        (Above(kind="pm25", above=25, mean=2 * HOUR), ["s1", "s2"]),
    ],
)
def test_the_asked_sureness_takes_its_quantile(limit: Above, expected: list[str]) -> None:
    columns = latest(
        q0_1=[[20, 26, 20, 20], [8, 8, 24, 8]],
        q0_5=[[30, 30, 30, 30], [10, 10, 30, 30]],
        q0_9=[[46, 40, 40, 40], [20, 30, 40, 40]],
    )
    found = noticed(limit, columns)
    assert found is not None
    assert sorted(name for alert in found for name in alert.marks) == expected


def test_alarms_are_told_once_they_are_settled() -> None:
    task = TASK.model_copy(update={"objective": "anomaly", "alerts": Alerts()})
    patch = 6  # of hourly data: here all steps are in the last patch
    columns = {**latest(), "alarm": np.array([0, 1, 1, 0, 0, 0, 0, 0], bool)}
    (alert,) = noticed(None, columns, task=task) or []
    assert patch > 4
    assert (alert.key, alert.marks) == ("forecast/alarms", ("s1",))
    assert "s1 (north): since Tue 01 Apr 03:00" in alert.body
    off = task.model_copy(update={"alerts": Alerts(alarms=False)})
    assert noticed(None, columns, task=off) == []
    assert noticed(None, {**columns, "step": columns["step"] - 6}, task=task) == []


def test_a_summary_makes_an_alert_of_each_thing_people_must_know() -> None:
    about = Noticing("air_quality", TASK, ZoneInfo("UTC"), "x")
    decision = {"decision": "retrain", "reasons": ["The error is above the gate."], "causes": {"error": "2025-04-01"},
                "rollback": {"to": "d" * 64, "why": "The last one was better."}}  # fmt: skip
    faulty = {f"s{i}/pm25": {"since": "2025-04-01", "why": "stuck at 3"} for i in range(40)}
    decided, back, broken = about.of_summary({"decision": decision, "drift": {"faulty": faulty}})
    assert decided.title == "air_quality: the model is to be trained anew"
    assert "The error is above the gate." in decided.body
    assert "cityloop rollback air_quality" in back.body
    assert broken.title.startswith("air_quality: 40 broken sensors: s0/pm25, s1/pm25")
    assert broken.body.count("stuck at 3") == 20
    assert "and 20 more" in broken.body
    watch = {**decision, "decision": "watch", "rollback": None, "causes": {"truth": "2025-04-01"}}
    (watched,) = about.of_summary({"decision": watch})
    assert "see why air is silent" in watched.body
    assert set(watched.marks) < set(decided.marks)
    assert about.of_summary({"decision": {**watch, "decision": "fine"}}) == []
