"""Pictures and messages through evaluate, card, register and gate: what they leave behind, and what they refuse."""

from pathlib import Path
from typing import Any

import judged_items
import numpy as np
import pytest

from pipelines import card, evaluate, gate, register
from pipelines.core import files
from pipelines.core.errors import Refused, UserError
from pipelines.core.paths import Paths
from pipelines.core.tracking import connect
from pipelines.models.evaluation import gates
from pipelines.models.evaluation.verdict import Verdict
from pipelines.release import bundle, latency

BASELINES = {"kinds": {"majority", "logistic"}, "places": {"none", "usual"}, "routing": {"majority", "logistic"},
             "phrases": {"none", "dictionary"}}  # fmt: skip
PLOTS = {"kinds": "confusion.png worst.png", "places": "worst.png", "routing": "confusion.png worst.html",
         "phrases": "worst.html"}  # fmt: skip
TASKS = list(BASELINES)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Four tasks, evaluated and carded."""
    paths = judged_items.city(tmp_path_factory.mktemp("items") / "city")
    for task in TASKS:
        evaluate.run(task, root=paths.root)
        card.run(task, root=paths.root)
    return paths


def report(paths: Paths, task: str) -> dict[str, Any]:
    found: dict[str, Any] = files.read_json(paths.metrics("evaluate", task))
    return found


@pytest.mark.parametrize("task", TASKS)
def test_the_report_has_the_model_beside_its_baselines(city: Paths, task: str) -> None:
    found = report(city, task)
    primary = found["primary"]
    assert found["higher_is_better"]
    assert found["model"][primary] > 0.9
    assert set(found["interval"]["versus"]) == BASELINES[task]
    for name, versus in found["interval"]["versus"].items():
        assert versus["difference"] == pytest.approx(found["model"][primary] - found[name][primary])
        assert 0 < versus["low"] <= versus["high"]
        assert (versus["n"], versus["blocks"]) == (120, 60), "groups are drawn, not items"
    assert found["test"] | {"from": 0, "until": 0} == {"items": 120, "groups": 60, "blocks": 60, "from": 0, "until": 0}
    assert found["test"]["from"] == "2025-03-06T18:30:00"
    assert found["data"]["train"]["items"] == 60
    group = "camera" if task in ("kinds", "places") else "language"
    assert len(found["slices"][group]) == (3 if group == "camera" else 2)
    assert found["robustness"]["clean"]["model"]["ratio"] == 1
    made = {p.name for p in city.plots("evaluate", task).iterdir()}
    assert made == {"0_overview.png", *PLOTS[task].split()}
    took = files.read_json(city.metrics("latency", task))["float"]
    assert 0 < took["one"]["median_ms"] < took["batch"]["median_ms"]


def test_equal_inputs_make_an_equal_report(city: Paths) -> None:
    before = {p: p.read_bytes() for p in (*city.plots("evaluate", "routing").iterdir(),
                                          city.metrics("evaluate", "routing"))}  # fmt: skip
    evaluate.run("routing", root=city.root)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_worst_messages_cannot_write_into_the_page(city: Paths) -> None:
    from pipelines.models.items import drawn

    assert "&lt;b&gt;" in drawn._marked("<b>jam", [(0, 6, 0)], ("x",))


@pytest.mark.parametrize("task", TASKS)
def test_the_card_says_what_it_is_and_where_it_is_weak(city: Paths, task: str) -> None:
    text = (city.card(task) / "card.md").read_text()
    assert text.startswith(f"{task} answers: ")
    assert "the best baseline)." in text.splitlines()[0]
    source = judged_items.SOURCES[task]
    assert f"of `{source}` " in text
    assert "Of 220 items" in text
    assert "duplicate 7, blank 3" in text
    assert "By 95 % intervals over 60 groups of near-duplicates the model is better than" in text
    assert "| trained on | 60 | 30 |" in text
    assert "masked before anything was written: e mail 2, plate 4." in text
    assert "Few annotated examples of" in text
    assert "Its data are simulated" in text
    assert "None" not in text
    assert "nan" not in text
    asked = files.read_json(city.card(task) / "request.json")
    assert asked["metrics"][f"test/{report(city, task)['primary']}"] > 0.9
    assert asked["sources"] == [source]


def test_other_labels_than_the_bundle_s_are_refused(city: Paths, tmp_path: Path) -> None:
    paths = judged_items.city(tmp_path, ("routing",))
    about = files.read_json(paths.joined("routing") / "about.json")
    files.write_json(paths.joined("routing") / "about.json", {**about, "names": ["roads", "water"]})
    with pytest.raises(UserError, match="run finetune again"):
        evaluate.run("routing", root=tmp_path)


def judge(paths: Paths, task: str, champion: Path | None = None) -> Verdict:
    from pipelines.core import params

    city = params.load(paths.root)
    validation: dict[str, dict[str, Any] | None] = {
        judged_items.SOURCES[task]: files.read_json(paths.metrics("validate", judged_items.SOURCES[task]))
    }
    return gates.judge(task, city.task(task), paths.task(task), champion, paths.joined(task), validation)


def conditions(verdict: Verdict) -> dict[str, Any]:
    return {c.name: c for c in verdict.conditions}


@pytest.mark.parametrize("task", ["places", "phrases"])
def test_a_good_bundle_passes(city: Paths, task: str) -> None:
    found = judge(city, task)
    assert found.passed, found.why
    named = conditions(found)
    assert any(name.startswith("better than") for name in named)
    assert "95 % interval" in named["better than empty answers"].detail, "a score of nothing at all has no share"
    assert {"champion", "slices", "robustness", "latency", "size", "bundle"} <= set(named)
    assert found.scores["model"][found.primary or ""] > 0.9


def test_a_champion_that_is_better_by_far_keeps_its_place(city: Paths, tmp_path: Path) -> None:
    paths = judged_items.city(tmp_path, ("routing",))
    bundle.write(tmp_path / "champion", judged_items.contents("routing"))
    bundle.write(paths.task("routing"), judged_items.contents("routing", skill=0.0))
    found = judge(paths, "routing", tmp_path / "champion")
    failed = {c.name for c in found.failed}
    assert {"champion", "better than logistic regression"} <= failed
    assert "macro F1" in conditions(found)["champion"].detail
    assert found.beside["champion"]["macro_f1"] > 0.9


def test_a_champion_of_other_labels_cannot_be_compared_with(city: Paths, tmp_path: Path) -> None:
    bundle.write(tmp_path / "champion", judged_items.contents("phrases", names=["free", "jam", "more"]))
    found = conditions(judge(city, "phrases", tmp_path / "champion"))["champion"]
    assert not found.passed
    assert "its names is ['free', 'jam', 'more']" in found.detail


def test_a_bundle_whose_golden_answers_are_missed_is_not_judged_further(tmp_path: Path) -> None:
    from safetensors.numpy import load, save

    paths = judged_items.city(tmp_path, ("kinds",))
    made = judged_items.contents("kinds")
    golden = load(made["golden.safetensors"])
    golden["answer"] = np.ascontiguousarray(golden["answer"][:, ::-1])
    bundle.write(paths.task("kinds"), {**made, "golden.safetensors": save(golden)})
    found = judge(paths, "kinds")
    assert {c.name for c in found.failed} == {"bundle"}
    assert "better than logistic regression" not in conditions(found)


def test_registered_judged_and_answering_from_mlflow(city: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "CITYLOOP_STATE", "CITYLOOP_STORE"):
        monkeypatch.delenv(name, raising=False)
    for task in ("places", "phrases"):
        register.run(task, root=city.root)
        try:
            gate.run(task, root=city.root)
        except Refused as refused:
            pytest.fail(str(refused))
        with connect(city) as tracking:
            import mlflow.pyfunc
            import pandas as pd

            version = tracking.by_alias(task, "candidate")
            assert version is not None
            assert version.tags["verdict"] == "passed"
            assert "## Verdict" in version.description
            model = mlflow.pyfunc.load_model(f"models:/{task}@candidate")
            given = model.input_example if task == "places" else pd.DataFrame({"text": ["word1 word2"]})
            assert list(model.predict(given).columns) == ["found"]


def test_latency_is_of_bytes_to_answer(city: Paths) -> None:
    found = latency.measure(city.task("kinds"), batch=False)
    assert found["one"]["median_ms"] > 0
    assert "batch" not in found
