"""The gate, judging real bundles: each condition met, and failed for its own reason, with its numbers."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import carded
import judged
import numpy as np
import pytest
import toy_city
from safetensors.numpy import load, load_file, save

from pipelines.core import files, params
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.paths import Paths
from pipelines.models.evaluation import gates
from pipelines.models.evaluation.conditions import Gap
from pipelines.models.evaluation.verdict import Condition, Verdict, section
from pipelines.release import bundle
from pipelines.release.predictor import Predictor

SOUND = {"x": judged.REPORT}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return judged.city(tmp_path_factory.mktemp("judged") / "city")


@pytest.fixture
def city(made: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A copy to change, with a state of its own."""
    monkeypatch.delenv("CITYLOOP_STATE", raising=False)
    shutil.copytree(made.root, tmp_path / "city")
    return Paths(tmp_path / "city")


def judge(paths: Paths, rival: Path | None = None, **gate: Any) -> Verdict:
    """The verdict on the task's bundle, made anew."""
    judged.gate(paths, **{**judged.GATE, **gate})
    task = params.load(paths.root).task(judged.TASK)
    report = paths.metrics("validate", "air")
    validation = {"air": files.read_json(report) if report.is_file() else None}
    return gates.judge(judged.TASK, task, paths.task(judged.TASK), rival, paths.joined(judged.TASK), validation)


def other(paths: Paths, contents: dict[str, bytes], name: str = "champion") -> Path:
    bundle.write(paths.root / name, contents)
    return paths.root / name


def only_failed(verdict: Verdict, name: str) -> Condition:
    assert [c.name for c in verdict.failed] == [name], verdict.why
    assert not verdict.passed
    (condition,) = verdict.failed
    assert condition.detail in verdict.why
    assert condition.detail in section(verdict)
    return condition


