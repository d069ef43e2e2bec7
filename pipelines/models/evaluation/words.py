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
    "span_f1": "F1 of phrases",
    "partial_f1": "F1 of phrases met in part",
    "map50": "mAP50",
    "map50_95": "mAP50-95",
    "ap50": "AP50",
    "ap50_95": "AP50-95",
    "count_mae": "MAE of counts",
    "count_mae_by_label": "MAE of counts by label",
    "n": "in the test",
}
_HIGHER = (
    "accuracy", "macro_f1", "f1", "span_f1", "partial_f1", "precision", "recall", "auroc", "average_precision", "map50",
    "ap50",
)  # fmt: skip
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
    told = name(metric)
    return told if told[1].isupper() else f"{told[0].upper()}{told[1:]}"


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
        " ".join([*_ahead(found), *_coverage(found), *_probes(found), *_without(found)]),
        _labels(found),
        _slices(found),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(found: dict[str, Any]) -> str:
    told = methods(found)
    rows = ["| metric | " + " | ".join(LABELS[m] for m in told) + " |", "|---|" + "--:|" * len(told)]
    apart = tuple(
        f"{kind}_{label}" for kind in ("f1", "ap50") for label in (found.get("labels") or {}).get("model", {})
    )
    order = sorted((m for m in found["model"] if m not in (*_UNTOLD, *apart)), key=lambda m: (m != found["primary"], m))
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
    counts = [f"{test[k]:,} {k}" for k in ("forecasts", "points", "positives", "items") if isinstance(test.get(k), int)]
    possible = test.get("forecasts_possible", 0)
    thinned = f" (of {possible:,} possible forecasts)" if possible > test.get("forecasts", 0) else ""
    days = "without dates" if test["from"] == "undated" else f"{test['from']} to {test['until']}"
    told = f"Frozen test {days}{': ' if counts else ''}{', '.join(counts)}"
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
        days = "groups of near-duplicates" if "groups" in test else "days" if hours == 24 else f"blocks of {long}"
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


def _without(found: dict[str, Any]) -> Iterator[str]:
    """What the model says while a source of its inputs is silent."""
    metric = found["primary"]
    told = [f"`{source}` {number(m.get(metric))} (with it minus that: {_interval(m)})"
            for source, m in sorted((found.get("without_inputs") or {}).items())]  # fmt: skip
    if told:
        yield f"{_title(metric)} of the same model while a source of inputs is silent: {', '.join(told)}."


def _probes(found: dict[str, Any]) -> Iterator[str]:
    """What damage to its inputs does to the model and to a baseline, see `models.probes` and `models.items.damage`."""
    probed = found.get("robustness") or {}
    told = [f"{damage.replace('_', ' ')} {_suffered(m)}"
            for damage, m in sorted(probed.items()) if isinstance(m, dict)]  # fmt: skip
    if told:
        what, on = ("readings", "windows") if "windows" in probed else ("pictures or messages", "items")
        yield f"{_title(probed['metric'])} when {what} are damaged, on {probed[on]} {on}: {', '.join(told)}."


def _suffered(methods: dict[str, Any]) -> str:
    """The model's value, with that of the one baseline told beside it."""
    rival = next((m for m in ("ridge", *LABELS) if m in methods and m != "model"), None)
    beside = f" ({LABELS[rival]} {number(methods[rival]['value'])})" if rival else ""
    return f"{number(methods['model']['value'])}{beside}"


def _labels(found: dict[str, Any]) -> str:
    """What there is to say of each label by itself."""
    told = (found.get("labels") or {}).get("model")
    if not told:
        return ""
    keys = list(dict.fromkeys(k for row in told.values() for k in sorted(row, key=lambda k: (k != "n", k))))
    rows = [f"| label | {' | '.join(name(k) for k in keys)} |", "|---|" + "--:|" * len(keys)]
    rows += [f"| {label} | {' | '.join(number(row.get(k)) for k in keys)} |" for label, row in told.items()]
    return "\n".join(rows)


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
