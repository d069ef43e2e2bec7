"""The store on a real S3 server: what is kept, who wins, what is refused, and what remains when the server dies."""

import contextlib
import datetime as dt
import functools
import http.server
import json
import multiprocessing
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import carded
import pytest
from carded import TASK
from ceph import S3
from promoted import Registry

from pipelines import history, promote
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.core.tracking import connect
from pipelines.release import bundle, objects
from pipelines.release.ledger import Ledger, Taken
from pipelines.release.store import Pointer, Store


@pytest.fixture
def where(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty place; its credentials are in the environment."""
    return s3.enter(monkeypatch, secrets.token_hex(4))


@pytest.fixture
def store(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CITYLOOP_STORE", where)
    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    return Store.of(Paths(tmp_path))


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, str]:
    """A bundle's folder and its digest."""
    bundle.write(tmp_path / "bundle", carded.contents())
    return tmp_path / "bundle", bundle.verify(tmp_path / "bundle")


def calls(where: str) -> list[Callable[[], object]]:
    """Everything that can be asked of objects."""
    there = objects.of(where)
    asks = [functools.partial(ask, "a/b") for ask in (there.get, there.delete, there.names, there.find)]
    return [*asks, lambda: there.put("a/b", b"1"), lambda: there.create("a/c", b"1")]


def test_objects_are_put_got_listed_found_and_deleted(where: str) -> None:
    there = objects.of(where)
    for key, data in {"a/b.json": b"1", "a/deep/c": b"3", "ab/d": b"4"}.items():
        there.put(key, data)
    there.put("a/b.json", b"2")
    assert there.get("a/b.json") == b"2"
    assert there.names("a") == ["b.json", "deep"]
    assert there.find("a") == ["a/b.json", "a/deep/c"]
    with pytest.raises(FileExistsError):
        there.create("a/b.json", b"5")
    there.delete("a/b.json")
    there.delete("a/b.json")
    with pytest.raises(FileNotFoundError):
        there.get("a/b.json")
    assert (there.names("nothing"), there.find("nothing")) == ([], [])
    for key in ("date=2026-10-01/x", "a b", "ü", "a%2Fb", "a+b", "a#b?c&d"):
        there.put(f"odd/{key}", key.encode())
        assert there.get(f"odd/{key}") == key.encode()
        assert f"odd/{key}" in there.find("odd")


def test_more_than_a_page_of_names(where: str) -> None:
    there = objects.of(where)
    keys = [f"many/{i:04d}" for i in range(1010)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: there.create(k, b"x"), keys))
    assert there.find("many") == keys
    assert there.names("many") == [k.removeprefix("many/") for k in keys]


def test_an_object_of_many_megabytes_is_one_put(where: str) -> None:
    data = secrets.token_bytes(20_000_000)
    objects.of(where).create("big", data)
    assert objects.of(where).get("big") == data
    with pytest.raises(FileExistsError):
        objects.of(where).create("big", b"1")
    assert objects.of(where).get("big") == data


def test_releases_cards_pointers_and_heartbeats(store: Store, made: tuple[Path, str]) -> None:
    folder, digest = made
    assert (store.put(TASK, folder), store.put(TASK, folder)) == (digest, digest)
    assert store.releases(TASK) == (digest,)
    fetched = store.fetch(TASK, digest)
    assert {p.name: p.read_bytes() for p in fetched.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}
    store.keep_card(TASK, digest, "# Straße")
    assert (store.card(TASK, digest), store.card(TASK, "0" * 64)) == ("# Straße", None)
    assert (store.pointer(TASK), store.tasks()) == (None, [])
    pointer = Pointer(TASK, 3, digest, versions={digest: "1"})
    store.point(pointer)
    assert (store.pointer(TASK), store.tasks()) == (pointer, [TASK])
    store.beat("one", {"beat": 1})
    store.beat("one", {"beat": 2})
    assert store.beats() == {"one": {"beat": 2}}
    store.unbeat("one")
    assert store.beats() == {}
    store.remove(TASK, digest)
    assert (store.releases(TASK), store.holds(TASK, digest)) == ((), False)


