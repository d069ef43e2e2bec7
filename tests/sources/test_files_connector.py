"""The files that cities have: every form read as the same records, every fault told in one line."""

import datetime as dt
import gzip
import hashlib
import shutil
import threading
import zoneinfo
from collections.abc import Callable
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipelines.core.errors import UserError
from pipelines.core.params import City, Source
from pipelines.core.records import EDGES, RECORDS, SENSORS
from pipelines.sources import Feed, Window, files_tables, open_feed
from pipelines.sources.files_time import Clock

UTC = dt.UTC
KINDS = {"speed": {"unit": "km/h", "range": [0, 150]}, "flow": {"unit": "veh/h", "range": [0, 9000]}}
LONG = "time,sensor,kind,value\n2025-01-01T00:00,a,speed,50.5\n2025-01-01T00:00,b,flow,7\n2025-01-01T01:00,a,speed,\n"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYLOOP_STATE", raising=False)
    monkeypatch.delenv("CITYLOOP_DATA", raising=False)


def source(kinds: Any = None, step: str = "1h", **read: Any) -> Source:
    block = {"department": "x", "start": "2025-01-01", "validation_from": "2025-02-01", "test_from": "2025-03-01"}
    kinds = {"speed": KINDS["speed"]} if kinds == 1 else kinds or KINDS
    return Source.model_validate(block | {"step": step, "kinds": kinds, "read": {"connector": "files"} | read})


def feed(root: Path, spec: Source) -> Feed:
    window = Window(dt.datetime(2025, 1, 1, tzinfo=UTC), dt.datetime(2026, 1, 1, tzinfo=UTC))
    return open_feed(spec, City(name="x"), window, root)


def table(root: Path, spec: Source) -> pa.Table:
    batches = [batch.records for batch in feed(root, spec).batches]
    assert all(batch.schema == RECORDS for batch in batches)
    return pa.concat_tables(batches) if batches else RECORDS.empty_table()


def records(root: Path, spec: Source) -> list[tuple[str, str, str, float | None]]:
    return [(f"{t:%m-%d %H:%M}", s, k, v) for t, s, k, v in zip(*table(root, spec).to_pydict().values(), strict=True)]


def long(**read: Any) -> dict[str, Any]:
    return {"layout": "long", "time": "time", "sensor": "sensor", "kind": "kind", "value": "value"} | read


def fails(root: Path, spec: Source, *expected: str) -> str:
    with pytest.raises(UserError) as caught:
        table(root, spec)
    message = str(caught.value)
    assert "\n" not in message
    for words in expected:
        assert words in message, message
    return message


# Forms

THREE = [
    ("01-01 00:00", "a", "speed", 50.5),
    ("01-01 00:00", "b", "flow", 7.0),
    ("01-01 01:00", "a", "speed", None),
]


@pytest.mark.parametrize("form", ["csv", "gz", "parquet", "typed parquet", "npz", "semicolons", "glob"])
def test_long_in_every_format(tmp_path: Path, form: str) -> None:
    name, extra = "f.csv", {}
    (tmp_path / "f.csv").write_text(LONG)
    rows = [line.split(",") for line in LONG.splitlines()]
    if form == "gz":
        name = "f.csv.gz"
        (tmp_path / name).write_bytes(gzip.compress(LONG.encode()))
    elif form == "parquet":
        name = "f.parquet"
        pq.write_table(pa.table({n: [r[i] for r in rows[1:]] for i, n in enumerate(rows[0])}), tmp_path / name)
    elif form == "typed parquet":
        name = "f.parquet"
        typed = pcsv.read_csv(tmp_path / "f.csv")
        typed = typed.set_column(1, "sensor", typed["sensor"].dictionary_encode())
        pq.write_table(typed, tmp_path / name, row_group_size=1)
    elif form == "npz":
        name = "f.npz"
        np.savez_compressed(tmp_path / name, **{n: np.array([r[i] for r in rows[1:]]) for i, n in enumerate(rows[0])})
    elif form == "semicolons":
        text = LONG.replace(",", ";").replace("50.5", "50,5").replace("sensor", "capteur n°").replace("a;", "é;")
        (tmp_path / "f.csv").write_bytes(text.encode("latin-1"))
        extra = {"separator": ";", "decimal": ",", "encoding": "latin-1", "sensor": "capteur n°"}
    elif form == "glob":
        name, lines = "part_*.csv", LONG.splitlines()
        for i, line in enumerate(lines[1:]):
            (tmp_path / f"part_{i}.csv").write_text(f"{lines[0]}\n{line}\n")
    expected = THREE if form != "semicolons" else [(t, s.replace("a", "é"), k, v) for t, s, k, v in THREE]
    assert records(tmp_path, source(**long(path=name, **extra))) == expected


