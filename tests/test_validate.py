"""What validate leaves on disk: each record in one place, yesterday untouched, and a report of a broken batch."""

import datetime as dt
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from raw_days import Record, a_city, at, everything, smooth, write
from small_city import kind, tree

from pipelines import validate
from pipelines.__main__ import main
from pipelines.core import files
from pipelines.core.errors import BrokenBatch, UserError
from pipelines.core.records import RECORDS, SENSORS, TRUTH, day_file, day_files, read_day

DAYS = 10
"""20 January to the window's end."""


def spoiled() -> list[Record]:
    """Ten days with a fault of each kind but the unit's."""
    out: list[Record] = []
    for t, s, k, v in smooth(DAYS):
        if s == "s1" and t == at("2 10:00"):
            out += [(t, s, k, v), (t, s, k, v)]
        elif s == "s1" and t in (at("2 11:00"), at("4 11:00")):
            out.append((t, s, k, math.nan))
        elif s == "s2" and at("3 08:00") <= t < at("3 18:00"):
            out.append((t, s, k, 44.0))
        elif s == "s3" and t == at("5 12:00"):
            out.append((t, s, k, 400.0))
        elif s == "s4" and t == at("6 12:00"):
            out.append((t, s, k, 20.0))
        elif s == "s5" and at("7 08:00") <= t < at("7 16:00"):
            out.append((t + dt.timedelta(minutes=5), s, k, v))
        elif not (s == "s6" and at("8 08:00") <= t < at("8 16:00")):
            out.append((t, s, k, v))
    return out


def outputs(root: Path) -> dict[str, str]:
    return {name: sha for name, sha in tree(root).items() if name.split("/")[0] in ("data", "metrics", "plots")}


def report(root: Path) -> dict[str, Any]:
    return files.read_json(root / "metrics/validate/x.json")


def both(root: Path) -> tuple[Path, Path]:
    return root / "data/validated/x", root / "data/quarantine/x"


def test_each_raw_record_lies_in_exactly_one_place_with_its_reasons(tmp_path: Path) -> None:
    a_city(tmp_path)
    raw = write(tmp_path, spoiled())
    validate.run("x", root=tmp_path)
    good, bad = both(tmp_path)
    assert sorted(everything(good) + everything(bad)) == everything(raw)
    assert list(day_files(good)) == list(day_files(bad)) == list(day_files(raw))
    for path in day_files(bad).values():
        table = read_day(path)
        assert table.schema.remove(4).equals(RECORDS)
        assert all(table["reasons"].to_pylist())
    for path in day_files(good).values():
        assert read_day(path).schema.equals(RECORDS)
    assert (good / "sensors.parquet").read_bytes() == (raw / "sensors.parquet").read_bytes()
    found = {reason: n for reason, n in report(tmp_path)["reasons"].items() if n}
    assert found == {"duplicate": 1, "missing": 2, "stuck": 39, "out_of_range": 1, "spike": 1, "clock_skew": 32}


def test_the_report_counts_and_the_documents_open(tmp_path: Path) -> None:
    a_city(tmp_path)
    write(tmp_path, spoiled())
    validate.run("x", root=tmp_path)
    said = report(tmp_path)
    assert (said["records"], said["quarantined"], said["validated"]) == (5729, 76, 5653)
    assert said["gaps"] == {"missing": 32, "longest_h": 9.75, "longer_than_max_gap": 3}
    assert (said["sensors"], said["days"], said["worst_sensor"]) == (6, 10, "s2")
    assert said["coverage"] == {"mean": 0.9814, "min": 0.9594, "worst_day": 0.9323}
    assert said["expectations"]["failed"] == 0
    assert said["expectations"]["warnings"] == 1
    plots = tmp_path / "plots/validate/x"
    assert {p.name for p in plots.glob("*.png")} == {"records.png", "missing.png"}
    pages = {p.name: p.read_text() for p in (plots / "data_docs").iterdir()}
    assert set(pages) == {f"{n}.html" for n in ("index", "schema", "batch", "kinds", "sensors", "days")}
    assert "fit" in pages["index.html"]
    assert "longest gap of a channel is 9.8 h" in pages["index.html"]
    for page in pages.values():
        assert not any(word in page for word in ("<script", "<link", "<img", "An unexpected Exception"))


def test_running_again_changes_no_byte_and_touches_no_file(tmp_path: Path) -> None:
    a_city(tmp_path)
    write(tmp_path, spoiled())
    validate.run("x", root=tmp_path)
    before, inodes = outputs(tmp_path), {p: p.stat().st_ino for p in (tmp_path / "data").rglob("*.parquet")}
    validate.run("x", root=tmp_path)
    assert outputs(tmp_path) == before
    assert {p: p.stat().st_ino for p in (tmp_path / "data").rglob("*.parquet")} == inodes