def test_a_good_candidate_passes_with_its_numbers(city: Paths) -> None:
    found = judge(city)
    assert found.passed, found.why
    assert [c.name for c in found.conditions] == [
        "better than last value", "better than profile", "champion", "slices", "robustness", "coverage", "latency",
        "size", "data of air", "bundle",
    ]  # fmt: skip
    assert found.candidate == bundle.digest(city.task(judged.TASK))
    assert found.champion is None
    assert "no champion yet" in section(found)
    assert found.test["from"] == "2025-03-17T00:00:00"
    assert found.primary == "mae"
    gain = next(c for c in found.conditions if c.name == "better than last value")
    ours, theirs = (found.scores[m]["mae"] for m in ("model", "last_value"))
    assert gain.value == pytest.approx(100 * (theirs - ours) / theirs, rel=0.01)
    assert Verdict.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_test_is_scored_as_a_plain_loop_would(city: Paths) -> None:
    found = judge(city)
    series = Series.open(city.joined(judged.TASK))
    values, (lo, hi) = series.read(), series.splits["test"]
    errors = []
    for row in range(lo, hi - 24 + 1, 24):
        for c in range(3):
            known = values[row - 96 : row, c]
            # A gap follows the bundle's profile, here flat at 20: it holds the last reading.
            held = known[np.maximum.accumulate(np.where(np.isfinite(known), np.arange(96), 0))]
            held = np.where(np.isfinite(held), held, known[np.isfinite(known)][0])
            errors += [abs(v - held.mean()) for v in values[row : row + 24, c] if np.isfinite(v)]
    assert found.scores["model"]["mae"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert found.test["points"] == len(errors)


@pytest.mark.parametrize(
    ("gate", "name", "says"),
    [
        ({"min_gain": 0.24}, "better than last value", r"MAE 1\.\d+, last value 1\.\d+: 21\.5 % better"),
        (
            {"versus": ["ridge"], "min_gain": 0.9},
            "better than ridge",
            r"ridge 1\.\d+: .* asked ≥ 90 %, interval above 0",
        ),
        ({"coverage": [0.1, 0.2]}, "coverage", "held 79.3 % of the truth, asked 10 % to 20 %"),
        ({"latency_ms": 0.0001}, "latency", "ms on one thread"),
        ({"size_mb": 0.001}, "size", "MB, asked ≤ 0.001 MB"),
    ],
)
def test_a_tightened_limit_fails_its_own_condition(city: Paths, gate: dict[str, Any], name: str, says: str) -> None:
    assert re.search(says, only_failed(judge(city, **gate), name).detail)


def test_a_baseline_that_the_objective_has_not_is_named(city: Paths) -> None:
    with pytest.raises(UserError, match=r"forecast has no baseline 'linear'; it has last_value, profile, ridge"):
        judge(city, versus=["linear"])


def test_a_better_champion_is_not_replaced(city: Paths) -> None:
    champion = other(city, judged.contents())
    bundle.write(city.task(judged.TASK), judged.contents(1.02))
    found = judge(city, champion, slice=1.0)
    condition = only_failed(found, "champion")
    assert f"champion {bundle.digest(champion)[:12]}" in condition.detail
    assert "worse (95 % interval" in condition.detail
    assert condition.value is not None
    assert condition.value > 0
    assert found.beside["model"]["mae"] > found.beside["champion"]["mae"]
    assert "against champion version 7" in section(found, "7")
    assert f"| champion | {found.beside['champion']['mae']:.4g} |" in section(found)
    assert judge(city, champion, slice=1.0, champion=0.5).passed
    assert judge(city, city.task(judged.TASK)).passed, "as good as itself"


def test_a_worse_champion_is_beaten(city: Paths) -> None:
    found = judge(city, other(city, judged.contents(1.05)), slice=1.0)
    assert found.passed, found.why
    gain = next(c for c in found.conditions if c.name == "champion")
    assert gain.value is not None
    assert gain.value < 0


def test_a_slice_that_got_much_worse_is_named(city: Paths) -> None:
    """Better over all than the champion, yet not where it matters to one sensor's people."""
    condition = only_failed(judge(city, other(city, judged.contents(1.05))), "slices")
    assert "slices is level high: MAE" in condition.detail
    assert "champion" in condition.detail


def jumpy() -> dict[str, bytes]:
    """The good model until a reading is above 40, which then adds three times its excess. Clean readings never are."""
    from onnx import TensorProto, helper, load_from_string

    made = judged.contents()
    model = load_from_string(made["model.onnx"])
    graph = model.graph
    graph.node[-1].output[0] = "quiet"
    scalars = {"limit": 40.0, "much": 3.0}
    graph.initializer.extend(helper.make_tensor(k, TensorProto.FLOAT, [], [v]) for k, v in scalars.items())
    for word in (
        "ReduceMax values,axis top", "Sub top,limit over", "Relu over excess", "Mul excess,much jump",
        "Unsqueeze jump,last wide", "Add quiet,wide answer",
    ):  # fmt: skip
        kind, given, out = word.split()
        graph.node.append(helper.make_node(kind, given.split(","), [out]))
    tables = load(made["tables.safetensors"])
    tables["std"] *= 100  # the noise that is tried is a tenth of it
    return {**made, "model.onnx": model.SerializeToString(), "tables.safetensors": save(tables)}


def test_a_model_that_damage_upsets_is_refused(city: Paths) -> None:
    bundle.write(city.task(judged.TASK), jumpy())
    found = judge(city)
    condition = only_failed(found, "robustness")
    assert "with readings damaged (noise) MAE" in condition.detail
    assert found.scores == judge(city, robustness=1000.0).scores
    assert judge(city, robustness=1000.0).passed


@pytest.mark.parametrize("spread", [0.3, 4.0])
def test_an_interval_that_is_too_narrow_or_too_wide(city: Paths, spread: float) -> None:
    bundle.write(city.task(judged.TASK), judged.contents(spread=spread))
    condition = only_failed(judge(city), "coverage")
    assert condition.value is not None
    assert (condition.value < 0.7) is (spread < 1)


def test_data_that_broke_its_contract_or_was_never_validated(city: Paths) -> None:
    report = city.metrics("validate", "air")
    files.write_json(report, {"expectations": {"passed": 14, "failed": 2, "warnings": 1}})
    condition = only_failed(judge(city), "data of air")
    assert "2 of 17 expectations of air's data contract are broken" in condition.detail
    report.unlink()
    assert "run `cityloop validate air`" in only_failed(judge(city), "data of air").detail


def golden_off(contents: dict[str, bytes]) -> dict[str, bytes]:
    golden = load(contents["golden.safetensors"])
    return {**contents, "golden.safetensors": save({**golden, "answer": golden["answer"] * np.float32(1.01)})}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (golden_off, r"golden answers are met within 0\.0"),
        (lambda made: {**made, "model.onnx": made["model.onnx"][:-40]}, "cannot answer from the bundle"),
        (lambda made: {k: v for k, v in made.items() if k != "golden.safetensors"}, "cannot answer from the bundle"),
    ],
)
def test_a_bundle_that_servers_could_not_answer_from(
    city: Paths, spoil: Callable[[dict[str, bytes]], dict[str, bytes]], says: str
) -> None:
    bundle.write(city.task(judged.TASK), spoil(judged.contents()))
    found = judge(city)
    assert re.search(says, only_failed(found, "bundle").detail)
    assert [c.name for c in found.conditions] == ["size", "data of air", "bundle"], "nothing else can be said of it"


def renamed(number: int, factor: float = 1.05) -> dict[str, bytes]:
    """A bundle for whom the first sensors have other names."""
    channels = json.loads(carded.contents()["config.json"])["channels"]
    for channel in channels[:number]:
        channel["sensor"] += "_old"
    return judged.contents(factor, channels=channels)


