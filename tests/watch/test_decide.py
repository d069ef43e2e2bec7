"""Decisions: what raises one, what does not, and that none is made twice, or back and forth."""

import datetime as dt
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.watching import Monitor, Retrain
from pipelines.watch.decide import Facts, decide

BEGIN = dt.datetime(2025, 4, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
GOOD, BAD = 2.0, 4.0
SETTINGS = Monitor()
"""The gate stands at 2.4, raised and cleared by two days; a training takes two, one and one, and a week between."""


def at(day: float) -> dt.datetime:
    return BEGIN + day * DAY


def name(day: int) -> str:
    return f"{at(day):%F}"


def figures(mae: float | None, last: float | None = 3.0, rows: int = 100, **more: Any) -> dict[str, Any]:
    counts = {"rows": rows, "scored": rows, "missing": 0, "waiting": 0, "unanswered": 0, "unsettled": 0}
    return {**counts, "model": {"mae": mae}, "last_value": {"mae": last}, **more}


def summary(days: list[Any], **more: Any) -> dict[str, Any]:
    """Each of `days` an error, or all figures of a day."""
    told = {name(i): found if isinstance(found, dict) else figures(found) for i, found in enumerate(days)}
    return {
        "task": "speed",
        "primary": "mae",
        "champion": "c" * 64,
        "frozen_test": {"digest": "c" * 64, "model": {"mae": GOOD}, "last_value": {"mae": 3.0}},
        "releases": {"c" * 64: {"batch": {"by_day": told}}},
        **more,
    }


def drift(changed: int | None = None, faults: dict[int, list[str]] | None = None, **more: Any) -> dict[str, Any]:
    days = {name(day): {"tested": 10, "drifted": [], "faults": found} for day, found in (faults or {}).items()}
    faulty = {one: {"since": name(day), "why": "stuck"} for day, found in (faults or {}).items() for one in found}
    return {"days": days, "changed_since": None if changed is None else name(changed), "faulty": faulty,
            "new_sensors": [], "sensors": 10, **more}  # fmt: skip


def decided(told: dict[str, Any], day: float, **more: Any) -> dict[str, Any]:
    return decide(Facts(**{"summary": told, "settings": SETTINGS, "until": at(day), "unit": "km/h", **more}))


BY_FIVE = [GOOD, BAD, BAD, BAD, BAD]
FAULTS = {2: ["d7/speed"], 3: ["d7/speed"], 4: ["d7/speed"]}
CLASSES = {
    "primary": "macro_f1",
    "frozen_test": {"model": {"macro_f1": 0.8}, "last_value": {"macro_f1": 0.6}},
}


def classed(f1: float, last: float = 0.6) -> dict[str, Any]:
    return {**figures(None), "model": {"macro_f1": f1}, "last_value": {"macro_f1": last}}


@pytest.mark.parametrize(
    ("told", "day", "expected", "says"),
    [
        (summary([GOOD] * 5), 5, "fine", "within the gate: 2 km/h on 2025-04-05; the gate is 2.4 km/h"),
        (summary([GOOD, GOOD, GOOD, GOOD, BAD]), 5, "fine", "above the gate, 1 day running, which does not count yet"),
        (summary([GOOD, BAD, GOOD, BAD, GOOD, BAD]), 6, "fine", "1 day running"),
        (summary([GOOD, GOOD, GOOD, BAD, BAD]), 5, "watch", "above the gate since 2025-04-04, 2 days running: 4 km/h"),
        (summary([GOOD, GOOD, GOOD, BAD, BAD]), 5, "watch", "enough data to train anew on 2025-04-08"),
        (summary(BY_FIVE), 5, "retrain", "since 2025-04-02, 4 days running"),
        (summary([*BY_FIVE, GOOD]), 6, "retrain", "not for long enough to be over"),
        (summary([*BY_FIVE, GOOD, GOOD]), 7, "fine", "within the gate"),
        (summary([GOOD, figures(BAD, 6.0), figures(BAD, 6.0), figures(BAD, 6.0), figures(BAD, 6.0)]), 5, "watch",
         "last value too is worse than in the frozen test, by 100% on 2025-04-05"),
        (summary([GOOD, figures(BAD, 3.2), figures(BAD, 3.2), figures(BAD, 3.2), figures(BAD, 3.2)]), 5, "retrain",
         "above the gate"),
        (summary(BY_FIVE, drift=drift(faults=FAULTS)), 5, "watch", "Broken sensors, not the model"),
        (summary(BY_FIVE, drift=drift(faults=FAULTS)), 5, "watch", "have them mended: d7/speed"),
        (summary([GOOD, *[figures(BAD, apart={"mae": BAD})] * 4], drift=drift(faults=FAULTS)), 5, "retrain", "above"),
        (summary([GOOD, *[figures(BAD, apart={"mae": GOOD})] * 4], drift=drift(faults=FAULTS)), 5, "watch", "Broken"),
        (summary([GOOD] * 5, drift=drift(faults=FAULTS)), 5, "fine", "within"),
        (summary(BY_FIVE, drift=drift(1, FAULTS)), 5, "retrain", "The city has changed since 2025-04-02"),
        (summary([GOOD] * 5, drift=drift(3)), 5, "watch", "Answers bear it so far"),
        (summary([GOOD, 2.3, 2.3, 2.3, 2.3], drift=drift(1)), 5, "retrain", "The city has changed since 2025-04-02"),
        (summary([GOOD, 2.3, 2.3, 2.3, 2.3]), 5, "fine", "within"),
        (summary([GOOD, *[figures(BAD, 6.0)] * 4], drift=drift(1)), 5, "retrain", "The city has changed"),
        (summary([*[GOOD] * 3, *[figures(BAD, rows=100, scored=60, missing=40)] * 2]), 5, "watch",
         "more than 30% of the answers from 2025-04-04 to 2025-04-05 met none"),
        (summary([GOOD, *[figures(BAD, scored=60, missing=40), GOOD] * 2]), 5, "fine", "within"),
        (summary([*[GOOD] * 3, *[figures(BAD, scored=60, waiting=40)] * 2]), 5, "fine", "2 km/h on 2025-04-03"),
        (summary([GOOD] * 5, drift=drift(new_sensors=["n1"])), 5, "watch", "1 of 10 sensors are unknown"),
        (summary([GOOD] * 5, drift=drift(new_sensors=["n1"], sensors=11)), 5, "fine", "within"),
        (summary([]), 5, "fine", "No whole day of answers could be judged yet"),
        (summary(BY_FIVE, frozen_test=None), 5, "fine", "There is no frozen test's mean absolute error"),
        (summary([classed(0.8)] * 5, **CLASSES), 5, "fine", "macro F1 is within the gate: 0.8 on"),
        (summary([classed(0.8), *[classed(0.5)] * 4], **CLASSES), 5, "retrain", "macro F1 is below the gate since"),
        (summary([classed(0.8), *[classed(0.5, 0.37)] * 4], **CLASSES), 5, "watch", "last value too is worse"),
    ],
)  # fmt: skip
def test_what_leads_to_what(told: dict[str, Any], day: float, expected: str, says: str) -> None:
    found = decided(told, day)
    assert (found["decision"], (found["retrain"] is not None)) == (expected, expected == "retrain"), found["reasons"]
    assert any(says in reason for reason in found["reasons"]), found["reasons"]


def test_the_whole_of_a_decision() -> None:
    found = decided(summary(BY_FIVE, drift=drift(1)), 5.5)
    assert {k: v for k, v in found.items() if k != "reasons"} == {
        "task": "speed",
        "until": "2025-04-06T12:00:00Z",
        "decision": "retrain",
        "since": "2025-04-02",
        "causes": {"changed": "2025-04-02"},
        "asked": "2025-04-06T12:00:00Z",
        "retrain": {
            "init": "c" * 64,
            "start": "2025-04-02T00:00:00Z",
            "validation_from": "2025-04-04T00:00:00Z",
            "test_from": "2025-04-05T00:00:00Z",
        },
        "rollback": None,
        "champion": "c" * 64,
        "error": {"live": BAD, "gate": pytest.approx(2.4), "metric": "mae", "days_above": 4},
    }


def test_without_a_change_it_learns_from_all_that_is_new_and_the_backbone_where_params_say_so() -> None:
    plain = Monitor(retrain=Retrain(continual=False))
    found = decided(summary(BY_FIVE), 5, settings=plain)["retrain"]
    assert (found["start"], found["init"]) == (None, None)


def test_what_has_not_ended_is_not_judged() -> None:
    told = summary([GOOD, BAD, BAD])
    assert decided(told, 2.9)["error"]["days_above"] == 1
    assert decided(told, 3)["error"]["days_above"] == 2


def test_an_old_model_is_trained_anew_where_params_say_how_old() -> None:
    told = summary([GOOD] * 40)
    assert decided(told, 40, trained=at(-60))["decision"] == "fine"
    aged = Monitor(age=90 * DAY)
    assert decided(told, 30, trained=at(-60), settings=aged)["decision"] == "fine"
    found = decided(told, 31, trained=at(-60), settings=aged)
    assert found["decision"] == "retrain"
    assert "91 d ago; 90 d are allowed" in found["reasons"][-1]


def test_a_group_of_new_sensors_is_learnt_once_there_is_enough_of_it() -> None:
    said = daily(lambda n: summary([GOOD] * n, drift=drift(new_sensors=["n1", "n2"] if n >= 5 else [])), 12)
    assert [d["decision"] for d in said[4:9]] == ["watch"] * 4 + ["retrain"]
    assert said[4]["since"] == said[8]["since"] == name(5)


def test_while_a_candidate_waits_nothing_is_trained_again() -> None:
    told, first = summary([GOOD, *[BAD] * 12]), decided(summary(BY_FIVE), 5)
    waits = decided(told, 13, earlier=[first], waiting="1 more review")
    assert waits["decision"] == "watch"
    assert waits["reasons"][-1].startswith("What was trained then waits for 1 more review")
    assert decided(told, 13, earlier=[first])["decision"] == "retrain"


def test_the_new_champion_is_judged_by_its_own_days() -> None:
    first = decided(summary(BY_FIVE), 5)
    told = summary(BY_FIVE)
    told |= {"champion": "d" * 64, "frozen_test": {"digest": "d" * 64, "model": {"mae": GOOD}}}
    assert decided(told, 6, earlier=[first])["decision"] == "fine"
    told["releases"]["d" * 64] = {"stable": {"by_day": {name(6): figures(GOOD), name(7): figures(GOOD)}}}
    assert decided(told, 8, earlier=[first])["error"]["live"] == GOOD


def test_the_role_that_was_scored_most_counts() -> None:
    told = summary([figures(BAD, rows=10)] * 5)
    told["releases"]["c" * 64]["stable"] = {"by_day": {name(i): figures(GOOD) for i in range(5)}}
    told["releases"]["c" * 64]["shadow"] = {"by_day": {name(i): figures(BAD, rows=1000) for i in range(5)}}
    assert decided(told, 5)["decision"] == "fine"


def test_precision_is_not_judged_by_a_handful_of_alarms() -> None:
    def day(rate: float) -> dict[str, Any]:
        return {**figures(None, rows=1000), "model": {"precision": 0.2, "alarm_rate": rate}}

    frozen = {"model": {"precision": 0.9}}
    few, many = (summary([day(rate)] * 5, primary="precision", frozen_test=frozen) for rate in (0.01, 0.05))
    assert decided(few, 5)["decision"] == "fine"
    assert decided(many, 5)["decision"] == "retrain"


def test_a_day_of_hardly_any_answers_says_nothing() -> None:
    told = summary([*[GOOD] * 5, *[figures(BAD, rows=rows) for rows in (9, 9, 10)]])
    assert decided(told, 8)["error"]["days_above"] == 1


def daily(told: Callable[[int], dict[str, Any]], days: int, times: int = 1, **more: Any) -> list[dict[str, Any]]:
    """Decisions `times` a day, each knowing those before."""
    made: list[dict[str, Any]] = []
    for step in range(times, days * times + 1):
        made.append(decided(told(step // times), step / times, earlier=list(made), **more))
    return made


errors = st.lists(st.floats(1.0, 6.0), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(errors, st.integers(0, 40), st.sampled_from([1, 3]))
def test_never_two_trainings_within_the_budget(mae: list[float], changed: int, times: int) -> None:
    made = daily(lambda n: summary(mae[:n], drift=drift(changed if n > changed else None)), len(mae), times)
    asked = [dt.datetime.fromisoformat(d["until"]) for d in made if d["decision"] == "retrain"]
    assert all(b - a >= SETTINGS.retrain.every for a, b in itertools.pairwise(asked))
    for found in made:
        assert (found["retrain"] is None) == (found["decision"] != "retrain")
        if found["retrain"]:
            test = dt.datetime.fromisoformat(found["retrain"]["test_from"])
            assert test + SETTINGS.retrain.test <= dt.datetime.fromisoformat(found["until"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.05, 0.05), min_size=2, max_size=40), st.integers(1, 4))
def test_noise_around_the_gate_does_not_make_it_swing(noise: list[float], needed: int) -> None:
    few = Monitor(days=needed, retrain=Retrain(every=1000 * DAY))
    made = daily(lambda n: summary([2.4 + e for e in noise[:n]]), len(noise), settings=few)
    states = ["error" in d["causes"] for d in made]
    swings = [i for i, (a, b) in enumerate(itertools.pairwise(states)) if a != b]
    assert all(b - a >= needed for a, b in itertools.pairwise(swings))


def test_a_day_above_and_one_below_in_turn_never_come_to_anything() -> None:
    made = daily(lambda n: summary([2.3 + 0.2 * (i % 2) for i in range(n)]), 30)
    assert {d["decision"] for d in made} == {"fine"}


def test_drift_that_comes_and_goes_is_watched_without_a_break() -> None:
    made = daily(lambda n: summary([GOOD] * n, drift=drift(n - 1 if n % 2 and n < 20 else None)), 30)
    said = [d["decision"] for d in made]
    assert said[:20] == ["watch"] * 20
    assert said[20:] == ["fine"] * 10
    assert made[19]["reasons"][-1].startswith("There was reason to watch until 2025-04-20 00:00 UTC")


@settings(max_examples=40, deadline=None)
@given(errors, st.integers(), st.integers(0, 40))
def test_the_same_is_decided_in_whatever_order_it_is_told(mae: list[float], seed: int, changed: int) -> None:
    told = summary(mae, drift=drift(changed, {i: ["a"] for i in range(0, len(mae), 3)}))
    made = daily(lambda n: summary(mae[:n]), len(mae))
    mixed, shuffled = random.Random(seed), list(made)
    mixed.shuffle(shuffled)
    by_day = told["releases"]["c" * 64]["batch"]["by_day"]
    order = mixed.sample(list(by_day), len(by_day))
    other = {**told, "releases": {"c" * 64: {"batch": {"by_day": {day: by_day[day] for day in order}}}}}
    middle = len(mae) / 2
    assert decided(told, middle, earlier=made) == decided(other, middle, earlier=shuffled)


def test_later_decisions_and_itself_do_not_count() -> None:
    made = daily(lambda n: summary([GOOD, *[BAD] * (n - 1)] if n else []), 12)
    again = decided(summary([GOOD, *[BAD] * 4]), 5, earlier=made)
    assert again == made[4]
    assert again["decision"] == "retrain"