WIDE = np.array([[1.0, 2.0], [np.nan, 4.0], [5.0, 6.0]])
SIX = [
    (f"01-01 0{h}:00", s, "speed", None if np.isnan(WIDE[h, i]) else WIDE[h, i])
    for h in range(3)
    for i, s in enumerate("ab")
]


def write_hdf5(path: Path, *, unit: str = "ns", zone: bool = False) -> None:
    """What pandas' to_hdf(format="fixed") writes for a frame of floats, METR-LA's form."""
    import h5py

    moments = np.array(["2025-01-01T00", "2025-01-01T01", "2025-01-01T02"], f"datetime64[{unit}]")
    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        group.attrs["pandas_type"] = np.bytes_("frame")
        group.create_dataset("axis0", data=np.array([b"a", b"b"]))
        axis = group.create_dataset("axis1", data=moments.astype(np.int64))
        axis.attrs["kind"] = np.bytes_("datetime64" if unit == "ns" else f"datetime64[{unit}]")
        if zone:
            axis.attrs["tz"] = np.bytes_("Asia/Shanghai")
        group.create_dataset("block0_items", data=np.array([b"a", b"b"]))
        group.create_dataset("block0_values", data=WIDE)


@pytest.mark.parametrize(
    "form", ["csv", "csv without time", "npz", "fortran npz", "npy", "hdf5", "hdf5 us", "hdf5 array"]
)
@pytest.mark.parametrize("cells", [1, 1 << 19])
def test_wide_in_every_format(tmp_path: Path, form: str, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_tables, "CHUNK_CELLS", cells)
    first = {"first": "2025-01-01"}
    named = {"sensors": {"path": "sensors.csv", "sensor": "id"}}
    (tmp_path / "sensors.csv").write_text("id,latitude\na,1\nb,2\n")
    if form == "csv":
        (tmp_path / "f.csv").write_text("time, a ,b\n2025-01-01,1,2\n2025-01-01 01:00,NA,4\n2025-01-01 02:00, 5 ,6\n")
        read = {"path": "f.csv", "time": "time"}
    elif form == "csv without time":
        (tmp_path / "f.csv").write_text("note,a,b\nx,1,2\ny,,4\nz,5,6\n")
        read = {"path": "f.csv", "skip": ["note"]} | first
    elif "npz" in form:
        np.savez(tmp_path / "f.npz", data=np.asfortranarray(WIDE) if "fortran" in form else WIDE)
        read = {"path": "f.npz"} | first | named
    elif form == "npy":
        np.save(tmp_path / "f.npy", WIDE)
        read = {"path": "f.npy"} | first | named
    elif form == "hdf5 array":
        import h5py

        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["x"] = WIDE
            file["other"] = WIDE[:1]
        read = {"path": "f.h5", "dataset": "x"} | first | named
    else:
        write_hdf5(tmp_path / "f.h5", unit="us" if "us" in form else "ns")
        read = {"path": "f.h5"}
    assert records(tmp_path, source(1, layout="wide", **read)) == SIX


def test_an_hdf5_index_with_a_zone_is_utc_and_one_without_is_local(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "utc.h5", zone=True)
    write_hdf5(tmp_path / "local.h5")
    spec = {"layout": "wide", "timezone": "Asia/Shanghai"}
    assert records(tmp_path, source(1, path="utc.h5", **spec))[0][0] == "01-01 00:00"
    assert records(tmp_path, source(1, path="local.h5", **spec))[0][0] == "12-31 16:00"


