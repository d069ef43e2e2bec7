"""The card: what a reviewer reads first, and the same bytes for the same inputs."""

import json
import shutil
from pathlib import Path
from typing import Any

import carded
import pytest
import yaml

from pipelines import card
from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.core.tracking import DESCRIPTION_LIMIT
from pipelines.release import bundle


def written(paths: Paths, task: str = carded.TASK) -> tuple[str, dict[str, Any]]:
    card.run(task, root=paths.root)
    folder = paths.card(task)
    return (folder / "card.md").read_text(), files.read_json(folder / "request.json")


def test_the_first_line_is_a_plain_sentence_with_the_main_figures(tmp_path: Path) -> None:
    text, request = written(carded.city(tmp_path))
    first = text.splitlines()[0]
    assert first == (
        "air_quality answers: How much fine dust will each station measure over the next day? "
        "MAE 3.25 against 3.75 (last value, the best baseline)."
    )
    assert request["summary"] == first


def test_the_card_holds_what_a_review_needs(tmp_path: Path) -> None:
    paths = carded.city(tmp_path)
    text, request = written(paths)
    assert "| MAE | **3.25** | 3.75 | 3.75 | 3.75 |" in text
    told = "-0.5 (-0.75 to -0.25)"
    assert f"| MAE, model minus it |  | {told} | {told} | {told} |" in text
    assert "By 95 % intervals over 21 days the model is better than last value, profile, ridge." in text
    assert "MAE by how far ahead: 60min 2.5 (ridge 3), 24h 4 (ridge 4.5)." in text
    assert "held 79.0 % of the truth, 70.0 to 85.0 % by step ahead" in text
    worst = text.index("| regime night | 300 | 2 | 1.9 | 0.1 (")
    assert worst < text.index("| district North | 500 |")
    assert "| air | 2024-10-07 | 2025-04-07 | 1,000 | 10 | 0.985 | 2.5 h | spike 7, duplicate 3 |" in text
    assert f"review.<your name> = approved:{bundle.digest(paths.task(carded.TASK))}" in text
    assert "`by_step.png`" in text
    assert len(text) < DESCRIPTION_LIMIT - 600
    assert request["digest"] == bundle.verify(paths.task(carded.TASK))
    assert request["metrics"]["test/mae"] == 3.25
    assert request["metrics"]["interval/versus/ridge/high"] == -0.25
    assert request["metrics"]["at/60min/model"] == 2.5
    assert request["metrics"]["slice/regime/night/ridge"] == 1.9
    assert request["params"]["task.context"] == "4 d"


