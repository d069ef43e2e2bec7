"""Scores against brute force, with ties, gaps and classes that never come."""

import itertools

import numpy as np
import pytest

from pipelines.core import metrics

NAN = float("nan")


def gen(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_regression_leaves_out_missing_truth() -> None:
    found = metrics.regression(np.array([1.0, 2.0, 9.0]), np.array([2.0, 4.0, NAN]))
    assert found == {"mae": 1.5, "rmse": pytest.approx(2.5**0.5)}


def test_an_answer_of_nan_is_no_good_answer() -> None:
    """A model that does not answer must not be scored on the rest alone."""
    assert np.isnan(metrics.regression(np.array([NAN, 2.0]), np.array([1.0, 2.0]))["mae"])
    assert np.isnan(metrics.pinball(np.array([[NAN], [2.0]]), np.array([1.0, 2.0]), (0.5,)))


def test_nothing_measured_is_no_score() -> None:
    none = np.full(3, NAN)
    assert np.isnan(metrics.regression(np.ones(3), none)["mae"])
    assert np.isnan(metrics.pinball(np.ones((3, 2)), none, (0.1, 0.9)))
    assert np.isnan(metrics.coverage(np.zeros(3), np.ones(3), none))


def test_pinball_against_its_definition() -> None:
    levels = (0.1, 0.5, 0.9)
    rng = gen()
    truth = rng.normal(size=(5, 4))
    truth[2, 1] = NAN
    answer = np.sort(rng.normal(size=(5, 4, 3)), axis=-1)
    losses = []
    for i, j in itertools.product(range(5), range(4)):
        if np.isnan(truth[i, j]):
            continue
        for q, level in enumerate(levels):
            over = truth[i, j] - answer[i, j, q]
            losses.append(level * over if over > 0 else (level - 1) * over)
    assert metrics.pinball(answer, truth, levels) == pytest.approx(np.mean(losses))


def test_coverage_counts_both_ends_and_no_gap() -> None:
    truth = np.array([0.0, 1.0, 0.5, 2.0, NAN])
    assert metrics.coverage(np.zeros(5), np.ones(5), truth) == pytest.approx(3 / 4)


def test_macro_f1_leaves_out_a_class_that_neither_came_nor_was_said() -> None:
    names = ("a", "b", "c")
    truth = np.array([0, 0, 1, 1, NAN])
    said = np.array([0, 1, 1, 1, 2])
    found = metrics.classes(np.eye(3)[said], truth, names, said)
    assert found["accuracy"] == 0.75
    assert found["f1_a"] == pytest.approx(2 / 3)
    assert found["f1_b"] == pytest.approx(4 / 5)
    assert np.isnan(found["f1_c"])
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_macro_f1_punishes_a_class_said_that_never_came() -> None:
    found = metrics.classes(np.eye(3)[[0, 2]], np.array([0.0, 0.0]), ("a", "b", "c"), np.array([0, 2]))
    assert found["f1_c"] == 0
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_log_loss_is_of_the_true_class() -> None:
    answer = np.array([[0.7, 0.3], [0.0, 1.0]])
    found = metrics.classes(answer, np.array([0.0, 0.0]), ("a", "b"), np.array([0, 1]))
    assert found["log_loss"] == pytest.approx(-(np.log(0.7) + np.log(1e-6)) / 2)


def pairs(score: np.ndarray, label: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order, ties half."""
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0 for p, n in itertools.product(score[label > 0.5], score[label < 0.5])
    ]
    return float(np.mean(wins))


def steps(score: np.ndarray, label: np.ndarray) -> float:
    """Average precision over distinct thresholds: sum of recall gained × precision."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        chosen = score >= threshold
        recall = (chosen & (label > 0.5)).sum() / (label > 0.5).sum()
        total += (recall - before) * (label[chosen] > 0.5).mean()
        before = recall
    return total


@pytest.mark.parametrize("values", [3, 10, 1000])
def test_ranking_with_ties_against_brute_force(values: int) -> None:
    rng = gen(values)
    score = rng.integers(0, values, 120).astype(float)
    label = (rng.random(120) < 0.3).astype(np.float32)
    found = metrics.ranking(score, label)
    assert found["auroc"] == pytest.approx(pairs(score, label))
    assert found["average_precision"] == pytest.approx(steps(score, label))


def test_ranking_agrees_with_scikit_learn() -> None:
    learn = pytest.importorskip("sklearn.metrics")
    rng = gen(1)
    score, label = rng.integers(0, 20, 300).astype(float), (rng.random(300) < 0.2).astype(int)
    found = metrics.ranking(score, label)
    assert found["auroc"] == pytest.approx(learn.roc_auc_score(label, score))
    assert found["average_precision"] == pytest.approx(learn.average_precision_score(label, score))


def test_a_constant_score_ranks_nothing() -> None:
    label = np.array([1, 0, 0, 0])
    assert metrics.ranking(np.ones(4), label) == {"auroc": 0.5, "average_precision": 0.25}


def test_ranking_needs_both_labels() -> None:
    assert all(np.isnan(v) for v in metrics.ranking(np.arange(3.0), np.zeros(3)).values())


def test_alarms() -> None:
    label = np.array([1, 1, 0, 0])
    found = metrics.alarms(np.array([True, False, True, False]), label)
    assert found == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert metrics.alarms(np.zeros(4, bool), label) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_interval_of_a_clear_gain_excludes_zero_and_of_none_includes_it() -> None:
    rng = gen(2)
    blocks = np.repeat(np.arange(30), 24)
    other = rng.gamma(2, 1, len(blocks))
    weight = np.ones(len(blocks))
    clear = metrics.block_bootstrap(other - 0.5 + rng.normal(0, 0.1, len(blocks)), other, weight, blocks, 400)
    assert clear["low"] < clear["difference"] < clear["high"] < 0
    assert clear["difference"] == pytest.approx(-0.5, abs=0.05)
    even = metrics.block_bootstrap(other + rng.normal(0, 1, len(blocks)), other, weight, blocks, 400)
    assert even["low"] < 0 < even["high"]


def test_blocks_that_err_together_widen_the_interval() -> None:
    rng = gen(3)
    day = np.repeat(rng.normal(0, 1, 20), 50)
    args = (day, np.zeros(1000), np.ones(1000))
    whole = metrics.block_bootstrap(*args, np.repeat(np.arange(20), 50), 400)
    single = metrics.block_bootstrap(*args, np.arange(1000), 400)
    assert whole["high"] - whole["low"] > 3 * (single["high"] - single["low"])


def test_interval_is_weighted_by_points_and_repeatable() -> None:
    a, b = np.array([4.0, 0.0]), np.array([0.0, 0.0])
    found = metrics.block_bootstrap(a, b, np.array([1.0, 3.0]), np.array([0, 1]), 50)
    assert found["difference"] == 1.0
    assert found == metrics.block_bootstrap(a, b, np.array([1.0, 3.0]), np.array([0, 1]), 50)


def test_calibration_error_against_its_definition() -> None:
    answer = np.array([[0.95, 0.05], [0.94, 0.06], [0.3, 0.7], [0.5, 0.5]])
    truth = np.array([0.0, 1.0, 1.0, NAN])
    # bins of 1/15: .94 and .95 share one, .7 has another; the last has no truth
    assert metrics.calibration_error(answer, truth) == pytest.approx((abs(0.95 + 0.94 - 1) + abs(0.7 - 1)) / 3)
    assert np.isnan(metrics.calibration_error(answer, np.full(4, NAN)))


def test_classes_are_ranked_one_against_the_rest() -> None:
    learn = pytest.importorskip("sklearn.metrics")
    rng = gen(6)
    p, truth = rng.dirichlet((1, 1, 1), 200), rng.integers(0, 3, 200).astype(float)
    found = metrics.classes(p, truth, ("a", "b", "c"), p.argmax(-1))
    assert found["auroc"] == pytest.approx(learn.roc_auc_score(truth, p, multi_class="ovr"))


def test_sums_of_several_groups_at_once() -> None:
    assert metrics.ratio(np.array([[6.0, 3], [0, 0]]))[0] == 2
    assert np.isnan(metrics.ratio(np.array([[6.0, 3], [0, 0]]))[1])
    tables = np.array([[[3.0, 1], [0, 2]], [[4, 0], [0, 0]]]).reshape(2, 4)
    assert metrics.macro_f1(tables) == pytest.approx([(6 / 7 + 4 / 5) / 2, 1])
    assert np.isnan(metrics.average_precision(np.zeros((1, 6))))[0]


def test_one_block_has_no_interval() -> None:
    found = metrics.paired(np.array([[4.0, 2]]), np.array([[2.0, 2]]), metrics.ratio, 50)
    assert found["difference"] == 1.0
    assert np.isnan(found["low"])
