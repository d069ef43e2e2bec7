"""Some of a model's channels, or more: real graphs of random weights, so that whatever is misnumbered shows."""

from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from pipelines.core.errors import UserError
from pipelines.core.windows import Spec
from pipelines.models import export, objectives
from pipelines.models.series import Backbone, TaskModel
from pipelines.models.tokens import Config
from pipelines.release.predictor import Predictor

Array = np.ndarray[Any, Any]
SPEC = Spec.of(3600, 24, 6, "Europe/Amsterdam")
GROUPS = ((0, 1, 3, 5), (2, 4, 6))
"""Numbers of channels that look at, and hear, one another and nobody else. 0 to 3 are targets, 6 is known ahead."""
ROLES = ("target",) * 4 + ("input",) * 2 + ("ahead",)
KINDS = ("load", "load", "flow", "flow", "load", "rain", "warmth")
N, K = len(ROLES), 4
AHEAD = {"linked": 2, "nearest": 1}
"""Kinds known ahead, the second of them nobody's."""
STARTS = np.array(["2025-03-03T05", "2025-06-01T00"], "datetime64[s]")


def tables(case: str) -> dict[str, Array]:
    """Everything of a channel's own, mostly drawn at random."""
    rng = np.random.default_rng(3)
    group = np.array([i in GROUPS[1] for i in range(N)])
    apart = group[:, None] != group[None]
    mates = [GROUPS[int(g)] for g in group]
    near = np.array([[i, *(m for m in mates[i] if m != i), i, i][:K] for i in range(N)])
    peers = np.array([[m for m in mates[i] if m != i][:2] for i in range(N)])
    weights = np.repeat(np.array([[0.75, 0.25]], np.float32), N, axis=0)
    weights[5] = 0
    ahead = np.zeros((N, AHEAD[case]), np.float32)
    ahead[6, :1] = 1
    close = rng.random((N, K)) if case == "nearest" else np.where(apart, -1e4, rng.random((N, N)))
    return {
        "mean": rng.normal(50, 9, N),
        "std": rng.uniform(3, 9, N),
        "reference": rng.uniform(40, 60, N),
        "place": rng.normal(size=(N, 12)),
        "profile": rng.normal(50, 5, (168, N)),
        "kind": np.array([1 + sorted(set(KINDS)).index(k) for k in KINDS]),
        "sensor": 1 + np.arange(N),
        "unit_id": np.ones(N, np.int64),
        "near": near if case == "nearest" else np.zeros((N, 0), np.int64),
        "close": close,
        "ahead": ahead,
        "peers": peers,
        "weights": weights,
        "peered": (weights.sum(1) > 0).astype(np.float32),
    }


@cache
def predictor(case: str) -> Predictor:
    """`linked`: everyone looks at everyone, leaning on a graph; `nearest`: at K channels."""
    torch.manual_seed(0)
    sibling = objectives.load("forecast")
    config = Config("tiny", tuple(sorted(set(KINDS))), tuple(f"s{i}" for i in range(N)), units=("u",))
    made = TaskModel(Backbone(config), SPEC, 4, False, AHEAD[case])
    assert made.drivers is not None
    for layer in (made.head, made.anchor, made.drivers):
        torch.nn.init.normal_(layer.weight, std=0.05)
    for block in made.backbone.blocks:
        if block.space is not None:
            torch.nn.init.ones_(block.space.lean)
    given = {k: v.astype(np.float32) if v.dtype == float else v for k, v in tables(case).items()}
    channels = [
        {"sensor": f"s{i}", "kind": k, "unit": "u", "role": r}
        for i, (k, r) in enumerate(zip(KINDS, ROLES, strict=True))
    ]
    told = {"objective": "forecast", "names": list(sibling.names({})), "aux": {}, "reconstruct": False}
    told |= {"spec": SPEC.to_json(), "channels": channels, "targets": 4}
    asked = Predictor(told, given, "", None)
    golden = asked.inputs(*readings(asked))
    graph = export.to_onnx(export.Served(made, sibling, {"noise": torch.ones(6)}), golden)
    return Predictor(told, given, "", onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]))


def readings(asked: Predictor, seed: int = 0) -> tuple[Array, Array]:
    """Two windows with gaps."""
    rng = np.random.default_rng(seed)
    values = rng.normal(50, 8, (2, asked.steps, len(asked.channels))).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    return values, STARTS


@pytest.mark.parametrize("case", AHEAD)
def test_all_of_them_answer_as_ever(case: str) -> None:
    whole = predictor(case)
    given = readings(whole)
    assert np.array_equal(whole.only(tuple(range(N))).predict(*given), whole.predict(*given))


@pytest.mark.parametrize("case", ["linked", "nearest"])
@pytest.mark.parametrize("group", GROUPS)
def test_who_heard_nobody_else_answers_as_before(case: str, group: tuple[int, ...]) -> None:
    whole = predictor(case)
    values, starts = readings(whole)
    if 6 not in group:  # else what is known ahead is heard by all
        values[:, 24:] = np.nan
        whole = Predictor(
            whole.config, {**whole.tables, "ahead": np.zeros_like(whole.tables["ahead"])}, "", whole.session
        )
    asked = [i for i in group if i < 4]
    found = whole.only(group).predict(values[:, :, list(group)], starts)
    assert found == pytest.approx(whole.predict(values, starts)[:, :, asked], rel=1e-5)
    assert found.shape == (2, 6, len(asked), 4)


