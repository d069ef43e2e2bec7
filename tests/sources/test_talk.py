"""The simulated citizens: the same whatever the window, true to the traffic but for a few, faults told of."""

import datetime as dt
import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.core.errors import UserError
from pipelines.core.params import City, Source
from pipelines.core.records import TEXTS
from pipelines.sources import ITEM_TRUTH, Items, Window, open_feed
from pipelines.sources.simulated.phrases import DEPARTMENTS, LANGUAGES, ROADS, TOPICS, WAYS
from pipelines.sources.simulated.talk import ERRING, FAULTS, FREE, JAM, LONGEST, MISROUTED, WRONG, Messages, Said, Talk
from pipelines.sources.simulated.weather import weather

CITY = City(name="test", timezone="Europe/Amsterdam", seed=3)
MONDAY = dt.datetime(2025, 3, 3, tzinfo=dt.UTC)
FIRST = int(MONDAY.timestamp()) // 3600
HOUR = dt.timedelta(hours=1)
KINDS = frozenset(("label", "spans"))
CLEAN = dict.fromkeys(FAULTS, 0.0)


def source(**read: Any) -> Source:
    dates = {"start": "2025-01-01", "validation_from": "2025-02-01", "test_from": "2025-03-01"}
    kinds = {"label": {"labels": list(DEPARTMENTS)}, "spans": {"labels": ["jam", "free"]}}
    what = {"connector": "simulator", "feed": "messages", **read}
    return Source.model_validate(
        {"modality": "text", "department": "x", **dates, "step": "1h", "read": what, "kinds": kinds}
    )


def fetch(feed: Items | Messages, start: dt.datetime, hours: float) -> tuple[pa.Table, pa.Table]:
    batches = list(feed.batches(Window(start, start + hours * HOUR)) if isinstance(feed, Messages) else feed.batches)
    truths = [b.truth for b in batches if b.truth is not None]
    assert all(b.table.schema == TEXTS and not b.blobs for b in batches)
    assert all(t.schema == ITEM_TRUTH for t in truths)
    return pa.concat_tables(b.table for b in batches), pa.concat_tables(truths)


@pytest.fixture(scope="module")
def talk() -> Talk:
    return Talk(CITY, 300)


@pytest.fixture(scope="module")
def fortnight(talk: Talk) -> list[Said]:
    return [said for hour in range(FIRST, FIRST + 14 * 24) for said in talk.hour(hour)]


def test_a_window_changes_no_message_within_it() -> None:
    low, high = MONDAY + 20.5 * HOUR, MONDAY + 30 * HOUR
    feeds = (open_feed(source(), CITY, Window(a, b)) for a, b in ((MONDAY, MONDAY + 48 * HOUR), (low, high)))
    whole, part = (fetch(feed, MONDAY, 0) for feed in feeds if isinstance(feed, Items))
    for long, short in zip(whole, part, strict=True):
        assert [row for row in long.to_pylist() if low <= row["time"] < high] == short.to_pylist()
    assert len(part[0]) > 10
    ids = whole[0]["id"].to_pylist()
    assert len(set(ids)) == len(ids)


def test_everybody_writes_about_everything(fortnight: list[Said]) -> None:
    by = Counter(said.department for said in fortnight)
    assert set(by) == set(DEPARTMENTS)
    assert min(by.values()) > 0.1 * len(fortnight)
    assert {said.topic for said in fortnight} == set(TOPICS)
    languages = Counter(said.language for said in fortnight)
    assert all(languages[language] > 0.4 * len(fortnight) for language in LANGUAGES)
    lengths = [len(said.text) for said in fortnight]
    assert min(lengths) >= 3
    assert np.quantile(lengths, 0.02) < 15
    assert 400 < max(lengths) <= LONGEST
    assert len({said.text for said in fortnight}) > 0.8 * len(fortnight)
    assert not any(mark in said.text for said in fortnight for mark in "{}[]|")
    assert 0.1 < np.mean([said.personal for said in fortnight]) < 0.2
    chinese = [bool(re.search("[\u4e00-\u9fff]", said.text)) == (said.language == "zh") for said in fortnight]
    assert all(chinese)