def test_what_grew_day_by_day_equals_what_is_made_at_once_and_yesterday_never_changes(tmp_path: Path) -> None:
    records, grown, whole = spoiled(), tmp_path / "grown", tmp_path / "whole"
    seen: dict[str, str] = {}
    for days in (4, 5, 8, 10):
        a_city(grown, until=f"2025-01-{20 + days}")
        write(grown, [r for r in records if r[0] < at(f"{days} 00:00")])
        validate.run("x", root=grown)
        now = {n: sha for n, sha in outputs(grown).items() if "/date=" in n}
        assert {n: now[n] for n in seen} == seen
        seen = now
    a_city(whole)
    write(whole, records)
    validate.run("x", root=whole)
    assert outputs(grown) == outputs(whole)


def test_only_days_that_see_a_change_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[dt.date] = []
    real = validate.split.flagged

    def watched(days: list[dt.date], *args: Any) -> Any:
        computed.extend(days)
        return real(days, *args)

    monkeypatch.setattr(validate.split, "flagged", watched)
    records = smooth(14)
    a_city(tmp_path, until="2025-02-03")
    write(tmp_path, records)
    validate.run("x", root=tmp_path)
    assert len(computed) == 14
    inodes = {p: p.stat().st_ino for p in (tmp_path / "data").rglob("date=*.parquet")}
    computed.clear()
    late = (at("3 12:07"), "s1", "a", 50.0)
    write(tmp_path, [*records, late])
    validate.run("x", root=tmp_path)
    assert [str(d) for d in computed] == [f"2025-01-{d}" for d in range(23, 32)], "its own day and the eight after it"
    touched = {p.name for p, inode in inodes.items() if p.stat().st_ino != inode and "raw" not in p.parts}
    assert touched == {"date=2025-01-23.parquet"}
    assert (at("3 12:07"), "s1", "a", "50.0") in everything(both(tmp_path)[1])


def test_a_day_gone_from_raw_goes_everywhere(tmp_path: Path) -> None:
    a_city(tmp_path)
    write(tmp_path, smooth(DAYS))
    validate.run("x", root=tmp_path)
    a_city(tmp_path, until="2025-01-29")
    write(tmp_path, [r for r in smooth(DAYS) if r[0] < at("9 00:00")])
    validate.run("x", root=tmp_path)
    for folder in both(tmp_path):
        assert len(day_files(folder)) == 9
    assert report(tmp_path)["days"] == 9


def test_a_lost_output_is_made_again_and_links_are_not_written_through(tmp_path: Path) -> None:
    a_city(tmp_path)
    write(tmp_path, spoiled())
    validate.run("x", root=tmp_path)
    before = outputs(tmp_path)
    good, bad = both(tmp_path)
    cache = tmp_path / "cache"
    shutil.copytree(tmp_path / "data", cache, copy_function=lambda a, b: Path(b).hardlink_to(a))
    kept = tree(cache)
    day_file(good, dt.date(2025, 1, 23)).unlink()
    (bad / ".date=2025-01-24.parquet.0000.tmp").write_bytes(b"half")
    validate.run("x", root=tmp_path)
    assert outputs(tmp_path) == before
    a_city(tmp_path, contract={"clock_tolerance": 1, "stuck_after": "4d"})
    validate.run("x", root=tmp_path)
    assert outputs(tmp_path) != before
    assert tree(cache) == kept


def test_a_contract_that_changes_flags_the_days_anew_and_one_that_judges_does_not(tmp_path: Path) -> None:
    a_city(tmp_path)
    write(tmp_path, spoiled())
    validate.run("x", root=tmp_path)
    days = files.read_json(both(tmp_path)[1] / "days.json")
    a_city(tmp_path, contract={"freshness": "2h", "max_quarantined": 0.1, "coverage": {"sensor": 0.6}})
    validate.run("x", root=tmp_path)
    assert files.read_json(both(tmp_path)[1] / "days.json") == days
    a_city(tmp_path, kinds={"a": kind(range=[0, 500], stuck_after="never")})
    validate.run("x", root=tmp_path)
    found = {reason: n for reason, n in report(tmp_path)["reasons"].items() if n}
    assert found == {"duplicate": 1, "missing": 2, "spike": 2, "clock_skew": 32}


