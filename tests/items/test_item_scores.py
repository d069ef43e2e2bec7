"""Scores of labels, phrases and boxes by hand, and that sums over items make the same figures."""

from pathlib import Path
from typing import Any

import judged_items
import numpy as np
import pytest

from pipelines.core.errors import UserError
from pipelines.models.items import damage, judge, plain, questions
from pipelines.models.items.held import Items
from pipelines.models.items.questions import locate, tag

NAMES = ("bus", "car")


def boxes(*some: tuple[float, float, float, float, float, int]) -> locate.Boxes:
    """Left, top, right, bottom, score, label."""
    rows = np.array(some, float).reshape(-1, 6)
    return locate.found(rows[:, :4], rows[:, 4], rows[:, 5].astype(int), 2, 0.5)


TRUE = [boxes((0, 0, 0.4, 0.4, 1, 0), (0.5, 0.5, 0.9, 0.9, 1, 1)), boxes((0, 0, 0.4, 0.4, 1, 0)), boxes()]


@pytest.fixture
def joined(tmp_path: Path) -> Items:
    paths = judged_items.city(tmp_path, ("places", "phrases"))
    return Items.open(paths.joined("places"), "places")


def test_average_precision_by_hand() -> None:
    given = [
        boxes((0, 0, 0.4, 0.4, 0.9, 0), (0.5, 0.5, 0.9, 0.7, 0.8, 1)),  # the car's half is met: just an overlap of 0.5
        boxes((0.5, 0, 0.9, 0.4, 0.95, 0), (0, 0, 0.4, 0.38, 0.6, 0)),
        boxes((0, 0, 0.1, 0.1, 0.4, 1)),
    ]
    found = locate.score(given, TRUE, NAMES)
    # Buses, highest first: wrong, right, right of 2, so 2/3 at every recall. The only car that is right comes first.
    assert found["ap50_bus"] == pytest.approx(2 / 3, abs=0.01)
    assert found["ap50_car"] == pytest.approx(1)
    assert found["map50"] == pytest.approx(5 / 6, abs=0.01)
    assert found["count_mae"] == pytest.approx(1 / 3), "one bus too many in the second; 0.4 does not count in the third"
    assert found["map50_95"] < found["map50"]
    points = locate.points(given, TRUE, NAMES)
    assert points.value(points.sums(np.zeros(3, int), 1))[0] == pytest.approx(found["map50"], abs=0.01)


def test_perfect_and_empty_answers_to_boxes() -> None:
    assert locate.score(TRUE, TRUE, NAMES)["map50_95"] == pytest.approx(1)
    none = locate.score([boxes()] * 3, TRUE, NAMES)
    assert (none["map50"], none["count_mae"]) == (0, 1)


def test_sums_of_boxes_make_the_exact_figure_of_any_part(joined: Items) -> None:
    test = joined.part("test")
    rng, truth = np.random.default_rng(0), locate.truth(test)
    given = [
        boxes(*((*b, s, c) for b, s, c in zip(t.boxes, rng.random(9), t.labels, strict=False)),
              *((*q, rng.random() * 0.7, rng.integers(2)) for q in judged_items.QUARTERS if rng.random() < 0.5))
        for t in truth
    ]  # fmt: skip
    points, group = locate.points(given, truth, NAMES), np.arange(len(test)) % 2
    for part, value in enumerate(points.value(points.sums(group, 2))):
        here = np.flatnonzero(group == part)
        exact = locate.score([given[i] for i in here], [truth[i] for i in here], NAMES)["map50"]
        assert 0.2 < exact < 0.98
        assert value == pytest.approx(exact, abs=0.03)


def test_usual_places_are_those_of_the_training_boxes(joined: Items) -> None:
    ask = locate.baselines(locate.asked(joined.part("train", "validation")))["usual"]
    said = ask(None, joined.part("test").take(np.arange(2)))[0]
    best = np.argsort(-said.scores)[:4]
    assert locate.overlap(said.boxes[best], judged_items.QUARTERS).max(0) == pytest.approx(np.ones(4))
    assert (said.scores[best] > 0.1).all()
    assert (said.scores[best] < 0.8).all(), "each was lit in four of ten pictures"
    assert said.counts.sum() == pytest.approx(1.6, abs=0.5)