def test_a_champion_of_other_sensors_is_compared_where_both_answer(city: Paths) -> None:
    whole = judge(city, other(city, judged.contents(1.05)))
    part = judge(city, other(city, renamed(1), "part"))
    assert part.beside["champion"]["mae"] != whole.beside["champion"]["mae"]
    assert part.scores["model"] == whole.scores["model"] == whole.beside["model"]
    assert part.beside["model"] != part.scores["model"]
    none = judge(city, other(city, renamed(3), "none"))
    assert "no target in common" in only_failed(none, "champion").detail


def test_a_candidate_is_judged_on_the_sensors_it_knows(city: Paths) -> None:
    bundle.write(city.task(judged.TASK), renamed(1, factor=1.0))
    found, whole = judge(city), judge(city, city.task(judged.TASK))
    assert found.test["points"] == whole.test["points"] < 1300
    bundle.write(city.task(judged.TASK), renamed(3))
    with pytest.raises(UserError, match="none of its targets is one that the candidate answers"):
        judge(city)


def test_a_champion_that_does_not_load_is_no_excuse(city: Paths) -> None:
    champion = other(city, judged.contents())
    (champion / "model.onnx").write_bytes(b"")
    condition = only_failed(judge(city, champion), "champion")
    assert "cannot be compared with: it does not load" in condition.detail
    assert "model.onnx" in condition.detail


def test_without_joined_data_nothing_can_be_judged(city: Paths) -> None:
    shutil.rmtree(city.joined(judged.TASK))
    with pytest.raises(UserError, match="run `cityloop join air_quality`"):
        judge(city)


def test_a_gate_that_is_switched_off_says_so(city: Paths) -> None:
    found = judge(city, enabled=False)
    assert found.passed
    assert not found.enabled
    assert "switched off (tasks.air_quality.gate.enabled: false)" in found.why
    assert section(found).startswith("**Not judged**")


def asked(paths: Paths, champion: Path | None = None) -> Verdict:
    city = params.load(paths.root)
    return gates.verdict_for(city, judged.TASK, paths.task(judged.TASK), champion, paths)


def test_a_verdict_is_kept_while_nothing_changes(city: Paths) -> None:
    path = city.state / "gates" / f"{judged.TASK}.json"
    champion = other(city, judged.contents(1.01))
    first = asked(city)

    def kept(champion: Path | None = None) -> bool:
        """Whether the verdict is the one that lies there, marked by hand, and not made anew."""
        files.write_json(path, files.read_json(path) | {"primary": "marked"})
        return asked(city, champion).primary == "marked"

    assert first.passed
    assert kept()
    assert not kept(champion)
    assert kept(champion)
    judged.gate(city, **judged.GATE, latency_ms=300)
    assert not kept(champion)
    assert kept(champion)
    bundle.write(city.task(judged.TASK), judged.contents(spread=1.01))
    assert not kept(champion)
    series = Series.open(city.joined(judged.TASK))
    os.utime(city.joined(judged.TASK) / series.chunks[-1][0], (1, 1))
    assert not kept(champion)
    files.write_json(city.metrics("validate", "air"), {"expectations": {"passed": 1, "failed": 1, "warnings": 0}})
    assert not kept(champion)
    assert not kept(champion), "what failed is tried again: a machine may have been busy"


def test_a_bundle_that_was_touched_has_no_verdict(city: Paths) -> None:
    asked(city)
    path = city.task(judged.TASK) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"weights\.safetensors: not the bytes"):
        asked(city)


