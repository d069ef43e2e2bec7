"""A champion's answers, day by day, against what they were like on validation; what requests said, against features.

Both are read off the sums of live scores, see `models.evaluation.live`: nothing of the log is read again.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from pipelines.models import answering

Told = dict[str, Any]
ROLES = ("stable", "batch")
"""In which a champion answers."""
SERVED, LATEST, WORST = "stable", 7, 10
"""What requests said is compared of the latest so many days."""


def by_day(
    days: Mapping[str, Told], champion: str, config: Mapping[str, Any], std: Any, false_discoveries: float
) -> dict[str, Told]:
    """Of each day on which the champion answered: {tested, drifted}. config, std [n]: of its bundle."""
    usual: answering.Usual = (config.get("reference") or {}).get("answers") or {}
    targets = config["channels"][: config["targets"]]
    spread = {k: np.mean([s for s, c in zip(std, targets, strict=False) if c["kind"] == k]) for k in usual}
    out = {}
    for day, told in days.items():
        found: dict[str, dict[str, float]] = {}
        for kind, sums in _groups(told, champion, "kind", ROLES):
            if kind in usual and (count := int(sums["scored"][0])):
                found[kind] = answering.figures(_of(sums, config["names"]), count, float(spread[kind]))
        tested, drifted = answering.drifted(found, usual, false_discoveries)
        if tested:
            out[day] = {"tested": tested, "drifted": drifted}
    return out


def _of(sums: Mapping[str, Any], names: list[str]) -> dict[str, float]:
    if "width" in sums:
        return {"bias": float(sums["bias"][0]), "width": float(sums["width"][0])}
    said = sums["table"].reshape(len(names), -1).sum(0)
    return {f"share {name}": float(n) for name, n in zip(names, said, strict=True)}


def skew(days: Mapping[str, Told], sensors: Callable[[str], Told | None], champion: str) -> Told | None:
    """Whether requests said what features have: of the newest step before the first asked one, channel by channel.

    {requests: channels asked about, compared: that both have, off: the share of these that differ, worst}. Of the last
    days; None where no request was answered. sensors: of a day, what `scoring.score` keeps apart.
    """
    total, each = np.zeros(3), dict[str, Any]()
    for day in sorted(days)[-LATEST:]:
        for step, sums in _groups(days[day], champion, "step", (SERVED,)):
            if step == "1" and "given" in sums:
                total += [sums["rows"][0], sums["given"][0], sums["given.off"][0]]
        for sensor, sums in _groups(sensors(day) or {"releases": {}}, champion, "sensor", (SERVED,)):
            if "given" in sums:
                each[sensor] = each.get(sensor, 0) + np.array([sums["given"][0], sums["given.off"][0]])
    requests, compared, off = total.tolist()
    if not requests:
        return None
    worst = sorted(((n / of, name) for name, (of, n) in each.items() if n), reverse=True)[:WORST]
    return {
        "requests": int(requests),
        "compared": int(compared),
        "off": off / compared if compared else 0.0,
        "worst": [{"sensor": name, "off": round(share, 4)} for share, name in worst],
    }


def _groups(told: Told, champion: str, part: str, roles: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Value and sums by name of each group of a part, in the first of the roles in which there are any."""
    one = told["releases"].get(champion)
    if one is None:
        return
    cuts = np.cumsum([size for _, size in one["layout"]])[:-1]
    for role in roles:
        mine = [(value, sums) for its, in_role, value, sums in one["groups"] if (its, in_role) == (part, role)]
        for value, sums in mine:
            parts = np.split(np.array(sums, float), cuts)
            yield value, {name: x for (name, _), x in zip(one["layout"], parts, strict=True)}
        if mine:
            return
