"""The ledger: one record a decision, created once; the newest is the state; who works on one is told from who died."""

import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import UserError
from pipelines.release import ledger as room
from pipelines.release import objects
from pipelines.release.ledger import Ledger, State, Taken, alive, leased

A, B = "a" * 64, "b" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(objects.of(str(tmp_path)), "speed")


def intend(ledger: Ledger, digest: str, **more: Any) -> dict[str, Any]:
    return ledger.append(
        ledger.state(), {"state": "intended", "action": "promote", "digest": digest, "by": "x", **more}
    )


def settle(ledger: Ledger, intent: dict[str, Any]) -> None:
    more = {"stable": intent["digest"], "previous": intent["stable"]}
    ledger.append(
        ledger.state(), {"state": "serving", "of": intent["seq"], "digest": intent["digest"], "by": "x", **more}
    )


def test_the_newest_record_is_the_state(ledger: Ledger) -> None:
    assert ledger.state() == State()
    first = intend(ledger, A)
    state = ledger.state()
    assert (state.seq, state.stable, state.pending) == (1, None, first)
    settle(ledger, first)
    assert (ledger.state().stable, ledger.state().previous, ledger.state().pending) == (A, None, None)
    second = intend(ledger, B)
    assert (ledger.state().stable, ledger.state().pending) == (A, second), "until it serves the old one does"
    ledger.append(ledger.state(), {"state": "resumed", "of": second["seq"], "digest": B, "by": "y"})
    assert ledger.state().pending == second
    ledger.append(ledger.state(), {"state": "aborted", "of": second["seq"], "digest": B, "by": "y"})
    assert (ledger.state().stable, ledger.state().pending) == (A, None)
    assert [r["seq"] for r in ledger.records()] == [1, 2, 3, 4, 5]


def test_of_two_who_saw_the_same_state_the_second_is_told_who_was_quicker(ledger: Ledger) -> None:
    before = ledger.state()
    ledger.append(before, {"state": "intended", "action": "promote", "digest": A, "by": "ada"})
    with pytest.raises(Taken, match="ada was quicker: record 1 says intended aaaaaaaaaaaa"):
        ledger.append(before, {"state": "intended", "action": "promote", "digest": B, "by": "bob"})
    assert len(ledger.records()) == 1


def test_a_clock_set_back_does_not_turn_the_order_round(ledger: Ledger) -> None:
    first = intend(ledger, A, at="2999-01-01T00:00:00+00:00")
    ledger.objects.put(
        "ledger/speed/00000001.json", objects.files.to_json({**first, "at": "2999-01-01T00:00:00+00:00"})
    )
    settle(ledger, first)
    assert [r["at"] for r in ledger.records()] == ["2999-01-01T00:00:00+00:00"] * 2


def test_a_record_that_is_broken_is_named(ledger: Ledger) -> None:
    intend(ledger, A)
    ledger.objects.put("ledger/speed/00000001.json", b"{")
    with pytest.raises(UserError, match=r"ledger/speed/00000001\.json: not JSON"):
        ledger.state()


def test_a_promoter_lives_while_its_lease_goes_on(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LEASE_S", 0.05)
    elsewhere = {"host": "another machine"}
    with leased(ledger.objects, "speed") as owner:
        assert alive(ledger.objects, "speed", owner)
        assert alive(ledger.objects, "speed", {**owner, **elsewhere})
        ledger.objects.put("leases/speed/still.json", b"{}")
        assert not alive(ledger.objects, "speed", {"token": "still", **elsewhere}), "stands still"
    assert not alive(ledger.objects, "speed", {**owner, **elsewhere}), "left"
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    assert not alive(ledger.objects, "speed", {**owner, "pid": gone})
