"""The benchmark's score, against cases worked out by hand, and what must hold for any detector."""

import numpy as np
import pytest

from pipelines.models import nab
from pipelines.models.nab import PROFILES, Stream

STANDARD = PROFILES["standard"]


def stream(*alarms: int, length: int = 200, windows: tuple[tuple[int, int], ...] = ((100, 109),)) -> Stream:
    score = np.zeros(length)
    score[list(alarms)] = 1
    return Stream(score, windows)


def sigmoid(y: float) -> float:
    return 2 / (1 + np.exp(5 * y)) - 1


def scored(*streams: Stream, profile: nab.Profile = STANDARD) -> float:
    return nab.at(streams, profile, 1.0)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_silence_is_0_and_an_alarm_at_each_start_is_100(profile: nab.Profile) -> None:
    two = ((60, 79), (120, 139))
    assert scored(stream(windows=two), stream(), profile=profile) == 0
    assert scored(stream(60, 120, windows=two), stream(100), profile=profile) == pytest.approx(100)


def test_within_a_window_the_earlier_alarm_earns_more_and_only_the_best_counts() -> None:
    earned = [scored(stream(i)) for i in range(100, 110)]
    assert earned == sorted(earned, reverse=True)
    assert earned[-1] > 50  # found at last is better than never
    assert scored(stream(103, 104, 108)) == earned[3]
    hit = sigmoid(-(109 - 103 + 1) / 10) / sigmoid(-1)
    assert earned[3] == pytest.approx(100 * (hit + 1) / 2)


def test_false_alarms_cost_the_less_the_closer_they_follow_a_window() -> None:
    before = scored(stream(100, 50))
    assert before == pytest.approx(100 * (2 - 0.11) / 2)
    assert scored(stream(100, 110)) == pytest.approx(100 * (2 + 0.11 * sigmoid(1 / 9)) / 2)
    after = [scored(stream(100, i)) for i in (110, 112, 118, 127)]
    assert after == sorted(after, reverse=True)
    assert scored(stream(100, 110 + 30)) == pytest.approx(before)  # over three windows later
    assert scored(stream(100, 50, 51)) == pytest.approx(100 * (2 - 0.22) / 2)


def test_profiles_weigh_false_alarms_and_misses() -> None:
    assert scored(stream(100, 50), profile=PROFILES["reward_low_fp"]) == pytest.approx(100 * (2 - 0.22) / 2)
    halves = ((60, 79), (120, 139))
    missed = stream(60, windows=halves)
    assert scored(missed) == pytest.approx(50)
    # of −4 … 2, one window found is 1 and one missed −2
    assert scored(missed, profile=PROFILES["reward_low_fn"]) == pytest.approx(100 * (1 - 2 + 4) / 6)


def test_probation_counts_neither_way() -> None:
    assert nab.probation(200) == 30
    assert nab.probation(10_000) == 750
    assert scored(stream(29, 100)) == pytest.approx(100)
    assert scored(stream(30, 100)) < 100
    missing = stream(30, 100)
    missing.score[30] = np.nan
    assert scored(missing) == pytest.approx(100)


def test_best_is_the_best_of_all_thresholds_over_all_streams() -> None:
    rng = np.random.default_rng(0)
    streams = [Stream(np.round(rng.random(200), 2), ((100, 119),)) for _ in range(3)]
    streams[1].score[101] = 2
    value, threshold = nab.best(streams, STANDARD)
    tried = {t: nab.at(streams, STANDARD, t) for t in np.unique(np.concatenate([s.score for s in streams]))}
    assert value == pytest.approx(max(0, *tried.values()))
    assert tried[threshold] == pytest.approx(value)
    assert nab.at(streams, STANDARD, 3.0) == 0


@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_against_a_plain_loop(threshold: float) -> None:
    """The published rules reading by reading."""
    rng = np.random.default_rng(1)
    windows = ((60, 79), (95, 100), (150, 179))
    score = rng.random(200)
    parts = dict.fromkeys(range(3), -1.0)
    false = 0.0
    for i in range(30, 200):
        if score[i] < threshold:
            continue
        inside = next((k for k, (a, b) in enumerate(windows) if a <= i <= b), None)
        earlier = [(a, b) for a, b in windows if b < i]
        if inside is not None:
            a, b = windows[inside]
            parts[inside] = max(parts[inside], sigmoid(-(b - i + 1) / (b - a + 1)) / sigmoid(-1))
        elif not earlier:
            false -= 0.11
        else:
            a, b = earlier[-1]
            past = (i - b) / (b - a)
            false += 0.11 * (-1 if past > 3 else sigmoid(past))
    expected = 100 * (sum(parts.values()) + false + 3) / 6
    assert nab.at([Stream(score, windows)], STANDARD, threshold) == pytest.approx(expected)
