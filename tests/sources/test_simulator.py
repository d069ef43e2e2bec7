"""The simulated city: the same whatever the window, one world for all departments, every fault accounted for."""

import datetime as dt
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.core.errors import UserError
from pipelines.core.params import City, Source
from pipelines.core.records import EDGES, RECORDS, SENSORS, TRUTH
from pipelines.sources import Window, open_feed
from pipelines.sources.simulated.ground import to_day
from pipelines.sources.simulated.traffic import Traffic
from pipelines.sources.simulated.water import Water
from pipelines.sources.simulated.weather import weather

KINDS: dict[str, dict[str, Any]] = {
    "traffic": {
        "speed": {"unit": "km/h", "range": [0, 150], "mixups": ["mph"]},
        "flow": {"unit": "veh/h", "range": [0, 7200], "constant_ok": [0]},
    },
    "air": {
        "no2": {"unit": "ug/m3", "range": [0, 400], "mixups": ["ppb"]},
        "o3": {"unit": "ug/m3", "range": [0, 400], "mixups": ["ppb"]},
        "temperature": {"unit": "degC", "range": [-30, 45], "mixups": ["degF"]},
    },
    "energy": {"load": {"unit": "MW", "range": [0, 400], "mixups": ["kW"]}},
    "water": {
        "pressure": {"unit": "kPa", "range": [50, 900], "mixups": ["bar"]},
        "leak": {"unit": "1", "range": [0, 1], "aggregate": "max", "label": True, "stuck_after": "never"},
    },
}
STEPS = {"traffic": "5min", "air": "1h", "energy": "15min", "water": "15min"}
CLEAN = dict.fromkeys(
    ["missing", "duplicate", "stuck", "spike", "out_of_range", "clock_skew", "unit_mixup"], 0.0
)  # a city whose sensors never fail
MONDAY = dt.datetime(2025, 3, 3, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def city(seed: int = 3) -> City:
    return City(name="test", timezone="Europe/Amsterdam", seed=seed)


def source(feed: str, *, faults: dict[str, float] | None = None, **more: Any) -> Source:
    sensors = more.pop("sensors", None)
    read = {"connector": "simulator", "feed": feed, "sensors": sensors, "faults": faults or {}}
    dates = {"start": "2025-01-01", "validation_from": "2025-02-01", "test_from": "2025-03-01"}
    return Source.model_validate(
        {"department": "x", **dates, "step": STEPS[feed], "read": read, "kinds": KINDS[feed], **more}
    )


def fetch(what: Source, start: dt.datetime, days: float, seed: int = 3) -> tuple[pa.Table, pa.Table]:
    batches = list(open_feed(what, city(seed), Window(start, start + days * DAY)).batches)
    truths = [b.truth for b in batches if b.truth is not None]
    assert all(b.records.schema == RECORDS for b in batches)
    assert all(t.schema == TRUTH for t in truths)
    return pa.concat_tables([b.records for b in batches]), pa.concat_tables(truths)


def ordered(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in table.schema.names])


def matrix(records: pa.Table, kind: str) -> np.ndarray[Any, Any]:
    """Records of a clean feed as [T, n]."""
    frame = records.to_pandas()
    frame = frame[frame["kind"] == kind]
    return frame.pivot(index="time", columns="sensor", values="value").to_numpy()


def keyed(table: pa.Table) -> dict[tuple[Any, str, str], float]:
    columns = [table[name].to_pylist() for name in ("time", "sensor", "kind", "value")]
    return {(t, s, k): v for t, s, k, v in zip(*columns, strict=True)}


@pytest.mark.parametrize("feed", ["traffic", "air", "energy", "water"])
def test_a_window_changes_no_record_within_it(feed: str) -> None:
    what = source(feed, sensors=12)
    long = fetch(what, MONDAY - 3 * DAY, 9)
    short = fetch(what, MONDAY, 4)
    low, high = pa.scalar(MONDAY, RECORDS.field("time").type), pa.scalar(MONDAY + 4 * DAY, RECORDS.field("time").type)
    for whole, part in zip(long, short, strict=True):
        inside = whole.filter(pc.and_(pc.greater_equal(whole["time"], low), pc.less(whole["time"], high)))
        assert len(part) > 0
        assert ordered(inside).to_pandas().equals(ordered(part).to_pandas())


def test_the_seed_makes_the_city() -> None:
    what = source("energy")
    once, again, other = (fetch(what, MONDAY, 2, seed=seed)[0].to_pandas() for seed in (3, 3, 4))
    assert once.equals(again)
    assert not once.equals(other)


