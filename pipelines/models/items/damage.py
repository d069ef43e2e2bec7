"""What a bundle does when its pictures or messages are damaged."""

import io
import re
from typing import Any

import numpy as np

from pipelines.models.items.held import Items

Array = np.ndarray[Any, Any]
ITEMS = 200
"""Items that damage is tried on."""
DAMAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "classify": {"image": ("blur", "noise", "dark", "jpeg"), "text": ("typos", "capitals", "cut")},
    "locate": {"image": ("blur", "noise", "dark", "jpeg")},
    "tag": {"text": ("typos", "capitals")},
}
"""By objective and modality. Pictures: out of focus; noise; a third of the light; hard JPEG compression. Messages: two
letters in twenty swapped; Latin letters as capitals; the first half alone. Phrases stay where they are."""


def robustness(objective: Any, asks: dict[str, Any], items: Items, seed: int = 0) -> dict[str, Any]:
    """The main metric of each of `asks` under each damage, on at most ITEMS of the items, evenly chosen.

    Returns `metric`, `items`, and by kind of damage (`clean`: none) a dict by method of `value` and `ratio`, the
    value's share of that on clean items.
    """
    items = items.spread(ITEMS)
    truth, clean = objective.truth(items), items.inputs
    told: dict[str, Any] = {}
    for damage in ("clean", *kinds(objective, items)):
        inputs = spoilt(damage, clean, np.random.default_rng(seed))
        for name, ask in asks.items():
            value = objective.score(ask(inputs, items), truth, items.names)[objective.PRIMARY]
            before = told["clean"][name]["value"] if damage != "clean" else value
            told.setdefault(damage, {})[name] = {"value": value, "ratio": value / before if before else float("nan")}
    return {"metric": objective.PRIMARY, "items": len(items), **told}


def kinds(objective: Any, items: Items) -> tuple[str, ...]:
    """The damages tried."""
    return DAMAGES[str(objective.__name__).rpartition(".")[2]][items.modality]


def spoilt(damage: str, inputs: Any, rng: np.random.Generator) -> Any:
    """A damaged copy of pixels uint8 [N, S, S, 3] or N texts; `clean`: as they are."""
    if damage == "clean":
        return inputs
    if damage == "noise":
        return np.clip(inputs + rng.normal(0, 25, inputs.shape), 0, 255).astype(np.uint8)
    if damage == "dark":
        return (inputs * 0.35).astype(np.uint8)
    if damage in ("blur", "jpeg"):
        return np.stack([_redrawn(damage, one) for one in inputs])
    if damage == "typos":
        return [_typos(text, rng) for text in inputs]
    if damage == "capitals":
        return [re.sub("[a-z]", lambda m: m[0].upper(), text) for text in inputs]
    if damage == "cut":
        return [text[: -(-len(text) // 2)] for text in inputs]
    raise ValueError(f"{damage!r} is no damage")


def _redrawn(damage: str, pixels: Array) -> Array:
    from PIL import Image, ImageFilter

    picture = Image.fromarray(pixels)
    if damage == "blur":
        return np.asarray(picture.filter(ImageFilter.GaussianBlur(len(pixels) / 64)))
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=12)
    return np.asarray(Image.open(sink))


def _typos(text: str, rng: np.random.Generator) -> str:
    """One in twenty letters swapped with the next."""
    letters = list(text)
    for i in np.flatnonzero(rng.random(max(len(letters) - 1, 0)) < 1 / 20):
        letters[i], letters[i + 1] = letters[i + 1], letters[i]
    return "".join(letters)
