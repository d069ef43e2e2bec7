"""An evaluation's report as a reviewer reads it, in Markdown."""

from collections.abc import Iterator
from typing import Any

from pipelines.models.evaluation import LABELS

NAMES = {
    "mae": "MAE",
    "rmse": "RMSE",
    "mase": "MASE",
    "macro_f1": "macro F1",
    "f1": "F1",
    "auroc": "AUROC",
    "coverage80": "coverage of the 80 % interval",
    "width80": "width of the 80 % interval",
}
_HIGHER = ("accuracy", "macro_f1", "f1", "precision", "recall", "auroc", "average_precision")
_NO_ORDER = ("coverage", "width", "bias", "alarm_rate")
"""More is neither better nor worse."""
_UNTOLD = ("mae_standardised", "mse_standardised")
"""For comparison with benchmarks; the report has them."""
_WORST = 4


def methods(found: dict[str, Any]) -> list[str]:
    """The model and the baselines that `found` tells of."""
    return [m for m in LABELS if isinstance(found.get(m), dict)]


def name(metric: str) -> str:
    """A metric as people write it."""
    return NAMES.get(metric, metric.replace("_", " "))


def _title(metric: str) -> str:
    return f"{name(metric)[0].upper()}{name(metric)[1:]}"


def number(value: Any) -> str:
    """Four digits, thousands apart; a dash for what is no number."""
    if not isinstance(value, int | float):
        return "–"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def headline(found: dict[str, Any]) -> str:
    """The main metric beside the best baseline's, one sentence."""
    metric, scores = found["primary"], found["model"]
    ours = f"{_title(metric)} {number(scores.get(metric))}"
    rivals = {m: found[m][metric] for m in methods(found) if m != "model" and _has(found[m], metric)}
    if not rivals or not _has(scores, metric) or metric.startswith(_NO_ORDER):
        return f"{ours} on the frozen test."
    best = (max if found["higher_is_better"] else min)(rivals, key=lambda m: rivals[m])
    better = scores[metric] > rivals[best] if found["higher_is_better"] else scores[metric] < rivals[best]
    word = " against" if better else ", no better than"
    return f"{ours}{word} {number(rivals[best])} ({LABELS[best]}, the best baseline)."


