"""Another release takes over while requests run; a bad one does not; the store may go at any moment."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import carded
import pytest
from safetensors.numpy import load, save
from served import TASK, Client, Place, arrays, eventually, serving

ASK = arrays([[10, 10, 10]])


def digest_now(client: Client) -> str:
    return str(client.predict(ASK).json["digest"])


@contextmanager
def load_on(port: int, threads: int = 3) -> Iterator[list[tuple[int, str, float]]]:
    """Requests without a pause; yields what came back: status, digest and the answer's median."""
    told: list[tuple[int, str, float]] = []
    stop = threading.Event()

    def ask() -> None:
        client = Client(port)
        while not stop.is_set():
            answer = client.predict(ASK)
            rows = answer.json.get("rows") or [{"q0.5": 0.0}]
            told.append((answer.status, answer.json.get("digest", ""), rows[0]["q0.5"]))

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield told
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_ten_swaps_under_load_fail_no_request(place: Place) -> None:
    factor_of = {place.release(f): f for f in (1.0, 2.0)}
    digests = list(factor_of)
    place.point(digests[0])
    with serving(place) as server, load_on(server.port) as told:
        client = server.client()
        for i in range(1, 11):
            place.point(digests[i % 2])
            eventually(lambda: digest_now(client) == digests[i % 2])  # noqa: B023
        assert server.app._counters.swaps[TASK] == 11
    assert len(told) > 50
    assert {status for status, *_ in told} == {200}
    assert all(median == 10 * factor_of[digest] for _, digest, median in told), "an answer is wholly of one release"


def test_the_heartbeat_says_what_answers(place: Place) -> None:
    one, two = place.release(1.0), place.release(2.0)
    place.point(one)
    with serving(place) as server:
        client = server.client()
        client.predict(ASK)
        client.predict(ASK)
        told = eventually(lambda: place.beat["counts"][one]["requests"] == 2 and place.beat)
        assert (told["seq"], told["stable"], told["canary"], told["error"]) == (1, one, None, None)
        latency = told["counts"][one]["latency_ms"]
        assert (len(latency["edges"]), len(latency["counts"]), sum(latency["counts"])) == (12, 13, 2)
        whole = place.store.beats()["toy"]
        assert (whole["id"], whole["every_s"]) == ("toy", 0.1)
        place.point(two)
        told = eventually(lambda: place.beat["stable"] == two and place.beat)
        assert (told["seq"], list(told["counts"])) == (2, [two])
        assert place.store.beats()["toy"]["beat"] > whole["beat"]
    assert place.store.beats() == {}, "a server that leaves takes its heartbeat along"


def test_a_pointer_of_lower_number_is_not_followed(place: Place) -> None:
    one, two = place.release(1.0), place.release(2.0)
    place.seq = 4
    place.point(two)
    with serving(place) as server:
        place.seq = 2
        place.point(one)
        time.sleep(0.4)
        assert digest_now(server.client()) == two
        place.seq = 5
        place.point(one)
        eventually(lambda: digest_now(server.client()) == one)


def test_a_task_can_be_taken_back(place: Place) -> None:
    place.point(place.release())
    with serving(place) as server:
        place.point(None)
        answer = eventually(lambda: (a := server.client().predict(ASK)).status == 503 and a)
        assert int(answer.headers["retry-after"]) >= 1
        assert server.client().get("/readyz").status == 503


def one_byte(place: Place, digest: str) -> None:
    """Somebody changed a byte of the release in the store."""
    path = Path(place.store.where) / "releases" / TASK / digest / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def gone(place: Place, digest: str) -> None:
    shutil.rmtree(Path(place.store.where) / "releases" / TASK / digest)


def golden(place: Place, digest: str) -> str:
    made = carded.contents(TASK, 2.0)
    stored = load(made["golden.safetensors"])
    return place.release(3.0, **{"golden.safetensors": save({**stored, "answer": stored["answer"] * 1.001})})


def no_graph(place: Place, digest: str) -> str:
    return place.release(3.0, **{"model.onnx": b"not a graph"})