def test_phrases_by_hand() -> None:
    truth = [[(0, 4, 0), (6, 9, 1)], [(2, 5, 1)], []]
    given = [[(0, 4, 0), (6, 8, 1)], [(2, 5, 0)], [(0, 1, 1)]]
    found = tag.score(given, truth, ("free", "jam"))
    assert found["precision"] == pytest.approx(1 / 4)
    assert found["recall"] == pytest.approx(1 / 3)
    assert found["span_f1"] == pytest.approx(2 / 7)
    assert found["partial_f1"] == pytest.approx(4 / 7), "and 6 to 8 is part of 6 to 9; another label is none"
    assert found["f1_jam"] == 0
    assert tag.wrong(given, truth).tolist() == [2, 2, 1]


def test_two_answers_to_one_phrase_are_one_too_many() -> None:
    found = tag.score([[(0, 4, 0), (0, 4, 0)]], [[(0, 4, 0)]], ("free",))
    assert (found["recall"], found["precision"]) == (1, 0.5)


def test_the_dictionary_knows_what_was_marked_more_often_than_not(tmp_path: Path) -> None:
    judged_items.city(tmp_path, ("phrases",))
    joined = Items.open(tmp_path / "data/joined/phrases", "phrases").part("train").take(np.arange(4))
    texts = ["jam at A", "no jam", "jam jam", "slow at B 😀 slow"]
    spans = [[(0, 3, "jam")], [], [], [(0, 4, "jam"), (12, 16, "free")]]
    for key, values in (("text", texts), ("spans", [[dict(zip(("start", "end", "label"), s, strict=True)) for s in one]
                                                   for one in spans])):  # fmt: skip
        joined.columns[key][:4] = values
    ask = tag.baselines(joined)["dictionary"]
    assert ask(["a slow jam"], None) == [[(2, 6, 1)]], "jam was marked once of four times; of equals the later label"


def test_logistic_regression_learns_what_colours_tell(tmp_path: Path) -> None:
    paths = judged_items.city(tmp_path, ("kinds",))
    joined = Items.open(paths.joined("kinds"), "kinds")
    rows = joined.part("train", "validation")
    label = np.arange(len(rows)) % 3
    pixels = np.random.default_rng(0).integers(0, 100, (len(rows), 32, 32, 3)).astype(np.uint8)
    pixels[np.arange(len(rows)), :, :, label] += 60
    fit = Items(joined.about, joined.columns, pixels, np.arange(len(rows)))
    ask = plain.logistic(fit, label)
    assert (ask(pixels, fit).argmax(-1) == label).mean() > 0.95


@pytest.mark.parametrize("name", ["blur", "noise", "dark", "jpeg"])
def test_damaged_pictures_are_other_pictures_of_the_same_form(name: str) -> None:
    pixels = judged_items.pictures(3, np.random.default_rng(0))[0]
    before = pixels.copy()
    found = damage.spoilt(name, pixels, np.random.default_rng(0))
    assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
    assert (found != pixels).mean() > 0.2
    assert (pixels == before).all()


def test_damaged_messages_keep_the_places_of_their_phrases() -> None:
    texts = ["the road 路口 to the 😀 west is jammed"] * 30
    for name in ("typos", "capitals"):
        found = damage.spoilt(name, texts, np.random.default_rng(0))
        assert [len(t) for t in found] == [len(t) for t in texts]
        assert found != texts
    assert damage.spoilt("cut", ["abcde", ""], np.random.default_rng(0)) == ["abc", ""]


def test_labels_that_nobody_gave_take_no_part(joined: Items) -> None:
    for row in (0, 1):
        joined.columns["boxes"][row] = None
    joined.columns["labels"][2] = ["tram"]
    assert len(locate.asked(joined)) == len(joined) - 2
    other = Items({**joined.about, "names": ["bus", "car", "truck"]}, joined.columns, joined.pixels, joined.rows)
    assert len(questions.load("classify").asked(other)) == len(joined) - 1


def test_a_split_without_annotations_is_told(joined: Items) -> None:
    joined.columns["boxes"][:] = [None] * len(joined)
    with pytest.raises(UserError, match="no annotated item of street lies in test"):
        judge.asked(locate, joined, "test")


def test_slices_by_hour_are_local(joined: Items) -> None:
    found: dict[str, Any] = {f"{g}/{n}": inside for g, n, inside in judge.every(
        joined.part("test"), locate.truth(joined.part("test")), "Asia/Shanghai")}  # fmt: skip
    hours = (joined.part("test").times.astype("datetime64[h]").astype(int) + 8) % 24
    assert (found["regime/night"] == ((hours >= 20) | (hours < 6))).all()
    assert set(found) >= {"camera/cam_0", "regime/day", "found/few", "found/many"}