def test_equal_inputs_give_equal_bytes_wherever_they_lie(tmp_path: Path) -> None:
    made = []
    for name in ("one", "another/place"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        card.run(carded.TASK, root=carded.city(folder).root)
        made.append({p.name: p.read_bytes() for p in (folder / "cards" / carded.TASK).iterdir()})
    assert made[0] == made[1]
    assert sorted(made[0]) == ["card.md", "request.json"]
    assert str(tmp_path) not in made[0]["card.md"].decode() + made[0]["request.json"].decode()


def test_a_model_that_loses_is_said_to_lose(tmp_path: Path) -> None:
    paths = carded.city(tmp_path)
    path = paths.metrics("evaluate", carded.TASK)
    found = files.read_json(path)
    found["ridge"]["mae"] = 2.0
    found["interval"]["versus"]["ridge"] = {"difference": 1.25, "low": 1.0, "high": 1.5}
    found["interval"]["versus"]["profile"] = {"difference": -0.5, "low": -1.0, "high": 0.5}
    found["test"]["forecasts_possible"] = 500
    files.write_json(path, found)
    text, _ = written(paths)
    assert "MAE 3.25, no better than 2 (ridge, the best baseline)." in text.splitlines()[0]
    assert "| MAE | 3.25 | 3.75 | 3.75 | **2** |" in text
    assert "better than last value; not to be told from profile; worse than ridge." in text
    assert "21 forecasts, 1,512 points (of 500 possible forecasts)" in text


def test_metrics_where_more_is_better_and_metrics_that_are_not_there(tmp_path: Path) -> None:
    paths = carded.city(tmp_path)
    path = paths.metrics("evaluate", carded.TASK)
    found = files.read_json(path)
    found |= {"primary": "macro_f1", "higher_is_better": True, "model": {"macro_f1": 0.8, "log_loss": 0.5}}
    found |= {"last_value": {"macro_f1": 0.7, "log_loss": None}, "profile": {"macro_f1": 0.6, "log_loss": 0.4}}
    for part in ("ridge", "interval", "at", "coverage", "slices"):
        del found[part]
    damage = {"model": {"value": 0.7, "ratio": 0.9}, "ridge": {"value": 0.6, "ratio": 0.8}}
    found["robustness"] = {"metric": "macro_f1", "windows": 64, "clean": damage, "district_dark": damage}
    files.write_json(path, found)
    text, request = written(paths)
    assert "| macro F1 | **0.8** | 0.7 | 0.6 |" in text
    assert "| log loss | 0.5 | – | **0.4** |" in text
    assert "last_value/log_loss" not in request["metrics"]
    assert "Macro F1 when readings are damaged, on 64 windows: clean 0.7 (ridge 0.6), district dark 0.7 (ridge" in text
    assert request["metrics"]["robustness/district_dark/model/ratio"] == 0.9


def test_without_labels_an_alarm_rate_is_told_and_not_judged(tmp_path: Path) -> None:
    paths = carded.city(tmp_path)
    path = paths.metrics("evaluate", carded.TASK)
    found = files.read_json(path)
    found |= {"primary": "alarm_rate", "model": {"alarm_rate": 0.01}, "ridge": {"alarm_rate": 0.02}}
    files.write_json(path, found)
    text, _ = written(paths)
    assert text.splitlines()[0].endswith("Alarm rate 0.01 on the frozen test.")
    assert "| alarm rate | 0.01 | – | – | 0.02 |" in text


def test_every_series_task_of_the_city_has_a_card_that_fits_a_description(tmp_path: Path) -> None:
    for name in ("params.yaml", "window.yaml"):
        shutil.copy(carded.ROOT / name, tmp_path / name)
    city = yaml.safe_load((tmp_path / "params.yaml").read_text())
    for task in (name for name, block in city["tasks"].items() if block["modality"] == "series"):
        text, _ = written(carded.city(tmp_path, task), task)
        assert text.startswith(f"{task} answers: {city['tasks'][task]['question']}")
        assert len(text) < DESCRIPTION_LIMIT - 600


def test_what_is_missing_or_changed_is_named(tmp_path: Path) -> None:
    paths = carded.city(tmp_path)
    metrics = paths.metrics("evaluate", carded.TASK)
    kept = metrics.read_bytes()
    metrics.unlink()
    with pytest.raises(UserError, match=r"metrics/evaluate/air_quality\.json.*dvc repro"):
        card.run(carded.TASK, root=tmp_path)
    metrics.write_bytes(kept)
    (paths.task(carded.TASK) / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"config\.json"):
        card.run(carded.TASK, root=tmp_path)
    with pytest.raises(UserError, match="did you mean 'air_quality'"):
        card.run("air_qualty", root=tmp_path)
    assert not paths.card(carded.TASK).exists()


def edited(paths: Paths, old: str, new: str) -> None:
    path = paths.root / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_is_known_ahead_is_told_apart_from_what_was_read(tmp_path: Path) -> None:
    paths = carded.city(tmp_path)
    text, _ = written(paths)
    assert "from 4 d of readings and from `air` (temperature)." in text
    assert "told what" not in text
    edited(paths, "inputs: [{source: air, kinds: [temperature]}]",
           "inputs: [{source: air, kinds: [temperature], ahead: true}, {source: air, kinds: [pm25]}]")  # fmt: skip
    text, _ = written(paths)
    assert "from 4 d of readings and from `air` (pm25)." in text
    assert "It is also told what `air` (temperature) will be over those steps" in text
    assert "a forecast that errs makes it less exact" in text


def test_a_model_that_goes_on_from_another_names_it(tmp_path: Path) -> None:
    paths = carded.city(tmp_path)
    text, _ = written(paths)
    assert "Fine-tuned from backbone `series` in 200 steps." in text
    edited(paths, "finetune: {steps: 200}", f"finetune: {{steps: 200, init: '{'ab' * 32}', replay: 0.25}}")
    text, _ = written(paths)
    assert "bundle `abababababab` (on what came after its training, 25 % of each batch from before) in 200 s" in text
    edited(paths, ", replay: 0.25", "")
    assert "(on what came after its training) in 200 steps." in written(paths)[0]
