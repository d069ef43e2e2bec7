"""A candidate, a champion and the plain baselines, asked the same questions of one frozen test.

Bundles may differ in channels and in how far they look back or ahead: what is compared is what both can answer. Torch
is not needed: a bundle answers by its graph.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.errors import UserError
from pipelines.core.params import Task
from pipelines.models import objectives
from pipelines.models.data import Windows
from pipelines.models.evaluation import alarms, forecasts, frozen, points, slices
from pipelines.models.evaluation.frozen import Frozen
from pipelines.models.evaluation.methods import Method, baselines
from pipelines.models.evaluation.points import Points
from pipelines.models.evaluation.slices import FEWEST
from pipelines.models.ridge import Ridge

Array = np.ndarray[Any, Any]
PART = 64
"""Windows answered at a time."""


@dataclass(frozen=True)
class Entrant:
    """A bundle (`release.predictor.Predictor`, by its methods alone) and the joined grid in its own windows.

    The targets of `data` are those of the grid that the bundle answers; `places`: where each stands in its answer.
    """

    predictor: Any
    data: Windows
    places: Array

    @classmethod
    def of(cls, predictor: Any, joined: Path, only: set[tuple[str, str]] | None = None) -> "Entrant":
        """`only`: of the targets, at most those (sensor, kind). There may be none in the end, see `targets`."""
        data = Windows.of_task(joined, predictor.spec, predictor.reconstruct)
        answered = predictor.channels[: predictor.targets] if data.series.step_s == predictor.spec.step_s else []
        at = {(c["sensor"], c["kind"]): i for i, c in enumerate(answered)}
        names = _names(data)[: data.targets]
        kept = [i for i, name in enumerate(names) if name in at and (only is None or name in only)]
        return cls(predictor, _cut(data, kept), np.array([at[names[i]] for i in kept], int))

    @cached_property
    def objective(self) -> Any:
        config = self.predictor.config
        return objectives.load(config.get("head") or config["objective"])

    @property
    def targets(self) -> list[tuple[str, str]]:
        """(sensor, kind) of each target."""
        return _names(self.data)[: self.data.targets]

    @property
    def aux(self) -> dict[str, Any]:
        """What the objective needs to know of the targets."""
        return {**self.predictor.config["aux"], "reference": self.predictor.tables["reference"][self.places]}

    @property
    def decision(self) -> Any:
        return self.predictor.tables.get("decision", 1)

    def given(self, rows: Array) -> Array:
        """Readings [B, steps, N] of all channels the bundle reads; NaN for one that the grid has not."""
        column = self._columns
        there = np.argsort(column, kind="stable")[(column < 0).sum() :]
        out = np.full((len(rows), self.predictor.steps, len(column)), np.nan, np.float32)
        index = rows[:, None] + np.arange(self.predictor.steps)
        out[..., there] = self.data.series.gather(index, column[there])
        return out

    @cached_property
    def _columns(self) -> Array:
        """The grid's column of each channel the bundle reads, -1 for none."""
        table = self.data.series.channels
        names = zip(table["sensor"].to_pylist(), table["kind"].to_pylist(), strict=True)
        column = {name: i for i, name in enumerate(names)}
        return np.array([column.get((c["sensor"], c["kind"]), -1) for c in self.predictor.channels], int)

    def answer(self, rows: Array) -> Array:
        """Answers [B, H, targets, names] to its windows that begin at `rows`."""
        parts = [rows[i : i + PART] for i in range(0, len(rows), PART)]
        told = [self.predictor.predict(self.given(p), self.data.starts(p))[:, :, self.places] for p in parts]
        return np.concatenate(told)


def _names(data: Windows) -> list[tuple[str, str]]:
    return list(zip(data.channel("sensor"), data.channel("kind"), strict=True))


def _cut(data: Windows, kept: list[int]) -> Windows:
    """The same windows with some of their targets."""
    columns = (*(data.columns[i] for i in kept), *data.columns[data.targets :])
    labels = tuple(data.labels[i] for i in kept) if data.labels else ()
    return replace(data, columns=columns, targets=len(kept), labels=labels)


