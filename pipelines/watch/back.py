"""Would the release that served before the champion do better now? Both answer the same recent windows, as in the gate.

Only where the champion's error is above the gate; from the day on which that began, a week at most.
"""

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.log import logger
from pipelines.core.params import Task, parse_instant
from pipelines.models.evaluation import contest
from pipelines.models.evaluation.contest import Entrant, Field
from pipelines.models.evaluation.words import number
from pipelines.release.ledger import Ledger
from pipelines.release.predictor import Predictor
from pipelines.release.store import Store
from pipelines.watch.said import CALLED, moment

LONGEST = dt.timedelta(days=7)
FEWEST_BLOCKS = 6
"""Stretches of time that an interval is drawn from; fewer say nothing."""


def proposed(
    store: Store, name: str, task: Task, joined: Path, champion: str, since: dt.datetime, until: dt.datetime, unit: str
) -> dict[str, Any] | None:
    """{to, gain, low, high, why}; None where there is nothing to go back to, or it would not do better for certain.

    gain: how much better its metric was, with a 95 % interval that excludes zero.
    """
    state = Ledger(store.objects, name).state()
    previous = state.previous
    # What a rollback has left is not gone back to.
    if state.pending or state.stable != champion or state.head.get("action") == "rollback" or not previous:
        return None
    try:
        both = [Predictor.load(store.fetch(name, digest)) for digest in (previous, champion)]
        since = max(since, until - LONGEST)
        field = compared(task, joined, both[0], both[1], since, until)
    except (UserError, FileNotFoundError) as error:
        logger.warning("monitor %s: not compared with what served before: %s", name, error)
        return None
    if field is None:
        return None
    found = field.versus("champion", task.evaluate.bootstrap)
    sign = 1 if field.primary != "mae" else -1
    gain, low, high = (sign * found[k] for k in ("difference", *(("low", "high") if sign > 0 else ("high", "low"))))
    if found["blocks"] < FEWEST_BLOCKS or not low > 0:
        return None
    unit = f" {unit}" if unit and field.primary == "mae" else ""
    what = CALLED.get(field.primary, field.primary.replace("_", " "))
    why = (
        f"{previous[:12]}, which served before, would have done better from {moment(since)} to {moment(until)}: {what} "
        f"{number(found['model'])}{unit}, and {number(found['other'])}{unit} of what serves; better by {number(gain)}"
        f"{unit}, with 95% certainty by {number(low)} to {number(high)}."
    )
    return {"to": previous, "gain": gain, "low": low, "high": high, "why": why}


def compared(
    task: Task, joined: Path, one: Predictor, other: Predictor, since: dt.datetime, until: dt.datetime
) -> Field | None:
    """`model`, the one, and `champion`, the other, over forecasts made and met between two moments."""
    series = Series.open(joined)
    recent = series.asking(series.row(since), min(series.row(until), series.length))
    first = Entrant.of(one, joined)
    second = Entrant.of(other, joined, set(first.targets))
    return contest.duel(task, _asked(first, recent), _asked(second, recent)) if first.targets else None


def _asked(entrant: Entrant, series: Series) -> Entrant:
    return replace(entrant, data=replace(entrant.data, series=series))


def since(decision: dict[str, Any]) -> dt.datetime | None:
    """When the error began to be above the gate, where it is."""
    causes = decision["causes"]
    days = [causes[name] for name in ("error", "faults", "harder", "changed") if name in causes]
    return parse_instant(min(days)) if days and decision["error"]["days_above"] else None
