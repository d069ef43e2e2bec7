"""Whether what served before would do better: of bundles that say a factor × the mean of their context."""

import datetime as dt
from pathlib import Path
from typing import Any

import carded
import judged
import numpy as np
import pytest

from pipelines.core import params
from pipelines.core.grid import Series
from pipelines.core.paths import Paths
from pipelines.release import bundle
from pipelines.release.ledger import Ledger
from pipelines.release.predictor import Predictor
from pipelines.release.store import Store
from pipelines.watch import back

SINCE, UNTIL = (dt.datetime(2025, 3, day, tzinfo=dt.UTC) for day in (20, 27))


@pytest.fixture
def city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.delenv("CITYLOOP_STATE", raising=False)
    monkeypatch.delenv("CITYLOOP_STORE", raising=False)
    return judged.city(tmp_path / "city")


def served(city: Paths, *factors: float, action: str = "promote") -> list[str]:
    """Releases of these factors, promoted one after the other; the last one by `action`."""
    store = Store.of(city)
    ledger, digests = Ledger(store.objects, judged.TASK), []
    for number, factor in enumerate(factors):
        place = city.root / f"made{number}"
        bundle.write(place, judged.contents(factor, question=f"number {number}?"))
        digests.append(store.put(judged.TASK, place))
        told = {"stable": digests[-1], "previous": digests[-2] if number else None, "digest": digests[-1], "by": "ada"}
        what = action if number == len(factors) - 1 else "promote"
        ledger.append(ledger.state(), {"state": "serving", "action": what, **told})
    return digests


def proposed(city: Paths, champion: str, since: dt.datetime = SINCE, until: dt.datetime = UNTIL) -> Any:
    task = params.load(city.root).task(judged.TASK)
    return back.proposed(
        Store.of(city), judged.TASK, task, city.joined(judged.TASK), champion, since, until, "ug/m3"
    )  # fmt: skip


def error(city: Paths, digest: str) -> float:
    """Of its median over those windows that a forecast a day asks for, plainly."""
    predictor = Predictor.load(Store.of(city).fetch(judged.TASK, digest))
    series, spec = Series.open(city.joined(judged.TASK)), carded.SPEC
    off = []
    for row in range(series.row(SINCE), series.row(UNTIL) - spec.horizon + 1, spec.horizon):
        start = row - spec.context
        values = series.read(start, start + predictor.steps)
        told = predictor.predict(values[None], np.array([series.start + start * series.step]))[0]
        truth = series.read(row, row + spec.horizon)
        off.append(np.abs(told[: spec.horizon, :, predictor.names.index("q0.5")] - truth))
    return float(np.nanmean(off))


def test_a_better_one_is_proposed_with_its_gain_and_interval(city: Paths) -> None:
    good, bad = served(city, 1.0, 1.2)
    found = proposed(city, bad)
    assert found["to"] == good
    assert found["gain"] == pytest.approx(error(city, bad) - error(city, good), rel=1e-4)
    assert 0 < found["low"] < found["gain"] < found["high"]
    assert f"{good[:12]}, which served before, would have done better from 2025-03-20 00:00 UTC" in found["why"]
    assert "ug/m3" in found["why"]


@pytest.mark.parametrize("factors", [(1.2, 1.0), (1.0, 1.0), (1.0,)])
def test_one_that_is_no_better_for_certain_is_not(city: Paths, factors: tuple[float, ...]) -> None:
    assert proposed(city, served(city, *factors)[-1]) is None


def test_what_a_rollback_left_is_not_gone_back_to(city: Paths) -> None:
    assert proposed(city, served(city, 1.0, 1.2, action="rollback")[-1]) is None


def test_two_days_of_forecasts_of_a_day_say_nothing(city: Paths) -> None:
    assert proposed(city, served(city, 1.0, 1.2)[-1], until=SINCE + dt.timedelta(days=2)) is None


def test_it_looks_back_a_week_at_most(city: Paths) -> None:
    _, bad = served(city, 1.0, 1.2)
    longest = proposed(city, bad, since=SINCE - dt.timedelta(days=30))
    assert longest["why"] == proposed(city, bad)["why"]


def test_one_that_is_gone_is_named_and_nothing_proposed(city: Paths, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = served(city, 1.0, 1.2)
    Store.of(city).remove(judged.TASK, good)
    assert proposed(city, bad) is None
    assert f"not compared with what served before: {Store.of(city).where}: no bundle {good}" in caplog.text


@pytest.mark.parametrize(
    ("causes", "above", "expected"),
    [
        ({"error": "2025-04-02", "age": "2025-01-01"}, 2, "2025-04-02"),
        ({"changed": "2025-04-03"}, 1, "2025-04-03"),
        ({"changed": "2025-04-03"}, 0, None),
        ({"age": "2025-01-01"}, 1, None),
        ({}, 1, None),
    ],
)
def test_it_is_asked_only_while_the_error_is_above_the_gate(
    causes: dict[str, str], above: int, expected: str | None
) -> None:
    found = back.since({"causes": causes, "error": {"days_above": above}})
    assert (f"{found:%F}" if found else None) == expected
