"""What ingest leaves on disk, whatever the feed's order, the window's history or the moment of a kill."""

import datetime as dt
import hashlib
import hmac
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import ingest
from pipelines.core import params
from pipelines.core.errors import UserError
from pipelines.core.records import EDGES, RECORDS, SENSORS, day_files, read_day, read_sensors

ROOT = Path(__file__).resolve().parents[1]
SECRET = "a secret of the traffic office"


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYLOOP_STATE", raising=False)
    monkeypatch.delenv(ingest.HASH_KEY, raising=False)


def write_city(root: Path, *, until: str = "2025-01-06", **changes: Any) -> Path:
    """A city whose one source reads feed.csv; `changes` go into the source's block."""
    source = {
        "department": "transport",
        "start": "2025-01-01",
        "validation_from": "2025-01-20",
        "test_from": "2025-01-25",
        "step": "1h",
        "read": {"connector": "files", "path": "feed.csv", "time": "time", "sensor": "sensor", "kind": "kind"}
        | {"value": "value"},
        "kinds": {"speed": {"unit": "km/h", "range": [0, 150]}, "flow": {"unit": "veh/h", "range": [0, 9000]}},
    }
    source["read"] |= changes.pop("read", {})  # type: ignore[operator]
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump({"city": {"name": "x"}, "sources": {"s": source | changes}}))
    set_window(root, until)
    return root


def set_window(root: Path, until: str) -> None:
    (root / "window.yaml").write_text(f'x: 0\ns: "{until}"\n'.replace("x: 0\n", ""))


def rows(days: int = 10, sensors: int = 3, start: str = "2025-01-01") -> list[str]:
    """Hourly speed and flow of some sensors as CSV rows, in the order of time."""
    rng = np.random.default_rng(0)
    out = []
    for hour in range(24 * days):
        moment = dt.datetime.fromisoformat(start) + dt.timedelta(hours=hour)
        for sensor in range(sensors):
            out.extend(
                f"{moment:%Y-%m-%dT%H:%M},d{sensor},{kind},{rng.normal(50, 5):.3f}" for kind in ("speed", "flow")
            )
    return out


def write_feed(root: Path, lines: list[str]) -> None:
    (root / "feed.csv").write_text("\n".join(["time,sensor,kind,value", *lines]) + "\n")


def run(root: Path) -> Path:
    ingest.run("s", root=root)
    return root / "data/raw/s"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*.parquet")}


def test_days_hold_the_window_sorted_and_nothing_else(tmp_path: Path) -> None:
    root = write_city(tmp_path)
    lines = rows()
    write_feed(root, [lines[i] for i in np.random.default_rng(1).permutation(len(lines))])
    raw = run(root)
    assert [str(day) for day in day_files(raw)] == [f"2025-01-0{d}" for d in range(1, 6)]
    day = read_day(raw / "date=2025-01-03.parquet")
    assert day.schema == RECORDS
    assert len(day) == 24 * 3 * 2
    assert day.equals(day.sort_by([("time", "ascending"), ("sensor", "ascending"), ("kind", "ascending")]))
    sensors = read_sensors(raw)
    assert sensors.schema == SENSORS
    assert sensors["sensor"].to_pylist() == ["d0", "d1", "d2"]
    assert sensors["latitude"].null_count == 3
    assert not list((root / ".cityloop/ingest").iterdir())


def test_duplicates_survive_in_the_order_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "SPOOL_ROWS", 2)
    monkeypatch.setattr("pipelines.sources.files_tables.BLOCK_BYTES", 64)
    root = write_city(tmp_path)
    values = [3, 1, 2, 1, 9]
    write_feed(root, [f"2025-01-02T05:00,a,speed,{v}" for v in values] + rows(2)[:20])
    day = read_day(run(root) / "date=2025-01-02.parquet")
    assert day["value"].to_pylist() == values


def test_spools_of_any_size_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [*rows()[::-1], *rows()[:50]]
    whole = write_city(tmp_path / "whole")
    write_feed(whole, lines)
    expected = contents(run(whole))
    monkeypatch.setattr(ingest, "SPOOL_ROWS", 7)
    monkeypatch.setattr("pipelines.sources.files_tables.BLOCK_BYTES", 200)
    small = write_city(tmp_path / "small")
    write_feed(small, lines)
    assert contents(run(small)) == expected


