"""The closed-form ridge: what it recovers, and what it makes of gaps."""

from typing import Any

import numpy as np
import pytest

from pipelines.core.errors import UserError
from pipelines.models.ridge import PENALTIES, Ridge, features

KNOWN, HORIZON, N = 8, 3, 2


def world(seed: int, windows: int = 400, missing: float = 0.0, noise: float = 0.0) -> dict[str, Any]:
    """Windows whose future is a fixed linear map of what is known, in the window's own units."""
    rng = np.random.default_rng(seed)
    usual = rng.normal(20, 3, (windows, KNOWN + HORIZON, N)).astype(np.float32)
    values = rng.normal(20, 4, (windows, KNOWN, N)).astype(np.float32)
    data: dict[str, Any] = {"values": values, "profile": usual, "std": np.full(N, 4, np.float32)}
    weight = np.random.default_rng(99).normal(0, 0.3, (HORIZON, 2 * KNOWN + HORIZON))
    given, ahead, level, scale = features(data, KNOWN, HORIZON, N)
    truth = level + scale * (given @ weight.T + np.array([0.5, 0.0, -0.5]) + ahead + rng.normal(0, noise, ahead.shape))
    data["truth"] = truth.transpose(0, 2, 1).astype(np.float32)
    data["truth"][rng.random(data["truth"].shape) < missing] = np.nan
    return data


def fit(train: dict[str, Any], held: dict[str, Any]) -> Ridge:
    return Ridge.fit([train], [held], KNOWN)


def relative_error(fitted: Ridge, data: dict[str, Any]) -> float:
    wrong = fitted.predict(data, N) - data["truth"]
    return float(np.sqrt(np.nanmean(wrong**2)) / np.nanstd(data["truth"]))


def test_recovers_a_linear_relation() -> None:
    fitted = fit(world(0), world(1))
    assert fitted.weight.shape == (HORIZON, 2 * KNOWN + HORIZON)
    assert relative_error(fitted, world(2)) < 0.01
    assert fitted.noise.max() < 0.02


def test_missing_truth_does_not_pull_towards_the_profile() -> None:
    """A step that was not read says nothing; taken as 'as usual' it would halve the map at one reading in two."""
    whole = fit(world(0, 4000, noise=0.2), world(1, noise=0.2))
    gappy = fit(world(0, 4000, missing=0.35, noise=0.2), world(1, noise=0.2))
    slope = float((gappy.weight * whole.weight).sum() / (whole.weight**2).sum())
    assert slope == pytest.approx(1, abs=0.05)
    assert relative_error(gappy, world(2)) < 0.12


def test_values_where_truth_is_missing_cannot_matter() -> None:
    one, two = world(0, missing=0.2), world(0, missing=0.2)
    held = world(1)
    silent = np.isnan(two["truth"]).all(axis=(1, 2))
    two["values"][silent] = 1e6
    assert np.array_equal(fit(one, held).weight, fit(two, held).weight)


def test_noise_is_the_error_in_scales() -> None:
    fitted = fit(world(0, 2000, noise=0.5), world(1, 2000, noise=0.5))
    assert fitted.noise == pytest.approx(np.full(HORIZON, 0.5), rel=0.1)


def test_penalty_is_the_one_that_validates_best() -> None:
    few, held = world(0, 12, noise=1.0), world(1, 400, noise=1.0)
    chosen = fit(few, held)
    sizes = {}
    for penalty in PENALTIES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipelines.models.ridge.PENALTIES", (penalty,))
            alone = fit(few, held)
        sizes[penalty] = float((alone.noise**2).sum())
        if np.array_equal(alone.weight, chosen.weight):
            best = penalty
    assert best == min(sizes, key=lambda p: sizes[p])
    assert best > min(PENALTIES), "twelve noisy windows need holding back"


def test_batches_are_as_good_as_one() -> None:
    whole, held = world(0), world(1)
    parts = [{k: v[i : i + 100] if v.ndim > 1 else v for k, v in whole.items()} for i in range(0, 400, 100)]
    assert Ridge.fit(parts, [held], KNOWN).weight == pytest.approx(fit(whole, held).weight, abs=1e-5)


def test_without_a_window_to_go_by_it_says_so() -> None:
    with pytest.raises(UserError, match="coverage"):
        fit(world(0, missing=1.1), world(1))
    with pytest.raises(UserError, match="coverage"):
        Ridge.fit([], [], KNOWN)


def test_without_validation_it_still_answers() -> None:
    fitted = fit(world(0), world(1, missing=1.1))
    assert np.isfinite(fitted.predict(world(2), N)).all()
    assert fitted.noise.tolist() == [1.0] * HORIZON
