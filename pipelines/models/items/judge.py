"""The report on a task of pictures or messages, and the contest that its gate judges by."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.core import calendar
from pipelines.core.errors import UserError
from pipelines.core.params import Task
from pipelines.models.evaluation import slices
from pipelines.models.evaluation.contest import Contest, Field
from pipelines.models.evaluation.forecasts import best, interval
from pipelines.models.items import damage
from pipelines.models.items.held import Items

Array = np.ndarray[Any, Any]
FEWEST = 20
"""Items a slice must have."""
MOST = 40
"""Cameras or languages told one by one; beyond them the largest."""


@dataclass(frozen=True)
class Judged:
    """A report, and what the plots draw: the test's items, what is true of them, and what each method said."""

    report: dict[str, Any]
    items: Items
    truth: Any
    given: dict[str, Any]


def asked(objective: Any, items: Items, *splits: str) -> Items:
    """The annotated items of these splits. Raises UserError where there is none."""
    found = objective.asked(items.part(*splits))
    if not len(found):
        raise UserError(
            f"no annotated item of {items.about.get('source')} lies in {' or '.join(splits)}; annotate some, or move "
            "the dates"
        )
    return found


def judge(objective: Any, test: Items, asks: dict[str, Any], timezone: str, draws: int) -> Judged:
    """Score the answers of each method, `model` among them, once."""
    truth, given = objective.truth(test), {name: ask(test.inputs, test) for name, ask in asks.items()}
    field = held_between(objective, test, truth, given, timezone)
    rivals = [name for name in given if name != "model"]
    versus = {name: _versus(field, name, draws) for name in rivals}
    rival = best({name: field.scores[name][objective.PRIMARY] for name in rivals}, True)
    told, out = slices.report(
        field.slices, field.of["model"], field.of[rival], field.block, draws, ("model", rival), fewest=FEWEST
    )
    report = {
        "primary": objective.PRIMARY,
        "higher_is_better": True,
        "test": {**test.period(), "blocks": len(np.unique(field.block))},
        **field.scores,
        **interval(versus, rival),
        "slices": told,
        "slices_left_out": out,
        "labels": {name: objective.by_class(given[name], truth, test.names) for name in ("model", rival)},
        "robustness": damage.robustness(objective, {name: asks[name] for name in beside(objective, asks)}, test),
    }
    return Judged(report, test, truth, given)


def baselines(objective: Any, joined: Items) -> dict[str, Any]:
    """Every baseline as an `Ask`, fitted on training and validation items."""
    found: dict[str, Any] = objective.baselines(asked(objective, joined, "train", "validation"))
    return found


def rivals(objective: Any, joined: Items, task: Task) -> dict[str, Any]:
    """The baselines that the task's gate names, or all. Raises UserError where it names one there is none of."""
    every = baselines(objective, joined)
    for name in task.gate.versus:
        if name not in every:
            raise UserError(f"gate.versus: {task.objective} has no baseline {name!r}; it has {', '.join(every)}")
    return {name: every[name] for name in task.gate.versus or every}


def told(objective: Any, joined: Items) -> dict[str, dict[str, Any]]:
    """What there is of each split: annotated items, groups of near-duplicates, and how often each label occurs."""
    found = {}
    for split in ("train", "validation", "test"):
        part = objective.asked(joined.part(split))
        if len(part):
            labels = {name: int(n) for name, n in zip(part.names, objective.counts(part), strict=True)}
            found[split] = {"items": len(part), "groups": len(np.unique(part.group)), "labels": labels}
    return found


def beside(objective: Any, asks: dict[str, Any]) -> list[str]:
    """The model, and the baseline that damaged items are shown to as well."""
    return [name for name in ("model", objective.BESIDE) if name in asks]


def _versus(field: Field, name: str, draws: int) -> dict[str, float]:
    found = field.versus(name, draws)
    return {k: v for k, v in found.items() if k not in ("model", "other")}


def held_between(objective: Any, test: Items, truth: Any, given: dict[str, Any], timezone: str) -> Field:
    """What is compared: points, groups, slices and scores of the methods."""
    of = {name: objective.points(answer, truth, test.names) for name, answer in given.items()}
    scores = {name: objective.score(answer, truth, test.names) for name, answer in given.items()}
    return Field(of, test.group, list(every(test, truth, timezone)), scores, objective.PRIMARY, FEWEST)


def hold(objective: Any, test: Items, asks: dict[str, Any], champion: Any, apart: str, timezone: str) -> Contest:
    """Ask everyone, and the champion beside, where it can be compared with (`apart` says why not)."""
    truth, given = objective.truth(test), {name: ask(test.inputs, test) for name, ask in asks.items()}
    among = held_between(objective, test, truth, given, timezone)
    duel = None
    if champion is not None and not apart:
        two = {"model": given["model"], "champion": champion(test.inputs, test)}
        duel = held_between(objective, test, truth, two, timezone)
    return Contest(objective.PRIMARY, True, test.period(), among, duel, apart)


def every(test: Items, truth: Any, timezone: str) -> list[slices.Slice]:
    """Cameras or languages, day and night, short and long messages, few and many things, rare labels."""
    found: list[slices.Slice] = []
    for column in ("camera", "language"):
        if column in test.columns:
            found += _largest(column, test.column(column))
    found += _hours(test, timezone)
    if test.modality == "text":
        found += _thirds("length", np.array([len(text) for text in test.inputs]), ("short", "middle", "long"))
    if isinstance(truth, np.ndarray):
        share = np.bincount(truth, minlength=len(test.names)) / len(truth)
        rare = share[truth] < 0.5 / len(test.names)
        found += [("label_share", "rare", rare)] if rare.any() else []
    else:
        size = np.array([len(getattr(t, "labels", t)) for t in truth])
        found += _thirds("found", size, ("few", "some", "many"))
    return found


def _largest(group: str, values: list[Any]) -> list[slices.Slice]:
    of = np.array([str(v or "") for v in values])
    names, size = np.unique(of[of != ""], return_counts=True)
    if len(names) < 2:
        return []
    return [(group, str(name), of == name) for name in sorted(names[np.argsort(-size, kind="stable")][:MOST])]


def _hours(test: Items, timezone: str) -> list[slices.Slice]:
    if test.period()["from"] == "undated":
        return []
    dated = ~np.isnat(test.times)
    hour = np.full(len(test), -1)
    hour[dated] = calendar.local_seconds(test.times[dated], timezone) // 3600 % 24
    night = (hour >= 20) | ((hour >= 0) & (hour < 6))
    found = [("regime", "night", night), ("regime", "day", dated & ~night)]
    return [one for one in found if one[2].any()]


def _thirds(group: str, size: Array, names: tuple[str, str, str]) -> list[slices.Slice]:
    low, high = np.quantile(size, [1 / 3, 2 / 3])
    inside = (size <= low, (size > low) & (size <= high), size > high)
    return [(group, name, part) for name, part in zip(names, inside, strict=True) if part.any()]
