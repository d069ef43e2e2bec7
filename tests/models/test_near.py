"""Who is near whom: all of a small network, the nearest of a large one, by graph, place or likeness."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.core import grid
from pipelines.core.windows import Spec
from pipelines.models import near
from pipelines.models.data import Windows
from pipelines.models.near import Near

N = 12


def network(folder: Path, edges: Any = None, placed: bool = True) -> Near:
    """Six sensors of two kinds in a line, a kilometre apart; sensors 0, 2, 4 follow another day than 1, 3, 5."""
    rows = [
        {"sensor": f"s{i}", "kind": kind, "unit": "u", "aggregate": "mean", "label": False, "district": None,
         "latitude": 52 + i / 111.2 if placed else None, "longitude": 4.0 if placed else None}
        for kind in "ab" for i in range(6)
    ]  # fmt: skip
    hours = np.arange(24 * 14)[:, None]
    phase = np.pi / 2 * np.array([(i % 2) + 2 * (i >= 6) * 0.5 for i in range(N)])
    grid.write(
        folder,
        start=dt.datetime(2025, 3, 3, tzinfo=dt.UTC),
        step=dt.timedelta(hours=1),
        months=[("2025-03", np.sin(2 * np.pi * hours / 24 + 2 * phase).astype(np.float32))],
        channels=pa.Table.from_pylist(rows, schema=grid.CHANNELS),
        splits={"train": (0, 300), "validation": (300, 320), "test": (320, 336)},
        edges=pa.table(dict(zip(("source", "target", "weight"), zip(*edges, strict=True), strict=True)))
        if edges
        else None,
    )
    return Near(Windows(grid.Series.open(folder), Spec.of(3600, 24, 6, "UTC"), tuple(range(N)), N))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "FULL", 5)
    monkeypatch.setattr(near, "NEIGHBOURS", 4)
    monkeypatch.setattr(near, "BLOCK", 5)


def test_a_small_network_looks_at_all_and_leans_on_its_graph(tmp_path: Path) -> None:
    alone = network(tmp_path / "alone").among()
    assert (alone["near"].shape, alone["close"].shape) == ((N, 0), (N, 0))
    found = network(tmp_path / "graph", [("s0", "s5", 2.0), ("s5", "s3", 1.0), ("s1", "gone", 9.0)])
    close = found.among()["close"]
    assert close[0, 5] == close[5, 0] == close[6, 5] == close[0, 11] == 1
    assert close[5, 3] == close[3, 11] == 0.5
    assert close[0, 0] == close[0, 6] == 1
    assert close[0, 1] == close[1, 2] == 0
    few = np.array([0, 3, 11])
    assert np.array_equal(found.among(few)["close"], close[few][:, few])


@pytest.mark.usefixtures("large")
def test_a_large_one_looks_at_itself_its_sensor_and_the_nearest(tmp_path: Path) -> None:
    found = network(tmp_path)
    who = found.among()
    assert who["near"].shape == who["close"].shape == (N, 4)
    assert who["near"][0].tolist() == [0, 6, 1, 7]
    assert who["near"][8].tolist()[:2] == [8, 2]
    assert who["close"][0, 2] == pytest.approx(np.exp(-1 / 4), abs=1e-3)
    few = np.array([0, 2, 4, 5])
    assert found.among(few)["near"][0].tolist() == [0, 1, 2, 3]


@pytest.mark.usefixtures("large")
def test_a_graph_goes_before_place_and_likeness_is_for_those_without(tmp_path: Path) -> None:
    graph = network(tmp_path / "graph", [("s0", "s5", 1.0)]).among()
    assert set(graph["near"][0].tolist()) == {0, 6, 5, 11}
    assert graph["close"][0].tolist() == [1, 1, 1, 1]
    alike = network(tmp_path / "alike", placed=False).among()
    assert set(alike["near"][0].tolist()) == {0, 6, 2, 4}


@pytest.mark.usefixtures("large")
def test_training_on_a_large_network_draws_neighbourhoods(tmp_path: Path) -> None:
    found = network(tmp_path)
    for seed in range(5):
        drawn = found.some_columns(np.random.default_rng(seed), 4)
        assert len(drawn) == len(set(drawn.tolist())) == 4
        assert list(drawn) == sorted(drawn)
        assert np.ptp(drawn % 6) <= 2