def test_a_second_run_touches_nothing(tmp_path: Path) -> None:
    root = write_city(tmp_path)
    write_feed(root, rows())
    before = stamps(run(root))
    assert stamps(run(root)) == before


def test_a_later_window_adds_days_and_rewrites_none(tmp_path: Path) -> None:
    root = write_city(tmp_path, until="2025-01-04")
    write_feed(root, rows())
    before = stamps(run(root))
    set_window(root, "2025-01-08")
    after = stamps(run(root))
    assert {k: after[k] for k in before} == before
    assert len(after) == len(before) + 4


def test_late_data_rewrites_its_day_alone(tmp_path: Path) -> None:
    root = write_city(tmp_path)
    lines = rows()
    late = [line for line in lines if line.startswith("2025-01-02T1")][:4]
    write_feed(root, [line for line in lines if line not in late])
    before = stamps(run(root))
    write_feed(root, [*lines, "2025-01-03T00:00,new,speed,1"])
    raw = run(root)
    changed = {name for name, stamp in stamps(raw).items() if before[name] != stamp}
    assert changed == {"date=2025-01-02.parquet", "date=2025-01-03.parquet", "sensors.parquet"}
    assert len(read_day(raw / "date=2025-01-02.parquet")) == 144


def test_an_unchanged_hard_link_to_a_cache_is_kept_and_a_changed_one_never_written_through(tmp_path: Path) -> None:
    root = write_city(tmp_path)
    lines = rows()
    write_feed(root, lines)
    raw = run(root)
    cached = tmp_path / "cached"
    os.link(raw / "date=2025-01-02.parquet", cached)
    cached.chmod(0o444)
    before = cached.read_bytes()
    write_feed(root, [*lines, "2025-01-02T00:30,d0,speed,1"])
    run(root)
    assert cached.read_bytes() == before != (raw / "date=2025-01-02.parquet").read_bytes()


def test_a_folder_is_what_the_feed_says_whatever_was_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = rows()
    fresh = write_city(tmp_path / "fresh", until="2025-01-05")
    write_feed(fresh, lines)
    expected = contents(run(fresh))
    root = write_city(tmp_path / "grown", until="2025-01-02")
    write_feed(root, lines[::2])
    run(root)
    set_window(root, "2025-01-09")  # later, then earlier again
    raw = run(root)
    (raw / "truth").mkdir()
    (raw / "truth/date=2025-01-01.parquet").write_bytes(b"left over")
    (raw / "edges.parquet").write_bytes(b"left over")
    (raw / "date=2025-01-03.parquet").write_bytes(b"damaged")
    (raw / ".date=2025-01-03.parquet.abcd.tmp").write_bytes(b"half")
    write_feed(root, lines)
    set_window(root, "2025-01-05")
    with caplog.at_level("INFO", "cityloop"):
        run(root)
    assert "days_removed 4" in caplog.text
    assert contents(raw) == expected
    assert not (raw / "truth").exists()


def test_records_outside_the_window_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_city(tmp_path, until="2025-01-03T12:00:00Z")
    write_feed(root, rows(4, start="2024-12-31"))
    with caplog.at_level("INFO", "cityloop"):
        raw = run(root)
    assert "dropped_outside_window 216" in caplog.text
    assert "records 360" in caplog.text
    times = pa.concat_tables([read_day(p) for p in day_files(raw).values()])["time"].to_pylist()
    assert min(times) == dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    assert max(times) == dt.datetime(2025, 1, 3, 12, tzinfo=dt.UTC) - dt.timedelta(hours=1)


def test_an_empty_window_says_what_the_feed_covers(tmp_path: Path) -> None:
    root = write_city(tmp_path)
    write_feed(root, rows(2, start="2023-05-01"))
    with pytest.raises(
        UserError, match=r"\[2025-01-01, 2025-01-06\).*covers 2023-05-01T00:00:00 to 2023-05-02T23:00:00"
    ):
        run(root)
    write_feed(root, [])
    with pytest.raises(UserError, match="none at all"):
        run(root)
    set_window(root, "2025-01-01")
    with pytest.raises(UserError, match=r"window \[2025-01-01, 2025-01-01\) is empty.*cityloop window"):
        run(root)
    assert not (root / "data").exists()


