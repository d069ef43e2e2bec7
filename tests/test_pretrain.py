"""Pretraining through the room: a backbone from a corpus, the same each time, and no worse than it began."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import toy_city
from safetensors.numpy import load_file
from small_city import tree

from pipelines import pretrain
from pipelines.core import files
from pipelines.core.errors import UserError


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_city.ready(tmp_path_factory)


def test_a_backbone_knows_its_kinds_and_sensors_and_is_finite(ready: Path) -> None:
    config = files.read_json(ready / "models/backbones/series/config.json")
    assert config["size"] == "tiny"
    assert config["kinds"] == ["a", "w"], "labels are nothing to learn from"
    assert config["sensors"] == ["m/w", "s1/a", "s2/a", "s3/a", "s4/a"]
    weights = load_file(ready / "models/backbones/series/weights.safetensors")
    assert all(np.isfinite(w).all() for w in weights.values())
    report = files.read_json(ready / "metrics/pretrain/series.json")
    assert report["parameters"] == sum(w.size for w in weights.values())
    assert report["validation"]["loss"] <= report["validation"]["loss_untrained"]
    assert report["sources"] == 1


def test_the_same_corpus_gives_the_same_bytes_elsewhere(ready: Path, tmp_path: Path) -> None:
    shutil.copytree(ready / "data/corpus", tmp_path / "data/corpus")
    toy_city.write_params(tmp_path)
    pretrain.run("series", root=tmp_path)
    assert tree(tmp_path / "models/backbones") == tree(ready / "models/backbones")
    assert tree(tmp_path / "plots/pretrain") == tree(ready / "plots/pretrain")


def test_a_few_more_steps_improve_on_none(ready: Path, tmp_path: Path) -> None:
    shutil.copytree(ready / "data/corpus", tmp_path / "data/corpus")
    toy_city.write_params(tmp_path)
    text = (tmp_path / "params.yaml").read_text()
    assert "steps: 4" in text
    (tmp_path / "params.yaml").write_text(text.replace("steps: 4", "steps: 40\n      learning_rate: 0.003", 1))
    pretrain.run("series", root=tmp_path)
    report = files.read_json(tmp_path / "metrics/pretrain/series.json")
    assert report["validation"]["loss"] < report["validation"]["loss_untrained"]


def test_without_a_corpus_it_says_which_command_is_missing(tmp_path: Path) -> None:
    toy_city.write_params(tmp_path)
    with pytest.raises(UserError, match=r"corpus/series.*cityloop corpus series") as error:
        pretrain.run("series", root=tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "models").exists()
