"""A small city's messages, as `corpus` and `join` leave them, and what models are made of them."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core import files, params
from pipelines.core.records import TEXTS

TOPICS = {
    "roads": ["人民路堵车严重", "中山路坑洼", "traffic jam on Main Road", "红绿灯坏了", "公交车太少"],
    "noise": ["工地夜间噪声", "邻居太吵", "loud music at night", "广场舞扰民", "油烟味很大"],
    "schools": ["小学招生不公平", "老师收费补课", "the school has no teachers", "幼儿园太贵", "校车超载"],
}
NAMES = list(TOPICS)


def messages(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Each about one topic; a jam is marked."""
    rng, out = np.random.default_rng(seed), []
    for i in range(count):
        topic = NAMES[i % len(NAMES)]
        said = [str(rng.choice(TOPICS[topic])) for _ in range(2)]
        text = f"{said[0]}\n你好，{said[1]}，请尽快处理 please"
        found = []
        for word in ("堵车", "traffic jam"):
            at = text.find(word)
            while at >= 0:
                found.append({"start": at, "end": at + len(word), "label": "jam"})
                at = text.find(word, at + 1)
        out.append({"text": text, "label": topic, "spans": sorted(found, key=lambda s: s["start"]), "id": f"m{i:04d}"})
    return out


def write(folder: Path, rows: list[dict[str, Any]], names: list[str], kind: str) -> Path:
    """joined/<task>/, or corpus/<backbone>/<source>/."""
    count = len(rows)
    split = ["train" if i < 0.6 * count else "validation" if i < 0.8 * count else "test" for i in range(count)]
    first = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    table = pa.table({
        "time": pa.array([first + dt.timedelta(hours=i) for i in range(count)], TEXTS.field("time").type),
        "id": [r["id"] for r in rows],
        "text": [r["text"] for r in rows],
        "label": pa.array([r["label"] for r in rows], pa.string()),
        "spans": pa.array([r["spans"] for r in rows], TEXTS.field("spans").type),
        "language": ["zh"] * count,
        "group": pa.array(range(count), pa.int64()),
        "split": split,
    })  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    files.write_table(folder / "items.parquet", table)
    files.write_json(folder / "about.json", {"modality": "text", "kind": kind, "names": names, "source": "calls"})
    return folder


def backbone(**more: Any) -> params.Backbone:
    pretrain = {"steps": 4, "batch": 8, "accelerator": "cpu", **more.pop("pretrain", {})}
    return params.Backbone.model_validate({"modality": "text", "pretrain": pretrain, **more})


def task(objective: str = "classify", **finetune: Any) -> params.Task:
    settings = {"steps": 6, "batch": 8, "accelerator": "cpu", "learning_rate": 1e-3, "patience": 99, **finetune}
    return params.Task.model_validate({
        "modality": "text", "department": "d", "question": "q?", "objective": objective, "backbone": "text",
        "target": {"source": "calls"}, "finetune": settings,
    })  # fmt: skip


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "items.parquet", partitioning=None).to_pylist()