def broken(root: Path, match: str) -> dict[str, Any]:
    """The report of a run that must break, with its documents and pictures there."""
    with pytest.raises(BrokenBatch, match=match) as caught:
        validate.run("x", root=root)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("report in metrics/validate/x.json")
    assert "broken" in (root / "plots/validate/x/data_docs/index.html").read_text()
    assert (root / "plots/validate/x/missing.png").is_file()
    said = report(root)
    assert said["expectations"]["failed"] >= 1
    assert said["records"] == said["validated"] + said["quarantined"]
    return said


def test_a_sensor_that_says_only_nan_breaks_the_batch(tmp_path: Path) -> None:
    a_city(tmp_path)
    write(tmp_path, [(t, s, k, math.nan if s == "s3" else v) for t, s, k, v in smooth(DAYS)])
    said = broken(tmp_path, r"x: coverage of sensor s3 is 0 %, contract asks 50 %; report")
    assert said["worst_sensor"] == "s3"
    shown = CliRunner().invoke(main, ["-C", str(tmp_path), "validate", "x"])
    assert shown.exit_code == 3
    assert "error: x: coverage of sensor s3 is 0 %" in shown.output


def test_a_sensor_that_never_speaks_and_a_thin_day_break_the_batch(tmp_path: Path) -> None:
    a_city(tmp_path)
    write(tmp_path, smooth(DAYS), sensors=["s1", "s2", "s3", "s4", "s5", "s6", "silent"])
    broken(tmp_path, "coverage of sensor silent is 0 %")
    write(tmp_path, [r for r in smooth(DAYS) if not at("4 03:00") <= r[0] < at("5 00:00")])
    broken(tmp_path, r"coverage of day 2025-01-24 is 12\.5 %, contract asks 50 %; report")
    a_city(tmp_path, contract={"coverage": {"day": 0.1}})
    validate.run("x", root=tmp_path)


def test_a_sensor_that_came_later_is_expected_from_its_first_day_on(tmp_path: Path) -> None:
    a_city(tmp_path)
    write(tmp_path, [r for r in smooth(DAYS) if r[1] != "s6" or r[0] >= at("7 00:00")])
    validate.run("x", root=tmp_path)
    assert report(tmp_path)["coverage"]["min"] == 1.0
    assert report(tmp_path)["gaps"]["missing"] == 0


def test_stale_data_breaks_the_batch(tmp_path: Path) -> None:
    a_city(tmp_path)
    write(tmp_path, [r for r in smooth(DAYS) if r[0] < at("9 12:00")])
    validate.run("x", root=tmp_path)
    a_city(tmp_path, contract={"freshness": "6h"})
    broken(tmp_path, r"the newest valid record is 12\.2 h older than the window's end, contract allows 6 h")


def test_too_much_in_quarantine_breaks_the_batch(tmp_path: Path) -> None:
    a_city(tmp_path)
    write(tmp_path, [(t, s, k, 999.0 if s in ("s1", "s2") and t.hour < 18 else v) for t, s, k, v in smooth(DAYS)])
    said = broken(tmp_path, r"25 % of the records are in quarantine, contract allows 20 % \(and 1 more\)")
    assert said["fraction_quarantined"] == 0.25


def test_a_declared_kind_that_never_came_breaks_the_batch_and_an_undeclared_one_warns(tmp_path: Path) -> None:
    a_city(tmp_path, kinds={"a": kind(), "b": kind(), "late": kind(label=True)})
    write(tmp_path, smooth(DAYS))
    broken(tmp_path, "no record of kind b arrived")
    a_city(tmp_path)
    write(tmp_path, [*smooth(DAYS), (at("3 00:00"), "s1", "b", 1.0)])
    validate.run("x", root=tmp_path)
    assert report(tmp_path)["reasons"]["unknown_kind"] == 1
    assert "undeclared kinds arrived: b" in (tmp_path / "plots/validate/x/data_docs/index.html").read_text()


def test_day_files_of_another_form_break_the_batch(tmp_path: Path) -> None:
    a_city(tmp_path)
    raw = write(tmp_path, smooth(DAYS))
    path = day_file(raw, dt.date(2025, 1, 25))
    table = read_day(path)
    files.write_table(path, table.set_column(3, "value", table["value"].cast(pa.string())))
    broken(tmp_path, r"schema of 1 day file\(s\) is broken: date=2025-01-25\.parquet: column value is string")
    path.write_bytes(b"PAR1 and no more")
    broken(tmp_path, r"date=2025-01-25\.parquet is unreadable")
    for other in day_files(raw).values():
        other.write_bytes(b"")
    broken(tmp_path, r"schema of 10 day file\(s\) is broken")