def test_what_was_changed_in_the_bucket_or_put_in_part_is_refused(store: Store, made: tuple[Path, str]) -> None:
    folder, digest = made
    store.put(TASK, folder)
    key = f"releases/{TASK}/{digest}"
    model = store.objects.get(f"{key}/model.onnx")
    store.objects.put(f"{key}/model.onnx", model[:-1] + bytes([model[-1] ^ 1]))
    with pytest.raises(UserError, match=r"model\.onnx: not the bytes"):
        store.fetch(TASK, digest)
    store.objects.delete(f"{key}/model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx"):
        store.fetch(TASK, digest)
    store.objects.delete(f"{key}/manifest.json")  # comes last, so its writer was interrupted
    assert not store.holds(TASK, digest)
    with pytest.raises(UserError, match="manifest"):
        store.fetch(TASK, digest)
    assert not [p for p in store.cache.rglob("*") if p.is_file()], "nothing of it is kept"
    store.put(TASK, folder)
    assert bundle.verify(store.fetch(TASK, digest)) == digest


def _append(where: str, mark: int, turns: int, barrier: "multiprocessing.synchronize.Barrier", told: object) -> None:
    ledger = Ledger(objects.of(where), TASK)
    won = []
    for turn in range(turns):
        barrier.wait(30)
        state = ledger.state()
        barrier.wait(30)  # all have seen the same head
        with contextlib.suppress(Taken):
            won.append(ledger.append(state, {"state": "serving", "by": str(mark), "turn": turn})["seq"])
    told.put((mark, won))  # type: ignore[attr-defined]


