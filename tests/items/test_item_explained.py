"""What answers rest on, drawn from a bundle's weights, and left out where it does not say how its network is built."""

from pathlib import Path
from typing import Any

import judged_items
import numpy as np
import pytest
import torch
from safetensors.torch import save

from pipelines.core import files
from pipelines.models.items import explained, judge, questions
from pipelines.models.items.held import Items


def judged(folder: Path, task: str) -> judge.Judged:
    joined = Items.open(judged_items.city(folder, (task,)).joined(task), task).part("test")
    return judge.Judged({}, joined, questions.load(judged_items.OBJECTIVES[task]).truth(joined), {})


def laid(folder: Path, task: str, model: Any, backbone: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A bundle's folder as far as explanations need it; its config."""
    config: dict[str, Any] = {
        "task": task, "objective": judged_items.OBJECTIVES[task], "names": list(judged_items.NAMES[task]),
        "temperature": 1.0, "backbone": {"name": "b", "sha256": "0" * 64, **backbone}, **more,
    }  # fmt: skip
    files.write_json(folder / "config.json", config)
    files.write_bytes(folder / "weights.safetensors", save({k: v.contiguous() for k, v in model.state_dict().items()}))
    return config


@pytest.mark.parametrize("task", ["kinds", "places"])
def test_pictures_lie_under_one_another(tmp_path: Path, task: str) -> None:
    from PIL import Image

    from pipelines.models.image import backbones, models

    told = backbones.fresh("cnn", "tiny", judged_items.SIDE)
    torch.manual_seed(0)
    model = models.build(judged_items.OBJECTIVES[task], told, judged_items.SIDE, len(judged_items.NAMES[task]))
    config = laid(tmp_path / "bundle", task, model, told, size=judged_items.SIDE)
    explained.draw(tmp_path / "plots", tmp_path / "bundle", config, judged(tmp_path, task))
    picture = np.asarray(Image.open(tmp_path / "plots/explanation.png"))
    assert picture.shape[0] % explained.SHOWN == 0
    assert picture.shape[0] >= explained.SHOWN * judged_items.SIDE
    assert picture.std() > 10


@pytest.mark.parametrize("task", ["routing", "phrases"])
def test_letters_are_coloured_and_escaped(tmp_path: Path, task: str) -> None:
    from transformers import BertConfig, BertModel

    from pipelines.core import params
    from pipelines.models.text import backbone, model

    words = len(judged_items.vocabulary())
    encoder = BertModel(
        BertConfig(vocab_size=words, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    base = backbone.Backbone(encoder, 32)
    torch.manual_seed(0)
    whole = model.of(judged_items.OBJECTIVES[task], base, len(judged_items.NAMES[task]))
    torch.nn.init.normal_(whole.head.weight)
    told = base.config(params.Backbone(modality="text"))
    config = laid(tmp_path / "bundle", task, whole, told, max_tokens=32)
    files.write_bytes(tmp_path / "bundle/tokenizer.json", judged_items.tokenizer())
    test = judged(tmp_path, task)
    test.items.columns["text"][int(test.items.rows[0])] = "<script> word1"
    explained.draw(tmp_path / "plots", tmp_path / "bundle", config, test)
    page = (tmp_path / "plots/explanation.html").read_text()
    assert page.count("<tr>") == explained.SHOWN
    assert "<script>" not in page
    assert "&lt;</span>" in page
    assert page.count("background:#") > 20


def test_a_bundle_that_does_not_describe_its_network_is_left_alone(tmp_path: Path) -> None:
    config = files.read_json(judged_items.city(tmp_path, ("kinds",)).task("kinds") / "config.json")
    explained.draw(tmp_path / "plots", tmp_path / "models/tasks/kinds", config, judged(tmp_path, "kinds"))
    assert not (tmp_path / "plots").exists() or not list((tmp_path / "plots").glob("expl*"))
