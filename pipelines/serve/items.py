"""Pictures or messages that a model is to answer, and what comes of them: siblings of `answer.Windows` and `Answer`."""

import hashlib
import json
import math
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipelines.core.errors import UserError
from pipelines.core.pictures import BOUNDS
from pipelines.release.items import Answer, Items, Pictures, disagreement
from pipelines.release.predictions import Seen
from pipelines.serve.answer import Rows
from pipelines.serve.model import Loaded
from pipelines.serve.replies import Refusal

Item = bytes | str
"""A picture's file, or a text."""
RUN_S = 0.03
"""Waiting requests are answered in one go while that takes about so long: what gains by it is small models alone."""
NOUN = {"image": "picture", "text": "text"}


class ItemModel(Loaded):
    """Of pictures or messages. seconds: what one takes it."""

    def __init__(self, task: str, predictor: Items, version: str | None = None, seconds: float = 1.0) -> None:
        super().__init__(task, predictor, version)
        self.predictor = predictor
        self.share = seconds / RUN_S


class Found(NamedTuple):
    """The answer to `items`, one each. issued: unix seconds."""

    task: str
    digest: str
    version: str | None
    request_id: str
    issued: float
    items: tuple[Item, ...]
    names: tuple[str, ...]
    answers: list[Answer]

    @property
    def nbytes(self) -> int:
        return sum(len(item) for item in self.items) + 500 * len(self.answers)

    def again(self, _: Loaded, other: Loaded) -> "Sent":
        return Sent.of(other, self.items)

    def differs(self, stable: Any) -> float | None:
        return disagreement(stable.answers, self.answers) if isinstance(stable, Found) else None


@dataclass(frozen=True, slots=True)
class Sent:
    """What `pool.Work` asks for. Pictures are decoded on the pool's threads, each request's for itself."""

    model: ItemModel
    items: tuple[Item, ...]
    full: int = 0

    @classmethod
    def of(cls, model: Loaded, items: tuple[Item, ...], full: int = 0) -> "Sent":
        """full: cells of a run that is long enough. Raises Refusal where the model reads something else."""
        if not isinstance(model, ItemModel):
            raise Refusal(422, f"release {model.digest[:12]} answers {model.modality}")
        return cls(model, items, full)

    @property
    def key(self) -> Hashable:
        return id(self.model)

    @property
    def cells(self) -> int:
        return max(1, math.ceil(len(self.items) * self.model.share * self.full))

    @classmethod
    def run(cls, batch: Sequence["Sent"]) -> list[Any]:
        """Answers, or the Refusal of a request that holds an item that cannot be used."""
        predictor = batch[0].model.predictor
        read = [_read(predictor, work.items) for work in batch]
        good = [item for one in read if not isinstance(one, Refusal) for item in one]
        answers = iter(predictor.answers(good) if good else ())
        return [one if isinstance(one, Refusal) else [next(answers) for _ in one] for one in read]

    def told(self, raw: list[Answer], request_id: str) -> tuple[Found, Rows]:
        model = self.model
        names = model.predictor.names
        found = Found(model.task, model.digest, model.version, request_id, time.time(), self.items, names, raw)

        def rows(role: str) -> Iterator[Seen]:
            """Of a picture or a text its hash alone is kept: it may show or name people."""
            issued = np.datetime64(int(found.issued * 1e6), "us")
            kept = [(_sha256(item), json.dumps(said)) for item, said in zip(self.items, raw, strict=True)]
            yield Seen(model.task, model.digest, role, request_id, issued, tuple(kept))

        return found, rows


def _read(predictor: Items, items: tuple[Item, ...]) -> list[Any] | Refusal:
    out: list[Any] = []
    pixels = 0
    for i, item in enumerate(items):
        if pixels > BOUNDS.pixels:  # small files can hold many
            return Refusal(413, f"the first {i} pictures have {pixels:,} pixels together: send parts")
        try:
            out.append(predictor.read(item))
            pixels += out[-1][1].width * out[-1][1].height if isinstance(predictor, Pictures) else 0
        except UserError as error:
            noun = NOUN[predictor.modality]
            return Refusal(422, f"{noun} {i}: {error}" if len(items) > 1 else f"{noun}: {error}")
    return out


def _sha256(item: Item) -> str:
    return hashlib.sha256(item if isinstance(item, bytes) else item.encode("utf-8", "surrogatepass")).hexdigest()
