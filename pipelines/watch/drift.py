"""Does the city still read as it did when the champion learnt it? Day by day, by the reference in its bundle.

    monitor/<task>/drift/date=2025-04-10.json   in the store: what was found of a UTC day, and what the next one needs

Each channel's day is tested by each of `models.reference.STATISTICS`, false discoveries are bounded over all of them
(Benjamini and Hochberg, 1995), and what is significant but small is left out. What all of a kind do together is tested
against the days before. A channel that has drifted is broken, or the city has changed around it: `watch.faults`. The
city has changed when enough channels are different on so many days running.

A day is made again when its readings, the champion, or what the day before left to it have changed.
"""

import datetime as dt
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.core.watching import Monitor
from pipelines.models import referred, spreads
from pipelines.models.reference import STATISTICS, Reference
from pipelines.release.objects import Unreachable
from pipelines.release.store import Store
from pipelines.watch import faults
from pipelines.watch.inputs import Inputs
from pipelines.watch.kept import Kept

Array = np.ndarray[Any, Any]
Told = dict[str, Any]
FORM = 1
FOLDER = "drift"
EFFECT = dict(zip(STATISTICS, (0.5, 0.4, 0.4, 1.0, 0.8), strict=True))
"""So far a day must lie from the centre to matter: a level of half a spread, spreads and roughness by half again."""
TOGETHER = 1.0
"""What is common must have changed by so many spreads, and may not by pure chance of its few days: at most FREE of them
count as degrees of freedom."""
FREE = 5
WORST = 10