@pytest.mark.parametrize("case", ["linked", "nearest"])
def test_their_order_is_the_answers_order(case: str) -> None:
    whole = predictor(case)
    values, starts = readings(whole)
    one, two = (0, 1, 2, 4, 6), (2, 0, 1, 6, 4)
    found = [whole.only(columns).predict(values[:, :, list(columns)], starts) for columns in (one, two)]
    assert found[1] == pytest.approx(found[0][:, :, [2, 0, 1]], rel=1e-5)


@pytest.mark.parametrize("case", AHEAD)
@pytest.mark.parametrize("columns", [(1,), (3, 5), (0, 1, 2, 3)])
def test_any_number_of_them_is_answered(case: str, columns: tuple[int, ...]) -> None:
    part = predictor(case).only(columns)
    found = part.predict(*readings(part))
    assert found.shape == (2, 6, len([c for c in columns if c < 4]), 4)
    assert np.isfinite(found).all()
    assert part.steps == predictor(case).steps


def test_some_of_some_are_the_same_as_at_once() -> None:
    for case in AHEAD:
        twice = predictor(case).only((0, 1, 3, 5)).only((1, 2))
        once = predictor(case).only((1, 3))
        given = readings(once)
        assert twice.predict(*given) == pytest.approx(once.predict(*given), rel=1e-5)
        assert twice.channels == once.channels


def test_what_stands_for_absent_neighbours_is_those_that_are_here_in_equal_parts() -> None:
    near = predictor("nearest").only((0, 3, 4)).tables["near"]
    assert [sorted(row) for row in near.tolist()] == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]]


def test_peers_that_are_left_share_the_weight_and_count_for_their_part() -> None:
    tables = predictor("linked").only((0, 3, 2)).tables
    # s0 heard s1 and s3, s3 heard s0 and s1, s2 heard s4 and s6.
    assert tables["weights"].max(1) == pytest.approx([1, 1, 0])
    assert tables["peers"][[0, 1], tables["weights"][:2].argmax(1)].tolist() == [1, 0]
    assert tables["peered"] == pytest.approx([0.25, 0.75, 0])
    assert predictor("linked").only((0, 5)).tables["peered"][1] == 0


@pytest.mark.parametrize("columns", [(), (4, 5), (0, 0), (4, 0)])
def test_a_choice_that_cannot_be_is_the_programmers_mistake(columns: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="targets first"):
        predictor("linked").only(columns)


def test_strangers_come_after_the_known_ones_and_disturb_no_one_who_does_not_look_at_them() -> None:
    whole = predictor("nearest")
    values, starts = readings(whole)
    more = whole.joined_by([("new", "flow"), ("mast", "rain"), ("new", "flow"), ("s0", "load")])
    names = [(c["sensor"], c["kind"], c.get("stranger", False)) for c in more.channels]
    assert names[4] == ("new", "flow", True)
    assert names[-1] == ("mast", "rain", True)
    assert [name for name in names if not name[2]] == [(f"s{i}", k, False) for i, k in enumerate(KINDS)]
    assert (more.targets, more.tables["sensor"].tolist()) == (5, [1, 2, 3, 4, 0, 5, 6, 7, 0])
    wide = np.insert(values, [4, 7], 50, axis=2)
    found = more.predict(wide, starts)
    assert found[:, :, :4] == pytest.approx(whole.predict(values, starts), rel=1e-5)
    assert np.isfinite(found).all()
    alone = more.only((4, 7))  # and what is known ahead, which all are told
    assert alone.predict(wide[:, :, [4, 7]], starts) == pytest.approx(found[:, :, 4:], rel=1e-5)


def test_with_a_graph_a_stranger_is_close_to_itself_alone() -> None:
    close = predictor("linked").joined_by([("new", "load")]).tables["close"]
    assert close.shape == (N + 1, N + 1)
    assert close[4].tolist() == close[:, 4].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]


def test_a_stranger_is_what_its_own_readings_make_of_it() -> None:
    """Its level and spread are those of the window, wherever its kind lies; a window beside it changes nothing."""
    more = predictor("linked").joined_by([("new", "flow")]).only((4,))
    values, starts = readings(more)
    values[:, 24:] = np.nan
    found = more.predict(values, starts)
    assert np.array_equal(more.predict(values[1:], starts[1:]), found[1:])
    assert more.predict(values * 10 + 300, starts) == pytest.approx(found * 10 + 300, rel=1e-3)
    few = np.full_like(values, np.nan)
    few[:, :3] = values[:, :3] * 10 + 300
    assert np.isfinite(more.predict(few, starts)).all()
    assert more.inputs(few, starts)["mean"] == more.tables["mean"]


def test_strangers_of_a_kind_known_ahead_make_up_its_mean_with_the_others() -> None:
    part = predictor("linked").joined_by([("mast", "warmth")]).tables["ahead"]
    assert part[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 0.5, 0.5]
    assert not part[:, 1].any()


def test_who_cannot_join_is_told_so_in_one_line() -> None:
    with pytest.raises(UserError, match="sensor 'new': this model knows no 'noise'; its kinds are load, flow") as error:
        predictor("linked").joined_by([("new", "noise")])
    assert "\n" not in str(error.value)