@dataclass(frozen=True)
class Field:
    """The P points at which some methods are compared: `model`, the candidate, and others."""

    of: dict[str, Points]
    block: Array
    slices: list[slices.Slice]
    scores: dict[str, dict[str, float]]
    """All metrics by method, exactly: the sums of `of` may tell fewer scores apart than there are."""
    primary: str
    fewest: int = FEWEST
    """Points that a slice must have."""

    def versus(self, name: str, draws: int) -> dict[str, float]:
        """The candidate's metric (`model`), the other's (`other`), their difference and its 95 % interval."""
        found = points.compare(self.of["model"], self.of[name], self.block, draws)
        model, other = (self.scores[method][self.primary] for method in ("model", name))
        return {**found, "model": model, "other": other, "difference": model - other}

    def sliced(self, name: str, draws: int) -> dict[str, dict[str, float]]:
        """`versus` by slice, called group/name, for those with points enough."""
        names = ("model", "other")
        told, _ = slices.report(
            self.slices, self.of["model"], self.of[name], self.block, draws, names, fewest=self.fewest
        )
        return {f"{group}/{name}": found for group, each in told.items() for name, found in each.items()}


@dataclass(frozen=True)
class Contest:
    """What a test told. `among`: candidate and baselines; `duel`: candidate and champion, where they can be compared.

    Both are None where alarms have no label to be right or wrong by; then `alone` tells what there is of the candidate.
    `apart`: why there is no duel, if there is a champion.
    """

    primary: str
    higher: bool
    test: dict[str, Any]
    among: Field | None
    duel: Field | None = None
    apart: str = ""
    alone: dict[str, float] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """All metrics by method, of candidate and baselines."""
        return self.among.scores if self.among else {"model": self.alone}


def hold(task: Task, candidate: Entrant, champion: Entrant | None, apart: str, ridge: Ridge) -> Contest:
    """Ask everyone. `champion` answers for some of the candidate's targets, or is None, `apart` says why.

    Raises UserError when no target was read in the test period, or `gate.versus` names a baseline there is none of.
    """
    if champion is not None and not apart:
        apart = _strangers(candidate, champion)
    judge = _alarms if "alarm" in candidate.objective.CALIBRATION else _forecasts
    return judge(task, candidate, None if apart else champion, apart, ridge)


def duel(task: Task, candidate: Entrant, champion: Entrant) -> Field | None:
    """The two alone, without baselines; None where they, or the test, do not allow it."""
    if _strangers(candidate, champion):
        return None
    data, aux = candidate.data, candidate.aux
    if "alarm" in candidate.objective.CALIBRATION:
        heard = alarms.hear(data, {"model": Method(candidate.answer, aux)}, *_settings(candidate))
        told = heard.label is not None and bool((heard.label[heard.seen] > 0.5).any())
        return _heard_both(candidate, champion, heard) if told else None
    test = Frozen.of(data, candidate.objective, aux, _stride(task, data), task.evaluate.points)
    return _shared(test, candidate, champion, candidate.answer(test.rows))