@dataclass(frozen=True)
class Watched:
    """A champion's reference, and its inputs."""

    digest: str
    reference: Reference
    inputs: Inputs
    settings: Monitor

    def day(self, day: str, before: Told) -> Told:
        """What is found of a day; `before`: `state` of the day before."""
        values, usual = self.inputs.read(day), self.inputs.usual(day, self.reference.tables["seen"])
        refused = self.inputs.quarantined(day)
        key = _key(self.digest, values, refused, before)
        return {
            "form": FORM,
            "day": day,
            "digest": self.digest,
            "key": key,
            **self._judged(day, values, usual, refused, before),
        }

    def holds(self, told: Told, before: Told) -> bool:
        values, refused = self.inputs.read(told["day"]), self.inputs.quarantined(told["day"])
        return bool(told["form"] == FORM and told["key"] == _key(self.digest, values, refused, before))

    def _judged(self, day: str, values: Array, usual: Array, refused: Array, before: Told) -> Told:
        reference, names = self.reference, self.inputs.names
        left_out = np.isin(names, before.get("out", []))
        missing = 1 - np.isfinite(values).mean(0) - reference.tables["missing"]
        held = np.array(
            [before.get("held", {}).get(k, h) for k, h in zip(self.kinds, reference.tables["held"], strict=True)]
        )
        later = (np.datetime64(day) - np.datetime64(reference.about["until"][:10])).astype(int)
        # Who has drifted has no say in what is common: found once with all, judged without them.
        for last in (False, True):
            summed = reference.day(values, usual, left_out)
            away = reference.apart(summed.statistics, left_out)
            p = reference.p_values(away, float(later))
            drifted = self._drifted(away, p)
            if not last:
                left_out = left_out | drifted.any(0)
        apart = summed.common - held
        together = self._together(apart, before)
        z = reference.deviations(values, usual)
        common = np.where(together, 0, reference.common(z, left_out)) + np.where(together, held, 0)
        both = drifted.any(0) | self._along(together, away, apart)
        found = faults.Found(
            values,
            usual + reference.tables["spread"] * reference.tables["loading"] * common[:, reference.group],
            reference.tables["spread"],
            dict(zip(STATISTICS, away, strict=True)),
            missing,
            refused,
            self.inputs.rests,
            *([c[part] for c in self.inputs.config["channels"]] for part in ("sensor", "kind")),
        )
        broken = faults.plain(found)
        broken |= faults.among(found, [i for i in np.flatnonzero(both).tolist() if i not in broken], broken)
        city = [names[i] for i in np.flatnonzero(both).tolist() if i not in broken]
        tested = int(np.isfinite(p).any(0).sum())
        frozen = {k: before.get("frozen", {}).get(k, 0) + 1 for k, off in zip(self.kinds, together, strict=True) if off}
        followed = np.where(together, held, spreads.followed(held, summed.common))
        return {
            "off": self.inputs.off(day),
            "tested": tested,
            "drifted": city,
            "faults": {names[i]: why for i, why in sorted(broken.items())},
            "together": list(frozen),
            "share": round(len(city) / tested, 4) if tested else 0.0,
            "worst": self._worst(away, p, drifted, apart, together),
            "state": {
                "held": {k: round(float(h), 4) for k, h in zip(self.kinds, followed, strict=True) if np.isfinite(h)},
                "frozen": frozen,
                "out": sorted({*city, *(names[i] for i in broken)}),
            },
        }

    @property
    def kinds(self) -> list[str]:
        kinds: list[str] = self.reference.about["kinds"]
        return kinds

    def _drifted(self, away: Array, p: Array) -> Array:
        """Significant and not small, bool [S, N]."""
        from scipy import stats

        out, some = np.zeros(p.shape, bool), np.isfinite(p)
        if some.any():
            out[some] = stats.false_discovery_control(p[some]) <= self.settings.false_discoveries
        return out & (np.abs(np.nan_to_num(away)) >= np.array([EFFECT[name] for name in STATISTICS])[:, None])

    def _together(self, apart: Array, before: Told) -> Array:
        """Which of the targets' kinds have left the level of the days before, bool [G]. While one has, its level may
        wander off from the one held, and gets room for it."""
        tables = self.reference.tables
        wandered = np.sqrt([1 + before.get("frozen", {}).get(kind, 0) for kind in self.kinds])
        free = np.clip(tables["stepped"] - 1, 1, FREE)
        p = np.nan_to_num(spreads.p_values(apart / (tables["step"] * wandered), free), nan=1.0)
        mine = np.isin(self.kinds, [c["kind"] for c in self.inputs.config["channels"][: self.inputs.config["targets"]]])
        return mine & (p <= self.settings.false_discoveries / mine.sum()) & (np.abs(apart) >= TOGETHER)

    def _along(self, together: Array, away: Array, apart: Array) -> Array:
        """Channels that went along with what their kind did together, bool [N]."""
        group = self.reference.group
        level = np.nan_to_num(away[0] + self.reference.tables["loading"] * np.nan_to_num(apart)[group])
        found: Array = together[group] & (np.abs(level) >= EFFECT["level"])
        return found

    def _worst(self, away: Array, p: Array, drifted: Array, apart: Array, together: Array) -> list[Told]:
        """The most surprising of what counts: size in spreads of the channel (level), else as logs and Fisher's z."""
        at = np.argwhere(drifted)
        at = at[np.argsort(p[tuple(at.T)], kind="stable")][:WORST]
        rows = [
            {
                "channel": self.inputs.names[i],
                "why": STATISTICS[s],
                "size": round(float(away[s, i]), 3),
                "p": float(f"{p[s, i]:.2e}"),
            }
            for s, i in at.tolist()
        ]
        moved = np.flatnonzero(together).tolist()
        return [
            {"channel": f"*/{self.kinds[g]}", "why": "together", "size": round(float(apart[g]), 3), "p": None}
            for g in moved
        ] + rows


def _key(digest: str, values: Array, refused: Array, before: Told) -> str:
    sha = hashlib.sha256(np.ascontiguousarray(values, np.float32).tobytes())
    sha.update(refused.tobytes() + json.dumps([digest, before], sort_keys=True).encode())
    return sha.hexdigest()