def test_what_is_said_of_a_road_is_mostly_true(talk: Talk, fortnight: list[Said]) -> None:
    """The road that the words name, looked up in the traffic of that minute, is as they say but for ERRING."""
    right: list[bool] = []
    for said in fortnight:
        if not said.spans:
            continue
        assert said.site >= 0
        line, way, exit_ = said.site % 8, said.site % 2 + (2 if said.site % 8 >= 6 else 0), said.site // 8 + 1
        if said.text.isascii() and said.text == said.text.lower():
            continue  # its road is spelled otherwise
        road = ROADS[said.language][min(line // 2, 3)]
        if road not in said.text:
            continue  # mistyped
        other = WAYS[said.language][way ^ 1]
        assert WAYS[said.language][way] in said.text or other not in said.text
        assert re.search(rf"exit {exit_}\b|{exit_}号出口", said.text) or said.language == "en"
        pace = talk.pace(said.second // 86400)[said.second % 86400 // 300, said.site]
        for start, end, label in said.spans:
            assert 0 <= start < end <= len(said.text)
            assert label in ("jam", "free")
            assert pace < JAM or pace > FREE
            right.append((pace < JAM) == (label == "jam"))
    assert len(right) > 200
    assert 1 - 2 * ERRING < np.mean(right) < 1


def test_spans_lie_on_the_phrase(fortnight: list[Said]) -> None:
    """The same phrase is never marked at different words: what is marked neither begins nor ends within one."""
    marked: Counter[str] = Counter()
    for said in fortnight:
        for a, b, _ in said.spans:
            marked[said.text[a:b].lower()] += 1
            assert said.text[a:b] == said.text[a:b].strip()
            if said.language == "en":
                assert not (said.text[a - 1] if a else " ").isalpha()
                assert not (said.text[b] if b < len(said.text) else " ").isalpha()
    assert len(marked) > 20


def test_trouble_makes_people_write(talk: Talk, fortnight: list[Said]) -> None:
    hours = range(FIRST, FIRST + 14 * 24)
    jams, rain = [], []
    for hour in hours:
        pace = talk.pace(hour // 24)[hour % 24 * 12 : hour % 24 * 12 + 12]
        jams.append(float((pace < JAM).mean()))
        rain.append(float(weather(CITY.seed, hour // 24).rain[hour % 24]))
    told = Counter(said.second // 3600 for said in fortnight if any(label == "jam" for *_, label in said.spans))
    wet = Counter(said.second // 3600 for said in fortnight if said.topic == "flood")
    assert np.corrcoef(jams, [told[hour] for hour in hours])[0, 1] > 0.5
    assert np.corrcoef(rain, [wet[hour] for hour in hours])[0, 1] > 0.3


@pytest.fixture(scope="module")
def spoiled() -> tuple[pa.Table, pa.Table, pa.Table]:
    shares = dict.fromkeys(FAULTS, 0.02)
    (table, truth), (clean, _) = (
        fetch(Messages(CITY, 300, KINDS, faults=faults), MONDAY, 5 * 24) for faults in (shares, CLEAN)
    )
    return table, truth, clean


def test_truth_tells_what_was_spoiled(spoiled: tuple[pa.Table, pa.Table, pa.Table]) -> None:
    table, truth, clean = spoiled
    was = {row["id"]: row for row in clean.to_pylist()}
    told = {row["item"]: row for row in truth.to_pylist()}
    counts = Counter(truth["fault"].to_pylist())
    assert set(counts) == set(FAULTS)
    for fault in FAULTS:
        assert 0.02 / 2.5 < counts[fault] / len(clean) < 0.02 * 2, fault
    for row in table.to_pylist():
        about = told.get(row["id"])
        if about is None:
            assert row == was[row["id"]]
            continue
        fault, text = about["fault"], row["text"]
        assert about["time"] == row["time"]
        assert (about["of"] is not None) == (fault == "duplicate")
        if fault == "empty":
            assert not text.strip()
        elif fault == "garbled":
            assert text != was[row["id"]]["text"]
            assert re.search("[\ufffd\x00-\x08\x1b\x80-\xff]", text)
        elif fault == "duplicate":
            assert text == was[about["of"]]["text"]
            assert dt.timedelta(0) < row["time"] - was[about["of"]]["time"] < HOUR
        elif fault == "long":
            assert len(text) > 5000
        elif fault == "label":
            assert row["label"] in WRONG
        elif fault == "overlap":
            assert any(
                one["start"] < other["end"] and other["start"] < one["end"]
                for k, one in enumerate(row["spans"])
                for other in row["spans"][:k]
            )
    assert set(was) <= set(table["id"].to_pylist())


def test_labels_are_for_those_somebody_has_read(
    spoiled: tuple[pa.Table, pa.Table, pa.Table], fortnight: list[Said]
) -> None:
    clean = spoiled[2].to_pylist()
    read = [row for row in clean if row["label"] is not None]
    assert 0.45 < len(read) / len(clean) < 0.55
    assert all((row["label"] is None) == (row["spans"] is None) for row in clean)
    truly = {said.id: said.department for said in fortnight}
    wrong = np.mean([row["label"] != truly[row["id"]] for row in read])
    assert MISROUTED / 3 < wrong < MISROUTED * 2


def test_departments_can_be_told_apart_but_not_perfectly(fortnight: list[Said]) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.pipeline import make_pipeline

    texts, labels = [said.text for said in fortnight], [said.department for said in fortnight]
    half = len(texts) * 2 // 3
    words = TfidfVectorizer(token_pattern=r"[a-zA-Z]+|[\u4e00-\u9fff]", ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    model = make_pipeline(words, LogisticRegression(C=10)).fit(texts[:half], labels[:half])
    assert 0.8 < f1_score(labels[half:], model.predict(texts[half:]), average="macro") < 0.93


def test_what_the_city_has_not_is_said_in_one_line() -> None:
    what = source()
    kinds = {**what.kinds, "spans": what.kinds["spans"].model_copy(update={"labels": ("jam",)})}
    with pytest.raises(UserError, match="add 'free'") as error:
        open_feed(what.model_copy(update={"kinds": kinds}), CITY, Window(MONDAY, MONDAY + HOUR))
    assert "\n" not in str(error.value)
