"""Folders of small pictures whose answer is plain to see, and backbones small enough for many tests."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipelines.core.params import Backbone, Task

SIDE = 32
BOX = pa.struct([(k, pa.string() if k == "label" else pa.float64()) for k in ("label", "x", "y", "width", "height")])
SPLITS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2


def coloured(rng: np.random.Generator, n: int) -> tuple[np.ndarray, list[list[str]]]:
    """Noise with a tint: red or blue."""
    kind = rng.integers(2, size=n)
    pixels = rng.integers(60, 140, (n, SIDE, SIDE, 3))
    pixels[np.arange(n), :, :, np.where(kind, 0, 2)] += 80
    return pixels.astype(np.uint8), [[("blue", "red")[k]] for k in kind]


def squares(rng: np.random.Generator, n: int) -> tuple[np.ndarray, list[list[dict[str, Any]]]]:
    """One or two bright squares, green or yellow, on dark noise; boxes as fractions."""
    pixels, boxes = rng.integers(0, 50, (n, SIDE, SIDE, 3)).astype(np.uint8), []
    for picture in pixels:
        mine = []
        for half in range(int(rng.integers(1, 3))):
            w, h = rng.integers(7, 12, 2)
            x, y = int(rng.integers(0, 16 - w)) + 16 * half, int(rng.integers(0, SIDE - h))
            label = ("green", "yellow")[int(rng.integers(2))]
            picture[y : y + h, x : x + w] = (240 if label == "yellow" else 20, 230, 20)
            mine.append({"label": label, "x": x / SIDE, "y": y / SIDE, "width": w / SIDE, "height": h / SIDE})
        boxes.append(mine)
    return pixels, boxes


def folder(where: Path, kind: str, n: int = 80, dated: bool = False, seed: int = 0) -> Path:
    """A joined folder of `label` or `boxes`."""
    rng = np.random.default_rng(seed)
    pixels, told = (coloured if kind == "label" else squares)(rng, n)
    names = ["blue", "red"] if kind == "label" else ["green", "yellow"]
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    splits = sorted((SPLITS[i % 10] for i in range(n)), key=["train", "validation", "test"].index)
    table = {
        "time": pa.array(
            [begin + dt.timedelta(hours=i) if dated else None for i in range(n)], pa.timestamp("us", "UTC")
        ),
        "camera": pa.nulls(n, pa.string()),
        "blob": [f"{i:064x}" for i in range(n)],
        "group": pa.array(range(n), pa.int64()),
        "split": splits,
        "width": [SIDE] * n,
        "height": [SIDE] * n,
        "labels": told if kind == "label" else pa.nulls(n, pa.list_(pa.string())),
        "boxes": pa.array(told if kind == "boxes" else [None] * n, pa.list_(BOX)),
    }
    where.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), where / "items.parquet")
    np.save(where / "pixels.npy", pixels)
    about = {"modality": "image", "size": SIDE, "kinds": {kind: names}, "kind": kind, "names": names, "source": "toy"}
    (where / "about.json").write_text(json.dumps(about))
    return where


def published(where: Path, kind: str) -> Path:
    """A model's folder as transformers writes it: `vit`, `vit_mae`, `resnet` or `yolos`, of a few thousand weights."""
    import transformers as t

    torch.manual_seed(0)
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    small |= {"intermediate_size": 64, "image_size": SIDE}
    if kind == "resnet":
        net: Any = t.ResNetModel(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic")
        )
    elif kind == "vit":
        net = t.ViTModel(t.ViTConfig(**small))
    elif kind == "vit_mae":
        net = t.ViTMAEModel(t.ViTMAEConfig(**small))
    else:
        config = t.YolosConfig(**{**small, "image_size": [SIDE, SIDE]}, num_detection_tokens=10, num_labels=3)
        net = t.YolosForObjectDetection(config)
    net.save_pretrained(where)
    return where


def backbone(start: Path, family: str, **settings: Any) -> Backbone:
    return Backbone.model_validate(
        {"modality": "image", "family": family, "from": str(start),
         "pretrain": {"steps": 12, "batch": 16, "learning_rate": 3e-3, "accelerator": "cpu", **settings}}
    )  # fmt: skip


def task(objective: str, **settings: Any) -> Task:
    kind = {"classify": "label", "locate": "boxes"}[objective]
    return Task.model_validate(
        {"department": "works", "question": "what is there?", "modality": "image", "objective": objective,
         "backbone": "toy", "target": {"source": "toy", "kinds": [kind]},
         "finetune": {"steps": 4, "batch": 16, "accelerator": "cpu", **settings}}
    )  # fmt: skip