def told(city: Params, paths: Paths, store: Store, kept: Kept, champion: str | None, until: dt.datetime) -> Told | None:
    """summary["drift"] of the task of `kept`, its days brought up to date; None where nothing serves.

    {days, changed_since, faulty, new_sensors, sensors}, and `why` where it cannot be told.
    """
    if champion is None:
        return None
    try:
        folder = store.fetch(kept.task, champion)
    except Unreachable:
        raise
    except UserError as error:
        return {"why": str(error), **_nothing()}
    return of_bundle(city, paths, kept, champion, folder, until)


def of_bundle(city: Params, paths: Paths, kept: Kept, digest: str, folder: Path, until: dt.datetime) -> Told:
    """As `told`, of the bundle in `folder`."""
    from safetensors.numpy import load_file

    config = files.read_json(folder / "config.json")
    reference = referred.read(folder, config)
    if reference is None:
        return {"why": "made before references, or of too few days: train anew", **_nothing()}
    since, profile = reference.about["until"][:10], load_file(folder / "tables.safetensors")["profile"]
    inputs = Inputs.of(city, paths, config, profile, since)
    if inputs is None:
        return {"why": f"no features of {config['target']['source']}", **_nothing()}
    settings = city.task(kept.task).monitor
    found = days(Watched(digest, reference, inputs, settings), kept, inputs.days(since, until))
    new, sensors = inputs.strangers(until)
    return {**summed(found, settings), "new_sensors": new, "sensors": sensors}


def days(watched: Watched, kept: Kept, wanted: list[str]) -> list[Told]:
    """Every wanted day, oldest first, made again where it must be."""
    there, out, state = set(kept.days(FOLDER)), [], Told()
    for day in wanted:
        told = kept.read(kept.day(day, FOLDER)) if day in there else None
        if not (isinstance(told, dict) and watched.holds(told, state)):
            told = watched.day(day, state)
            kept.write(kept.day(day, FOLDER), (json.dumps(told, sort_keys=True) + "\n").encode())
        out.append(told)
        state = told["state"]
    return out


def summed(found: list[Told], settings: Monitor) -> Told:
    """What the days come to."""
    shown = ("tested", "drifted", "faults", "share", "worst")
    return {
        "days": {told["day"]: {k: told[k] if k != "faults" else sorted(told[k]) for k in shown} for told in found},
        "changed_since": changed_since(found, settings),
        "faulty": _faulty(found),
    }


def changed_since(found: Iterable[Told], settings: Monitor) -> str | None:
    """The first of the days on which the city is different, if it still is.

    It is, once enough channels of enough sensors have drifted on `settings.days` days running, the same ones; and no
    longer, once too few of any have for as many. Of a change that was seen on working days none at a weekend is no sign
    that it is over. A day that could not be tested says nothing.
    """
    since, calm, run, like = None, 0, list[tuple[str, set[str]]](), set[bool]()
    for told in found:
        if not told["tested"]:
            continue
        own, enough = set(told["drifted"]), _enough(set(told["drifted"]), told["tested"], settings)
        run = [*run, (told["day"], own)][-settings.days :]
        if since is None:
            same = set.intersection(*(channels for _, channels in run))
            if len(run) == settings.days and _enough(same, told["tested"], settings):
                since, calm, like = run[0][0], 0, {told["off"]}
        elif enough:
            calm, like = 0, like | {told["off"]}
        elif told["off"] in like:
            calm += 1
        if calm >= settings.days:
            since, calm = None, 0
    return since


def _enough(channels: set[str], tested: int, settings: Monitor) -> bool:
    """One sensor alone is no city, unless there are but few."""
    least = min(2, math.ceil(tested / 4))
    sensors = {name.partition("/")[0] for name in channels}
    return len(sensors) >= least and len(channels) >= settings.drifted * tested


def _faulty(found: list[Told]) -> dict[str, Told]:
    """Channels that are broken on the last day, since when, and why."""
    out: dict[str, Told] = {}
    for told in found:
        out = {
            name: {"since": out.get(name, {"since": told["day"]})["since"], "why": why}
            for name, why in told["faults"].items()
        }
    return out


def _nothing() -> Told:
    return {"days": {}, "changed_since": None, "faulty": {}, "new_sensors": [], "sensors": 0, "skew": None}
