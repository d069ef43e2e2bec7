"""Messages through the rooms of data: masked before anything is written, each in one place, no copy on two sides."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from item_city import WORDS, city, later, messages, reasons, rows, run, task, text_source
from small_city import tree

from pipelines import ingest, join
from pipelines.core import files
from pipelines.core.errors import BrokenBatch, UserError
from pipelines.items import near, words

TOPICS = ["the bus on line %d is late again this week", "water pressure in house %d has been low for days"]


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CITYLOOP_STATE", "CITYLOOP_HASH_KEY", "CITYLOOP_DATA"):
        monkeypatch.delenv(name, raising=False)


def some(n: int = 12) -> list[dict[str, Any]]:
    """n unlike messages a label."""
    rng = np.random.default_rng(0)
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    filler = lambda: " ".join("".join(rng.choice(alphabet, 6)) for _ in range(9))  # noqa: E731
    return [{"text": f"{TOPICS[k] % i} {filler()}", "label": WORDS[k]} for i in range(n) for k in (0, 1)]


def span(start: int, end: int, label: str = "jam") -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("empty", {"text": "  \n"}),
    ("too_short", {"text": "x"}),
    ("too_long", {"text": "the bus is late " * 65_000}),
    ("encoding", {"text": "water \udcff\udcfe off since monday"}),
    ("encoding", {"text": "la calÃ§ada estÃ¡ em mau estado"}),
    ("encoding", {"text": "道路拥堵请尽快处理谢谢".encode().decode("gb18030", "ignore")}),
    ("encoding", {"text": "a bell \x07 rings"}),
    ("language", {"text": "вода в доме очень холодная уже неделю"}),
    ("unknown_label", {"text": "a dog barks the whole night in our street", "label": "dogs"}),
    ("unknown_label", {"text": "a horn sounds the whole night", "spans": [span(0, 6, "noise")]}),
    ("span_outside", {"text": "a jam on the bridge", "spans": [span(2, 50)]}),
    ("span_outside", {"text": "a jam on the tunnel", "spans": [span(5, 5)]}),
    ("span_outside", {"text": "a jam on the square", "spans": [span(-3, 5)]}),
    ("span_overlap", {"text": "a jam on the road", "spans": [span(2, 9), span(8, 17)]}),
]  # fmt: skip


def test_every_bad_message_has_its_reason_and_is_kept(tmp_path: Path) -> None:
    messages(tmp_path, [*some(), *(row for _, row in BAD)])
    source = text_source(contract={"max_quarantined": 1, "languages": ["en", "zh"]})
    report = run(city(tmp_path, {"s": source}), "s")
    counts = {reason: n for reason, n in report["reasons"].items() if n}
    expected: dict[str, int] = {}
    for reason, _ in BAD:
        expected[reason] = expected.get(reason, 0) + 1
    assert counts == expected
    raw, good, held = (rows(tmp_path / "data" / room / "s") for room in ("raw", "validated", "quarantine"))
    assert report["records"] == len(raw) == len(good) + len(held) == 24 + len(BAD)
    assert sorted(row["id"] for row in raw) == sorted(row["id"] for row in good + held)
    assert {row["language"] for row in good} == {"en"}
    assert report["languages"] == {"en": 24}
    assert (tmp_path / "plots/validate/s/missing.png").exists()


def test_personal_data_is_masked_before_anything_is_written(tmp_path: Path) -> None:
    text = "please call 13800138000 about the jam on A2"
    start = text.index("jam")
    row = {
        "id": "wang@example.com",
        "text": text,
        "label": "traffic",
        "spans": [{"start": start, "end": start + 3, "label": "jam"}],
    }
    far = {
        "text": "call 13800138000 now",
        "spans": [{"start": 0, "end": 99, "label": "jam"}],
        "label": "Ms Wang, wang@example.com",
    }
    messages(tmp_path, [*some(), row, far])
    report = run(city(tmp_path, {"s": text_source()}), "s")
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "messages.csv")
    for secret in (b"13800138000", b"wang@example.com"):
        assert secret not in everything
    found = next(r for r in rows(tmp_path / "data/validated/s") if "jam" in r["text"])
    assert [found["text"][s["start"] : s["end"]] for s in found["spans"]] == ["jam"]
    assert found["text"].endswith("about the jam on A2")
    assert found["id"] == hashlib.sha256(b"wang@example.com").hexdigest()[:16]
    assert {"span_outside", "unknown_label"} <= set(next(iter(reasons(tmp_path, "s").values())))
    assert report["masked"]["found"]["phone"] == 2
    for room in ("raw", "quarantine"):
        for path in (tmp_path / "data" / room).rglob("*.parquet"):
            told = str(pq.read_table(path, partitioning=None).to_pylist())
            assert "13800138000" not in told
            assert "wang@" not in told


def test_a_source_may_keep_its_words_and_hash_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages(tmp_path, [*some(), {"id": "n1", "text": "please call 13800138000 about the jam"}])
    city(tmp_path, {"s": text_source(privacy={"mask": False})})
    ingest.run("s", root=tmp_path)
    assert any("13800138000" in row["text"] and row["id"] == "n1" for row in rows(tmp_path / "data/raw/s"))
    monkeypatch.setenv("CITYLOOP_HASH_KEY", "a secret of the town hall")
    city(tmp_path, {"s": text_source(privacy={"hash_sensors": True})})
    ingest.run("s", root=tmp_path)
    assert all(len(row["id"]) == 32 and "1380" not in row["text"] for row in rows(tmp_path / "data/raw/s"))


def test_copies_and_contradictions(tmp_path: Path) -> None:
    long = some(1)[0]["text"] + " and the driver says that nobody told him about the works on the bridge at all"
    added = [
        {"id": "a", "text": "Same   words", "time": "2025-01-03T00:00"},
        {"id": "b", "text": "same words", "label": "water", "time": "2025-01-04T00:00"},
        {"id": "c", "text": "both ways said", "label": "water"},
        {"id": "d", "text": "both ways said", "label": "traffic"},
        {"id": "e", "text": "one name"},
        {"id": "e", "text": "two texts"},
        {"id": "f", "text": long},
        {"id": "g", "text": long + " today"},
    ]
    messages(tmp_path, [*some()[1:], *added])
    report = run(city(tmp_path, {"s": text_source()}), "s")
    told = reasons(tmp_path, "s")
    assert {t: told[t] for t in told} == {
        "Same   words": ["duplicate"],  # the labelled one stays
        "both ways said": ["contradiction"],
        "one name": ["repeated_id"],
        "two texts": ["repeated_id"],
    }
    assert report["near_duplicates"] == {"groups": 1, "items": 2, "largest": 2}
    later(tmp_path, "text", "s")
    found = pq.read_table(tmp_path / "data/features/text/s/items.parquet").to_pylist()
    group = {row["text"]: (row["group"], row["split"]) for row in found}
    assert group[long] == group[long + " today"]


def test_features_corpus_and_join(tmp_path: Path) -> None:
    open_ = [{"text": row["text"] + " nobody has read this", "label": ""} for row in some(40)[60:]]
    gates = ["north", "south", "east", "west", "upper", "lower", "inner", "outer", "central"]
    spans = [{"text": f"{w} a jam at gate {i}", "spans": [span(len(w) + 3, len(w) + 6)]} for i, w in enumerate(gates)]
    messages(tmp_path, [*some(30), *open_, *spans])
    tasks = {"route": task("text", "classify", "s"), "mark": task("text", "tag", "s")}
    run(city(tmp_path, {"s": text_source()}, **tasks), "s")
    later(tmp_path, "text", "s", "route", "mark")
    table = pq.read_table(tmp_path / "data/features/text/s/items.parquet").to_pylist()
    assert table == sorted(table, key=lambda row: (row["time"], row["id"]))
    assert not {row["split"] for row in table if row["label"] is None and row["spans"] is None} & {"test"}
    for key, kind, names, count in (("route", "label", WORDS, 60), ("mark", "spans", ["jam", "free"], 9)):
        folder = tmp_path / "data/joined" / key
        about = files.read_json(folder / "about.json")
        assert (about["modality"], about["kind"], about["names"]) == ("text", kind, names)
        joined = pq.read_table(folder / "items.parquet").to_pylist()
        assert len(joined) == count == sum(about["splits"].values())
        assert all(about["splits"].values())
    kept = pq.read_table(tmp_path / "data/corpus/texts/s/items.parquet").to_pylist()
    assert len(kept) == len(table) - sum(row["split"] == "test" for row in table)
    before = tree(tmp_path / "data")
    run(tmp_path, "s")
    later(tmp_path, "text", "s", "route", "mark")
    assert tree(tmp_path / "data") == before


def test_a_retraining_parts_messages_by_dates_of_its_own_and_the_test_is_not_learnt_from(tmp_path: Path) -> None:
    dated = [row | {"time": f"2025-01-{1 + i % 10:02d}T06:00"} for i, row in enumerate(some(30))]
    messages(tmp_path, dated)
    run(city(tmp_path, {"s": text_source(features={"split": "time"})}, route=task("text", "classify", "s")), "s")
    later(tmp_path, "text", "s", "route")

    def parted(folder: str) -> dict[str, set[int]]:
        """The days of each split."""
        days: dict[str, set[int]] = {}
        for row in pq.read_table(tmp_path / "data" / folder / "route/items.parquet").to_pylist():
            days.setdefault(row["split"], set()).add(row["time"].day)
        return days

    assert parted("joined") == {"train": {1, 2, 3, 4}, "validation": {5, 6, 7}, "test": {8, 9, 10}}
    assert parted("learn") == {"train": {1, 2, 3, 4}, "validation": {5, 6, 7}}
    dates = {"start": "2025-01-03", "validation_from": "2025-01-07", "test_from": "2025-01-09"}
    (tmp_path / "retrain.yaml").write_text(yaml.safe_dump({"route": dates}))
    join.run("route", root=tmp_path)
    assert parted("joined") == {"train": {3, 4, 5, 6}, "validation": {7, 8}, "test": {9, 10}}
    assert parted("learn") == {"train": {3, 4, 5, 6}, "validation": {7, 8}}
    city(tmp_path, {"s": text_source()}, route=task("text", "classify", "s"))
    with pytest.raises(UserError, match=r"retrain\.yaml: route: s is split by groups, which no date moves"):
        join.run("route", root=tmp_path)


def test_too_many_bad_ones_or_old_ones_stop_the_run(tmp_path: Path) -> None:
    messages(tmp_path, [*some(2), *(row for _, row in BAD)])
    city(tmp_path, {"s": text_source(contract={"max_quarantined": 0.5})})
    with pytest.raises(BrokenBatch, match="of the items are in quarantine, contract allows 50 %"):
        run(tmp_path, "s")
    messages(tmp_path, some())
    city(tmp_path, {"s": text_source(features={"split": "time"})})
    with pytest.raises(BrokenBatch, match=r"the newest valid item is 216\.0 h older than the window's end"):
        run(tmp_path, "s")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("请解决小区停水问题", "zh"),
        ("路灯坏了，电话[PHONE]", "zh"),
        ("駅前の道路が渋滞しています", "ja"),
        ("도로가 막혀 있습니다", "ko"),
        ("вода в доме холодная", "ru"),
        ("the water in our house has been off for two days", "en"),
        ("das Wasser in der Straße ist seit gestern nicht da", "de"),
        ("il n'y a pas d'eau dans la rue depuis hier", "fr"),
        ("no hay agua en la calle desde ayer y es muy tarde", "es"),
        ("er is geen water in het huis en dat is niet goed", "nl"),
        ("A2 100% ok", "und"),
        ("xyzzy", "und"),
        ("", "und"),
    ],
)
def test_languages_are_told_when_they_are_plain(text: str, code: str) -> None:
    assert words.language(text) == code


@pytest.mark.parametrize(
    "text", ["请解决A4区辰北三角洲片区教育资源不足问题", "Straße gesperrt – déjà vu", "a\tb\r\nc", "€ 5 Ã", "x̄ 😀", ""]
)
def test_what_is_written_well_is_no_damage(text: str) -> None:
    assert words.damage(text) is None


def test_near_texts_are_those_that_share_their_shingles() -> None:
    rng = np.random.default_rng(0)
    base = ["".join(chr(int(c)) for c in rng.integers(0x4E00, 0x9FA5, 200)) for _ in range(60)]
    edited = [text[:100] + "改" * (i % 40) + text[100:] for i, text in enumerate(base)]
    texts = base + edited
    sets = [near.shingles(text) for text in texts]
    expected = {(i, i + 60) for i in range(60) if near.jaccard(sets[i], sets[i + 60]) >= near.ALIKE}
    found = {tuple(sorted(pair)) for pair in near.pairs_of_texts(texts)}
    assert found <= expected
    assert len(found) >= 0.97 * len(expected) > 40


DATA = Path(os.environ.get("CITYLOOP_DATA") or Path(__file__).resolve().parents[3] / "shared/data")
real = pytest.mark.skipif(not (DATA / "text_civic").is_dir(), reason="needs the real data")
DEPARTMENTS = ["交通运输", "劳动和社会保障", "卫生计生", "商贸旅游", "城乡建设", "教育文体", "环境保护"]


@real
def test_the_messages_of_the_real_city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYLOOP_DATA", str(DATA))
    read = {"connector": "messages", "path": "{data}/text_civic/*labelled.csv*", "text": ["subject", "message"]}
    read |= {"id": "id", "time": "time", "time_format": "%Y/%m/%d %H:%M:%S", "timezone": "Asia/Shanghai"}
    source: dict[str, Any] = text_source(
        start="2010-01-01", validation_from="2019-01-01", test_from="2019-07-01", read=read | {"label": "department"},
        kinds={"label": {"labels": DEPARTMENTS}}, contract={"languages": ["zh"]},
    )  # fmt: skip
    report = run(city(tmp_path, {"s": source}, until="2021-01-01", route=task("text", "classify", "s")), "s")
    assert report["records"] == 346 + 4326
    assert report["quarantined"] < 0.1 * report["records"]
    assert report["languages"]["zh"] > 0.99 * report["validated"]
    later(tmp_path, "text", "s", "route")
    assert sum(files.read_json(tmp_path / "data/joined/route/about.json")["splits"].values()) > 330