def test_of_many_processes_that_append_one_alone_succeeds(where: str) -> None:
    many, turns = 4, 8
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(many), context.Queue()
    all_ = [context.Process(target=_append, args=(where, i, turns, barrier, told)) for i in range(many)]
    for process in all_:
        process.start()
    winners = {seq: str(mark) for mark, won in (told.get(timeout=60) for _ in all_) for seq in won}
    for process in all_:
        process.join()
    assert [p.exitcode for p in all_] == [0] * many
    records = Ledger(objects.of(where), TASK).records()
    assert [r["turn"] for r in records] == list(range(turns))
    assert {r["seq"]: r["by"] for r in records} == winners


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_SECRET_ACCESS_KEY", "another-secret", "SignatureDoesNotMatch: set AWS_ACCESS_KEY_ID"),
        ("AWS_ACCESS_KEY_ID", "nobody", "InvalidAccessKeyId: set AWS_ACCESS_KEY_ID"),
    ],
)
def test_wrong_credentials_are_refused_in_a_line_without_them(
    s3: S3, where: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    for call in calls(where):
        with pytest.raises(objects.Unreachable, match=said) as error:
            call()
        assert not [w for w in (value, s3.secret, "\n") if w in str(error.value)]


def test_a_bucket_of_others_and_one_that_is_not_there(s3: S3, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in calls("s3://no-such-bucket/store"):
        with pytest.raises(objects.Unreachable, match="NoSuchBucket: there is no such bucket"):
            call()
    key, secret = s3.ours().user()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    for call in calls(where):
        with pytest.raises(objects.Unreachable, match="AccessDenied: who asks may not"):
            call()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """The address of a web server that is no store; it answers 404 to who asks and 501 to who writes."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_is_no_store_is_not_an_empty_one(
    where: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", elsewhere)
    for call in calls(where):
        with pytest.raises(objects.Unreachable):
            call()


def test_plain_http_is_spoken_only_where_the_address_says_so(
    s3: S3, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.of(where).put("a", b"1")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    assert objects.of(where).get("a") == b"1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint.replace("http:", "https:"))
    with pytest.raises(objects.Unreachable):
        objects.of(where).get("a")


def test_whatever_was_acknowledged_is_there_after_a_kill(s3: S3, where: str) -> None:
    """Several threads append while the whole server is killed: the gateway, the monitor and what writes to the disk."""
    there, acknowledged, waited = objects.of(where), {}, []
    s3.ours()

    def write(writer: int) -> None:
        for turn in range(100_000):
            key, data = f"w{writer}/{turn:06d}", secrets.token_bytes(2000)
            begun = time.monotonic()
            try:
                there.create(key, data)
            except objects.Unreachable:
                waited.append(time.monotonic() - begun)
                return
            acknowledged[key] = data

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, i) for i in range(4)]
        until = time.monotonic() + 20
        while len(acknowledged) < 50 and time.monotonic() < until:
            time.sleep(0.05)
        with s3.away():
            for writer in writers:
                writer.result(30)
            for call in calls(where):
                begun = time.monotonic()
                with pytest.raises(objects.Unreachable):
                    call()
                waited.append(time.monotonic() - begun)
    assert max(waited) < 5
    assert len(acknowledged) > 20
    assert {k: there.get(k) for k in acknowledged} == acknowledged
    found = {k for i in range(4) for k in there.find(f"w{i}")}
    assert len(found - set(acknowledged)) <= 4, "at most what was on its way"
    there.create("later", b"1")


def test_a_server_that_hangs_is_given_up(s3: S3, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objects._PATIENCE, "timeout", "1s")
    monkeypatch.setitem(objects._RETRY, "retry_timeout", dt.timedelta(seconds=1))
    asked = calls(where)
    with s3.hung(), ThreadPoolExecutor(len(asked)) as pool:
        begun = time.monotonic()
        said = [asking.exception(30) for asking in [pool.submit(call) for call in asked]]
        took = time.monotonic() - begun
    assert {type(error) for error in said} == {objects.Unreachable}
    assert took < 3, "what did not answer in time is not asked again and again"
    objects.of(where).put("a", b"1")


def test_a_release_that_was_fetched_outlives_the_server(
    s3: S3, store: Store, made: tuple[Path, str], tmp_path: Path
) -> None:
    folder, digest = made
    s3.ours()
    store.put(TASK, folder)
    kept = store.fetch(TASK, digest, keep=tmp_path / "kept")
    shutil.rmtree(folder)
    with s3.away("rgw"):
        again = Store(store.where, tmp_path / "none").fetch(TASK, digest, keep=tmp_path / "kept")
        assert (again, bundle.verify(again)) == (kept, digest)
        with pytest.raises(objects.Unreachable):
            store.fetch(TASK, "0" * 64, keep=tmp_path / "kept")


def test_promoted_and_rolled_back_on_s3(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("CITYLOOP_STATE")
    empty = Paths(tmp_path / "empty")
    with connect(empty):
        pass
    city = Registry.of(tmp_path / "city", empty.state / "mlflow.db")
    digests = [city.candidate(1.0), ""]
    city.approve(digests[0])
    promote.run(TASK, root=city.root)
    city.agrees(digests[0])
    digests[1] = city.candidate(2.0)
    city.approve(digests[1])
    promote.run(TASK, root=city.root)
    city.agrees(digests[1], digests[0])
    promote.rollback(TASK, why="jams", root=city.root)
    city.agrees(digests[0], digests[1])
    assert city.store.where == store.where
    assert set(store.releases(TASK)) == set(digests)
    told = history.run(TASK, root=city.root)
    assert [(r["action"], r["digest"]) for r in told if r["state"] == "serving"] == [
        ("promote", digests[0]),
        ("promote", digests[1]),
        ("rollback", digests[0]),
    ]
    # Ledger and pointer as anybody with the bucket reads them.
    names = store.objects.names(f"ledger/{TASK}")
    last = json.loads(store.objects.get(f"ledger/{TASK}/{names[-1]}"))
    pointer = json.loads(store.objects.get(f"current/{TASK}.json"))
    assert (last["stable"], last["previous"], last["reason"]) == (digests[0], digests[1], "jams")
    assert (pointer["stable"], pointer["canary"]) == (digests[0], None)
    assert store.objects.find("leases") == []