def test_judging_needs_no_torch(city: Paths) -> None:
    code = (
        "import sys, pathlib\n"
        "from pipelines.core import params\nfrom pipelines.core.paths import Paths\n"
        "from pipelines.models.evaluation import gates\n"
        "assert 'onnxruntime' not in sys.modules\n"
        f"paths = Paths(pathlib.Path({str(city.root)!r}))\n"
        "found = gates.verdict_for(params.load(paths.root), 'air_quality', paths.task('air_quality'), None, paths)\n"
        "print(found.passed, [m for m in ('torch', 'mlflow', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=carded.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "True []"


def test_a_gap_is_told_from_the_worse_side() -> None:
    told = {"other": 2.0, "difference": 0.5, "low": 0.2, "high": 0.8}
    assert Gap.of(told, False) == Gap(0.25, 0.1, 0.4)
    assert Gap.of(told, True) == Gap(-0.25, -0.4, -0.1)
    assert str(Gap(0.25, 0.1, 0.4)) == "25 % worse (95 % interval 10 % to 40 %)"
    assert str(Gap(-0.25, -0.4, 0.1)) == "25 % better (95 % interval -10 % to 40 %)"
    nan = float("nan")
    assert "too short for an interval" in str(Gap(0.25, nan, nan))
    assert [Gap(0.25, 0.1, 0.4).beyond(x) for x in (0.05, 0.2, 0.5)] == [True, False, False]
    assert [Gap(0.25, nan, nan).beyond(x) for x in (0.05, 0.2, 0.5)] == [True, True, False], "by itself"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.ready(tmp_path_factory)


def toy_verdict(root: Path, task: str, champion: Path | None = None, **gate: Any) -> Verdict:
    block = params.load(root).task(task)
    block = block.model_copy(update={"gate": block.gate.model_copy(update=gate)})
    return gates.judge(task, block, root / "models/tasks" / task, champion, root / "data/joined" / task, SOUND)


LENIENT = {"slice": 5.0, "calibration": 0.5, "coverage": (0.5, 1.0)}


@pytest.mark.parametrize("task", list(toy_city.TASKS))
def test_every_objective_is_judged_by_what_it_has(toy: Path, task: str) -> None:
    versus = ("last_value",) if task != "leaks" else ("ridge",)
    found = toy_verdict(toy, task, toy / "models/tasks" / task, versus=versus, **LENIENT)
    assert found.passed, found.why
    names = {c.name for c in found.conditions}
    assert (
        names & {"coverage", "calibration"} == {"ahead": {"coverage"}, "state": {"calibration"}, "leaks": set()}[task]
    )
    champion = next(c for c in found.conditions if c.name == "champion")
    assert champion.value == 0
    assert found.beside["champion"] == found.beside["model"] == found.scores["model"]
    if task == "state":
        tight = toy_verdict(toy, task, versus=versus, **{**LENIENT, "calibration": 0.0})
        assert [c.name for c in tight.failed] == ["calibration"]


def test_a_champion_of_other_classes_or_another_question(toy: Path) -> None:
    found = toy_verdict(toy, "state", toy / "models/tasks/ahead", versus=("last_value",), **LENIENT)
    assert "it answers another question (forecast, not classify)" in found.why


def test_a_deaf_detector_does_not_replace_one_that_hears(toy: Path, tmp_path: Path) -> None:
    """Alarms that come from a model whose idea of the usual is of other hours."""
    made = {p.name: p.read_bytes() for p in (toy / "models/tasks/leaks").iterdir() if p.name != bundle.MANIFEST}
    tables = load_file(toy / "models/tasks/leaks/tables.safetensors")
    made["tables.safetensors"] = save(tables | {"profile": np.roll(tables["profile"], 12, 0)})
    bundle.write(tmp_path / "deaf", made)
    task = params.load(toy).task("leaks")
    found = gates.judge("leaks", task, tmp_path / "deaf", toy / "models/tasks/leaks", toy / "data/joined/leaks", SOUND)
    champion = next(c for c in found.conditions if c.name == "champion")
    assert not champion.passed
    assert "average precision" in champion.detail


def test_without_a_true_alarm_in_the_test_only_the_rest_is_judged(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy / "data/joined/leaks", tmp_path / "leaks")
    series = Series.open(tmp_path / "leaks")
    lo, _ = series.splits["test"]
    label = slice(*series.roles["label"])
    for file, a, b in series.chunks:
        values = np.load(tmp_path / "leaks" / file)
        values[max(lo - a, 0) : max(b - a, 0), label] = 0
        files.write_array(tmp_path / "leaks" / file, values)
    task, folder = params.load(toy).task("leaks"), toy / "models/tasks/leaks"
    found = gates.judge("leaks", task, folder, folder, tmp_path / "leaks", SOUND)
    told = {c.name: c for c in found.conditions}
    assert found.passed, found.why
    assert [told[n].value for n in ("baselines", "champion", "slices")] == [None] * 3
    assert "no label in the test period" in told["baselines"].detail
    assert found.primary == "alarm_rate"
    assert {"robustness", "latency", "size", "bundle"} <= told.keys()


def test_a_champion_that_looks_elsewhere_answers_the_same_questions(
    city: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shorter context and horizon: its answers issued at the same moments are scored, as far as they go."""
    with monkeypatch.context() as patch:
        patch.setattr(carded, "SPEC", replace(carded.SPEC, context=48, horizon=12))
        folder = other(city, judged.contents())
    found, champion = judge(city, folder, slice=1.0), Predictor.load(folder)
    series = Series.open(city.joined(judged.TASK))
    values, (lo, hi) = series.read(), series.splits["test"]
    errors = []
    for row in range(lo, hi - 24 + 1, 24):
        answer = champion.predict(values[None, row - 48 : row], series.times(row - 48, row)[:1])[0, ..., 1]
        truth = values[row : row + 12]
        errors += list(np.abs(answer - truth)[np.isfinite(truth)])
    assert found.beside["champion"]["mae"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert found.beside["model"]["mae"] != found.scores["model"]["mae"], "of the first half of the horizon only"
