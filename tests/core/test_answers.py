"""What is done to a graph's answers: stretching, misfit and smoothing."""

import numpy as np
import pytest

from pipelines.core import answers


def test_stretching_moves_the_outer_quantiles_only() -> None:
    answer = np.array([1.0, 3.0, 4.0, 9.0])[None, None, None].repeat(2, 1)
    found = answers.calibrated(answer, np.array([[2.0, 1.0], [3.0, 0.5]]))
    assert found[0, :, 0].tolist() == [[-1, 3, 6, 9], [1, 3, 3.5, 9]]
    assert answer[0, 0, 0].tolist() == [1, 3, 4, 9]
    assert answers.calibrated(answer, None) is answer


def test_smooth_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    score = rng.random((40, 3))
    score[rng.random(score.shape) < 0.4] = np.nan
    score[5:12, 0] = np.nan
    for span in (1, 2, 4, 16, 64):
        kept = score.copy()
        found = answers.smooth(score, span)
        assert np.array_equal(score, kept, equal_nan=True)
        for t in range(40):
            for n in range(3):
                latest = score[max(0, t - span + 1) : t + 1, n]
                latest = latest[np.isfinite(latest)]
                if len(latest):
                    assert found[t, n] == pytest.approx(latest.mean())
                else:
                    assert np.isnan(found[t, n])


def test_smooth_looks_backward_only() -> None:
    score = np.random.default_rng(0).random((20, 1))
    later = score.copy()
    later[10:] = 99
    assert np.array_equal(answers.smooth(score, 4)[:10], answers.smooth(later, 4)[:10])


def test_misfit_grows_with_distance_on_either_side() -> None:
    answer = np.array([40.0, 50.0, 55.0, 50.0])[None, None, None].repeat(5, 1)
    values = np.array([30.0, 50.0, 55.0, 60.0, np.nan])[None, :, None]
    found = answers.misfit(answer, values, np.array([0.0]))[0, :, 0]
    assert found[:4].tolist() == [2, 0, 1, 2]
    assert np.isnan(found[4])


def test_a_costly_code_counts_as_misfit() -> None:
    """z standard deviations and c nats make as much as √(z² + 2c) standard deviations."""
    z, cost = 1.5, 2.0
    answer = np.array([-1.2816, 0.0, 1.2816, 0.0, cost])[None, None, None]
    found = answers.misfit(answer, np.array([[[z]]]), np.array([0.0]))[0, 0, 0] * 1.2816
    assert found == pytest.approx(np.sqrt(z**2 + 2 * cost))
    plain = answers.misfit(answer[..., :4], np.array([[[z]]]), np.array([0.0]))[0, 0, 0] * 1.2816
    assert plain == pytest.approx(z)


def test_filled_is_the_reading_or_else_the_median() -> None:
    answer = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
    given = np.array([[7.5], [np.nan], [3.0]], np.float32)
    found = answers.more({"objective": "impute"}, {}, answer, given)
    assert found["filled"].tolist() == [[7.5], [5], [3]]


def test_columns_are_the_readings_the_answers_and_the_objectives_own() -> None:
    assert list(answers.columns("anomaly", ["a"])) == ["time", "sensor", "kind", "a", "score", "alarm"]
    assert answers.columns("forecast", ["q"]) == {**answers.READING, "q": "float"}
    assert answers.columns("classify", [])["class"] == "string"