def test_a_feed_that_breaks_off_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sources.files_tables.BLOCK_BYTES", 256)
    monkeypatch.setattr(ingest, "SPOOL_ROWS", 5)
    root = write_city(tmp_path)
    write_feed(root, rows())
    before = contents(run(root))
    write_feed(root, [*rows(9), "2025-01-09T00:00,d0,speed,fast"])
    with pytest.raises(UserError, match=r"line 1298, column 'value': 'fast' is not a number"):
        run(root)
    assert contents(root / "data/raw/s") == before
    assert not list((root / ".cityloop/ingest").iterdir())


def test_a_silent_sensor_is_not_ingests_business(tmp_path: Path) -> None:
    root = write_city(tmp_path)
    write_feed(root, [*rows(), *(f"2025-01-02T0{h}:00,mute,speed,NaN" for h in range(9))])
    raw = run(root)
    assert "mute" in read_sensors(raw)["sensor"].to_pylist()
    day = read_day(raw / "date=2025-01-02.parquet")
    assert day["value"].null_count == 9


def test_values_that_are_not_finite_are_kept_as_the_feed_gave_them(tmp_path: Path) -> None:
    root = write_city(tmp_path)
    write_feed(root, ["2025-01-02T00:00,a,speed,inf", "2025-01-02T01:00,a,speed,-1e300"])
    assert read_day(run(root) / "date=2025-01-02.parquet")["value"].to_pylist() == [float("inf"), -1e300]


def with_places(root: Path, lines: list[str], **changes: Any) -> Path:
    graph = {"path": "roads.csv", "form": "edges"}
    sensors = {"path": "sensors.csv", "district": "district"}
    write_city(root, read={"sensors": sensors, "graph": graph}, **changes)
    (root / "sensors.csv").write_text("\n".join(["sensor,latitude,longitude,district", *lines]) + "\n")
    (root / "roads.csv").write_text("from,to,weight\nd1,d0,0.5\nd0,d1,0.25\nd0,elsewhere,1\nd1,d1,1\nd0,d2,0\n")
    write_feed(root, rows())
    return root


def test_sensors_and_roads(tmp_path: Path) -> None:
    root = with_places(tmp_path, ["d1,52.12345,4.98765,north", "idle,52,5,south", "d0,,,"])
    raw = run(root)
    assert read_sensors(raw).to_pylist() == [
        {"sensor": "d0", "latitude": None, "longitude": None, "district": None},
        {"sensor": "d1", "latitude": 52.12345, "longitude": 4.98765, "district": "north"},
        {"sensor": "d2", "latitude": None, "longitude": None, "district": None},
        {"sensor": "idle", "latitude": 52.0, "longitude": 5.0, "district": "south"},
    ]
    edges = pq.read_table(raw / "edges.parquet", partitioning=None)
    assert edges.schema == EDGES
    assert [tuple(e.values()) for e in edges.to_pylist()] == [("d0", "d1", 0.25), ("d1", "d0", 0.5)]


def test_privacy_comes_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ingest.HASH_KEY, SECRET)
    monkeypatch.setattr("shutil.rmtree", lambda *a, **k: None)  # the spool stays, to be looked into
    privacy = {"drop": ["district"], "hash_sensors": True, "coarsen_location": 0.05}
    root = with_places(tmp_path, ["d1,52.12345,4.98765,north", "d0,-33.01,151.02,south"], privacy=privacy)
    raw = run(root)
    hashed = {d: hmac.new(SECRET.encode(), d.encode(), hashlib.sha256).hexdigest()[:32] for d in ("d0", "d1", "d2")}
    sensors = {s["sensor"]: s for s in read_sensors(raw).to_pylist()}
    assert set(sensors) == set(hashed.values())
    assert sensors[hashed["d1"]] | {"sensor": ""} == {
        "sensor": "",
        "latitude": 52.1,
        "longitude": 5.0,
        "district": None,
    }
    assert sensors[hashed["d0"]]["latitude"] == -33.0
    assert set(read_day(raw / "date=2025-01-02.parquet")["sensor"].to_pylist()) == set(hashed.values())
    ends = pq.read_table(raw / "edges.parquet", partitioning=None)["source"].to_pylist()
    assert set(ends) == {hashed["d0"], hashed["d1"]}
    written = [p for p in root.rglob("*") if p.is_file() and p.parent != root]
    assert any("ingest" in str(p) for p in written)
    for path in written:
        assert b"north" not in path.read_bytes()
        assert SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("privacy", "expected"),
    [
        ({"hash_sensors": True}, "privacy.hash_sensors: set CITYLOOP_HASH_KEY"),
        ({"drop": ["distict"]}, "no column 'distict'.*did you mean 'district'"),
        ({"drop": ["sensor"]}, "hash_sensors: true"),
    ],
)
def test_a_privacy_rule_that_cannot_be_kept_stops_the_run(tmp_path: Path, privacy: Any, expected: str) -> None:
    root = write_city(tmp_path, privacy=privacy)
    write_feed(root, rows())
    with pytest.raises(UserError, match=expected):
        run(root)
    assert sorted(p.name for p in root.iterdir()) == ["feed.csv", "params.yaml", "window.yaml"]


