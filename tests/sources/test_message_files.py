"""Messages as cities keep them: CSV, Parquet and JSON lines, packed or not, labelled or not, whole or damaged."""

import bz2
import datetime as dt
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from item_city import text_source

from pipelines.core.errors import UserError
from pipelines.core.params import City, Source
from pipelines.core.records import TEXTS
from pipelines.sources import Items, Window, messages, open_feed


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYLOOP_STATE", raising=False)
    monkeypatch.delenv("CITYLOOP_DATA", raising=False)


def items(root: Path, path: str, **read: Any) -> list[dict[str, Any]]:
    block = text_source(read={"connector": "messages", "path": path} | read)
    window = Window(dt.datetime(2025, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    feed = open_feed(Source.model_validate(block), City(name="x"), window, root)
    assert isinstance(feed, Items)
    tables = [batch.table for batch in feed.batches]
    assert all(table.schema == TEXTS for table in tables)
    return pa.concat_tables(tables).to_pylist() if tables else []


CSV = (
    'id,time,subject,text,label\n1,2025/1/2 9:05:00,水,"停水了,\n三天",w\n2,2025-01-03 10:00:00,,"road ""A"" jammed",\n'
)
READ = {"id": "id", "time": "time", "time_format": "%Y/%m/%d %H:%M:%S", "label": "label", "text": ["subject", "text"]}


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_columns_are_joined_and_times_read_in_their_zone(tmp_path: Path, packed: str) -> None:
    data = CSV.encode()
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    pack[".zst"] = lambda raw: pa.compress(raw, codec="zstd", asbytes=True)
    (tmp_path / f"m.csv{packed}").write_bytes(pack[packed](data))
    found = items(tmp_path, f"m.csv{packed}", timezone="Asia/Shanghai", words={"w": "water"}, **READ)
    assert [(f"{r['time']:%d %H:%M}", r["id"], r["text"], r["label"], r["spans"]) for r in found] == [
        ("02 01:05", "1", "水\n停水了,\n三天", "water", None),
        ("03 02:00", "2", 'road "A" jammed', None, None),  # ISO 8601 beside the pattern
    ]


def test_the_same_from_json_lines_and_parquet(tmp_path: Path) -> None:
    rows = [
        {"text": "jam on A2", "spans": [{"start": 0, "end": 3, "label": "stau"}], "label": "traffic"},
        {"text": "half \ud83d\ude00 a pair \ud800", "spans": [], "label": None},
    ]
    rows = [row | {"time": f"2025-01-02T08:0{i}Z"} for i, row in enumerate(rows)]
    read = {"spans": "spans", "label": "label", "time": "time", "words": {"stau": "jam"}}
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = items(tmp_path, "m.jsonl", **read)
    assert [row["spans"] for row in found] == [[{"start": 0, "end": 3, "label": "jam"}], []]
    assert found[1]["text"] == "half 😀 a pair \ufffd"
    assert [row["id"] for row in found] == ["m.jsonl: line 1", "m.jsonl: line 2"]
    rows[1]["text"] = "whole"
    pq.write_table(pa.Table.from_pylist([row | {"spans": json.dumps(row["spans"])} for row in rows]), tmp_path / "m.pq")
    pq.write_table(pa.Table.from_pylist([*rows]), tmp_path / "n.parquet")
    for name in ("m.pq", "n.parquet"):
        again = items(tmp_path, name, **read)
        assert [(r["spans"], r["label"], r["time"]) for r in again] == [
            (r["spans"], r["label"], r["time"]) for r in found
        ]


def test_bytes_of_another_encoding_are_damage_not_an_end(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(
        b"\xef\xbb\xbftext,label\nwater \xff\xfe off,water\n" + "Straße".encode() + b",water\n"
    )
    assert [row["text"] for row in items(tmp_path, "m.csv")] == ["water \ufffd\ufffd off", "Straße"]
    (tmp_path / "g.csv").write_bytes("text\n停水了\n".encode("gb18030"))
    assert [row["text"] for row in items(tmp_path, "g.csv", encoding="gb18030")] == ["停水了"]
    (tmp_path / "l.csv").write_text("text\n" + "x" * 1_000_000 + "\n")
    assert len(items(tmp_path, "l.csv")[0]["text"]) == 1_000_000


def test_bio_tags_of_words_or_characters_become_spans(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "big jam on A2 now", "spans": ["O", "B-jam", "I-jam", "B-jam", "O"]},
        {"text": "路通了", "spans": ["O", "B-free", "I-free"]},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = items(tmp_path, "m.jsonl", spans="spans")
    texts = [[row["text"][s["start"] : s["end"]] for s in row["spans"]] for row in found]
    assert texts == [["jam on", "A2"], ["通了"]]
    (tmp_path / "m.jsonl").write_text(json.dumps({"text": "a b c", "spans": ["O", "B-jam"]}))
    with pytest.raises(UserError, match=r"line 1, column 'spans'.*2 tags for 3 words, 5 characters"):
        items(tmp_path, "m.jsonl", spans="spans")


def test_a_file_without_labels_stands_beside_one_with_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\none,water\n")
    (tmp_path / "b.csv").write_text("text\ntwo\n")
    assert [(r["text"], r["label"]) for r in items(tmp_path, "*.csv", label="label")] == [
        ("one", "water"),
        ("two", None),
    ]
    with pytest.raises(UserError, match="no column 'lable', in no file of `path`; did you mean 'label'"):
        items(tmp_path, "*.csv", label="lable")


@pytest.mark.parametrize(
    ("name", "data", "read", "said"),
    [
        ("m.csv", b"", {}, "the file is empty"),
        ("m.csv", b"test\nx\n", {}, "line 2: no column 'text'; did you mean 'test'"),
        ("m.csv", b"text,id\nx\n", {}, "line 2: 1 cells, the header has 2"),
        ("m.csv", b"text,time\nx,tomorrow\n", {"time": "time"}, "line 2, column 'time': time 'tomorrow'"),
        ("m.csv", b"text,time\nx,\n", {"time": "time"}, "line 2, column 'time': time is missing"),
        ("m.csv", b"text,spans\nx,{\n", {"spans": "spans"}, "line 2, column 'spans': expected"),
        ("m.csv", b"text\nx\n", {"encoding": "utf-99"}, "no encoding 'utf-99'"),
        ("m.csv.gz", gzip.compress(b"text\n" + b"x\n" * 999, mtime=0)[:-20], {}, "is cut short or damaged"),
        ("m.jsonl", b'{"text": "x"}\n{"text": \n', {}, "line 2: not JSON"),
        ("m.jsonl", b"[1]\n", {}, "line 1: expected a JSON object"),
        ("m.parquet", b"PAR1....", {}, "is cut short or damaged"),
        ("m.docx", b"x", {}, "unknown kind of file '.docx'"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, name: str, data: bytes, read: Any, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        items(tmp_path, name, **read)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_batches_keep_rows_in_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "BATCH_ITEMS", 3)
    (tmp_path / "m.csv").write_text("text\n" + "".join(f"n{i}\n" for i in range(8)))
    assert [(r["text"], r["id"]) for r in items(tmp_path, "m.csv")] == [
        (f"n{i}", f"m.csv: line {i + 2}") for i in range(8)
    ]
