"""The graph: same answers as torch, any number of windows and sensors, and bytes made of weights alone."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from toy_city import batch

from pipelines.core.windows import Spec
from pipelines.models import export, objectives
from pipelines.models.series import Backbone, TaskModel
from pipelines.models.tokens import Config

TESTS = Path(__file__).resolve().parents[1]
SPEC = Spec.of(3600, 24, 6, "Europe/Amsterdam")
CLASSES = {"names": ["a", "b", "c"], "edges": [0.8, 1.0]}
KINDS = ["forecast", "anomaly", "classify"]
CONFIG = Config("tiny", ("a",), ("s/a",), units=("u",))


def served(objective: str) -> export.Served:
    torch.manual_seed(0)
    sibling = objectives.load(objective)
    aux: dict[str, Any] = {"noise": torch.ones(6), **(CLASSES if objective == "classify" else {})}
    made = TaskModel(Backbone(CONFIG), SPEC, sibling.outputs(aux), objective == "anomaly")
    for layer in (made.head, made.anchor):
        torch.nn.init.normal_(layer.weight, std=0.05)
    return export.Served(made, sibling, aux)


def inputs(n: int, size: int) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    return {
        **batch(SPEC, n, size),
        "place": rng.normal(size=(n, 12)).astype(np.float32),
        "kind": np.ones(n, np.int64),
        "sensor": np.arange(n, dtype=np.int64) % 2,
        "unit_id": np.ones(n, np.int64),
        **{k: np.zeros((n, 0), np.float32) for k in ("near", "close", "ahead")},
        "beside": rng.normal(size=(size, SPEC.patch, n)).astype(np.float32),
        "peered": (np.arange(n) % 2).astype(np.float32),
        "reference": np.full(n, 50, np.float32),
    }


@cache
def graph(objective: str) -> bytes:
    return export.to_onnx(served(objective), inputs(3, 2))


@pytest.mark.parametrize("objective", KINDS)
def test_answers_as_torch_does_for_any_number_of_windows_and_sensors(objective: str) -> None:
    made = served(objective)
    ask = export.session(graph(objective))
    for n, size in ((3, 2), (7, 5), (1, 1), (4, 1), (1, 3)):
        given = inputs(n, size)
        with torch.no_grad():
            expected = made(*(torch.from_numpy(np.ascontiguousarray(given[k])) for k in export.INPUTS)).numpy()
        found = ask(given)
        assert found.shape == expected.shape == (size, 6, n, expected.shape[-1])
        assert export.parity(found, expected) < export.PARITY


def test_parity_is_relative_and_sees_a_nan() -> None:
    reference = np.array([100.0, -200.0])
    assert export.parity(reference + 1, reference) == pytest.approx(1 / 200)
    assert not export.parity(np.array([np.nan, -200.0]), reference) <= export.PARITY


SCRIPT = """
import sys
from test_export import served, inputs
from pipelines.models import export
sys.stdout.buffer.write(export.to_onnx(served("anomaly"), inputs(3, 2)))
"""


def test_equal_weights_give_equal_bytes_in_two_folders_and_name_no_file(tmp_path: Path) -> None:
    """This process and another, two copies of the code at different depths."""
    place = tmp_path / "another/deeper"
    place.mkdir(parents=True)
    for name in ("pipelines", "tests"):
        os.symlink(TESTS.parent / name, place / name)
    script = place / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join(str(place / p) for p in (".", "tests", "tests/models"))
    env = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], cwd=place, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    graphs = [graph("anomaly"), done.stdout]
    assert len(graphs[0]) > 1000
    assert graphs[0] == graphs[1]
    for word in (b".py", b"/work", b"/tmp", b"/home", b"site-packages", b"pipelines", str(TESTS.parent).encode()):
        assert word not in graphs[0], word
    model = onnx.load_from_string(graphs[0])
    onnx.checker.check_model(model)
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def weights(made: export.Served) -> list[Any]:
    return [made.model.anchor.weight.detach().numpy()]


@pytest.mark.parametrize("objective", KINDS)
def test_int8_answers_nearly_alike_for_any_number_of_windows_and_sensors(objective: str) -> None:
    keep = weights(served(objective))
    int8 = export.to_int8(graph(objective), keep)
    assert int8 == export.to_int8(graph(objective), keep)
    assert len(int8) < 0.6 * len(graph(objective))
    exact, rough = export.session(graph(objective)), export.session(int8)
    for n, size in ((3, 2), (7, 5), (1, 1)):
        given = inputs(n, size)
        off = export.parity(rough(given), exact(given))
        assert 0 < off < 0.03
    for word in (b"/tmp", b"onnx.quant", b"onnxruntime"):
        assert word not in int8, word


def test_int8_leaves_what_is_kept_in_float() -> None:
    for keep, floats in ((weights(served("forecast")), 1), ([], 0)):
        model = onnx.load_from_string(export.to_int8(graph("forecast"), keep))
        assert any(i.data_type == onnx.TensorProto.INT8 for i in model.graph.initializer)
        anchors = [i for i in model.graph.initializer if i.data_type == 1 and list(i.dims) == [54 + SPEC.patch, 6]]
        assert len(anchors) == floats