def test_a_contract_changes_no_sensor() -> None:
    usual, strict = (
        fetch(source("water", contract=c), MONDAY - 20 * DAY, 20) for c in ({}, {"stuck_after": "2h", "spike_sigma": 4})
    )
    for one, other in zip(usual, strict, strict=True):
        assert one.to_pandas().equals(other.to_pandas())


@pytest.mark.parametrize(("feed", "sensors"), [("traffic", 40), ("air", 12), ("energy", 10), ("water", 12)])
def test_a_clean_city_is_whole_and_in_range(feed: str, sensors: int) -> None:
    what = source(feed, faults=CLEAN)
    opened = open_feed(what, city(), Window(MONDAY, MONDAY + 3 * DAY))
    assert opened.sensors.schema == SENSORS
    assert opened.edges.schema == EDGES
    assert len(opened.sensors) == sensors
    assert len(set(opened.sensors["district"].to_pylist())) >= 4
    names = set(opened.sensors["sensor"].to_pylist())
    assert names >= {*opened.edges["source"].to_pylist(), *opened.edges["target"].to_pylist()}
    records, truth = fetch(what, MONDAY, 3)
    assert len(truth) == 0
    due = sensors * len(KINDS[feed]) * int(3 * DAY / what.step)
    assert due * 0.98 < len(records) <= due
    assert feed == "traffic" or len(records) == due
    for name, kind in what.kinds.items():
        values = matrix(records, name)
        assert kind.range[0] <= np.nanmin(values) <= np.nanmax(values) <= kind.range[1]


