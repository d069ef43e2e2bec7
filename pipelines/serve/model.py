"""A release, loaded: it takes windows of any of its channels, in any order, and knows what it has answered."""

import bisect
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.core import windows
from pipelines.core.answers import MORE, more
from pipelines.release.predictor import Predictor
from pipelines.serve.replies import Refusal

Array = np.ndarray[Any, Any]
EDGES_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
NAMED = 5
"""At most so many sensors are named in a refusal."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Windows of readings, asked of no model in particular.

    values: float32 [B, T, n], NaN = missing; its last `ahead` steps lie in the future. last: when the last step before
    those begins, unix seconds, int64 [B]. sensors, kinds: of each column; None: all that the model reads, in its order;
    kinds None: the target's only one.
    """

    values: Array
    last: Array
    sensors: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    ahead: int = 0


@dataclass
class Counts:
    """What a release has done since it was loaded. `latency`: of the model alone, without waiting for a thread."""

    requests: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(EDGES_MS) + 1))
    compared: int = 0
    disagreement: float = 0.0

    def answered(self, seconds: float) -> None:
        self.requests += 1
        self.latency[bisect.bisect_left(EDGES_MS, 1000 * seconds)] += 1

    def failed(self) -> None:
        self.requests += 1
        self.errors += 1

    def told(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "errors": self.errors,
            "latency_ms": {"edges": list(EDGES_MS), "counts": list(self.latency)},
            "compared": self.compared,
            "disagreement": self.disagreement,
        }


@dataclass(frozen=True)
class Part:
    """A model for some channels, in the order that somebody named them.

    order: which of those named is each channel of the predictor; back: which of the predictor's targets is each target
    named; None: the orders are the same. asked: which of those named are targets; channels: these. unknown: sensors the
    model never saw.
    """

    predictor: Predictor
    order: Array | None
    back: Array | None
    asked: Array
    channels: list[dict[str, Any]]
    unknown: tuple[str, ...] = ()


class Loaded:
    """A release of any modality; its predictor may be asked from any thread."""

    def __init__(self, task: str, predictor: Any, version: str | None = None) -> None:
        self.task, self.version = task, version
        self.config: dict[str, Any] = predictor.config
        self.digest: str = predictor.digest
        self.counts = Counts()
        self.since = time.monotonic()

    @property
    def modality(self) -> str:
        return str(self.config.get("modality", "series"))


