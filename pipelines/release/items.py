"""A bundle of pictures or messages, loaded and asked, beside `predictor` with its series. No torch, no mlflow.

    predictor = items.load(Path("models/tasks/vehicle_type"))    # a Predictor where the bundle's modality is series
    answers = predictor.predict([Path("frame.jpg").read_bytes()])

Answers are plain dicts, one an item, as a server sends them:

    classify  label, probabilities {name: 0 … 1}
    locate    width, height, boxes [{label, score, x, y, width, height}], in pixels of the picture as one sees it
    tag       spans [{label, score, start, end}], half-open, in code points of the text as it was given
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipelines.core import pictures, spans, tokens
from pipelines.core.errors import UserError
from pipelines.release.predictor import Predictor, opened

Array = np.ndarray[Any, Any]
Answer = dict[str, Any]
Span = tuple[int, int, int]
"""Start, end (half-open, code points) and number of the label."""
Moved = Callable[[int, int], tuple[int, int]]
CHUNK = 16
"""Items a call of the graph."""
DECISION = 0.5
"""The score from which on a box counts, where the bundle does not say."""
DIGITS = 6


def load(
    folder: Path, *, threads: int = 0, variant: str = "float", shared: bool = False
) -> "Predictor | Pictures | Messages":
    """The predictor of any bundle, by the modality in its config. Arguments and errors are `Predictor.load`'s."""
    try:
        modality = json.loads((folder / "config.json").read_bytes()).get("modality", "series")
    except (OSError, ValueError, AttributeError):
        modality = "series"  # which says what is wrong with the folder
    if modality == "series":
        return Predictor.load(folder, threads=threads, variant=variant, shared=shared)
    if modality not in _KINDS:
        raise UserError(f"{folder}: a bundle of modality {modality!r}; this code reads series, {', '.join(_KINDS)}")
    return _KINDS[modality].open(folder, *opened(folder, threads, variant, shared))