def test_an_array_of_channels_is_several_kinds(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(2, 2, 3)
    np.savez(tmp_path / "f.npz", data=values)
    spec = {"path": "f.npz", "layout": "wide", "first": "2025-01-01"}
    got = records(tmp_path, source(**spec, columns={"2": "speed", "0": "flow"}))
    assert got[:4] == [
        ("01-01 00:00", "0", "speed", 2.0),
        ("01-01 00:00", "0", "flow", 0.0),
        ("01-01 00:00", "1", "speed", 5.0),
        ("01-01 00:00", "1", "flow", 3.0),
    ]
    fails(tmp_path, source(**spec), "f.npz", "3 channels")
    fails(tmp_path, source(**spec, columns={"3": "flow"}), "no channel '3'")


def test_wide_columns_may_name_sensor_and_kind(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("when,Zone 1  load,Wind,junk\n1/2/25 3:40,1,2,x\n")
    columns = {"Zone 1 load": "zone_1/flow", "Wind": "mast/speed"}
    spec = source(path="f.csv", layout="wide", time="when", time_format="%m/%d/%y %H:%M", columns=columns)
    assert records(tmp_path, spec) == [("01-02 03:40", "zone_1", "flow", 1.0), ("01-02 03:40", "mast", "speed", 2.0)]


def test_stations_by_file_name_column_and_constant(tmp_path: Path) -> None:
    for station in ("north", "south"):
        rows = "".join(f"{station},2025,1,{d},{h},{d + h},NA\n" for d in (1, 2) for h in (0, 23))
        (tmp_path / f"PRSA_{station}_2025.csv").write_text("where,year,month,day,hour,PM2.5,FLOW\n" + rows)
    spec: dict[str, Any] = {"path": "PRSA_*.csv", "layout": "station", "columns": {"PM2.5": "speed", "FLOW": "flow"}}
    spec |= {"time": {"year": "year", "month": "month", "day": "day", "hour": "hour"}}
    by_name = records(tmp_path, source(**spec, sensor_pattern=r"PRSA_([a-z]+)_\d+\.csv"))
    assert by_name[:3] == [
        ("01-01 00:00", "north", "speed", 1.0),
        ("01-01 00:00", "north", "flow", None),
        ("01-01 23:00", "north", "speed", 24.0),
    ]
    assert by_name[8][1] == "south"
    assert records(tmp_path, source(**spec, sensor="where")) == by_name
    assert {r[1] for r in records(tmp_path, source(**spec))} == {"PRSA_north_2025", "PRSA_south_2025"}
    assert {r[1] for r in records(tmp_path, source(**spec, station="I94"))} == {"I94"}
    fails(tmp_path, source(**spec, sensor_pattern=r"AIR_(\w+)"), "PRSA_north_2025.csv", "sensor_pattern")


def test_long_kinds_are_translated_and_unknown_ones_kept(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(LONG.replace("speed", "V/kmh").replace("flow", "novel"))
    got = records(tmp_path, source(**long(path="f.csv", columns={"V/kmh": "speed"})))
    assert [r[2] for r in got] == ["speed", "novel", "speed"]


def test_one_kind_needs_no_column(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("time,sensor,value\n2025-01-01,7,1\n")
    spec = {"path": "f.csv", "time": "time", "sensor": "sensor", "value": "value"}
    assert records(tmp_path, source(1, **spec)) == [("01-01 00:00", "7", "speed", 1.0)]
    fails(tmp_path, source(**spec), "speed, flow", "read.kind")


def test_na_spellings_in_words_and_numbers(tmp_path: Path) -> None:
    cells = ["", "NA", " n/a ", "-999", "-999.0", "-9.99e2", "3"]
    lines = [f"2025-01-01T0{i}:00,a,speed,{cell}\n" for i, cell in enumerate(cells)]
    (tmp_path / "f.csv").write_text("time,sensor,kind,value\n" + "".join(lines))
    got = [r[3] for r in records(tmp_path, source(**long(path="f.csv", na=["", "NA", "n/a", "-999"])))]
    assert got == [None] * 6 + [3.0]
    pq.write_table(pcsv.read_csv(tmp_path / "f.csv").slice(3).set_column(3, "value", pa.array([-999, 5, None, 3])),
                   tmp_path / "f.parquet")  # fmt: skip
    assert [r[3] for r in records(tmp_path, source(**long(path="f.parquet", na=["-999"])))] == [None, 5.0, None, 3.0]


# Time


@pytest.mark.parametrize(
    ("pattern", "word", "expected"),
    [
        (None, "2025-01-02T03:04:05.678Z", "2025-01-02T03:04:05.678"),
        (None, "2025-01-02 03:04+01:00", "2025-01-02T02:04"),
        (None, "2025-01-02", "2025-01-02"),
        ("%d.%m.%Y %H:%M", "2.1.2025 3:04", "2025-01-02T03:04"),
        ("%m/%d/%y %I:%M %p", "01/02/25 11:04 PM", "2025-01-02T23:04"),
        ("%Y%m%d%H%M%S.%f", "20250102030405.5", "2025-01-02T03:04:05.5"),
        ("%d/%b/%Y:%H:%M:%S %z", "02/Jan/2025:03:04:05 -0800", "2025-01-02T11:04:05"),
        ("%d/%m/%Y", "29/02/2024", "2024-02-29"),
        ("unix", "1735787045", "2025-01-02T03:04:05"),
        ("unix", "1735787045.25", "2025-01-02T03:04:05.25"),
        ("unix_ms", "1735787045250", "2025-01-02T03:04:05.25"),
    ],
)
def test_times_of_every_form(tmp_path: Path, pattern: str | None, word: str, expected: str) -> None:
    (tmp_path / "f.csv").write_text(f"time,value\n{word},1\n")
    got = table(tmp_path, source(1, path="f.csv", time="time", value="value", station="a", time_format=pattern))
    assert got["time"].to_numpy()[0] == np.datetime64(expected)


@pytest.mark.parametrize(
    ("pattern", "word", "words"),
    [
        (None, "yesterday", "'yesterday' is not an ISO 8601 time; set `time_format`"),
        (None, "2025-02-30", "'2025-02-30' is not an ISO 8601 time"),
        ("%d/%m/%Y", "30/02/2025", "'30/02/2025' is not of the form '%d/%m/%Y'"),
        ("%d/%m/%Y", "01/02/2025 x", "is not of the form"),
        ("unix", "soon", "'soon' is not a number of seconds"),
        (None, "", "is not an ISO 8601 time"),
    ],
)
@pytest.mark.parametrize("block", [64, 1 << 20])
def test_a_time_that_cannot_be_read_names_its_row(
    tmp_path: Path, pattern: str | None, word: str, words: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_tables, "BLOCK_BYTES", block)
    good = {None: "2025-01-01", "%d/%m/%Y": "01/01/2025", "unix": "1735787045"}[pattern]
    (tmp_path / "f.csv").write_text("time,value\n" + f"{good},1\n" * 40 + f"{word},1\n{good},1\n")
    spec = source(1, path="f.csv", time="time", value="value", station="a", time_format=pattern)
    fails(tmp_path, spec, "f.csv: line 42, column 'time'", words)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("2025,13,1,0", "13 in column 'm' is not a month"),
        ("2025,2,29,0", "2025-02 has no day 29"),
        ("2025,2,1,24", "24 in column 'h' is not a hour"),
        ("2025,2,1.5,0", "no whole number in column 'd'"),
        ("2025,,1,0", "no whole number in column 'm'"),
        ("2025,Feb,1,0", "'Feb' is not a number"),
    ],
)
def test_a_time_in_parts_that_cannot_be_names_its_row(tmp_path: Path, row: str, words: str) -> None:
    (tmp_path / "f.csv").write_text(f"y,m,d,h,speed\n2025,1,1,0,1\n{row},1\n")
    parts = {"year": "y", "month": "m", "day": "d", "hour": "h"}
    spec = source(1, path="f.csv", layout="station", time=parts, station="a")
    fails(tmp_path, spec, "f.csv: line 3", words)


AMSTERDAM = {"timezone": "Europe/Amsterdam", "station": "a", "time": "time", "value": "value"}


def clock(root: Path, times: list[str], **read: Any) -> list[str]:
    (root / "f.csv").write_text("time,value\n" + "".join(f"{t},1\n" for t in times))
    got = table(root, source(1, path="f.csv", **(AMSTERDAM | read)))["time"].to_pylist()
    return [f"{t:%H:%M}" for t in got]


@pytest.mark.parametrize("block", [48, 1 << 20])
def test_the_hour_that_comes_twice_is_summer_time_then_winter(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_tables, "BLOCK_BYTES", block)
    halves = ["01:30", "02:00", "02:30", "02:00", "02:30", "03:00"]
    got = clock(tmp_path, [f"2025-10-26T{h}" for h in halves])
    assert got == ["23:30", "00:00", "00:30", "01:00", "01:30", "02:00"]
    hourly = [f"2025-10-26T0{h}:00" for h in (1, 2, 2, 3)]
    assert clock(tmp_path, hourly) == ["23:00", "00:00", "01:00", "02:00"]
    once = [f"2025-10-26T0{h}:00" for h in (1, 2, 3)]
    assert clock(tmp_path, once) == ["23:00", "00:00", "02:00"]


def test_a_file_that_runs_backwards_has_winter_first(tmp_path: Path) -> None:
    halves = ["03:30", "03:00", "02:30", "02:00", "02:30", "02:00", "01:30"]
    got = clock(tmp_path, [f"2025-10-26T{h}" for h in halves])
    assert got == ["02:30", "02:00", "01:30", "01:00", "00:30", "00:00", "23:30"]


@pytest.mark.parametrize("zone", ["America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca", "Europe/Dublin"])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_year_of_local_time_comes_back_as_utc(zone: str, direction: int) -> None:
    """Whatever the zone's rules, whichever way the file runs, wherever its chunks end."""
    utc = np.arange(np.datetime64("2017-01-01"), np.datetime64("2018-01-01"), np.timedelta64(30, "m"))[::direction]
    moments = [dt.datetime.fromtimestamp(s, zoneinfo.ZoneInfo(zone)) for s in utc.astype("datetime64[s]").astype(int)]
    local = np.array([m.replace(tzinfo=None) for m in moments], "datetime64[us]").astype(np.int64)
    kept = Clock(zone)
    parts = [kept.utc(part, np.zeros(len(part), bool), lambda row: 0) for part in np.array_split(local, 500)]
    assert (np.concatenate(parts) == utc.astype("datetime64[us]").astype(np.int64)).all()


def test_each_series_has_its_own_second_hour(tmp_path: Path) -> None:
    hours = [f"2025-10-26T0{h}:00" for h in (1, 2, 2, 3)]
    by_time = [f"{t},{s},{k},1\n" for t in hours for s in "ab" for k in ("speed", "flow")]
    by_sensor = [f"{t},{s},{k},1\n" for s in "ab" for k in ("speed", "flow") for t in hours]
    for rows in (by_time, by_sensor):
        (tmp_path / "f.csv").write_text("time,sensor,kind,value\n" + "".join(rows))
        got = table(tmp_path, source(**long(path="f.csv", timezone="Europe/Amsterdam")))
        for sensor in "ab":
            for kind in ("speed", "flow"):
                mine = [r for r in got.to_pylist() if (r["sensor"], r["kind"]) == (sensor, kind)]
                assert [f"{r['time']:%H:%M}" for r in mine] == ["23:00", "00:00", "01:00", "02:00"]


def test_a_time_the_clock_skipped_names_its_row(tmp_path: Path) -> None:
    skipped = ["2025-03-30T01:59", "2025-03-30T02:30", "2025-03-30T03:00"]
    with pytest.raises(
        UserError, match=r"line 3, column 'time': time 2025-03-30T02:30:00 does not exist in Europe/Ams"
    ):
        clock(tmp_path, skipped)
    assert clock(tmp_path, skipped[::2]) == ["00:59", "01:00"]
    assert clock(tmp_path, skipped, timezone="Etc/GMT-1") == ["00:59", "01:30", "02:00"]


def test_offsets_in_the_text_beat_the_files_zone(tmp_path: Path) -> None:
    assert clock(tmp_path, ["2025-10-26T02:30+02:00", "2025-10-26T02:30+01:00", "2025-07-01T12:00"]) == [
        "00:30",
        "01:30",
        "10:00",
    ]


def test_times_without_a_column_go_on_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_tables, "BLOCK_BYTES", 30)
    (tmp_path / "f.csv").write_text("a,b\n" + "".join(f"{i},{-i}\n" for i in range(100)))
    spec = source(1, step="5min", path="f.csv", layout="wide", first="2025-01-01T00:00:00-08:00")
    batches = [b.records for b in feed(tmp_path, spec).batches]
    assert len(batches) > 5
    got = pa.concat_tables(batches).filter(pa.compute.field("sensor") == "a")
    expected = np.datetime64("2025-01-01T08") + np.arange(100) * np.timedelta64(5, "m")
    assert (got["time"].to_numpy() == expected).all()
    assert got["value"].to_pylist() == list(range(100))


# Sensors and roads


def test_sensor_tables(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(LONG)
    (tmp_path / "s.csv").write_text("index,sensor_id,lat,longitude\n0,773869,34.15, -118.3\n1,b,NA,1\n")
    spec = source(**long(path="f.csv", sensors={"path": "s.csv", "sensor": "sensor_id", "latitude": "lat"}))
    got = feed(tmp_path, spec).sensors
    assert got.schema == SENSORS
    assert [tuple(r.values()) for r in got.to_pylist()] == [("773869", 34.15, -118.3, None), ("b", None, 1.0, None)]
    missing = source(**long(path="f.csv", sensors={"path": "s.csv", "sensor": "sensor_id", "latitude": "latt"}))
    fails(tmp_path, missing, "s.csv: no column 'latt'; did you mean 'lat'")
    (tmp_path / "s.csv").write_text("sensor,latitude\na,1\nb,2\na,3\n")
    fails(tmp_path, source(**long(path="f.csv", sensors={"path": "s.csv"})), "line 4", "'a' is that of line 2 too")
    (tmp_path / "s.csv").write_text("sensor,latitude\na,north\n")
    fails(tmp_path, source(**long(path="f.csv", sensors={"path": "s.csv"})), "line 2, column 'latitude'", "'north'")
    (tmp_path / "s.csv").write_text("sensor,latitude\n,1\n")
    fails(tmp_path, source(**long(path="f.csv", sensors={"path": "s.csv"})), "line 2, column 'sensor': no sensor id")


@pytest.mark.parametrize("form", ["csv", "npy", "npz", "edges"])
@pytest.mark.parametrize("listed", [True, False])
def test_road_graphs(tmp_path: Path, form: str, listed: bool) -> None:
    (tmp_path / "f.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "s.csv").write_text("sensor\na\nb\nc\n")
    weights = np.array([[1, 0.5, 0], [0, 1, 0.25], [np.nan, 0, 0]])
    graph = {"path": f"g.{form}"}
    if form == "csv":
        (tmp_path / "g.csv").write_text("1,0.5,0\n0,1,0.25\nnan,0,0\n")
    elif form == "npy":
        np.save(tmp_path / "g.npy", weights)
    elif form == "npz":
        np.savez(tmp_path / "g.npz", adj=weights)
    else:
        (tmp_path / "g.csv").write_text("u,v,w\na,b,0.5\nb,c,0.25\na,a,1\n")
        graph = {"path": "g.csv", "form": "edges", "source": "u", "target": "v", "weight": "w"}
    places = {"sensors": {"path": "s.csv"}} if listed else {}
    spec = source(1, path="f.csv", layout="wide", first="2025-01-01", graph=graph, **places)
    got = feed(tmp_path, spec).edges
    assert got.schema == EDGES
    assert [tuple(r.values()) for r in got.to_pylist()] == [("a", "b", 0.5), ("b", "c", 0.25)]


def test_a_matrix_of_the_wrong_size_or_with_words(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,b\n1,2\n")
    spec = source(1, path="f.csv", layout="wide", first="2025-01-01", graph={"path": "g.csv"})
    (tmp_path / "g.csv").write_text("1,0,0\n0,1,0\n0,0,1\n")
    fails(tmp_path, spec, "g.csv: the matrix is 3 × 3, but there are 2 sensors")
    (tmp_path / "g.csv").write_text("a,b\n0,1\n")
    fails(tmp_path, spec, "g.csv: line 1: not numbers only")
    (tmp_path / "g.csv").write_text("0,1\n0\n")
    fails(tmp_path, spec, "g.csv: line 2: 1 numbers, expected 2")
    (tmp_path / "adj_mx.pkl").write_bytes(b"\x80\x04.")
    pickled = source(1, path="f.csv", layout="wide", first="2025-01-01", graph={"path": "adj_mx.pkl"})
    fails(tmp_path, pickled, "adj_mx.pkl: pickle files can run code")


# Where files are


def test_data_stands_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = source(**long(path="{data}/in/f.csv"))
    fails(tmp_path, spec, "{data}/in/f.csv", "set the environment variable CITYLOOP_DATA")
    monkeypatch.setenv("CITYLOOP_DATA", str(tmp_path / "nowhere"))
    fails(tmp_path, spec, "nowhere, which is not a folder")
    (tmp_path / "data/in").mkdir(parents=True)
    (tmp_path / "data/in/f.csv").write_text(LONG)
    monkeypatch.setenv("CITYLOOP_DATA", str(tmp_path / "data"))
    assert records(tmp_path / "elsewhere", spec) == THREE


def test_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "feeds").mkdir()
    (tmp_path / "feeds/traffic.csv").write_text(LONG)
    fails(tmp_path, source(**long(path="feeds/trafic.csv")), "trafic.csv: no such file; did you mean 'traffic.csv'?")
    fails(tmp_path, source(**long(path="feedz/traffic.csv")), "nor is there a folder", "feedz")
    fails(tmp_path, source(**long(path="feeds/air_*.csv")), "air_*.csv: no file matches")
    fails(tmp_path, source(**long(path="feeds")), "is a folder; name a file, or a pattern")
    fails(tmp_path, source(**long(path="feeds/traffic.csv", sensors={"path": "s.csv"})), "s.csv: no such file")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_local_file_may_have_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(LONG)
    assert records(tmp_path, source(**long(path="f.csv", sha256=sha256(path)))) == THREE
    fails(tmp_path, source(**long(path="f.csv", sha256="0" * 64)), f"SHA-256 is {sha256(path)}, expected 000")


def test_a_url_is_fetched_once_and_checked_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    remote, root = tmp_path / "remote/f.csv.gz", tmp_path / "city"
    remote.parent.mkdir()
    remote.write_bytes(gzip.compress(LONG.encode()))
    spec = source(**long(path=f"file://{remote}", sha256=sha256(remote)))
    assert records(root, spec) == THREE
    cached = list((tmp_path / "state/downloads").iterdir())
    assert len(cached) == 1
    remote.rename(tmp_path / "away")
    assert records(root, spec) == THREE
    cached[0].write_bytes(b"spoilt")
    fails(root, spec, f"file://{remote}: cannot be fetched")
    (tmp_path / "away").rename(remote)
    assert records(root, spec) == THREE
    remote.write_bytes(b"another version")
    cached[0].unlink()
    fails(root, spec, f"file://{remote}: SHA-256 is", "expected")
    assert not list((tmp_path / "state/downloads").iterdir())
    assert not root.exists()


def test_a_url_into_an_archive_and_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    site = tmp_path / "site"
    (site / "in").mkdir(parents=True)
    (site / "in/f.csv").write_text(LONG)
    shutil.make_archive(str(site / "city"), "zip", site / "in")
    digest = sha256(site / "in/f.csv")
    assert records(tmp_path, source(**long(path=f"zip://f.csv::file://{site}/city.zip", sha256=digest))) == THREE
    pytest.importorskip("aiohttp")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), lambda *a: Quiet(*a, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        shutil.rmtree(tmp_path / "state")
        assert records(tmp_path, source(**long(path=f"{base}/in/f.csv?v=1", sha256=digest))) == THREE
        fails(tmp_path, source(**long(path=f"{base}/in/g.csv", sha256="1" * 64)), f"{base}/in/g.csv: cannot be fetched")
    finally:
        server.shutdown()
        server.server_close()


# Files that cannot be read


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ({"value": "valeu"}, "f.csv: no column 'valeu'; did you mean 'value'?"),
        ({"sensor": "sensors"}, "no column 'sensors'; did you mean 'sensor'?"),
        ({"time": "when"}, "no column 'when'; expected one of: kind, sensor, time, value"),
        ({"layout": "station", "value": None, "kind": None}, "no column 'speed'"),
    ],
)
def test_a_missing_column(tmp_path: Path, read: Any, expected: str) -> None:
    (tmp_path / "f.csv").write_text(LONG)
    fails(tmp_path, source(**long(path="f.csv", **read)), expected)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_a_little(data: bytes) -> bytes:
    return data[:-4]


def spoil(data: bytes) -> bytes:
    return data[:300] + b"\0\0\0\0\0\0" + data[306:]


@pytest.mark.parametrize("how", [cut, cut_a_little, spoil])
@pytest.mark.parametrize("name", ["f.csv.gz", "f.parquet", "f.npz", "stored.npz", "f.h5"])
def test_a_file_cut_short_or_damaged(tmp_path: Path, name: str, how: Callable[[bytes], bytes]) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / name
    spec = source(1, path=name, layout="wide", first="2025-01-01")
    values = rng.normal(size=(2000, 3))
    if name == "f.csv.gz":
        path.write_bytes(gzip.compress(b"a,b,c\n" + b"".join(b"%f,%f,%f\n" % tuple(row) for row in values)))
    elif name == "f.parquet":
        pq.write_table(pa.table({c: values[:, i] for i, c in enumerate("abc")}), path)
    elif name == "f.npz":
        np.savez_compressed(path, x=values)
    elif name == "stored.npz":
        np.savez(path, x=values)
    else:
        import h5py

        with h5py.File(path, "w") as file:
            file["x"] = values
    assert len(table(tmp_path, spec)) == 6000
    if (name, how) in {("f.parquet", spoil), ("f.h5", spoil), ("f.h5", cut_a_little)}:
        pytest.skip("the format keeps no checksum: a changed number is a number, and a lost last one a 0")
    path.write_bytes(how(path.read_bytes()))
    fails(tmp_path, spec, f"{name}: cannot be read")


@pytest.mark.parametrize("name", ["f.csv", "f.csv.gz", "f.parquet", "f.npz", "f.h5"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    spec = source(1, path=name, layout="wide", first="2025-01-01")
    fails(tmp_path, spec, f"{name}: the file is empty")


def test_an_empty_text_in_a_gzip(tmp_path: Path) -> None:
    (tmp_path / "f.csv.gz").write_bytes(gzip.compress(b""))
    fails(tmp_path, source(**long(path="f.csv.gz")), "f.csv.gz: the file is empty")


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_a_value_that_is_no_number_names_row_and_column(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_tables, "BLOCK_BYTES", block)
    (tmp_path / "f.csv").write_text("d1,d2\n" + "1,2\n" * 50 + "3,four\n")
    spec = source(1, path="f.csv", layout="wide", first="2025-01-01")
    fails(tmp_path, spec, "f.csv: line 52, column 'd2': 'four' is not a number; correct it, or add it to `na`")
    pq.write_table(pa.table({"d1": ["1"] * 50 + ["x"]}), tmp_path / "f.parquet", row_group_size=7)
    fails(tmp_path, source(1, path="f.parquet", layout="wide", first="2025-01-01"), "row 51, column 'd1': 'x'")
    pq.write_table(pa.table({"d1": [[1.0], [2.0]]}), tmp_path / "g.parquet")
    fails(tmp_path, source(1, path="g.parquet", layout="wide", first="2025-01-01"), "row 1, column 'd1'")


def test_a_row_with_too_few_cells(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("time,sensor,kind,value\n2025-01-01,a,speed,1\n2025-01-01,a\n")
    fails(tmp_path, source(**long(path="f.csv")), "f.csv: cannot be read", "Row #3", "Expected 4 columns, got 2")


def test_the_wrong_encoding(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(LONG.replace("a,", "é,").encode("latin-1"))
    fails(tmp_path, source(**long(path="f.csv")), "f.csv: cannot be read", "set `encoding`")
    fails(tmp_path, source(**long(path="f.csv", encoding="klingon")), "f.csv", "encoding")


def test_sensor_columns_given_twice(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("d1,d2,d1\n1,2,3\n")
    spec = source(1, path="f.csv", layout="wide", first="2025-01-01")
    fails(tmp_path, spec, "f.csv: column 'd1' stands 2 times in the header")
    (tmp_path / "f.csv").write_text("d1,,d2\n1,2,3\n")
    fails(tmp_path, spec, "column 2 has no name")


def test_a_record_without_a_sensor_or_kind(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(LONG.replace("b,flow", ",flow"))
    fails(tmp_path, source(**long(path="f.csv")), "line 3, column 'sensor': no sensor id")
    (tmp_path / "f.csv").write_text(LONG.replace("b,flow", "b,"))
    fails(tmp_path, source(**long(path="f.csv")), "line 3, column 'kind': no kind")


def test_arrays_that_cannot_be_read(tmp_path: Path) -> None:
    spec = {"path": "f.npz", "layout": "wide", "first": "2025-01-01"}
    np.savez(tmp_path / "f.npz", x=np.array([[{"a": 1}, None]], object))
    fails(tmp_path, source(1, **spec), "f.npz: holds pickled objects, which can run code")
    np.savez(tmp_path / "f.npz", x=WIDE, y=WIDE)
    fails(tmp_path, source(1, **spec), "f.npz: holds the arrays x, y; set `dataset`")
    fails(tmp_path, source(1, **spec, dataset="z"), "no array 'z'")
    assert records(tmp_path, source(1, **spec, dataset="y"))[1][3] == 2.0
    np.savez(tmp_path / "f.npz", x=np.arange(2), y=np.arange(3))
    fails(tmp_path, source(1, **spec), "expected one array [time, sensor]", "x [2], y [3]")
    np.savez(tmp_path / "f.npz", x=WIDE)
    (tmp_path / "s.csv").write_text("sensor\na\n")
    fails(tmp_path, source(1, **spec, sensors={"path": "s.csv"}), "2 columns without names, but 1 sensors")
    fails(tmp_path, source(1, path="f.npz", layout="wide"), "set `time`", "`first`")
    (tmp_path / "f.zip").write_bytes(b"PK")
    fails(tmp_path, source(1, path="f.zip", layout="wide", first="2025-01-01"), "unknown kind of file '.zip'")


def test_hdf5_of_another_form(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_group("t/table")
        file["x"] = WIDE
    spec = {"path": "f.h5", "layout": "wide", "first": "2025-01-01"}
    fails(tmp_path, source(1, **spec), "f.h5: set `dataset` to one of its keys: t, x")
    fails(tmp_path, source(1, **spec, dataset="t"), "save it with format='fixed'")


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (long(path="http://x/f.csv"), "path: a URL needs `sha256`"),
        (long(path="f_*.csv", sha256="0" * 64), "`sha256` is of one file"),
        (long(path="f.csv", sha256="abc"), "is not a SHA-256"),
        (long(path="f.csv", sensors={"path": "s3://b/s.csv"}), "sensors.path: a URL needs `sha256`"),
        ({"path": "f.csv", "layout": "long"}, "layout long needs `time` and `value`"),
        ({"path": "f.csv", "layout": "wide", "sensor": "x"}, "layout wide has its sensors in columns"),
        (long(path="f.csv", station="x"), "give one of sensor, sensor_pattern and station"),
        ({"path": "f.csv", "layout": "station", "sensor_pattern": "x"}, "put the sensor's id in a group"),
        ({"path": "f.csv", "layout": "station", "sensor_pattern": "("}, "not a regular expression"),
        (long(path="f.csv", first="2025-01-01"), "`first` is for files without `time`"),
        ({"path": "f.csv", "layout": "wide", "columns": {"x": "a/speed", "y": "a/speed"}}, "given to two columns"),
        ({"path": "f.csv", "layout": "station", "columns": {"x": "sped"}}, "no kind 'sped'"),
        ({"path": "f.csv", "layout": "wide", "columns": {"x": "a/sped"}}, "did you mean 'speed'"),
        (long(path="f.csv", separator=","  , decimal=","), "separator and decimal"),
        (long(path="f.csv", timezone="Europe/Nowhere"), "is not a time zone"),
    ],
)  # fmt: skip
def test_params_that_cannot_be(read: Any, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        source(**read)
    assert expected in str(caught.value)