def _stride(task: Task, data: Windows) -> int:
    asked = task.evaluate.stride
    return max(1, int(asked.total_seconds() // data.spec.step_s) if asked else data.spec.horizon)


def _strangers(candidate: Entrant, champion: Entrant) -> str:
    """Why the two cannot be compared, if they cannot."""
    ours, theirs = (e.predictor.config for e in (candidate, champion))
    if ours["objective"] != theirs["objective"]:
        return f"it answers another question ({theirs['objective']}, not {ours['objective']})"
    if ours["aux"] != theirs["aux"]:
        told = [f"{aux.get('names')} at {aux.get('edges')}" for aux in (theirs["aux"], ours["aux"])]
        return f"it tells other classes apart: {told[0]}, not {told[1]}"
    return "" if champion.targets else "the two have no target in common in today's data"


def _rivals(task: Task, candidate: Entrant, aux: dict[str, Any], ridge: Ridge) -> dict[str, Method]:
    every = baselines(candidate.data, candidate.objective, aux, ridge, trees=False)
    for name in task.gate.versus:
        if name not in every:
            raise UserError(f"gate.versus: {task.objective} has no baseline {name!r}; it has {', '.join(every)}")
    return {name: every[name] for name in task.gate.versus or every}


def _forecasts(task: Task, candidate: Entrant, champion: Entrant | None, apart: str, ridge: Ridge) -> Contest:
    data, objective, aux = candidate.data, candidate.objective, candidate.aux
    test = Frozen.of(data, objective, aux, _stride(task, data), task.evaluate.points)
    methods = {"model": _method(candidate), **_rivals(task, candidate, aux, ridge)}
    given = {name: method.answer(test.rows) for name, method in methods.items()}
    duel = None
    if champion is not None:
        duel = _shared(test, candidate, champion, given["model"])
        apart = "" if duel else "no target that both answer was read in the test period"
    among = _field(test, objective, methods, given)
    return Contest(objective.PRIMARY, objective.HIGHER_IS_BETTER, test.period(), among, duel, apart)


def _method(entrant: Entrant) -> Method:
    return Method(entrant.answer, {**entrant.aux, "decision": entrant.decision})


def _shared(test: Frozen, candidate: Entrant, champion: Entrant, given: Array) -> Field | None:
    """The two where both answer, None: nowhere. given: what the candidate answers."""
    theirs = _answer_to(test, candidate, champion)
    shared = replace(test, truth=np.where(np.isfinite(theirs[..., 0]), test.truth, np.nan))
    if not np.isfinite(shared.truth).any():
        return None
    other = Method(champion.answer, {**candidate.aux, "decision": champion.decision})
    two = {"model": _method(candidate), "champion": other}
    return _field(shared, candidate.objective, two, {"model": given, "champion": theirs})


def _answer_to(test: Frozen, candidate: Entrant, champion: Entrant) -> Array:
    """The champion's answers to the candidate's questions [B, H, n, names], NaN where it has none."""
    rows = test.rows + candidate.data.known - champion.data.known  # issued at the same moments
    told = champion.answer(rows)
    steps = min(told.shape[1], test.truth.shape[1])
    out = np.full((*test.truth.shape, told.shape[-1]), np.nan, np.float32)
    where = [candidate.targets.index(name) for name in champion.targets]
    out[:, :steps, where] = told[:, :steps]
    return out


def _field(test: Frozen, objective: Any, methods: dict[str, Method], given: dict[str, Array]) -> Field:
    of = {name: points.of_answer(objective, a, test.truth, methods[name].aux) for name, a in given.items()}
    scores = {name: objective.score(a, test.truth, methods[name].aux) for name, a in given.items()}
    parts = forecasts.of_test(test, of["model"], objective.HIGHER_IS_BETTER)
    return Field(of, test.block, parts, scores, objective.PRIMARY)


def _alarms(task: Task, candidate: Entrant, champion: Entrant | None, apart: str, ridge: Ridge) -> Contest:
    data, objective, aux = candidate.data, candidate.objective, candidate.aux
    noise, alarm = _settings(candidate)
    heard = alarms.hear(data, {"model": Method(candidate.answer, aux)}, noise, alarm)
    test = {**frozen.period(data), "points": int(heard.seen.sum())}
    if heard.label is None or not (heard.label[heard.seen] > 0.5).any():
        rate = float((heard.scores["model"][heard.seen] > heard.threshold["model"]).mean())
        return Contest("alarm_rate", False, test, None, None, apart, {"alarm_rate": rate})
    others = alarms.hear(data, _rivals(task, candidate, aux, ridge), noise, alarm)
    heard = alarms.Heard(heard.scores | others.scores, heard.threshold | others.threshold, heard.label)
    duel = _heard_both(candidate, champion, heard) if champion is not None else None
    among = _heard_field(data, objective, heard)
    test |= {"points": len(among.block), "blocks": len(np.unique(among.block))}
    return Contest(objective.PRIMARY, True, test, among, duel, apart)


def _heard_both(candidate: Entrant, champion: Entrant, heard: alarms.Heard) -> Field:
    own = alarms.hear(champion.data, {"model": Method(champion.answer, candidate.aux)}, *_settings(champion))
    theirs = np.full(heard.scores["model"].shape, np.nan)
    theirs[:, [candidate.targets.index(name) for name in champion.targets]] = own.scores["model"]
    both = alarms.Heard(
        {"model": heard.scores["model"], "champion": theirs},
        {"model": heard.threshold["model"], "champion": own.threshold["model"]},
        heard.label,
    )
    return _heard_field(candidate.data, candidate.objective, both)


def _settings(entrant: Entrant) -> tuple[Array, dict[str, float]]:
    return entrant.predictor.tables["misfit"][entrant.places], entrant.predictor.config["alarm"]


def _heard_field(data: Windows, objective: Any, heard: alarms.Heard) -> Field:
    seen, label = heard.seen, heard.label
    assert label is not None
    scores = {
        name: {
            "alarm_rate": float((score[seen] > heard.threshold[name]).mean()),
            **objective.score(score[seen], label[seen], heard.threshold[name]),
        }
        for name, score in heard.scores.items()
    }
    read = alarms.Readings(data, seen)
    of = {name: points.of_scores(score[seen], label[seen]) for name, score in heard.scores.items()}
    return Field(of, read.block, read.slices(of["model"]), scores, objective.PRIMARY)