def test_nothing_to_validate_is_an_error_of_one_line(tmp_path: Path) -> None:
    a_city(tmp_path)
    with pytest.raises(UserError, match=r"data/raw/x: no day files to validate; run `cityloop ingest x` first"):
        validate.run("x", root=tmp_path)
    assert not (tmp_path / "data").exists()


def test_a_sensor_outside_the_bounds_is_quarantined_and_told(tmp_path: Path) -> None:
    a_city(tmp_path, contract={"bounds": {"north": 52.045}, "coverage": {"sensor": 0}})
    write(tmp_path, smooth(DAYS))
    validate.run("x", root=tmp_path)
    assert report(tmp_path)["reasons"]["outside_bounds"] == 960
    assert "1 sensor(s) stand outside" in (tmp_path / "plots/validate/x/data_docs/index.html").read_text()


def test_a_clock_change_is_no_gap_and_no_duplicate(tmp_path: Path) -> None:
    a_city(tmp_path)
    shift = dt.datetime(2025, 3, 25, tzinfo=dt.UTC) - at("0 00:00")
    text = (tmp_path / "params.yaml").read_text()
    dated = (
        text.replace("2025-01-20", "2025-03-25").replace("2025-02-10", "2025-04-10").replace("2025-02-20", "2025-04-20")
    )
    (tmp_path / "params.yaml").write_text(dated.replace("name: small", "name: small\n  timezone: Europe/Amsterdam"))
    (tmp_path / "window.yaml").write_text('x: "2025-04-04"\n')
    write(tmp_path, [(t + shift, *r) for t, *r in smooth(DAYS)])  # type: ignore[misc]
    validate.run("x", root=tmp_path)
    assert report(tmp_path)["quarantined"] == 0
    assert report(tmp_path)["gaps"] == {"missing": 0, "longest_h": 0.0, "longer_than_max_gap": 0}


def test_the_score_against_truth(tmp_path: Path) -> None:
    a_city(tmp_path)
    raw = write(tmp_path, spoiled())
    rows = [
        (at("2 10:00"), "s1", "duplicate", 0.0),
        (at("2 11:00"), "s1", "missing", 0.0),
        (at("8 10:00"), "s6", "missing", 0.0),
        (at("8 01:00"), "s6", "missing", 0.0),  # it is there: not found
        (at("5 12:00"), "s3", "out_of_range", 0.0),
        (at("6 12:00"), "s4", "spike", -9.0),
        (at("6 15:00"), "s4", "spike", 4.0),  # too small to count
        (at("3 09:00"), "s2", "stuck", 3600.0),  # too early to count
        (at("3 16:00"), "s2", "stuck", 28800.0),
    ]
    by_day: dict[dt.date, list[tuple[Any, ...]]] = {}
    for t, sensor, fault, size in rows:
        by_day.setdefault(t.date(), []).append((t, sensor, "a", fault, size, 50.0))
    for day, found in by_day.items():
        columns = [list(column) for column in zip(*found, strict=True)]
        files.write_table(day_file(raw / "truth", day), pa.Table.from_arrays(columns, schema=TRUTH))
    validate.run("x", root=tmp_path)
    faults = report(tmp_path)["faults"]
    assert faults["missing"] == {"recall": 0.6667, "precision": 0.5, "n": 3, "flagged": 2}
    assert faults["spike"] == {"recall": 1.0, "precision": 1.0, "n": 1, "flagged": 1}
    assert faults["stuck"] == {"recall": 1.0, "precision": round(2 / 39, 4), "n": 1, "flagged": 39}
    assert faults["clock_skew"] == {"recall": None, "precision": 0.0, "n": 0, "flagged": 32}
    assert faults["overall"]["n"] == 7
    assert faults["overall"]["precision"] == round(6 / 76, 4)


def test_validated_keeps_the_graph_and_drops_it_with_the_source(tmp_path: Path) -> None:
    a_city(tmp_path)
    raw = write(tmp_path, smooth(DAYS))
    edge = pa.table({"source": ["s1"], "target": ["s2"], "weight": [1.0]})
    files.write_table(raw / "edges.parquet", edge)
    validate.run("x", root=tmp_path)
    good = both(tmp_path)[0]
    assert pq.read_table(good / "edges.parquet").equals(edge)
    (raw / "edges.parquet").unlink()
    files.write_table(raw / "sensors.parquet", pq.read_table(raw / "sensors.parquet").cast(SENSORS))
    validate.run("x", root=tmp_path)
    assert not (good / "edges.parquet").exists()
