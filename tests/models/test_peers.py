"""Peers: who tells early what a channel will do, found from readings alone."""

from pathlib import Path

import numpy as np
import pytest
import toy_network

from pipelines.models import peers


def test_who_leads_is_the_first_peer_and_a_follower_tells_its_leader_nothing(tmp_path: Path) -> None:
    index, weight = peers.find(toy_network.windows(tmp_path, toy_network.following(6)))
    assert (index.shape, weight.shape) == ((6, 6), (6, 6))
    assert index[1, 0] == 0
    assert weight[1, 0] > 0.8
    assert weight[0][index[0] == 1].sum() < 0.5
    assert weight.sum(1) == pytest.approx(np.ones(6))
    assert all(weight[i][index[i] == i].sum() == 0 for i in range(6))


def test_gaps_do_not_hide_a_leader(tmp_path: Path) -> None:
    away = toy_network.following(4)
    away[np.random.default_rng(2).random(away.shape) < 0.3] = np.nan
    index, weight = peers.find(toy_network.windows(tmp_path, away))
    assert index[1, 0] == 0
    assert weight[1, 0] > 0.6


def test_inputs_have_no_peers_but_may_be_some(tmp_path: Path) -> None:
    away = toy_network.following(4)[:, ::-1]  # c2 follows c3, which is an input
    index, weight = peers.find(toy_network.windows(tmp_path, away, targets=3))
    assert index[2, 0] == 3
    assert weight[2, 0] > 0.8
    assert not weight[3].any()


def test_there_are_none_alone_nor_inside_a_window_nor_in_a_network_too_large_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = toy_network.following(4)
    assert not peers.find(toy_network.windows(tmp_path / "alone", away[:, :1]))[1].any()
    assert not peers.find(toy_network.windows(tmp_path / "inside", away, reconstruct=True))[1].any()
    monkeypatch.setattr(peers, "MOST", 3)
    index, weight = peers.find(toy_network.windows(tmp_path / "large", away))
    assert (index.shape, weight.any()) == ((4, 4), False)
