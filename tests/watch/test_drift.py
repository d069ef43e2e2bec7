"""Days that are made, in a city of which everything is known; and the toy city's own, by way of monitor."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import toy_city

from pipelines import monitor, predict
from pipelines.core import files
from pipelines.core.paths import Paths
from pipelines.core.watching import Monitor
from pipelines.core.windows import Spec
from pipelines.models import referred
from pipelines.models.reference import Reference, of
from pipelines.release import bundle
from pipelines.release.objects import Folder
from pipelines.release.store import Pointer, Store
from pipelines.watch import drift, tested
from pipelines.watch.inputs import Inputs
from pipelines.watch.kept import Kept

pytestmark = pytest.mark.filterwarnings("ignore:Mean of empty slice")
Array = np.ndarray[Any, Any]
START = np.datetime64("2025-03-03")
"""A Monday; three weeks of training and one of validation follow."""
LEARNT, LIVE, SENSORS = 28, 30, 12
KINDS = ("flow", "speed")
HOLIDAY = LEARNT + 7
"""A Monday on which everybody stays at home."""
NAMES = [(f"s{i:02}", kind) for kind in KINDS for i in range(SENSORS)]


def red(rng: np.random.Generator, hours: int, width: int, memory: float) -> Array:
    """Persistent noise of unit variance [hours, width]."""
    a, out = np.exp(-1 / memory), rng.standard_normal((hours, width))
    for t in range(1, hours):
        out[t] = a * out[t - 1] + np.sqrt(1 - a * a) * out[t]
    return out


def made(seed: int, incidents_a_day: float = 0.1) -> Array:
    """Readings of two kinds [days, 24, N]: a week's rhythm, a weather that all feel, each sensor's own whims, incidents
    of some hours, gaps. The kinds of a sensor go together."""
    days, n, rng = LEARNT + LIVE, SENSORS, np.random.default_rng(seed)
    hours = days * 24
    hour, day = np.arange(hours) % 24, np.arange(hours) // 24
    off = (day % 7 >= 5) | (day == HOLIDAY)
    rush = np.exp(-(((hour - 8) / 2.0) ** 2)) + np.exp(-(((hour - 17) / 2.5) ** 2))
    rest = 0.3 * np.exp(-(((hour - 15) / 4) ** 2))
    shape = 0.1 + np.where(off, rest, rush)[:, None] * rng.uniform(0.7, 1.3, n)
    weather = 0.10 * red(rng, hours, 1, 40) * rng.uniform(0.6, 1.4, n)
    own = 0.05 * red(rng, hours, n, 12)
    incidents = np.zeros((hours, n))
    for _ in range(rng.poisson(incidents_a_day * days)):
        at = rng.integers(hours)
        incidents[at : at + rng.integers(2, 6), rng.integers(n)] = rng.uniform(0.2, 0.6)
    load = shape * (1 + weather + own) * (1 - incidents)
    flow = 900 * rng.uniform(0.5, 1.5, n) * load * (1 + 0.05 * rng.standard_normal((hours, n)))
    free = rng.uniform(50, 100, n)
    speed = free * (1 - 0.25 * load**2) * (1 - 0.5 * incidents) * (1 + 0.03 * rng.standard_normal((hours, n)))
    values = np.concatenate([flow, speed], axis=1)
    values[rng.random(values.shape) < 0.02] = np.nan
    return values.reshape(days, 24, -1)


@dataclasses.dataclass(frozen=True)
class Made(Inputs):
    """Inputs that are made instead of read."""

    values: Array = dataclasses.field(default_factory=lambda: np.zeros(0))
    refused: Array = dataclasses.field(default_factory=lambda: np.zeros(0))

    def read(self, day: str) -> Array:
        return cast(Array, self.values[(np.datetime64(day) - START).astype(int)])

    def quarantined(self, day: str) -> Array:
        return cast(Array, self.refused[(np.datetime64(day) - START).astype(int)])


def watched(values: Array, learnt: Array | None = None, holidays: tuple[str, ...] | None = None) -> tested.Watched:
    """A champion that learnt from the first days of `learnt` (None: of `values`), and what it is asked to watch."""
    learnt = values if learnt is None else learnt
    holidays = (str(START + HOLIDAY),) if holidays is None else holidays
    weeks = learnt[:21].reshape(3, 168, -1)
    spec = Spec.of(3600, 24, 6, "UTC", holidays)

    def day(d: int) -> tuple[Array, Array]:
        others = [w for w in range(3) if w != d // 7]
        return learnt[d], np.nanmean(weeks[others], axis=0).reshape(7, 24, -1)[d % 7]

    found = of(day, LEARNT, [kind for _, kind in NAMES], 24)
    assert found is not None
    seen = {"seen": np.ones(168, np.uint8)}
    about = {**found.about, "until": f"{START + LEARNT}T00:00:00Z"}
    channels = [{"sensor": s, "kind": k} for s, k in NAMES]
    config = {"channels": channels, "targets": SENSORS, "spec": spec.to_json()}
    rests = dict.fromkeys(range(SENSORS), (0.0,))
    inputs = Made(
        config, np.nanmean(weeks, axis=0), cast(Any, None), (), {}, rests, values, np.zeros((len(values), len(NAMES)))
    )
    return tested.Watched("a" * 64, Reference({**found.tables, **seen}, about), inputs, Monitor())


def judged(champion: tested.Watched, folder: Path, days: int = LIVE) -> dict[str, Any]:
    wanted = [str(START + LEARNT + d) for d in range(days)]
    found = drift.days(champion, Kept(Folder(folder), "task"), wanted)
    return {**drift.summed(found, champion.settings), "together": {t["day"]: t["together"] for t in found}}


def changed(seed: int, change: Callable[[Array], Any], since: int = 10) -> tuple[Array, str]:
    """Readings from the day `since` of the live ones on as `change` makes them [days, 24, N], and that day."""
    values = made(seed)
    change(values[LEARNT + since :])
    return values, str(START + LEARNT + since)


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_of_quiet_months_no_more_is_said_than_was_promised(first: int, tmp_path: Path) -> None:
    false = days = 0
    for seed in range(first, first + 5):
        told = judged(watched(made(seed, incidents_a_day=0)), tmp_path / str(seed))
        assert told["changed_since"] is None
        assert not any(told["together"].values())
        days += len(told["days"])
        false += sum(bool(day["drifted"] or day["faults"]) for day in told["days"].values())
    # Where nothing has drifted, the share of false discoveries is the share of days with any.
    assert days == 5 * LIVE
    assert false <= Monitor().false_discoveries * days + 2  # two: by chance; of all 600 days there are six


@pytest.mark.parametrize("seed", range(20, 24))
def test_incidents_of_some_hours_are_no_changed_city(seed: int, tmp_path: Path) -> None:
    told = judged(watched(made(seed, incidents_a_day=0.5)), tmp_path)
    assert (told["changed_since"], told["faulty"]) == (None, {})


def test_a_holiday_is_a_sunday_and_one_that_nobody_named_is_no_changed_city(tmp_path: Path) -> None:
    values, monday = made(1), str(START + HOLIDAY)
    named = judged(watched(values), tmp_path / "named")
    assert named["days"][monday]["drifted"] == []
    champion = watched(values, holidays=())
    levels = []
    for one in (watched(values), champion):
        usual = one.inputs.usual(monday, one.reference.tables["seen"])
        levels.append(abs(one.reference.day(one.inputs.read(monday), usual).common[0]))
    assert levels[1] > 3 * levels[0]
    assert judged(champion, tmp_path / "forgotten")["changed_since"] is None


def test_a_week_of_weather_and_a_season_are_no_drift(tmp_path: Path) -> None:
    hours = np.arange(LIVE * 24)
    week = np.clip((hours - 240) / 72, 0, 1) * np.clip((408 - hours) / 72, 0, 1)
    for name, course in {"week": -0.25 * week, "season": 0.35 * hours / hours[-1]}.items():
        values = made(2)
        values[LEARNT:, :, :SENSORS] *= 1 + course.reshape(LIVE, 24, 1)
        told = judged(watched(values), tmp_path / name)
        assert told["changed_since"] is None
        assert sum(len(day["drifted"]) for day in told["days"].values()) <= 2


def test_a_city_that_stands_still_has_changed(tmp_path: Path) -> None:
    def stop(values: Array) -> None:
        values[..., :SENSORS] *= np.array([0.25, 0.45] * (SENSORS // 2))

    values, since = changed(3, stop)
    assert judged(watched(values), tmp_path, 12)["changed_since"] == since


def test_one_channel_is_found_within_two_days_and_is_no_city(tmp_path: Path) -> None:
    def lower(values: Array) -> None:
        values[..., 4] -= 0.5 * np.nanmean(values[..., 4]) * (np.arange(24) % 24 > 6)

    values, since = changed(4, lower)
    told = judged(watched(values), tmp_path)
    days = [since, str(np.datetime64(since) + 1)]
    assert any("s04/flow" in told["days"][day]["drifted"] for day in days)
    assert told["changed_since"] is None
    worst = told["days"][days[1]]["worst"]
    assert worst[0]["channel"] == "s04/flow"
    assert worst[0]["p"] < 0.01


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_a_closed_road_is_a_changed_city(seed: int, tmp_path: Path) -> None:
    def close(values: Array) -> None:
        values[..., :2] *= 0.02
        values[..., SENSORS : SENSORS + 2] *= 1.1
        rush = np.array([1.0, 1.6, 1.25, 1.4])[None, None, :]
        busy = (np.arange(24) > 6)[None, :, None]
        values[..., 2:6] *= np.where(busy, rush, 1)
        values[..., SENSORS + 2 : SENSORS + 6] *= np.where(busy, 0.8, 1)

    values, since = changed(seed, close)
    early = judged(watched(values), tmp_path / "early", 12)
    assert early["changed_since"] == since
    late = judged(watched(values), tmp_path / "late")
    assert late["changed_since"] == since


def stick(values: Array, group: list[int]) -> None:
    values[..., group] = values[0, 9, group]


def silence(values: Array, group: list[int]) -> None:
    values[..., group] = np.nan


def scale(values: Array, group: list[int]) -> None:
    values[..., group] *= 0.6


def rustle(values: Array, group: list[int]) -> None:
    rng = np.random.default_rng(0)
    values[..., group] += rng.normal(0, 0.4, values[..., group].shape) * np.nanmean(values[..., group], axis=(0, 1))


@pytest.mark.parametrize("fault", [stick, silence, scale, rustle])
@pytest.mark.parametrize("seed", [8, 9])
def test_a_cabinet_that_breaks_is_faults_and_no_city(fault: Any, seed: int, tmp_path: Path) -> None:
    group = [i for i, (sensor, _) in enumerate(NAMES) if sensor in ("s01", "s02", "s03", "s04")]
    values, since = changed(seed, lambda v: fault(v, group))
    told = judged(watched(np.nan_to_num(values, nan=np.nan)), tmp_path)
    assert told["changed_since"] is None
    broken = {f"{s}/{k}" for s, k in (NAMES[i] for i in group)}
    found = told["faulty"]
    assert set(found) <= broken
    assert len(found) >= 0.75 * len(broken)
    assert min(one["since"] for one in found.values()) >= since
    for day in list(told["days"])[10:]:
        assert len(set(told["days"][day]["faults"]) & broken) >= 0.5 * len(broken)


def test_what_validate_refuses_is_a_fault(tmp_path: Path) -> None:
    champion = watched(made(10))
    cast(Made, champion.inputs).refused[LEARNT + 3 :, 5] = 0.5
    told = judged(champion, tmp_path, 5)
    assert told["faulty"] == {"s05/flow": {"since": str(START + LEARNT + 3), "why": "50% of its records in quarantine"}}


def test_a_change_seen_on_working_days_is_not_over_at_the_weekend() -> None:
    settings, monday = Monitor(drifted=0.05, days=2), np.datetime64("2025-03-03")

    def told(moved: list[int], names: tuple[str, ...] = ("s1/a", "s2/a", "s3/a")) -> list[dict[str, Any]]:
        days = [str(monday + d) for d in range(14)]
        return [
            {
                "day": day,
                "since": days[max(0, d - 1)],
                "off": d % 7 >= 5,
                "tested": 40,
                "drifted": list(names) if d in moved else [],
                "lasting": list(names) if d in moved and d - 1 in moved else [],
            }
            for d, day in enumerate(days)
        ]

    assert drift.changed_since(told([2, 3, 4, 7, 8, 9, 10, 11]), settings) == "2025-03-05"
    assert drift.changed_since(told([2, 3, 4, 7]), settings) is None
    assert drift.changed_since(told([2, 4, 8, 10]), settings) is None
    assert drift.changed_since(told([12, 13]), settings) == "2025-03-15"
    assert drift.changed_since(told([12, 13], ("s1/a", "s1/b", "s1/c")), settings) is None  # one sensor is no city


def test_a_day_is_made_again_when_it_changed_and_those_after_it(tmp_path: Path) -> None:
    values = made(11)
    judged(watched(values), tmp_path, 6)
    folder = tmp_path / "monitor/task/drift"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = judged(watched(values), tmp_path, 6)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    corrected = values.copy()
    corrected[LEARNT + 2, 8, 3] += 1
    champion = watched(corrected, learnt=values)
    assert judged(champion, tmp_path, 6)["changed_since"] == again["changed_since"]
    names = [name for name, data in before.items() if (folder / name).read_bytes() != data]
    assert min(names) == f"date={START + LEARNT + 2}.json"


@pytest.fixture
def root(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = toy_city.ready(tmp_path_factory)
    root = toy_city.serving(made, tmp_path / "city", "joined", "features", "validated")
    predict.run("ahead", "2025-02-23T06:00:00Z", root=root)
    return root


def test_monitor_tells_of_every_whole_day_since_validation(root: Path) -> None:
    told = monitor.run("ahead", root=root)["drift"]
    assert list(told["days"]) == [str(np.datetime64("2025-02-20") + d) for d in range(9)]
    assert all(day["tested"] == 5 for day in told["days"].values())
    assert (told["changed_since"], told["faulty"], told["new_sensors"], told["sensors"]) == (None, {}, [], 4)
    early = monitor.run("ahead", "2025-02-24T12:00:00Z", root=root)["drift"]
    assert list(early["days"]) == list(told["days"])[:4]


def test_a_sensor_that_came_later_is_new(root: Path) -> None:
    from small_city import put

    from pipelines import features

    late = [("s9", *row[2:]) for row in toy_city.rows() if row[1] == "s1" and str(row[0])[:10] >= "2025-02-27"]
    times = [row[0] for row in toy_city.rows() if row[1] == "s1" and str(row[0])[:10] >= "2025-02-27"]
    added = [(at, sensor, kind, value) for at, (sensor, kind, value) in zip(times, late, strict=True)]
    put(root, "x", [*toy_city.rows(), *added])
    features.run("x", root=root)
    told = monitor.run("ahead", root=root)["drift"]
    assert (told["new_sensors"], told["sensors"]) == (["s9"], 5)
    assert told["changed_since"] is None


def without_reference(root: Path, folder: Path) -> None:
    """The champion as it would have been made before there were references, serving."""
    store = Store.of(Paths(root))
    pointer = store.pointer("ahead")
    assert pointer is not None
    old = store.fetch("ahead", pointer.stable or "")
    contents = {
        p.name: p.read_bytes() for p in old.iterdir() if p.name not in (bundle.MANIFEST, "reference.safetensors")
    }
    config = json.loads(contents["config.json"])
    del config["reference"]
    bundle.write(folder, {**contents, "config.json": files.to_json(config)})
    store.point(Pointer("ahead", 2, store.put("ahead", folder)))


def test_an_old_bundle_serves_and_is_watched_but_for_drift(root: Path, tmp_path: Path) -> None:
    without_reference(root, tmp_path / "old")
    predict.run("ahead", "2025-02-24T06:00:00Z", root=root)
    told = monitor.run("ahead", root=root)
    assert "train anew" in told["drift"]["why"]
    assert told["drift"]["days"] == {}
    assert len(told["releases"]) == 2


def test_few_days_borrow_from_the_bundle_gone_on_from(root: Path, tmp_path: Path) -> None:
    store = Store.of(Paths(root))
    pointer = store.pointer("ahead")
    assert pointer is not None
    champion = store.fetch("ahead", pointer.stable or "")
    short = tmp_path / "short"
    shutil.copytree(root / "data/joined/ahead", short)
    lo = files.read_json(short / "splits.json")["validation"][0]
    files.write_json(short / "splits.json", {"train": [lo, lo + 48], "validation": [lo + 48, lo + 72], "test": [0, 0]})
    data = toy_city.Windows.of_task(short, Spec.of(3600, 24, 6, "Europe/Amsterdam"), False)
    assert referred.made(data) is None
    found = referred.made(data, champion)
    assert found is not None
    old = referred.read(champion, files.read_json(champion / "config.json"))
    assert old is not None
    assert found.about["days"] == 3
    np.testing.assert_allclose(found.tables["sd"], old.tables["sd"] * np.sqrt(1 + 2 / 3), rtol=1e-6)
    assert found.tables["seen"].sum() == 48
    strange = referred.lent(champion, [("s4", "a"), ("new", "a"), ("s1", "a"), ("s2", "a"), ("m", "w")])
    assert strange is not None
    assert strange.tables["spread"][0] == old.tables["spread"][3]
    assert strange.tables["spread"][1] in old.tables["spread"][:4]
    assert (strange.tables["peers"][1] == -1).all()
