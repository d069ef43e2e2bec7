"""The graph: same answers as torch, any number of windows and sensors, and bytes made of weights alone."""

import os
import subprocess
import sys
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
        "reference": np.full(n, 50, np.float32),
    }


@pytest.mark.parametrize("objective", KINDS)
def test_answers_as_torch_does_for_any_number_of_windows_and_sensors(objective: str) -> None:
    made = served(objective)
    ask = export.session(export.to_onnx(made, inputs(3, 2)))
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
    """Two processes, two copies of the code at different depths."""
    graphs = []
    for place in (tmp_path / "one", tmp_path / "another/deeper"):
        place.mkdir(parents=True)
        for name in ("pipelines", "tests"):
            source = TESTS.parent / name
            os.symlink(source, place / name)
        script = place / "script.py"
        script.write_text(SCRIPT)
        path = os.pathsep.join(str(place / p) for p in (".", "tests", "tests/models"))
        env = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(len(graphs)), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, str(script)], cwd=place, env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        graphs.append(done.stdout)
    assert len(graphs[0]) > 1000
    assert graphs[0] == graphs[1]
    for word in (b".py", b"/work", b"/tmp", b"/home", b"site-packages", b"pipelines", str(TESTS.parent).encode()):
        assert word not in graphs[0], word
    model = onnx.load_from_string(graphs[0])
    onnx.checker.check_model(model)
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
