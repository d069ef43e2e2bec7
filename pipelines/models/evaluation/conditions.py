"""The conditions of a gate, each judged by itself, with its numbers in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.core.params import Gate, Task
from pipelines.models import probes
from pipelines.models.data import spread_out
from pipelines.models.evaluation import LABELS, forecasts
from pipelines.models.evaluation.contest import Contest, Entrant, Field
from pipelines.models.evaluation.methods import Alone
from pipelines.models.evaluation.verdict import Condition
from pipelines.models.evaluation.words import name as called
from pipelines.models.evaluation.words import number
from pipelines.models.ridge import Ridge


@dataclass(frozen=True)
class Gap:
    """How much worse the candidate is than another, as shares of the other's metric, or of its own where the other's is
    a score of 0; NaN where nothing can be said."""

    worse: float
    low: float
    high: float

    @classmethod
    def of(cls, told: dict[str, float], higher: bool) -> "Gap":
        unit = abs(told["other"]) or (abs(told["model"]) if higher else 0.0) or float("nan")
        ends = (told["low"], told["high"])
        if higher:
            return cls(-told["difference"] / unit, -ends[1] / unit, -ends[0] / unit)
        return cls(told["difference"] / unit, ends[0] / unit, ends[1] / unit)

    def beyond(self, share: float) -> bool:
        """Whether it is worse by more than `share`, interval and all; where there is no interval, by itself."""
        return (self.low if np.isfinite(self.low) else self.worse) > share

    def __str__(self) -> str:
        """Such as: 12 % better (8 % to 15 %)."""
        if not np.isfinite(self.worse):
            return "cannot be told"
        if self.worse == self.low == self.high == 0:
            return "no difference"
        side, sign = ("worse", 1) if self.worse > 0 else ("better", -1)
        if not np.isfinite(self.low):
            return f"{_percent(sign * self.worse)} {side} (the test is too short for an interval)"
        low, high = sorted((sign * self.low, sign * self.high))
        return f"{_percent(sign * self.worse)} {side} (95 % interval {_percent(low)} to {_percent(high)})"


def _percent(share: float) -> str:
    return f"{100 * share + 0:.3g} %"  # + 0: no minus before a zero


def better(contest: Contest, task: Task) -> list[Condition]:
    """Better than each baseline by `min_gain`, and by an interval that excludes zero."""
    least = task.gate.min_gain
    limit = f"≥ {_percent(least)}, interval above 0" if least else "> 0 %, whole interval"
    if contest.among is None:
        return [Condition("baselines", True, None, limit, _UNLABELLED)]
    told = []
    for name in (n for n in contest.among.of if n != "model"):
        versus = contest.among.versus(name, task.evaluate.bootstrap)
        gap = Gap.of(versus, contest.higher)
        passed = gap.high < 0 and -gap.worse >= least
        detail = f"{_beside(contest, versus, LABELS[name])}: {gap}, asked {limit}"
        told.append(Condition(f"better than {LABELS[name]}", passed, _rounded(-gap.worse), limit, detail))
    return told


_UNLABELLED = "no label in the test period says which alarms are right, so nothing can be said of how good they are"


def _beside(contest: Contest, versus: dict[str, float], other: str) -> str:
    return f"{called(contest.primary)} {number(versus['model'])}, {other} {number(versus['other'])}"


def _rounded(share: float) -> float | None:
    """In percent."""
    return float(f"{100 * share:.3g}") + 0 if np.isfinite(share) else None


def not_worse(contest: Contest, task: Task, champion: str | None) -> Condition:
    name, limit = "champion", f"≤ {_percent(task.gate.champion)} worse, as far as the interval tells"
    if champion is None:
        return Condition(name, True, None, limit, "there is no champion yet to be compared with")
    if contest.apart:
        detail = f"champion {champion[:12]} cannot be compared with: {contest.apart}"
        return Condition(name, False, None, limit, f"{detail}; roll back to one that can be, or switch the gate off")
    if contest.duel is None:
        return Condition(name, True, None, limit, _UNLABELLED)
    versus = contest.duel.versus("champion", task.evaluate.bootstrap)
    gap = Gap.of(versus, contest.higher)
    detail = f"{_beside(contest, versus, f'champion {champion[:12]}')}: {gap}, asked {limit}"
    passed = np.isfinite(gap.worse) and not gap.beyond(task.gate.champion)
    return Condition(name, bool(passed), _rounded(gap.worse), limit, detail)


def even(contest: Contest, task: Task) -> Condition:
    """No slice much worse than the champion is there; without one, than the best baseline."""
    limit, worst = f"≤ {_percent(task.gate.slice)} worse", task.gate.slice
    if contest.among is None:
        return Condition("slices", True, None, limit, _UNLABELLED)
    rival, arena = _rival(contest)
    found = arena.sliced(rival, task.evaluate.bootstrap)
    gaps = {name: Gap.of(told, contest.higher) for name, told in found.items()}
    if not gaps:
        return Condition("slices", True, None, limit, "no slice of the test has enough points to be judged by itself")
    name = max(gaps, key=lambda n: (gaps[n].beyond(worst), np.nan_to_num(gaps[n].worse, nan=-np.inf)))
    where = f"worst of {len(gaps)} slices is {name.replace('/', ' ').replace('_', ' ')}"
    detail = f"{where}: {_beside(contest, found[name], LABELS.get(rival, rival))}: {gaps[name]}, asked {limit}"
    return Condition("slices", not gaps[name].beyond(worst), _rounded(gaps[name].worse), limit, detail)


def _rival(contest: Contest) -> tuple[str, Field]:
    assert contest.among is not None
    if contest.duel is not None:
        return "champion", contest.duel
    scores = {n: contest.scores[n][contest.primary] for n in contest.among.of if n != "model"}
    return forecasts.best(scores, contest.higher), contest.among


def robust(candidate: Entrant, ridge: Ridge, gate: Gate) -> Condition:
    """Under each damage at most so much worse than without, or no worse than the ridge is."""
    predictor, data = candidate.predictor, candidate.data
    rows = spread_out(data.rows("test", data.spec.horizon), probes.WINDOWS)
    truth = np.full((len(rows), data.spec.horizon, predictor.targets), np.nan, np.float32)
    truth[..., candidate.places] = data.read(rows + data.known, data.spec.horizon)[..., : data.targets]
    asked = (candidate.objective, Alone(ridge), candidate.given(rows), data.starts(rows), truth)
    found = probes.robustness(predictor, *asked)
    higher = found["metric"] == candidate.objective.PRIMARY and candidate.objective.HIGHER_IS_BETTER
    return suffered(found, "readings", probes.DAMAGES, "ridge", higher, gate)


def suffered(
    found: dict[str, Any], what: str, damages: Sequence[str], rival: str, higher: bool, gate: Gate
) -> Condition:
    """found: as `probes.robustness` and `items.damage.robustness` have it, with the baseline `rival`."""
    mine, others = ({d: found[d][m]["value"] for d in damages if m in found[d]} for m in ("model", rival))
    clean, limit = found["clean"]["model"]["value"], f"≤ {_percent(gate.robustness)} worse, or the baseline's"
    worse = {d: (clean - v if higher else v - clean) / (abs(clean) or float("nan")) for d, v in mine.items()}
    broken = {
        d for d, v in mine.items()
        if not (worse[d] <= gate.robustness or (d in others and (v >= others[d] if higher else v <= others[d])))
    }  # fmt: skip
    damage = max(worse, key=lambda d: (d in broken, np.nan_to_num(worse[d], nan=np.inf)))
    beside = f", {LABELS[rival]} under it {number(others[damage])}" if damage in others else ""
    detail = (
        f"with {what} damaged ({damage.replace('_', ' ')}) {called(found['metric'])} {number(mine[damage])}, "
        f"without {number(clean)}{beside}: {_percent(worse[damage])} worse, asked {limit}"
    )
    return Condition("robustness", not broken, _rounded(worse[damage]), limit, detail)


def calibrated(scores: dict[str, float], gate: Gate) -> list[Condition]:
    """Of what the objective's answers have: an interval, class probabilities, or neither."""
    told = []
    if "coverage80" in scores:
        value, (low, high) = scores["coverage80"], gate.coverage
        detail = f"the 80 % interval held {_percent(value)} of the truth, asked {_percent(low)} to {_percent(high)}"
        told.append(Condition("coverage", low <= value <= high, _short(value), f"{low:g} to {high:g}", detail))
    if "calibration_error" in scores:
        value, limit = scores["calibration_error"], f"≤ {gate.calibration:g}"
        detail = f"class probabilities are off by {number(value)} (expected calibration error), asked {limit}"
        told.append(Condition("calibration", value <= gate.calibration, _short(value), limit, detail))
    return told


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def fast(value: float, gate: Gate, what: str = "window") -> Condition:
    """value: milliseconds of one window, picture or message on one thread, 95th percentile."""
    limit = f"≤ {gate.latency_ms:g} ms"
    detail = f"one {what} takes {number(value)} ms on one thread (95th percentile), asked {limit}"
    return Condition("latency", value <= gate.latency_ms, value, limit, detail)


def small(value: float, gate: Gate) -> Condition:
    """value: megabytes of the bundle."""
    limit = f"≤ {gate.size_mb:g} MB"
    return Condition("size", value <= gate.size_mb, _short(value), limit, f"{number(value)} MB, asked {limit}")


def sound(validation: dict[str, dict[str, Any] | None]) -> list[Condition]:
    """Of each source's data: its report, as `validate` left it."""
    return [_validated(source, report) for source, report in validation.items()]


def _validated(source: str, report: dict[str, Any] | None) -> Condition:
    name, limit = f"data of {source}", "0 broken"
    counts = (report or {}).get("expectations")
    if not counts:
        way = f"run `cityloop validate {source}`, or dvc repro"
        return Condition(name, False, None, limit, f"{source} has no report of its data's validation; {way}")
    failed, asked = counts["failed"], sum(counts.values())
    detail = f"{failed} of {asked} expectations of {source}'s data contract are broken, {counts['warnings']} warn"
    way = f"; see plots/validate/{source}/data_docs/index.html" if failed else ""
    return Condition(name, not failed, failed, limit, detail + way)