def test_unknown_sources_and_modalities(tmp_path: Path) -> None:
    root = write_city(tmp_path)
    with pytest.raises(UserError, match="no source 'z'"):
        ingest.run("z", root=root)
    root = write_city(tmp_path, modality="image")
    with pytest.raises(UserError, match="this connector reads series; `modality` says image"):
        ingest.run("s", root=root)


def test_the_simulators_truth_is_written_beside_its_days(tmp_path: Path) -> None:
    city = yaml.safe_load((ROOT / "params.yaml").read_text())
    city["sources"] = {"energy": city["sources"]["energy"]}
    city["tasks"], city["backbones"] = {}, {}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(city))
    (tmp_path / "window.yaml").write_text('energy: "2025-01-16"\n')
    ingest.run("energy", root=tmp_path)
    raw = tmp_path / "data/raw/energy"
    truth = day_files(raw / "truth")
    assert truth
    assert set(truth) <= set(day_files(raw))
    before = stamps(raw)
    ingest.run("energy", root=tmp_path)
    assert stamps(raw) == before


def start(root: Path) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "pipelines", "-C", str(root), "ingest", "s"]
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)


def wait_for(process: "subprocess.Popen[bytes]", happened: Any) -> None:
    """Return as soon as something has happened; fail when the process ends before."""
    deadline = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)


@pytest.mark.parametrize("moment", ["while reading", "while writing", "late in writing"])
def test_killed_and_run_again(tmp_path: Path, moment: str) -> None:
    days = 300
    lines = rows(days, sensors=12)
    expected_city = write_city(tmp_path / "fresh", until="2025-10-01")
    write_feed(expected_city, lines)
    expected = contents(run(expected_city))
    root = write_city(tmp_path / "killed", until="2025-10-01")
    write_feed(root, lines[::2])  # what is there before differs in every day
    raw = run(root)
    untouched = contents(raw)
    write_feed(root, lines)
    spools, before = root / ".cityloop/ingest", stamps(raw)
    process = start(root)
    if moment == "while reading":
        wait_for(process, lambda: any(spools.iterdir()))
    else:
        first = "date=2025-01-02.parquet" if moment == "while writing" else "date=2025-07-01.parquet"
        wait_for(process, lambda: (raw / first).stat().st_ino != before[first][0])
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert any(spools.iterdir()), "the killed run's spool was to be left over"
    if moment == "while reading":
        assert contents(raw) == untouched
    else:
        assert contents(raw) not in (expected, untouched)
    assert start(root).wait() == 0
    assert contents(raw) == expected
    assert not any(spools.iterdir())


def test_a_running_ingests_spool_is_left_alone(tmp_path: Path) -> None:
    parent = tmp_path / "ingest"
    with ingest._scratch(parent, "a") as first:
        (first / "mine").write_bytes(b"1")
        (parent / "dead-1234").mkdir()
        with ingest._scratch(parent, "b") as second:
            assert sorted(p.name for p in parent.iterdir()) == sorted([first.name, second.name])
        assert (first / "mine").exists()
    assert not any(parent.iterdir())


