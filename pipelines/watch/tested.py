"""A day of a champion's channels, tested against its reference: which have drifted, which are broken.

Each channel is tested by each of `models.reference.STATISTICS`, on the day alone and together with the days before it;
false discoveries are bounded over all of them (Benjamini and Hochberg, 1995), and what is significant but small is left
out. What all of a kind do together is tested against the days before. A channel that has moved is broken, or the city
has changed around it: `watch.faults`.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipelines.core.watching import Monitor
from pipelines.models import spreads
from pipelines.models.reference import STATISTICS, Reference
from pipelines.watch import faults
from pipelines.watch.inputs import Inputs

Array = np.ndarray[Any, Any]
Told = dict[str, Any]
FORM = 1
EFFECT = dict(zip(STATISTICS, (0.5, 0.4, 0.4, 1.0, 0.8), strict=True))
"""So far a day must lie from the centre to matter: a level of half a spread, spreads and roughness by half again."""
NEAR, PART = 0.05, 0.7
"""Of some days running each must have at most this p, and this part of the effect, to count together."""
TOGETHER = 1.0
"""What is common must have changed by so many spreads."""
FREE = 5
"""It may not have done so by pure chance of the reference's few days: at most so many degrees of freedom."""
ALONG = "along"
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
        values, refused = self.inputs.read(day), self.inputs.quarantined(day)
        found = self._judged(day, values, refused, before)
        return {"form": FORM, "day": day, "digest": self.digest, "key": self._key(values, refused, before), **found}

    def holds(self, told: Told, before: Told) -> bool:
        """Whether what is told of a day is of just what there is now."""
        values, refused = self.inputs.read(told["day"]), self.inputs.quarantined(told["day"])
        return bool(told["form"] == FORM and told["key"] == self._key(values, refused, before))

    def _key(self, values: Array, refused: Array, before: Told) -> str:
        sha = hashlib.sha256(np.ascontiguousarray(values, np.float32).tobytes())
        settings = [self.settings.days, self.settings.false_discoveries]
        sha.update(refused.tobytes() + json.dumps([self.digest, settings, before], sort_keys=True).encode())
        return sha.hexdigest()

    @cached_property
    def kinds(self) -> list[str]:
        return list(self.reference.about["kinds"])

    def _judged(self, day: str, values: Array, refused: Array, before: Told) -> Told:
        reference, names, off = self.reference, self.inputs.names, self.inputs.off(day)
        usual, left_out = self.inputs.usual(day, reference.tables["seen"]), np.isin(names, before.get("out", []))
        later = (np.datetime64(day) - np.datetime64(reference.about["until"][:10])).astype(int)
        # Who has drifted has no say in what is common: found once with all, judged without them.
        for last in (False, True):
            summed = reference.day(values, usual, left_out)
            away = reference.apart(summed.statistics, left_out)
            p = reference.p_values(away, float(later))
            drifted = self._drifted(away, p)
            if not last:
                left_out = left_out | drifted.any(0)
        apart = summed.common - self._held(before)
        together = self._together(apart, before)
        along, past = self._along(together, away, apart), before.get("near", [])
        past = past[max(0, len(past) - self.settings.days + 1) :]
        lasting = self._lasting(away, p, past) | np.isin(names, self._always(past)) & along
        moved = np.flatnonzero(drifted.any(0) | lasting | along).tolist()
        found = self._found(values, usual, away, refused, together, left_out, before)
        broken = faults.plain(found)
        broken |= faults.among(found, [i for i in moved if i not in broken], broken)
        city = [names[i] for i in moved if i not in broken]
        tested = int(np.isfinite(p).any(0).sum())
        near = {"day": day, **self._near(away, p, broken), ALONG: [n for n in city if along[names.index(n)]]}
        frozen = self._frozen(before, together, off)
        held = self._held(before)
        held = np.where(np.isin(self.kinds, list(frozen)), held, spreads.followed(held, summed.common))
        return {
            "off": off,
            "tested": tested,
            "drifted": city,
            "lasting": [names[i] for i in np.flatnonzero(lasting).tolist() if i not in broken],
            "since": [*(one["day"] for one in past), day][0],
            "faults": {names[i]: why for i, why in sorted(broken.items())},
            "together": [self.kinds[g] for g in np.flatnonzero(together)],
            "share": round(len(city) / tested, 4) if tested else 0.0,
            "worst": self._worst(away, p, drifted | (lasting & (np.nan_to_num(p, nan=1.0) <= NEAR)), apart, together),
            "state": {
                "held": {k: round(float(h), 4) for k, h in zip(self.kinds, held, strict=True) if np.isfinite(h)},
                "frozen": frozen,
                "out": sorted({*city, *(names[i] for i in broken)}),
                "near": [*past, near] if tested else before.get("near", []),
            },
        }

    def _held(self, before: Told) -> Array:
        """At which level the common part of each kind was before, [G]."""
        first = self.reference.tables["held"]
        return np.array([before.get("held", {}).get(k, h) for k, h in zip(self.kinds, first, strict=True)])

    def _found(
        self,
        values: Array,
        usual: Array,
        away: Array,
        refused: Array,
        together: Array,
        left_out: Array,
        before: Told,
    ) -> faults.Found:
        reference, tables, channels = self.reference, self.reference.tables, self.inputs.config["channels"]
        # Of a kind that has moved as one, what was expected is what it did before.
        common = reference.common(reference.deviations(values, usual), left_out)
        common = np.where(together, self._held(before), common)[:, reference.group]
        return faults.Found(
            values,
            usual + tables["spread"] * tables["loading"] * common,
            tables["spread"],
            dict(zip(STATISTICS, away, strict=True)),
            1 - np.isfinite(values).mean(0) - tables["missing"],
            refused,
            self.inputs.rests,
            [c["sensor"] for c in channels],
            [c["kind"] for c in channels],
        )

    def _discovered(self, p: Array) -> Array:
        from scipy import stats

        out, some = np.zeros(p.shape, bool), np.isfinite(p)
        if some.any():
            out[some] = stats.false_discovery_control(p[some]) <= self.settings.false_discoveries
        return out

    def _drifted(self, away: Array, p: Array) -> Array:
        """Significant and not small on the day alone, bool [S, N]."""
        return self._discovered(p) & (np.abs(np.nan_to_num(away)) >= _effects())

    def _near(self, away: Array, p: Array, broken: dict[int, str]) -> Told:
        """What might be significant together with other days: by statistic and channel, p and the sign."""
        some = (np.nan_to_num(p, nan=1.0) <= NEAR) & (np.abs(np.nan_to_num(away)) >= PART * _effects())
        some[:, list(broken)] = False
        return {
            name: {self.inputs.names[i]: [float(f"{p[s, i]:.2e}"), int(np.sign(away[s, i]))]
                   for i in np.flatnonzero(some[s]).tolist()}
            for s, name in enumerate(STATISTICS) if some[s].any()
        }  # fmt: skip

    def _lasting(self, away: Array, p: Array, past: list[Told]) -> Array:
        """Channels that are different on all of the last `settings.days` days, in the same way, bool [N]."""
        days = self.settings.days
        if len(past) < days - 1:
            return np.zeros(p.shape[1], bool)
        number = {name: i for i, name in enumerate(self.inputs.names)}
        logs, ok = np.zeros(p.shape), np.ones(p.shape, bool)
        for one in [*past, self._near(away, p, {})]:
            there = np.zeros(p.shape, bool)
            for s, name in enumerate(STATISTICS):
                for channel, (value, sign) in one.get(name, {}).items():
                    i = number[channel]
                    there[s, i] = sign == np.sign(away[s, i])
                    logs[s, i] += np.log(max(value, 1e-300))
            ok &= there
        carry = self.reference.tables["carry"].astype(float)[:, self.reference.group]
        both = np.where(ok, spreads.together(logs, days, carry), 1.0)
        return np.asarray(self._discovered(np.where(np.isfinite(p), both, np.nan)).any(0))

    def _always(self, past: list[Told]) -> list[str]:
        """Channels that have gone along with their kind on all the days before that count."""
        if len(past) < self.settings.days - 1:
            return []
        return sorted(set(self.inputs.names).intersection(*(one[ALONG] for one in past)))

    def _together(self, apart: Array, before: Told) -> Array:
        """Which of the targets' kinds have left the level of the days before, bool [G]. While one has, its level may
        wander off from the one held, and gets room for it: twice the variance after a week."""
        tables, config = self.reference.tables, self.inputs.config
        wandered = np.sqrt([1 + before.get("frozen", {}).get(kind, {"days": 0})["days"] / 7 for kind in self.kinds])
        free = np.clip(tables["stepped"] - 1, 1, FREE)
        p = np.nan_to_num(spreads.p_values(apart / (tables["step"] * wandered), free), nan=1.0)
        mine = np.isin(self.kinds, [c["kind"] for c in config["channels"][: config["targets"]]])
        found: Array = mine & (p <= self.settings.false_discoveries / mine.sum()) & (np.abs(apart) >= TOGETHER)
        return found

    def _frozen(self, before: Told, together: Array, off: bool) -> Told:
        """Kinds whose level is held as it was before they left it, since how many days, and on what days (`off`) that
        was seen: what is so on working days is not over at the weekend."""
        out = {}
        for kind, left in zip(self.kinds, together.tolist(), strict=True):
            was = before.get("frozen", {}).get(kind, {"days": 0, "off": []})
            if left or (was["off"] and off not in was["off"]):
                seen = sorted({*was["off"], off}) if left else was["off"]
                out[kind] = {"days": was["days"] + 1, "off": seen}
        return out

    def _along(self, together: Array, away: Array, apart: Array) -> Array:
        """Channels that went along with what their kind did together, bool [N]."""
        group = self.reference.group
        level = np.nan_to_num(away[0] + self.reference.tables["loading"] * np.nan_to_num(apart)[group])
        found: Array = together[group] & (np.abs(level) >= EFFECT["level"])
        return found

    def _worst(self, away: Array, p: Array, counts: Array, apart: Array, together: Array) -> list[Told]:
        """The most surprising of what counts: size in spreads of the channel (level), else as logs and Fisher's z; p is
        that of the day alone."""
        at = np.argwhere(counts)
        at = at[np.argsort(p[tuple(at.T)], kind="stable")][:WORST]
        moved: list[tuple[str, str, float, float | None]] = []
        moved += [(f"*/{self.kinds[g]}", "together", apart[g], None) for g in np.flatnonzero(together).tolist()]
        moved += [(self.inputs.names[i], STATISTICS[s], away[s, i], float(f"{p[s, i]:.2e}")) for s, i in at.tolist()]
        return [{"channel": name, "why": why, "size": round(float(size), 3), "p": p} for name, why, size, p in moved]


def _effects() -> Array:
    return np.array([EFFECT[name] for name in STATISTICS])[:, None]
