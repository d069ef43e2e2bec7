"""Windows that a model of series is to answer, their answer, and how far two of them differ."""

import itertools
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from pipelines.release.predictions import Answered
from pipelines.serve.model import Ask, Loaded, Model, Part
from pipelines.serve.replies import Refusal

Array = np.ndarray[Any, Any]
Rows = Callable[[str], Iterator[Any]]
"""Of a role (stable, canary, shadow): what the prediction log keeps of an answer."""


class Answer(NamedTuple):
    """The answer to `ask`, its channels in the order they were named.

    array: float32 [B, H, n, names]. more: the objective's further columns, [B, H, n] each. times: when each asked step
    begins, unix seconds [B, H]. issued: unix seconds. channels: those answered. unknown: sensors the model never saw.
    """

    task: str
    digest: str
    version: str | None
    request_id: str
    issued: float
    ask: Ask
    channels: list[dict[str, Any]]
    unknown: tuple[str, ...]
    names: tuple[str, ...]
    times: Array
    array: Array
    more: dict[str, Array]

    @property
    def nbytes(self) -> int:
        return int(self.ask.values.nbytes + self.array.nbytes + sum(column.nbytes for column in self.more.values()))

    def again(self, asked: Loaded, other: Loaded) -> "Windows":
        """The same question, for another model than the one it was `asked` of. Raises Refusal."""
        ask = self.ask
        if ask.sensors is None and isinstance(asked, Model):
            sensors, kinds = (tuple(c[name] for c in asked.channels) for name in ("sensor", "kind"))
            ask = replace(ask, sensors=sensors, kinds=kinds)
        return Windows.of(other, lambda _: ask)

    def differs(self, stable: Any) -> float | None:
        """How far it lies from the stable release's answer."""
        return disagreement(stable, self) if isinstance(stable, Answer) else None


@dataclass(frozen=True, slots=True)
class Windows:
    """What `pool.Work` asks for, of readings: values [B, T, n], and starts in unix seconds [B]."""

    model: Model
    ask: Ask
    part: Part
    values: Array
    starts: Array

    @classmethod
    def of(cls, model: Loaded, ask_of: Callable[[Model], Ask], readings: int | None = None) -> "Windows":
        """`ask_of`: rows lie on the grid of the model that answers them. Raises Refusal for what it cannot answer, and
        for more than so many `readings`."""
        if not isinstance(model, Model):
            raise Refusal(422, f"release {model.digest[:12]} answers no series, but {model.modality}")
        ask = ask_of(model)
        part = model.part(ask.sensors, ask.kinds)
        values, starts = model.windows(ask, part)
        if readings is not None and values.size > readings:
            raise Refusal(422, f"{values.size:,} readings; at most {readings:,} a request: send parts")
        return cls(model, ask, part, values, starts)

    @property
    def key(self) -> Hashable:
        return id(self.part.predictor), self.values.shape[1]

    @property
    def cells(self) -> int:
        return len(self.values) * self.values.shape[2]

    @classmethod
    def run(cls, batch: Sequence["Windows"]) -> list[Array]:
        predictor = batch[0].part.predictor
        if len(batch) == 1:
            return [predictor.predict(batch[0].values, batch[0].starts)]
        values, starts = (np.concatenate([getattr(work, name) for work in batch]) for name in ("values", "starts"))
        answer = predictor.predict(values, starts)
        ends = list(itertools.accumulate(len(work.values) for work in batch))
        return [answer[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def told(self, raw: Array, request_id: str) -> tuple[Answer, Rows]:
        """The answer, its channels in the order that was asked; its rows are in the predictor's."""
        model, part = self.model, self.part
        more = model.more(part, self.values, raw)
        array, said = raw, more
        if part.back is not None:
            array, said = raw[:, :, part.back], {name: column[:, :, part.back] for name, column in more.items()}
        answer = Answer(
            model.task, model.digest, model.version, request_id, time.time(), self.ask, part.channels, part.unknown,
            part.predictor.names, self.starts[:, None] + model.asked, array, said,
        )  # fmt: skip

        def rows(role: str) -> Iterator[Answered]:
            issued = np.datetime64(int(answer.issued * 1e6), "us")
            newest = None if part.predictor.reconstruct else part.predictor.spec.context - 1
            for b, first in enumerate(answer.times[:, 0].astype("datetime64[s]")):
                rest = {name: column[b] for name, column in more.items()}
                given = None if newest is None else self.values[b, newest, : raw.shape[2]]
                yield Answered(model.task, part.predictor, role, request_id, issued, first, raw[b], rest, given)

        return answer, rows


def disagreement(stable: Answer, other: Answer) -> float | None:
    """How far two answers to one question differ; None where they cannot be compared.

    Of quantiles: the mean distance of the medians ÷ the stable's mean 80 % interval width. Of classes and alarms: the
    share of steps and channels where they differ.
    """
    for name in ("class", "alarm"):
        if name in stable.more and name in other.more:
            return _share(stable.more[name], other.more[name])
    if "q0.5" not in stable.names or "q0.5" not in other.names:
        return None
    mine, theirs = (a.array[..., a.names.index("q0.5")] for a in (stable, other))
    if mine.shape[::2] != theirs.shape[::2]:
        return None
    steps = min(mine.shape[1], theirs.shape[1])
    low, high = (stable.array[..., stable.names.index(q)] for q in ("q0.1", "q0.9"))
    width = float(np.mean(high - low))
    return float(np.mean(np.abs(mine[:, :steps] - theirs[:, :steps]))) / max(width, 1e-9)


def _share(mine: Array, theirs: Array) -> float | None:
    if mine.shape[::2] != theirs.shape[::2]:
        return None
    steps = min(mine.shape[1], theirs.shape[1])
    return float(np.mean(mine[:, :steps] != theirs[:, :steps]))