class Model(Loaded):
    """Of a series. Its parts are made on one thread, the event loop's."""

    def __init__(self, task: str, predictor: Predictor, version: str | None = None) -> None:
        super().__init__(task, predictor, version)
        self.predictor, self.spec = predictor, predictor.spec
        self.channels = predictor.channels
        self.known = windows.known_steps(self.spec, predictor.reconstruct)
        self.asked = (np.arange(self.spec.horizon) + self.known) * self.spec.step_s
        """Seconds from a window's start to each asked step."""
        self.number = {(c["sensor"], c["kind"]): i for i, c in enumerate(self.channels)}
        self.kinds = tuple(dict.fromkeys(c["kind"] for c in self.channels))
        self.target_kinds = tuple(dict.fromkeys(c["kind"] for c in self.channels[: predictor.targets]))
        self.units = {c["kind"]: c["unit"] for c in self.channels[: predictor.targets]}
        self.whole = Part(predictor, None, None, np.arange(predictor.targets), self.channels[: predictor.targets])
        self._parts: OrderedDict[Any, Part] = OrderedDict()
        self._held = 0
        self._narrow: weakref.WeakValueDictionary[tuple[int, ...], Predictor] = weakref.WeakValueDictionary()

    @classmethod
    def load(cls, task: str, predictor: Predictor, version: str | None = None) -> "Model":
        """Run it once, so that the first request finds it warm."""
        nothing = np.full((1, predictor.spec.context, len(predictor.channels)), np.nan, np.float32)
        predictor.predict(nothing, np.array(["2025-01-06"], "datetime64[s]"))
        return cls(task, predictor, version)

    def part(self, sensors: tuple[str, ...] | None, kinds: tuple[str, ...] | None) -> Part:
        """The model for the channels named. Raises Refusal 422 for what it cannot answer."""
        if sensors is None:
            return self.whole
        key = (sensors, kinds)
        found = self._parts.get(key)
        if found is None:
            found = self._make(sensors, kinds or self._only_kind(len(sensors)))
            self._remember(key, found)
        else:
            self._parts.move_to_end(key)
        return found

    def windows(self, ask: Ask, part: Part) -> tuple[Array, Array]:
        """What `part` reads of `ask`: values [B, steps, n], and starts in unix seconds. What is older is left out."""
        values, spec = ask.values, self.spec
        past = values.shape[1] - ask.ahead
        if part.order is not None:
            values = values[:, :, part.order]
        if past > spec.context:
            values, past = values[:, past - spec.context :], spec.context
        steps = part.predictor.steps if ask.ahead else spec.context
        if values.shape[1] != steps:
            padded = np.full((len(values), steps, values.shape[2]), np.nan, np.float32)
            padded[:, spec.context - past : spec.context + ask.ahead] = values[:, : past + steps - spec.context]
            values = padded
        return values, ask.last - (spec.context - 1) * spec.step_s

    def more(self, part: Part, values: Array, answer: Array) -> dict[str, Array]:
        """The objective's further columns, [B, H, n] each, of answers [B, H, n, names] to windows."""
        own = part.predictor
        if not MORE[own.config["objective"]]:
            return {}
        given = values[:, self.known : self.known + answer.shape[1], : answer.shape[2]]
        if given.shape[1] < answer.shape[1]:  # what is asked lies in the future
            given = np.broadcast_to(np.float32(np.nan), answer.shape[:3])
        each = [more(own.config, own.tables, a, g) for a, g in zip(answer, given, strict=True)]
        return {name: np.stack([one[name] for one in each]) for name in each[0]}

    def _only_kind(self, n: int) -> tuple[str, ...]:
        if len(self.target_kinds) > 1:
            raise Refusal(422, f"name the kind of each sensor: this task answers {', '.join(self.target_kinds)}")
        return self.target_kinds * n

    def _make(self, sensors: tuple[str, ...], kinds: tuple[str, ...]) -> Part:
        named = list(zip(sensors, kinds, strict=True))
        if len(set(named)) < len(named):
            twice = next(c for i, c in enumerate(named) if c in named[:i])
            raise Refusal(422, f"sensor {twice[0]!r} ({twice[1]}) is named twice")
        if strange := [k for k in dict.fromkeys(kinds) if k not in self.kinds]:
            raise Refusal(422, f"this task reads no {strange[0]!r}; its kinds are {', '.join(self.kinds)}")
        predictor, number = self.predictor, self.number
        unknown = [c for c in named if c not in number]
        if unknown:
            predictor = predictor.joined_by(unknown)
            number = {(c["sensor"], c["kind"]): i for i, c in enumerate(predictor.channels)}
        columns = np.array([number[c] for c in named])
        order = np.argsort(columns)
        chosen = tuple(int(c) for c in columns[order])
        if chosen[0] >= predictor.targets:
            raise Refusal(422, f"no sensor named is answered; give readings of {', '.join(self.target_kinds)}")
        same = bool((order == np.arange(len(order))).all())
        answered = [i for i, c in enumerate(columns) if c < predictor.targets]
        rank = {int(i): r for r, i in enumerate(order)}
        return Part(
            predictor.only(chosen) if unknown else self._only(chosen),
            None if same else order,
            None if same else np.array([rank[i] for i in answered]),
            np.array(answered),
            [predictor.channels[columns[i]] for i in answered],
            tuple(dict.fromkeys(sensor for sensor, _ in unknown)),
        )

    def _only(self, columns: tuple[int, ...]) -> Predictor:
        if len(columns) == len(self.channels):
            return self.predictor
        found = self._narrow.get(columns)
        if found is None:
            found = self._narrow[columns] = self.predictor.only(columns)
        return found

    def _remember(self, key: Any, part: Part) -> None:
        """Parts hold tables of their channels: those asked last stay, of about as many channels as the model has."""
        self._parts[key] = part
        self._held += len(part.predictor.channels)
        while self._held > len(self.channels) + 512 and len(self._parts) > 1:
            _, old = self._parts.popitem(last=False)
            self._held -= len(old.predictor.channels)


def some(names: Sequence[str]) -> str:
    """A few of `names`, for a message."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(repr(n) for n in names[:NAMED]) + more