def results(found: dict[str, Any]) -> str:
    """The table, what its intervals say, and where the model does least well."""
    parts = [
        _table(found),
        " ".join([_test(found["test"]), *_verdict(found)]),
        " ".join([*_ahead(found), *_coverage(found), *_probes(found)]),
        _slices(found),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(found: dict[str, Any]) -> str:
    told = methods(found)
    rows = ["| metric | " + " | ".join(LABELS[m] for m in told) + " |", "|---|" + "--:|" * len(told)]
    order = [m for m in sorted(found["model"], key=lambda m: (m != found["primary"], m)) if m not in _UNTOLD]
    for metric in order:
        values = {m: found[m][metric] for m in told if _has(found[m], metric)}
        winners = _winners(metric, values, found)
        cells = [f"**{number(values[m])}**" if m in winners else number(values.get(m)) for m in told]
        rows.append(f"| {name(metric)} | {' | '.join(cells)} |")
    versus = _versus(found)
    if versus:
        cells = [_interval(versus[m]) if m in versus else "" for m in told]
        rows.append(f"| {name(found['primary'])}, model minus it | {' | '.join(cells)} |")
    return "\n".join(rows)


def _interval(told: dict[str, Any]) -> str:
    if not _has(told, "low"):
        return number(told.get("difference"))
    return f"{number(told['difference'])} ({number(told['low'])} to {number(told['high'])})"


def _winners(metric: str, values: dict[str, float], found: dict[str, Any]) -> set[str]:
    if not values or metric.startswith(_NO_ORDER):
        return set()
    higher = found["higher_is_better"] if metric == found["primary"] else metric.startswith(_HIGHER)
    best = (max if higher else min)(values.values())
    return {m for m, value in values.items() if value == best}


def _versus(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    versus: dict[str, dict[str, Any]] = (found.get("interval") or {}).get("versus") or {}
    return versus


def _test(test: dict[str, Any]) -> str:
    counts = [f"{test[k]:,} {k}" for k in ("forecasts", "points", "positives") if isinstance(test.get(k), int)]
    possible = test.get("forecasts_possible", 0)
    thinned = f" (of {possible:,} possible forecasts)" if possible > test.get("forecasts", 0) else ""
    told = f"Frozen test {test['from']} to {test['until']}{': ' if counts else ''}{', '.join(counts)}"
    return f"{told}{thinned}."


def _verdict(found: dict[str, Any]) -> Iterator[str]:
    """Which baselines the model beats, loses to, or cannot be told from, by the 95 % intervals."""
    sign = 1 if found["higher_is_better"] else -1
    sides: dict[str, list[str]] = {}
    versus = _versus(found)
    for method in (m for m in LABELS if m in versus):
        told = versus[method]
        if _has(told, "low"):
            low, high = sorted((sign * told["low"], sign * told["high"]))
            side = "better than" if low > 0 else "worse than" if high < 0 else "not to be told from"
            sides.setdefault(side, []).append(LABELS.get(method, method))
    if sides:
        test = found["test"]
        hours = test.get("block_hours") or 24
        long = f"{hours // 24} days" if hours % 24 == 0 else f"{hours} h"
        days = "days" if hours == 24 else f"blocks of {long}"
        said = "; ".join(f"{side} {', '.join(names)}" for side, names in sorted(sides.items()))
        yield f"By 95 % intervals over {test.get('blocks')} {days} the model is {said}."


def _ahead(found: dict[str, Any]) -> Iterator[str]:
    """The primary metric at a few steps ahead, beside the best baseline there."""
    at = sorted((found.get("at") or {}).items(), key=lambda step: step[1]["minutes"])
    told = [f"{step} {number(row['model'])} ({LABELS.get(row['baseline'])} {number(row[row['baseline']])})"
            for step, row in at]  # fmt: skip
    if len(told) > 1:
        yield f"{_title(found['primary'])} by how far ahead: {', '.join(told)}."


def _coverage(found: dict[str, Any]) -> Iterator[str]:
    told = found.get("coverage")
    if told:
        overall, low, high = (f"{100 * told[k]:.1f}" for k in ("overall", "lowest_step", "highest_step"))
        yield f"The 80 % interval held {overall} % of the truth, {low} to {high} % by step ahead."


def _probes(found: dict[str, Any]) -> Iterator[str]:
    """What damaged readings do to the model and to the ridge, see `models.probes`."""
    probed = found.get("robustness") or {}
    told = [f"{damage.replace('_', ' ')} {number(m['model']['value'])} (ridge {number(m['ridge']['value'])})"
            for damage, m in sorted(probed.items()) if isinstance(m, dict)]  # fmt: skip
    if told:
        where = f"on {probed['windows']} windows"
        yield f"{_title(probed['metric'])} when readings are damaged, {where}: {', '.join(told)}."


def _slices(found: dict[str, Any]) -> str:
    """The slices in which the model does least well against the best baseline."""
    rows, sign = [], 1 if found["higher_is_better"] else -1
    for group, slices in (found.get("slices") or {}).items():
        for slice_, told in slices.items():
            rival = next((m for m in LABELS if m != "model" and m in told), None)
            if rival and told[rival] and _has(told, "low"):
                rows.append((sign * told["difference"] / abs(told[rival]), group, slice_, rival, told))
    if not rows:
        return ""
    rows.sort(key=lambda row: row[:3])
    lines = [f"| least good slices of {len(rows)} | points | model | {LABELS[rows[0][3]]} | model minus it |"]
    lines.append("|---|--:|--:|--:|--:|")
    for _, group, slice_, rival, told in rows[:_WORST]:
        cells = [f"{told['n']:,}", number(told["model"]), number(told[rival]), _interval(told)]
        lines.append(f"| {group} {slice_.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _has(scores: Any, metric: str) -> bool:
    return isinstance(scores, dict) and isinstance(scores.get(metric), int | float)
