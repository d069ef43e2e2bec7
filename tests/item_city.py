"""A city of a few pictures and messages, written by hand: what tests import."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipelines import corpus, features, ingest, join, validate
from pipelines.core import files
from pipelines.core.records import day_files, read_day

CLASSES = ["bike", "car", "truck"]
WORDS = ["traffic", "water"]


def encoded(picture: Any, form: str = "JPEG", **more: Any) -> bytes:
    """An image, or an array of one, as bytes."""
    sink = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(sink, form, **more)
    return sink.getvalue()


def scene(seed: int, width: int = 48, height: int = 40) -> np.ndarray[Any, Any]:
    """uint8 [height, width, 3]: some rectangles, unlike those of another seed."""
    rng = np.random.default_rng(seed)
    out = np.full((height, width, 3), rng.integers(60, 200, 3), np.uint8)
    for _ in range(6):
        x, y = rng.integers(0, width - 8), rng.integers(0, height - 8)
        out[y : y + rng.integers(8, 24), x : x + rng.integers(8, 24)] = rng.integers(0, 256, 3)
    return out


def image_source(**more: Any) -> dict[str, Any]:
    """Folders of classes, split by group."""
    base = {
        "modality": "image",
        "department": "transport",
        "start": "2025-01-01",
        "validation_from": "2025-01-05",
        "test_from": "2025-01-08",
        "step": "1h",
        "read": {"connector": "images", "path": "pictures", "layout": "folders"},
        "kinds": {"label": {"labels": CLASSES}},
        "features": {"size": 32, "split": "group", "validation": 0.2, "test": 0.2},
        "contract": {"max_quarantined": 1},
    }
    return {**base, **more}


def text_source(**more: Any) -> dict[str, Any]:
    """A CSV of dated messages with labels and spans, split by group."""
    base = {
        "modality": "text",
        "department": "city",
        "start": "2025-01-01",
        "validation_from": "2025-01-05",
        "test_from": "2025-01-08",
        "step": "1h",
        "read": {"connector": "messages", "path": "messages.csv", "id": "id", "time": "time", "label": "label"}
        | {"spans": "spans"},
        "kinds": {"label": {"labels": WORDS}, "spans": {"labels": ["jam", "free"]}},
        "features": {"split": "group", "validation": 0.2, "test": 0.2},
        "contract": {"max_quarantined": 1},
    }
    return {**base, **more}


def city(root: Path, sources: dict[str, Any], until: str = "2025-01-11", **tasks: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    backbones = {"images": {"modality": "image"}, "texts": {"modality": "text"}}
    data = {"city": {"name": "small"}, "sources": sources, "backbones": backbones, "tasks": tasks}
    (root / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    (root / "window.yaml").write_text(yaml.safe_dump(dict.fromkeys(sources, until)))
    return root


def task(modality: str, objective: str, source: str) -> dict[str, Any]:
    backbone = {"image": "images", "text": "texts"}[modality]
    return {
        "modality": modality,
        "department": "d",
        "question": "q",
        "objective": objective,
        "backbone": backbone,
        "target": {"source": source},
    }


def put(root: Path, pictures: dict[str, bytes]) -> None:
    """Files under `pictures/`."""
    for name, data in pictures.items():
        path = root / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def messages(root: Path, rows: list[dict[str, Any]]) -> None:
    """messages.csv with columns id, time, text, label, spans; what a row lacks is empty."""
    import csv

    with (root / "messages.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ["id", "time", "text", "label", "spans"], restval="")
        writer.writeheader()
        for i, row in enumerate(rows):
            spans = {"spans": json.dumps(row["spans"])} if "spans" in row else {}
            writer.writerow({"id": f"m{i}", "time": "2025-01-02T00:00"} | row | spans)


def run(root: Path, source: str) -> dict[str, Any]:
    """Ingest and validate; the report."""
    ingest.run(source, root=root)
    validate.run(source, root=root)
    return files.read_json(root / f"metrics/validate/{source}.json")


def later(root: Path, modality: str, source: str, *tasks: str) -> None:
    features.run(source, root=root)
    corpus.run({"image": "images", "text": "texts"}[modality], root=root)
    for key in tasks:
        join.run(key, root=root)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in day_files(folder).values() for row in read_day(path).to_pylist()]


def reasons(root: Path, source: str) -> dict[str, list[str]]:
    """Reasons by blob or text of what is in quarantine."""
    return {row.get("blob") or row["text"]: row["reasons"] for row in rows(root / "data/quarantine" / source)}
