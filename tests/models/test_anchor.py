"""The anchor: it hears peers where two periods say that it pays, and strangers have none."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_network
from safetensors.numpy import save_file

from pipelines.core import files
from pipelines.models import anchor
from pipelines.models.anchor import Anchor
from pipelines.models.data import Windows
from pipelines.models.evaluation.methods import fit_ridge
from pipelines.models.ridge import Ridge


def fit(data: Windows) -> Anchor:
    return Anchor.fit(data, data.rows("train", 1), data.rows("validation", 1))


def errors(data: Windows, ridge: Ridge, split: str, fitted: Anchor | None = None) -> np.ndarray[Any, Any]:
    """Mean absolute error by step and channel [H, n]; with `fitted` batches tell what its peers do."""
    more = {}
    if fitted is not None:
        data = dataclasses.replace(data, peers=(fitted.channels["peers"], fitted.channels["weights"]))
        more = {"peered": fitted.channels["peered"]}
    batches = data.batches(data.rows(split, 6), 64)
    return np.concatenate([np.abs(ridge.predict({**b, **more}, data.targets) - b["truth"]) for b in batches]).mean(0)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_follower_is_forecast_better_by_who_hears_its_leader(tmp_path: Path, split: str) -> None:
    data = toy_network.windows(tmp_path, toy_network.following(4, lag=3))
    fitted = fit(data)
    assert fitted.channels["peered"][1] == 1
    plain, hearing = errors(data, fit_ridge(data), split), errors(data, fitted.ridge, split, fitted)
    assert hearing[:3, 1].mean() < 0.8 * plain[:3, 1].mean()
    assert hearing.mean() < plain.mean()


def test_where_nobody_leads_it_hears_nobody(tmp_path: Path) -> None:
    """Channels that wander: had they a level to come back to, peers would tell it, and be heard for that."""
    fitted = fit(toy_network.windows(tmp_path, toy_network.drifting(4, keep=1.0)))
    assert not fitted.channels["weights"].any()
    assert not fitted.channels["peered"].any()


def test_where_there_is_nobody_to_hear_it_is_the_plain_ridge(tmp_path: Path) -> None:
    data = toy_network.windows(tmp_path, toy_network.drifting(1))
    fitted = fit(data)
    assert not fitted.channels["peered"].any()
    assert errors(data, fitted.ridge, "test", fitted) == pytest.approx(errors(data, fit_ridge(data), "test"), rel=1e-5)


def test_hearing_channels_that_know_nothing_does_no_harm(tmp_path: Path) -> None:
    data = toy_network.windows(tmp_path, toy_network.drifting(4))
    fitted = fit(data)
    assert errors(data, fitted.ridge, "test", fitted).mean() < 1.01 * errors(data, fit_ridge(data), "test").mean()


def test_a_bundles_channels_keep_what_they_had_and_strangers_have_nothing(tmp_path: Path) -> None:
    data = toy_network.windows(tmp_path / "grid", toy_network.drifting(4))
    theirs = ["c2", "gone", "c0"]  # c1 and c3 came later
    files.write_json(tmp_path / "config.json", {"channels": [{"sensor": s, "kind": "a"} for s in theirs]})
    tables = {
        "peers": np.array([[2, 1], [0, 2], [1, 0]]),
        "weights": np.array([[0.75, 0.25], [0.5, 0.5], [1, 0]], np.float32),
    }
    save_file(tables, tmp_path / "tables.safetensors")
    found = anchor.of_bundle(data, tmp_path)
    assert found["peers"][2, 0] == 0
    assert found["weights"].tolist() == [[0, 0], [0, 0], [0.75, 0], [0, 0]]  # whose peer is gone hears less
    assert found["peered"].tolist() == [0, 0, 1, 0]
    none = anchor.none(data)
    assert {k: v.any() for k, v in none.items()} == dict.fromkeys(("peers", "weights", "peered"), False)
