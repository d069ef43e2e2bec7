"""Anomaly scores along a period, from any answer: which reading is judged by which window."""

import numpy as np
import pytest
from toy_city import data, opened

from pipelines.core import answers
from pipelines.models import detect
from pipelines.models.data import Windows


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    return opened(data(tmp_path_factory.mktemp("grid"), "leaks"), "leaks", reconstruct=True)


def usual(windows: Windows) -> detect.Answer:
    """The profile, ± 1."""

    def answer(rows: np.ndarray) -> np.ndarray:
        middle = windows.batch(rows)["profile"][:, windows.known : windows.known + windows.spec.horizon, :4]
        return np.stack([middle - 1, middle, middle + 1, middle], axis=-1)

    return answer


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_reading_is_judged_once_at_its_own_time(chosen: Windows, split: str) -> None:
    noise = np.ones(4)
    score, label = detect.scores(usual(chosen), chosen, split, noise)
    lo, hi = chosen.series.splits[split]
    assert len(score) == (hi - lo) // 6 * 6
    values = chosen.read(np.array([lo]), len(score))[0]
    times = chosen.series.times(lo, lo + len(score))
    from pipelines.core.windows import profile_at

    expected = np.abs(values - profile_at(chosen.profile, times, chosen.spec)) / 2
    assert score == pytest.approx(expected, nan_ok=True, rel=1e-4)
    assert label is not None
    assert label.shape == score.shape


def test_leaks_score_higher_than_ordinary_days(chosen: Windows) -> None:
    noise = detect.usual(usual(chosen), chosen)
    score, label = detect.scores(usual(chosen), chosen, "test", noise)
    assert label is not None
    assert np.nanmedian(score[label > 0.5]) > 3 * np.nanmedian(score[label < 0.5])


def test_usual_misfit_is_the_median_on_validation(chosen: Windows) -> None:
    score, _ = detect.scores(usual(chosen), chosen, "validation", np.ones(4))
    assert detect.usual(usual(chosen), chosen) == pytest.approx(np.nanmedian(score * 2, axis=0), rel=0.05)


def test_tune_finds_span_and_threshold_of_what_lasts() -> None:
    """Long weak events in white noise: averaging helps, and tune sees that."""
    rng = np.random.default_rng(0)
    label = np.zeros((4000, 1))
    for start in range(100, 4000, 400):
        label[start : start + 60] = 1
    score = np.abs(rng.normal(0, 1, label.shape)) + 0.8 * label
    found = detect.tune(score, label, 16)
    assert found["span"] in (8, 16)
    smooth = answers.smooth(score, int(found["span"]))
    alarm = smooth > found["threshold"]
    assert alarm[label > 0.5].mean() > 0.7
    assert alarm[label < 0.5].mean() < 0.1


def test_tune_without_labels_averages_nothing() -> None:
    score = np.random.default_rng(0).random((1000, 2))
    for label in (None, np.zeros((1000, 2))):
        found = detect.tune(score, label, 16)
        assert found["span"] == 1
        assert (score > found["threshold"]).mean() == pytest.approx(0.005, abs=0.002)
