"""Logistic regression on plain features: colours and edges of a picture, letters and words of a message."""

import warnings
from itertools import pairwise, product
from typing import Any

import numpy as np

from pipelines.models.items.held import Items

Array = np.ndarray[Any, Any]
CELLS, TURNS, SHADES = 6, 9, 8
"""Cells a side, directions of an edge, shades of a colour."""
PENALTIES = {"image": (0.01, 0.1, 1.0), "text": (1.0, 10.0, 100.0)}
MOST = 20_000
"""Items it is fitted on."""


def logistic(fit: Items, label: Array) -> Any:
    """An `Ask` fitted on all of `fit`; its penalty is chosen on the validation items among them.

    label [N] of class numbers.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    every = np.unique(np.linspace(0, len(fit) - 1, min(MOST, len(fit))).astype(int))
    fit, label = fit.take(every), label[every]
    inputs, held = fit.inputs, np.array(fit.column("split")) == "validation"

    def made(penalty: float) -> Any:
        return make_pipeline(*_features(fit.modality), LogisticRegression(C=penalty, max_iter=300))

    def off(penalty: float) -> float:
        model = made(penalty).fit(_some(inputs, ~held), label[~held])
        given = _spread(model, _some(inputs, held), len(fit.names))
        return float(-np.log(np.clip(given[np.arange(held.sum()), label[held]], 1e-6, 1)).mean())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 300 steps did not converge is no news to a reader
        enough = held.any() and len(np.unique(label[~held])) > 1
        model = made(min(PENALTIES[fit.modality], key=off) if enough else 1.0).fit(inputs, label)
    return lambda inputs, items: _spread(model, inputs, len(items.names))


def _some(inputs: Any, chosen: Array) -> Any:
    return inputs[chosen] if isinstance(inputs, np.ndarray) else [inputs[i] for i in np.flatnonzero(chosen)]


def _spread(model: Any, inputs: Any, classes: int) -> Array:
    """Probabilities of all classes [N, C]; one it never saw has none."""
    out = np.zeros((len(inputs), classes))
    out[:, model.classes_] = model.predict_proba(inputs)
    return out


def _features(modality: str) -> tuple[Any, ...]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    if modality == "image":
        return FunctionTransformer(described), StandardScaler()
    letters = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return (make_union(letters, words),)


def described(pixels: Array, part: int = 256) -> Array:
    """Of pictures uint8 [N, S, S, 3]: shares of shades by colour, mean colours and edge directions by cell, [N, F]."""
    return np.concatenate([_described(pixels[i : i + part]) for i in range(0, len(pixels), part)])


def _described(pixels: Array) -> Array:
    n, side = len(pixels), pixels.shape[1]
    shade = pixels.reshape(n, -1, 3) // (256 // SHADES)
    shares = np.stack([(shade == s).mean(1) for s in range(SHADES)], axis=-1).reshape(n, -1)
    grey = pixels.mean(-1, dtype=np.float32)
    down, right = np.gradient(grey, axis=(1, 2))
    size = np.hypot(down, right)
    turn = (np.arctan2(down, right) % np.pi / np.pi * TURNS).astype(int) % TURNS
    edges = np.linspace(0, side, CELLS + 1).astype(int)
    cells = list(product([slice(a, b) for a, b in pairwise(edges)], repeat=2))
    colour = [pixels[:, y, x].mean((1, 2)) / 255 for y, x in cells]
    lines = [np.stack([(size[:, y, x] * (turn[:, y, x] == t)).sum((1, 2)) for t in range(TURNS)], -1) for y, x in cells]
    steep = np.stack(lines, 1)
    steep /= np.linalg.norm(steep, axis=-1, keepdims=True) + 1e-3 * side
    return np.concatenate([shares, *colour, steep.reshape(n, -1)], axis=1).astype(np.float32)