@dataclass(frozen=True)
class Items:
    """What predictors of pictures and of messages have in common."""

    config: dict[str, Any]
    digest: str
    session: Any
    folder: Path
    modality: ClassVar[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, by number."""
        return tuple(self.config["names"])

    @property
    def objective(self) -> str:
        return str(self.config["objective"])

    def read(self, item: Any) -> Any:
        """What `answers` takes of one item. Raises UserError for an item that cannot be used, saying why."""
        raise NotImplementedError

    def answers(self, read: Sequence[Any]) -> list[Answer]:
        raise NotImplementedError

    def example(self) -> Any:
        """An item, made from the first of the golden inputs."""
        raise NotImplementedError

    def predict(self, items: Sequence[Any]) -> list[Answer]:
        """An answer an item. Raises UserError as `read` does."""
        return self.answers([self.read(item) for item in items])

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """The graph's own answers, by name."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, inputs), strict=True))

    def golden(self) -> float:
        """By how much answers here differ at most from the bundle's golden ones, relative to their size; infinity: they
        are of another kind. Boxes that are as likely as one another may come in any order."""
        stored = self._golden()
        found = self.run({k.removeprefix("input."): v for k, v in stored.items() if k.startswith("input.")})
        wanted = {k.removeprefix("answer."): v for k, v in stored.items() if k.startswith("answer")}
        if "answer" in wanted and len(found) == 1:
            wanted = {next(iter(found)): wanted["answer"]}
        if wanted.keys() != found.keys() or any(found[k].shape != v.shape for k, v in wanted.items()):
            return float("inf")
        if "boxes" in wanted:
            return max(_off(found["scores"], wanted["scores"]), _moved(found, wanted))
        return max(_off(found[k], v) for k, v in wanted.items())

    def _golden(self) -> dict[str, Array]:
        from safetensors.numpy import load_file

        return load_file(self.folder / "golden.safetensors")

    def _named(self, probabilities: Array) -> Answer:
        shares = {name: _short(p) for name, p in zip(self.names, probabilities, strict=True)}
        return {"label": self.names[int(probabilities.argmax())], "probabilities": shares}


@dataclass(frozen=True)
class Pictures(Items):
    """Pixels are RGB, letter-boxed to `size`."""

    modality: ClassVar[str] = "image"

    @classmethod
    def open(cls, folder: Path, digest: str, config: dict[str, Any], session: Any) -> "Pictures":
        return cls(config, digest, session, folder)

    @property
    def size(self) -> int:
        return int(self.config["size"])

    def read(self, item: bytes, bounds: pictures.Bounds = pictures.BOUNDS) -> tuple[Array, pictures.Fit]:
        """The bytes of a file, as pixels uint8 [size, size, 3] and how the picture lies there."""
        try:
            return pictures.square(item, self.size, bounds)
        except pictures.Unfit as error:
            raise UserError(f"{error.reason}: {error}") from None

    def answers(self, read: Sequence[tuple[Array, pictures.Fit]]) -> list[Answer]:
        pixels = np.stack([one for one, _ in read])
        if self.objective == "classify":
            return [self._named(p) for p in self.probabilities(pixels)]
        return [self._placed(fit, *found) for (_, fit), found in zip(read, self.boxes(pixels), strict=True)]

    def probabilities(self, pixels: Array) -> Array:
        """[N, names] for uint8 [N, size, size, 3]."""
        return np.concatenate([self.run({"pixels": part})["probabilities"] for part in _parts(pixels)])

    def boxes(self, pixels: Array) -> Iterator[tuple[Array, Array, Array]]:
        """Of each picture: boxes [K, 4] (left, top, right, bottom; fractions of the square), scores [K] and label
        numbers [K], the likeliest first, however unlikely."""
        for part in _parts(pixels):
            found = self.run({"pixels": part})
            yield from zip(found["boxes"], found["scores"], found["labels"], strict=True)

    def _placed(self, fit: pictures.Fit, boxes: Array, scores: Array, labels: Array) -> Answer:
        kept = scores >= float(self.config.get("decision") or DECISION)
        corners = boxes[kept].astype(float)
        placed = fit.to_picture(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1))
        found = [
            {"label": self.names[label], "score": _short(score)}
            | dict(zip(("x", "y", "width", "height"), (round(float(v), 2) for v in box), strict=True))
            for box, score, label in zip(placed, scores[kept], labels[kept], strict=True)
        ]
        return {"width": fit.width, "height": fit.height, "boxes": found}

    def example(self) -> bytes:
        """A PNG."""
        return pictures.png(self._golden()["input.pixels"][0])


