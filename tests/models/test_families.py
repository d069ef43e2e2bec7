"""Families of backbone: one shape of answer, served as torch answers, with graphs, near channels and drivers."""

from typing import Any

import numpy as np
import pytest
import torch
from toy_city import batch

from pipelines.core.windows import Spec
from pipelines.models import export, families, objectives
from pipelines.models.series import TaskModel
from pipelines.models.tokens import SIZES, Config

SPEC = Spec.of(3600, 24, 6, "Europe/Amsterdam")
FAMILIES = ["transformer", "cnn", "lstm"]
Array = np.ndarray[Any, Any]


def served(family: str, drivers: int = 0, **more: Any) -> export.Served:
    torch.manual_seed(0)
    config = Config("tiny", ("a",), ("s/a",), units=("u",), family=family, **more)
    made = TaskModel(families.build(config), SPEC, 4, drivers=drivers)
    for name, parameter in made.named_parameters():
        if name.split(".")[0] in ("head", "anchor", "drivers") or name.endswith("lean"):
            torch.nn.init.normal_(parameter, std=0.1)
    return export.Served(made.eval(), objectives.load("forecast"), {"noise": torch.ones(6)})


def inputs(n: int, size: int, space: str = "alone", drivers: int = 0) -> dict[str, Array]:
    """Windows of `n` channels, the last two of them known ahead where there are drivers."""
    rng = np.random.default_rng(n)
    given = batch(SPEC, n, size)
    near, close = np.zeros((n, 0), np.int64), np.zeros((n, 0), np.float32)
    if space == "graph":
        close = rng.random((n, n)).astype(np.float32)
    if space == "near":
        near, close = rng.integers(0, n, (n, 3)), rng.random((n, 3)).astype(np.float32)
    ahead = np.zeros((n, drivers), np.float32)
    if drivers:
        ahead[-2:] = 0.5
        late = rng.normal(50, 8, (size, SPEC.future, n)).astype(np.float32)
        own = np.broadcast_to((np.arange(n) >= n - 2).astype(np.float32), late.shape)
        given |= {
            "values": np.concatenate([given["values"], late], 1),
            "observed": np.concatenate([given["observed"], own], 1),
        }
    return {
        **given,
        "place": rng.normal(size=(n, 12)).astype(np.float32),
        "kind": np.ones(n, np.int64),
        "sensor": np.arange(n, dtype=np.int64) % 2,
        "unit_id": np.ones(n, np.int64),
        "near": near,
        "close": close,
        "ahead": ahead,
        "beside": np.zeros((size, SPEC.patch, n), np.float32),
        "peered": np.zeros(n, np.float32),
        "reference": np.full(n, 50, np.float32),
    }


def torch_answer(made: export.Served, given: dict[str, Array]) -> Array:
    with torch.no_grad():
        answer: Array = made(*(torch.from_numpy(np.ascontiguousarray(given[k])) for k in export.INPUTS)).numpy()
    return answer


@pytest.mark.parametrize(
    ("family", "space", "drivers"),
    [("cnn", "alone", 0), ("lstm", "alone", 0), ("transformer", "graph", 1), ("transformer", "near", 0)],
)
def test_a_graph_answers_as_torch_does_whatever_it_is_made_of(family: str, space: str, drivers: int) -> None:
    made = served(family, drivers)
    ask = export.session(export.to_onnx(made, inputs(5, 2, space, drivers)))
    for n, size in ((5, 2), (8, 3), (4, 1)):
        given = inputs(n, size, space, drivers)
        expected = torch_answer(made, given)
        assert expected.shape == (size, 6, n, 4)
        assert export.parity(ask(given), expected) < export.PARITY


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_meet_in_the_transformer_alone_and_there_by_a_switch(family: str) -> None:
    one = inputs(4, 2)
    other = {**one, "values": one["values"].copy()}
    other["values"][:, :, 0] += 10 * np.sin(np.arange(24))
    for space in (True, False):
        made = served(family, space=space)
        moved = ~np.isclose(torch_answer(made, one), torch_answer(made, other), atol=1e-4).all((0, 1, 3))
        assert moved.tolist() == [True] + [family == "transformer" and space] * 3


def test_near_channels_alone_are_looked_at() -> None:
    made = served("transformer")
    given = inputs(6, 1, "near")
    given["near"] = np.array([[0, 1], [1, 0], [2, 3], [3, 2], [4, 5], [5, 4]])
    given["close"] = np.ones((6, 2), np.float32)
    other = {**given, "values": given["values"].copy()}
    other["values"][:, :, 3] += 10 * np.sin(np.arange(24))
    moved = ~np.isclose(torch_answer(made, given), torch_answer(made, other), atol=1e-4).all((0, 1, 3))
    assert moved.tolist() == [False, False, True, True, False, False]


def test_all_channels_being_near_is_looking_at_all() -> None:
    made = served("transformer")
    whole = inputs(5, 2, "graph")
    near = {"near": np.tile(np.arange(5), (5, 1)), "close": whole["close"]}
    assert torch_answer(made, {**whole, **near}) == pytest.approx(torch_answer(made, whole), rel=1e-4, abs=1e-3)
    alone = {**whole, "close": np.zeros((5, 0), np.float32)}
    assert not np.allclose(torch_answer(made, alone), torch_answer(made, whole), atol=1e-3), "the graph should count"


def test_what_is_known_ahead_counts_and_nothing_else_after_the_context() -> None:
    made = served("transformer", drivers=1)
    given = inputs(5, 2, drivers=1)
    known, hidden = ({**given, "values": given["values"].copy()} for _ in range(2))
    known["values"][:, 26, 4] += 9
    hidden["values"][:, 24:, :3] += 99
    before = torch_answer(made, given)
    assert np.array_equal(torch_answer(made, hidden), before)
    assert not np.isclose(torch_answer(made, known)[:, :, :3], before[:, :, :3], atol=1e-4).any((1, 2, 3)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_what_they_say(family: str) -> None:
    with torch.device("meta"):
        made = {s: families.build(Config(s, ("a",), ("s",), units=("u",), family=family)) for s in SIZES}
    count = {s: sum(p.numel() for p in b.parameters()) / 1e6 for s, b in made.items()}
    low, high = (0.7, 1.15) if family == "transformer" else (0.2, 1.6)
    for size, millions in {"tiny": 0.1, "small": 5, "base": 38, "large": 300}.items():
        assert low * millions < count[size] < high * millions, (size, count[size])
    assert count["tiny"] <= 0.1
