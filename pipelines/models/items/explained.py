"""What a bundle's answers to a few test items rest on, drawn: over the pictures, or under the words."""

import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, pictures, tokens
from pipelines.models.items.drawn import GIVEN, page
from pipelines.models.items.judge import Judged

Array = np.ndarray[Any, Any]
SHOWN = 4
PLAIN = {"name", "sha256", "family", "size"}
"""A config that says no more of a backbone does not say how its network is built."""


def draw(plots: Path, folder: Path, config: dict[str, Any], judged: Judged) -> None:
    """explanation.png, or explanation.html; nothing of a bundle that does not describe its network."""
    if set(config["backbone"]) <= PLAIN:
        return
    items = judged.items.spread(SHOWN)
    if items.modality == "image":
        files.write_bytes(plots / "explanation.png", _pictures(folder, items.inputs))
    else:
        files.write_bytes(plots / "explanation.html", _messages(folder, config, items.inputs).encode())


def _pictures(folder: Path, pixels: Array) -> bytes:
    from PIL import Image

    from pipelines.models.image import explain

    drawn = [np.asarray(Image.open(io.BytesIO(explain.explain(folder, one))).convert("RGB")) for one in pixels]
    return pictures.png(np.concatenate(drawn))


def _messages(folder: Path, config: dict[str, Any], texts: list[str]) -> str:
    from pipelines.models.text import explain, tuning

    served = tuning.load(folder)
    tokenizer = tokens.load((folder / "tokenizer.json").read_bytes())
    told = explain.of_texts(served.model, tokenizer, texts, int(config["max_tokens"]))
    rows = "".join(f"<tr><td>{_coloured(text, each)}</td></tr>" for text, each in zip(texts, told, strict=True))
    return page(f"{config['task']}: what speaks for the answer (blue), and against it (red)", rows)


def _coloured(text: str, weights: Array) -> str:
    strength = weights / max(float(np.abs(weights).max(initial=0)), 1e-12)
    colours = [f"{GIVEN if s < 0 else '#0b6e99'}{round(abs(float(s)) * 160):02x}" for s in strength]
    return "".join(
        f'<span style="background:{colour}">{html.escape(letter)}</span>'
        for letter, colour in zip(text, colours, strict=True)
    )