@pytest.mark.parametrize("spoil", [one_byte, gone, golden, no_graph])
def test_a_bad_release_is_refused_and_the_old_one_goes_on(place: Place, spoil: Callable[[Place, str], Any]) -> None:
    one, two = place.release(1.0), place.release(2.0)
    bad = spoil(place, two) or two
    place.point(one)
    with serving(place) as server:
        client = server.client()
        with load_on(server.port, 1) as told:
            place.point(bad)
            error = eventually(lambda: place.beat["error"])
        assert (f"release {bad[:12]} refused" in error, place.beat["stable"], place.beat["seq"]) == (True, one, 1)
        assert {(status, digest) for status, digest, _ in told} == {(200, one)}
        scraped = client.get("/metrics").body.decode()
        assert f'cityloop_release_error{{task="{TASK}"}} 1.0' in scraped
        assert f'cityloop_refused_total{{task="{TASK}"}} 1.0' in scraped, "one refusal, however often it is tried"
        place.point(place.release(4.0))
        eventually(lambda: place.beat["error"] is None and place.beat["seq"] == 3)


def test_a_release_that_was_mended_is_taken_on_after_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.serve.swap.FIRST_S", 0.1)
    one, two = place.release(1.0), place.release(2.0)
    folder = Path(place.store.where) / "releases" / TASK / two
    shutil.move(folder, place.root / "aside")
    place.point(one)
    with serving(place) as server:
        place.point(two)
        eventually(lambda: place.beat["error"])
        shutil.move(place.root / "aside", folder)
        eventually(lambda: digest_now(server.client()) == two)
        eventually(lambda: place.beat["error"] is None)


def test_the_store_goes_in_the_middle_of_a_swap(place: Place) -> None:
    """What was loaded answers on; a start without the store has the last release; a new store is followed again."""
    one, two = place.release(1.0), place.release(2.0)
    place.point(one)
    where, aside = Path(place.store.where), place.root / "aside"
    with serving(place) as server:
        place.point(two)
        where.rename(aside)
        where.write_text("no folder")  # what is asked of it fails, and does not look empty
        eventually(lambda: server.app._counters.store_errors > 2)
        left = digest_now(server.client())
        assert left in (one, two)
    with serving(place) as server:
        assert digest_now(server.client()) == left
        where.unlink()
        aside.rename(where)
        eventually(lambda: digest_now(server.client()) == two)


def test_a_start_with_a_broken_release_serves_what_served_before(place: Place) -> None:
    one, two = place.release(1.0), place.release(2.0)
    place.point(one)
    with serving(place) as server:
        assert digest_now(server.client()) == one
    one_byte(place, two)
    place.point(two)
    with serving(place) as server:
        assert digest_now(server.client()) == one
        beat = eventually(lambda: place.beat["error"] and place.beat)
        assert (beat["seq"], beat["stable"]) == (1, one)


def test_a_start_with_a_broken_copy_fetches_it_again(place: Place) -> None:
    one = place.release()
    place.point(one)
    with serving(place):
        pass
    (copy,) = (place.root / "state/serve").rglob("model.onnx")
    copy.write_bytes(b"rot")
    with serving(place) as server:
        assert digest_now(server.client()) == one


def test_copies_are_of_what_is_used_alone(place: Place) -> None:
    one, two = place.release(1.0), place.release(2.0)
    place.point(one)
    with serving(place) as server:
        place.point(one, canary=two, shadow=True)
        kept = place.root / "state/serve"
        eventually(lambda: {p.name for p in kept.glob(f"*/releases/{TASK}/*")} == {one, two})
        place.point(two)
        eventually(lambda: {p.name for p in kept.glob(f"*/releases/{TASK}/*")} == {two})
        assert digest_now(server.client()) == two


def test_nothing_promoted_is_not_ready(place: Place) -> None:
    with serving(place, ready=False) as server:
        client = server.client()
        assert (client.get("/livez").status, client.get("/readyz").status) == (200, 503)
        assert eventually(lambda: (a := client.predict(ASK)).status == 404 and a).error.endswith("promote one")
        place.point(place.release())
        eventually(lambda: client.get("/readyz").status == 200)