@dataclass(frozen=True)
class Messages(Items):
    """Texts, read by the bundle's own tokenizer; longer ones than the model reads are cut or read in parts."""

    tokenizer: Any
    modality: ClassVar[str] = "text"

    @classmethod
    def open(cls, folder: Path, digest: str, config: dict[str, Any], session: Any) -> "Messages":
        return cls(config, digest, session, folder, tokens.load((folder / "tokenizer.json").read_bytes()))

    @property
    def max_tokens(self) -> int:
        return int(self.config["max_tokens"])

    def read(self, item: str) -> tuple[str, Moved]:
        """The text as the model knows texts, its personal data masked where they were in training (`mask` in the
        config); and where a range of it lies in the one that was given."""
        if not item.strip():
            raise UserError("empty: there is no text to read")
        if not self.config.get("mask"):
            return item, lambda start, end: (start, end)
        from pipelines.core.personal import mask

        masked = mask(item)
        return masked.text, replace(masked, cuts=tuple((c, d, a, b) for a, b, c, d in masked.cuts)).moved

    def answers(self, read: Sequence[tuple[str, Moved]]) -> list[Answer]:
        if self.objective == "classify":
            return [self._named(p) for p in self.probabilities([text for text, _ in read])]
        return [{"spans": [self._back(span, moved) for span in self._found(text)]} for text, moved in read]

    def _back(self, span: dict[str, Any], moved: Moved) -> dict[str, Any]:
        start, end = moved(span["start"], span["end"])
        return {"label": span["label"], "score": _short(span["score"]), "start": start, "end": end}

    def probabilities(self, texts: Sequence[str]) -> Array:
        """[N, names]. Texts of about a length are read together; of one that is too long, its beginning and end."""
        out = np.zeros((len(texts), len(self.names)), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for some in _parts(order):
            ids, mask = tokens.encode(self.tokenizer, [texts[i] for i in some], self.max_tokens)
            out[some] = self.run({"ids": ids, "mask": mask})["probabilities"]
        return out

    def spans(self, texts: Sequence[str]) -> list[list[Span]]:
        """Of each text, in order; a text of any length is read to its end."""
        number = {name: i for i, name in enumerate(self.names)}
        return [[(s["start"], s["end"], number[s["label"]]) for s in self._found(text)] for text in texts]

    def _found(self, text: str) -> list[dict[str, Any]]:
        ask: Callable[[Array, Array], Array] = lambda ids, mask: self.run({"ids": ids, "mask": mask})["probabilities"]  # noqa: E731
        return spans.find(ask, self.tokenizer, text, self.max_tokens, self.names)

    def example(self) -> str:
        ids = self._golden()["input.ids"][0].tolist()
        return str(self.tokenizer.decode(ids)).strip() or "text"


_KINDS: dict[str, Any] = {"image": Pictures, "text": Messages}


def disagreement(one: Sequence[Answer], other: Sequence[Answer]) -> float | None:
    """How far answers to the same items differ, 0 … 1; None where they are of another kind.

    Of classes: the share of items that differ. Of boxes: one less the mean overlap (intersection over union) of each
    box of either with its best of the same label. Of spans: the share of the code points in any span that are not in
    one of the same label in both.
    """
    each = [_differs(a, b) for a, b in zip(one, other, strict=True) if a.keys() == b.keys()]
    return float(np.mean(each)) if len(each) == len(one) and each else None


def _differs(a: Answer, b: Answer) -> float:
    if "label" in a:
        return float(a["label"] != b["label"])
    if "boxes" in a:
        best = [
            max((_overlap(box, o) for o in others if o["label"] == box["label"]), default=0.0)
            for boxes, others in ((a["boxes"], b["boxes"]), (b["boxes"], a["boxes"]))
            for box in boxes
        ]
        return 1 - sum(best) / len(best) if best else 0.0
    mine, theirs = ({(i, s["label"]) for s in told["spans"] for i in range(s["start"], s["end"])} for told in (a, b))
    where = {i for i, _ in mine | theirs}
    return len({i for i, _ in mine ^ theirs}) / len(where) if where else 0.0


def _overlap(a: dict[str, float], b: dict[str, float]) -> float:
    across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
    down = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
    both = max(across, 0.0) * max(down, 0.0)
    return both / max(a["width"] * a["height"] + b["width"] * b["height"] - both, 1e-9)


def _parts(of: Any) -> Iterator[Any]:
    return (of[i : i + CHUNK] for i in range(0, len(of), CHUNK))


def _short(value: Any) -> float:
    return round(float(value), DIGITS)


def _off(found: Array, wanted: Array) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - wanted).max(initial=0) / max(float(np.abs(wanted).max(initial=0)), 1e-12))


def _moved(found: dict[str, Array], wanted: dict[str, Array]) -> float:
    """How far golden boxes, but for the unlikeliest, lie from the nearest one of their label: 19 of 20, for a peak
    between neighbours that are equal but for rounding lies on either."""
    far = [0.0]
    for i, j in np.argwhere(wanted["scores"] > 0.01):
        same = found["labels"][i] == wanted["labels"][i, j]
        far.append(float(np.abs(found["boxes"][i, same] - wanted["boxes"][i, j]).max(-1).min(initial=np.inf)))
    return float(np.quantile(far, 0.95, method="lower"))