def test_kinds_sensors_units_and_step_follow_the_contract() -> None:
    only = {"speed": {"unit": "mph", "range": [0, 95]}}
    records, _ = fetch(source("traffic", faults=CLEAN, sensors=5, kinds=only, step="15min"), MONDAY, 1)
    usual, _ = fetch(source("traffic", faults=CLEAN, sensors=5), MONDAY, 1)
    assert set(records["kind"].to_pylist()) == {"speed"}
    assert len(set(records["sensor"].to_pylist())) == 5
    by_quarter = matrix(usual, "speed").reshape(96, 3, 5).mean(1) / 1.609344
    np.testing.assert_allclose(matrix(records, "speed"), by_quarter, atol=0.05)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"kinds": {"sped": {"unit": "km/h", "range": [0, 1]}}}, "did you mean 'speed'"),
        ({"kinds": {"speed": {"unit": "kPa", "range": [0, 1]}}}, "kind speed: km/h"),
        ({"step": "12min"}, "300s"),
    ],
)
def test_what_the_city_has_not_is_said_in_one_line(more: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        open_feed(source("traffic", **more), city(), Window(MONDAY, MONDAY + DAY))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module", params=["traffic", "air", "energy", "water"])
def spoiled(request: pytest.FixtureRequest) -> tuple[Source, pa.Table, pa.Table, pa.Table]:
    """A feed with its faults: records, truth, and the records of the same city without faults."""
    feed, days = request.param, {"traffic": 14, "air": 90, "energy": 60, "water": 60}[request.param]
    start = MONDAY - (days - 7) * DAY
    records, truth = fetch(source(feed), start, days)
    return source(feed), records, truth, fetch(source(feed, faults=CLEAN), start, days)[0]


def test_each_fault_has_about_its_share(spoiled: tuple[Source, pa.Table, pa.Table, pa.Table]) -> None:
    what, _, truth, clean = spoiled
    measured = [k for k, kind in what.kinds.items() if not kind.label]
    assert set(truth["kind"].to_pylist()) <= set(measured)
    total = sum(kind in measured for kind in clean["kind"].to_pylist())
    counts = Counter(truth["fault"].to_pylist())
    assert what.read.connector == "simulator"
    for fault, share in what.read.faults.model_dump().items():
        few = fault in ("clock_skew", "unit_mixup", "stuck")  # a handful of long episodes: the share is rough
        assert counts[fault] / total == pytest.approx(share, rel=0.6 if few else 0.25), fault


def test_truth_tells_what_happened_to_each_record(spoiled: tuple[Source, pa.Table, pa.Table, pa.Table]) -> None:
    what, records, truth, clean = spoiled
    was = keyed(clean)
    now: dict[tuple[Any, str, str], list[float | None]] = {}
    for t, s, k, v in zip(*[records[c].to_pylist() for c in RECORDS.names], strict=True):
        now.setdefault((t, s, k), []).append(v)
    touched: Counter[tuple[Any, str, str]] = Counter()
    absent = silent = exact = 0
    rows = truth.to_pylist()
    for row in rows:
        key = (row["time"], row["sensor"], row["kind"])
        kind, found, due = what.kinds[row["kind"]], now.get(key, []), row["value"]
        touched[key] += 1
        if row["fault"] == "clock_skew":
            due_at = row["time"] - dt.timedelta(seconds=row["size"])
            assert found == [due]
            assert was.get((due_at, *key[1:]), due) == due  # one that comes from over the window's edge was not fetched
            assert 0.15 <= abs(row["size"]) / what.step.total_seconds() <= 0.451
            assert row["time"].microsecond == 0
            continue
        assert was[key] == due
        if row["fault"] == "missing":
            absent += not found
            silent += bool(found)
            assert all(v is None or np.isnan(v) for v in found)
        elif row["fault"] == "duplicate":
            assert len(found) == 2
            assert due in found
            exact += found[0] == found[1]
        else:
            (value,) = found
            assert value is not None
            if row["fault"] == "out_of_range":
                assert not kind.range[0] <= value <= kind.range[1]
            elif row["fault"] == "spike":
                assert kind.range[0] <= value <= kind.range[1]
                assert 3 <= abs(row["size"]) <= 10
                assert np.sign(value - due) == np.sign(row["size"])
            elif row["fault"] == "stuck":
                since = row["time"] - dt.timedelta(seconds=row["size"])
                assert 0 < row["size"] <= 6 * what.contract.stuck_after.total_seconds()
                assert was.get((since, *key[1:]), value) == value
    assert max(touched.values()) == 1
    duplicates = sum(row["fault"] == "duplicate" for row in rows)
    assert 0.35 < exact / duplicates < 0.65
    assert 0.3 < absent / (absent + silent) < 0.7
    odd = [key for key, values in now.items() if key not in touched and values != [was.get(key)]]
    assert odd == []
    lost = [key for key in was if key not in now and key not in touched]
    moved = {(row["time"] - dt.timedelta(seconds=row["size"]), row["sensor"], row["kind"]) for row in rows}
    assert set(lost) <= moved


def test_units_are_mixed_up_as_the_table_says(spoiled: tuple[Source, pa.Table, pa.Table, pa.Table]) -> None:
    what, records, truth, _ = spoiled
    now = keyed(records)
    factor = {"speed": 1 / 1.609344, "no2": 1 / 1.88, "o3": 1 / 1.96, "load": 1000, "pressure": 0.01}
    rows = [row for row in truth.to_pylist() if row["fault"] == "unit_mixup"]
    assert rows
    for row in rows:
        value = now[row["time"], row["sensor"], row["kind"]]
        right = row["value"] * 1.8 + 32 if row["kind"] == "temperature" else row["value"] * factor[row["kind"]]
        assert value == pytest.approx(right, abs=1e-3)
    assert what.kinds


def test_jams_run_upstream() -> None:
    """A jam is seen downstream first: the lagged correlation is higher that way round, on nearly every edge."""
    roads = Traffic(city())
    days = [roads.day(d)["speed"] for d in range(to_day(MONDAY), to_day(MONDAY) + 14) if (d + 3) % 7 < 5]
    speed = np.stack(days) / roads.free
    away = np.nan_to_num(speed - np.nanmean(speed, axis=0))

    def lagged(first: int, later: int) -> float:
        return float(np.corrcoef(away[:, :-3, first].ravel(), away[:, 3:, later].ravel())[0, 1])

    upstream = [lagged(b, a) - lagged(a, b) for a, b, _ in roads.sites.edges]
    assert np.mean([gain > 0 for gain in upstream]) > 0.8
    assert np.mean(upstream) > 0.1


def test_rush_hours_weekends_night_and_closures() -> None:
    roads = Traffic(city())
    monday, sunday = roads.day(to_day(MONDAY)), roads.day(to_day(MONDAY) - 1)
    morning, night = slice(7 * 12, 8 * 12), slice(2 * 12, 3 * 12)  # UTC; local time is an hour later
    inbound, outbound = roads.way == 0, roads.way == 1
    use = monday["flow"] / roads.capacity
    assert use[morning][:, inbound].mean() > 1.2 * use[morning][:, outbound].mean()
    assert monday["flow"][morning].mean() > 2 * sunday["flow"][morning].mean()
    assert (monday["flow"][night] == 0).any()
    flows = [roads.day(d) for d in range(to_day(MONDAY), to_day(MONDAY) + 28)]
    noon = np.stack([f["flow"][120:156] for f in flows])
    shut = (noon == 0).all(axis=1)
    assert shut.any()  # a closed road: an hour-long true zero by day …
    silent = np.isnan(np.stack([f["speed"][120:156] for f in flows])).all(axis=1)
    assert not (silent & ~shut).any()  # … and the only reason for having no speed


def test_air_follows_traffic_and_wind() -> None:
    records, _ = fetch(source("air", faults=CLEAN), MONDAY, 28)
    no2, o3 = matrix(records, "no2"), matrix(records, "o3")
    days = range(to_day(MONDAY), to_day(MONDAY) + 28)
    roads = Traffic(city())
    flow = np.concatenate([roads.day(d)["flow"].reshape(24, 12, -1).mean((1, 2)) for d in days])
    wind = np.concatenate([weather(3, d).wind for d in days])
    assert np.corrcoef(np.log(no2.mean(1)), flow)[0, 1] > 0.4
    by_day = np.log(no2.mean(1)).reshape(28, 24), np.log(wind).reshape(28, 24)
    still, calm = (away - away.mean(0) for away in by_day)
    assert np.corrcoef(still.ravel(), calm.ravel())[0, 1] < -0.4
    assert np.corrcoef(no2.ravel(), o3.ravel())[0, 1] < -0.3


def test_load_follows_the_cold() -> None:
    records, _ = fetch(source("energy", faults=CLEAN), MONDAY - 60 * DAY, 60)
    load = matrix(records, "load").reshape(60, 96, -1).mean((1, 2))
    days = np.arange(to_day(MONDAY) - 60, to_day(MONDAY))
    cold = -np.array([weather(3, d).temperature.mean() for d in days])
    work = (days + 3) % 7 < 5
    assert np.corrcoef(load[work], cold[work])[0, 1] > 0.7
    assert load[work].mean() > 1.05 * load[~work].mean()


def test_pressure_falls_in_leaks_and_each_week_has_some() -> None:
    records, _ = fetch(source("water", faults=CLEAN), MONDAY, 56)
    pressure, leak = matrix(records, "pressure"), matrix(records, "leak") == 1
    usual = np.array(
        [[np.median(pressure[s::96, g][~leak[s::96, g]]) for g in range(pressure.shape[1])] for s in range(96)]
    )
    away = pressure - np.tile(usual, (56, 1))
    assert away[leak].mean() < away[~leak].mean() - 10
    network = Water(city())
    for week in range(8):
        first = to_day(MONDAY) + 7 * week
        assert sum(len(network._begun(d)) for d in range(first, first + 7)) >= 3
        assert leak[week * 672 : (week + 1) * 672].any(0).sum() >= 3


def changed(*changes: dict[str, Any], feed: str = "traffic", **more: Any) -> Source:
    plain = source(feed, **{"sensors": 24, **more})
    return plain.model_validate(
        {**plain.model_dump(), "read": {**plain.read.model_dump(exclude={"changes"}), "changes": changes}}
    )


NOON = MONDAY + 2 * DAY + dt.timedelta(hours=12)
BRIDGE = {"kind": "closed_road", "at": "2025-03-05T12:00Z", "sensors": ["det003", "det004"]}
CABINET = {"kind": "broken", "at": "2025-03-05T12:00Z", "sensors": ["det005", "det010", "det011"], "fault": "stuck"}


@pytest.mark.parametrize("change", [BRIDGE, *({**CABINET, "fault": f} for f in ("stuck", "silent", "noise", "scaled"))])
def test_nothing_is_otherwise_before_a_change(change: dict[str, Any]) -> None:
    """Records and truth, on the day of the change too, faults and duplicates among them."""
    for was, now in zip(
        fetch(source("traffic", sensors=24), MONDAY, 4), fetch(changed(change), MONDAY, 4), strict=True
    ):
        # a clock that is wrong carries a record from after the change to before it, by less than half a step
        end = pa.scalar(NOON - dt.timedelta(minutes=5), RECORDS.field("time").type)
        before, still = (ordered(table.filter(pc.less(table["time"], end))).to_pandas() for table in (was, now))
        assert len(before) > 0
        assert before.equals(still)
        assert not ordered(was).to_pandas().equals(ordered(now).to_pandas())


def test_a_window_changes_no_record_of_a_changed_city() -> None:
    what = changed(BRIDGE, CABINET, {**BRIDGE, "at": "2025-03-06", "sensors": ["det001"]})
    long, short = fetch(what, MONDAY, 6), fetch(what, MONDAY + 2 * DAY, 2)
    low, high = (pa.scalar(MONDAY + n * DAY, RECORDS.field("time").type) for n in (2, 4))
    for whole, part in zip(long, short, strict=True):
        inside = whole.filter(pc.and_(pc.greater_equal(whole["time"], low), pc.less(whole["time"], high)))
        assert ordered(inside).to_pandas().equals(ordered(part).to_pandas())


def test_who_drove_over_a_closed_bridge_drives_elsewhere() -> None:
    open_, shut = Traffic(city(), 24), Traffic(city(), 24, frozenset({"det003", "det004"}))
    days = [to_day(MONDAY) + n for n in range(5)]
    was, now = (np.stack([roads.demand(day) for day in days]) for roads in (open_, shut))
    np.testing.assert_allclose(now.sum(-1), was.sum(-1), rtol=1e-9)  # nobody stays at home
    flow_was, flow_now = (np.stack([roads.day(d)["flow"] for d in days]).mean((0, 1)) for roads in (open_, shut))
    assert (flow_now[[2, 3]] < 0.05 * flow_was[[2, 3]]).all()
    assert (flow_now > 1.1 * flow_was).sum() >= 3
    assert flow_now.sum() > 0.8 * flow_was.sum()
    # where more come than fit they stand, and more slowly than before in any case
    fuller = np.flatnonzero(flow_now > 1.1 * flow_was)
    rush = slice(6 * 12, 18 * 12)
    speed_was, speed_now = (np.stack([r.day(d)["speed"][rush] for d in days]) for r in (open_, shut))
    assert np.nanmean(speed_now[..., fuller]) < 0.97 * np.nanmean(speed_was[..., fuller])
    assert np.nanmean(speed_now[..., [2, 3]]) >= np.nanmean(speed_was[..., [2, 3]])


@pytest.mark.parametrize("fault", ["stuck", "silent", "noise", "scaled"])
def test_a_cabinet_breaks_and_is_mended(fault: str) -> None:
    until = NOON + DAY
    what = changed({**CABINET, "fault": fault, "until": until.isoformat()}, faults=CLEAN)
    clean, _ = fetch(source("traffic", sensors=24, faults=CLEAN), MONDAY, 5)
    records, truth = fetch(what, MONDAY, 5)
    was, now = keyed(clean), keyed(records)
    mine = {k for k in was if k[1] in CABINET["sensors"] and NOON <= k[0] < until}
    rows = truth.to_pylist()
    assert {(r["time"], r["sensor"], r["kind"]) for r in rows} == mine
    assert {r["fault"] for r in rows} == {"missing" if fault == "silent" else fault}
    assert all(r["value"] == was[r["time"], r["sensor"], r["kind"]] for r in rows)
    assert {k: v for k, v in now.items() if k not in mine} == {k: v for k, v in was.items() if k not in mine}
    if fault == "silent":
        assert not mine & now.keys()
    elif fault == "stuck":
        assert len({(k[1], k[2], now[k]) for k in mine}) == 6
        assert all(now[k] == was[NOON - dt.timedelta(minutes=5), k[1], k[2]] for k in mine)
        assert all(r["size"] == (r["time"] - NOON).total_seconds() for r in rows)
    elif fault == "scaled":
        assert all(now[k] == pytest.approx(0.6 * was[k], abs=0.01) for k in mine)
    else:
        speed = [k for k in mine if k[2] == "speed"]
        assert np.std([now[k] - was[k] for k in speed]) > 10
        assert all(0 <= now[k] <= 150 for k in speed)


def test_labels_never_break() -> None:
    what = changed({**CABINET, "sensors": ["gauge02"]}, feed="water", sensors=6)
    _, truth = fetch(what, MONDAY, 4)
    assert set(truth["kind"].to_pylist()) == {"pressure"}


@pytest.mark.parametrize(
    ("feed", "change", "says"),
    [
        ("traffic", {**BRIDGE, "sensors": ["det03x"]}, "changes.0: no sensor 'det03x'; did you mean 'det03"),
        ("air", {**CABINET, "sensors": ["air3"]}, "feed air, changes.0: no sensor 'air3'; did you mean 'air03'"),
        ("air", BRIDGE, "changes.0: feed air knows no closed_road"),
        ("traffic", {**CABINET, "until": "2025-03-01"}, "`until` is not after `at`"),
    ],
)
def test_a_change_that_cannot_be_is_said(feed: str, change: dict[str, Any], says: str) -> None:
    with pytest.raises((UserError, ValueError), match=says):
        open_feed(changed(change, feed=feed, sensors=None), city(), Window(MONDAY, MONDAY + DAY))