def test_memory_does_not_grow_with_history(tmp_path: Path) -> None:
    """Four times the history, read in small pieces, needs about the same memory."""
    peaks = []
    for days in (250, 1000):
        root = write_city(tmp_path / str(days), until="2040-01-01", read={"layout": "wide", "kind": "speed"})
        city = yaml.safe_load((root / "params.yaml").read_text())
        read = {"connector": "files", "path": "feed.csv", "layout": "wide", "time": "time", "kind": "speed"}
        city["sources"]["s"]["read"] = read
        (root / "params.yaml").write_text(yaml.safe_dump(city))
        moments = np.arange(days * 24) * np.timedelta64(1, "h") + np.datetime64("2025-01-01T00")
        row = "," + ",".join(f"{i}.5" for i in range(80))
        header = "time," + ",".join(f"d{i}" for i in range(80))
        (root / "feed.csv").write_text("\n".join([header, *(str(m) + ":00" + row for m in moments)]))
        code = (
            "import resource, sys; from pathlib import Path; from pipelines import ingest\n"
            "ingest.SPOOL_ROWS = 100_000\n"
            "ingest.run('s', root=Path(sys.argv[1]))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(root)], cwd=ROOT, capture_output=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 60, peaks


DATA = Path(os.environ.get("CITYLOOP_DATA") or ROOT.parent / "shared/data")
real = pytest.mark.skipif(not DATA.is_dir(), reason="needs the real data, see examples/real_city/README.md")


@pytest.fixture
def real_city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CITYLOOP_DATA", str(DATA))
    for name in ("params.yaml", "window.yaml"):
        (tmp_path / name).write_bytes((ROOT / "examples/real_city" / name).read_bytes())
    return tmp_path


@real
@pytest.mark.parametrize(
    ("source", "count", "days", "first"),
    [
        ("traffic", 333_684, 6, ("2012-03-01T08:00", "716328", "speed", 66.875)),
        ("air", 2_604_096, 1097, ("2013-02-28T16:00", "Aotizhongxin", "co", 300.0)),
        ("energy", 235_872, 273, ("2017-01-01T00:00", "weather", "humidity", 73.8)),
        ("transformer", 100_800, 601, ("2016-06-30T16:00", "ETTh1", "high_useful", 5.827000141143799)),
    ],
)
def test_the_real_citys_feeds(real_city: Path, source: str, count: int, days: int, first: Any) -> None:
    ingest.run(source, root=real_city)
    files = list(day_files(real_city / "data/raw" / source).values())
    assert len(files) == days
    assert sum(pq.read_metadata(path).num_rows for path in files) == count
    time, *rest = read_day(files[0]).slice(0, 1).to_pylist()[0].values()
    assert (f"{time:%Y-%m-%dT%H:%M}", *rest) == first


@real
def test_the_known_faults_of_the_traffic_counts_arrive_whole(real_city: Path) -> None:
    """The numbers of examples/real_city/README.md, counted in the file and in what ingest made of it."""
    text = (DATA / "traffic_i94/Metro_Interstate_Traffic_Volume.csv").read_text().splitlines()
    hours = [dt.datetime.fromisoformat(line.split(",")[7]) for line in text[1:]]
    span = (max(hours) - min(hours)) // dt.timedelta(hours=1) + 1
    assert (len(hours) - len(set(hours)), span - len(set(hours))) == (7629, 11976)
    ingest.run("counts", root=real_city)
    everything = pa.concat_tables([read_day(p) for p in day_files(real_city / "data/raw/counts").values()])
    assert len(everything) == 5 * len(hours)
    for kind in ("volume", "temperature", "rain", "snow", "clouds"):
        mine = everything.filter(pa.compute.field("kind") == kind)
        assert sorted(t.replace(tzinfo=None) for t in mine["time"].to_pylist()) == sorted(hours)
    values = {k: everything.filter(pa.compute.field("kind") == k)["value"].to_numpy() for k in ("temperature", "rain")}
    assert (values["temperature"] == 0).sum() == 10
    assert (values["rain"] > 300).sum() == 1


@pytest.mark.parametrize(("ids", "expected"), [(["a", "b", "a"], "'a' stands more than once"), (["a", None], "row 2")])
def test_a_connectors_sensor_ids_are_checked(ids: list[str | None], expected: str) -> None:
    sensors = pa.table({n: pa.array(ids) if n == "sensor" else pa.nulls(len(ids)) for n in SENSORS.names}).cast(SENSORS)
    with pytest.raises(UserError, match=expected):
        ingest._known_sensors(sensors, "s")


def test_a_source_has_its_own_clock_or_the_citys(tmp_path: Path) -> None:
    for given, expected in (({}, "UTC"), ({"timezone": "Asia/Shanghai"}, "Asia/Shanghai")):
        assert params.load(write_city(tmp_path, **given)).timezone("s") == expected
