"""Objects in a folder: whole or not at all, created once, never outside; what cannot be reached says so in a line."""

import multiprocessing
import os
from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.release import objects


@pytest.fixture
def there(tmp_path: Path) -> objects.Objects:
    return objects.of(str(tmp_path / "store"))


def test_what_is_put_is_got_listed_found_and_deleted(there: objects.Objects) -> None:
    there.put("a/b.json", b"1")
    there.put("a/b.json", b"2")
    there.put("a/deep/c", b"3")
    assert there.get("a/b.json") == b"2"
    assert there.names("a") == ["b.json", "deep"]
    assert there.find("a") == ["a/b.json", "a/deep/c"]
    there.delete("a/b.json")
    there.delete("a/b.json")
    with pytest.raises(FileNotFoundError):
        there.get("a/b.json")
    assert (there.names("nothing"), there.find("nothing")) == ([], [])


def test_what_a_killed_writer_left_is_not_seen(there: objects.Objects, tmp_path: Path) -> None:
    there.put("a/b", b"1")
    (tmp_path / "store/a/.c.0123.tmp").write_bytes(b"half")
    assert there.names("a") == ["b"]
    assert there.find("a") == ["a/b"]


def _create(
    where: str, mark: int, start: "multiprocessing.synchronize.Event", won: "multiprocessing.Queue[int]"
) -> None:
    start.wait()
    try:
        objects.of(where).create("ledger/x/00000001.json", str(mark).encode())
    except FileExistsError:
        return
    won.put(mark)


def test_of_many_processes_that_create_one_alone_succeeds(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for turn in range(5):
        where = str(tmp_path / str(turn))
        start, won = context.Event(), context.Queue()
        all_ = [context.Process(target=_create, args=(where, i, start, won)) for i in range(6)]
        for process in all_:
            process.start()
        start.set()
        for process in all_:
            process.join()
        winner = won.get(timeout=5)
        assert won.empty()
        assert objects.of(where).get("ledger/x/00000001.json") == str(winner).encode()


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b"])
def test_a_key_that_leads_elsewhere_is_refused(there: objects.Objects, key: str) -> None:
    for ask in (
        there.get,
        there.delete,
        there.names,
        there.find,
        lambda k: there.put(k, b""),
        lambda k: there.create(k, b""),
    ):
        with pytest.raises(ValueError, match="is not a key"):
            ask(key)


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("mounting takes root")
    import subprocess

    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("no mounts here")
    try:
        there = objects.of(str(place))
        there.put("a", b"old")
        with pytest.raises(objects.Unreachable, match="No space left"):
            there.put("a", b"x" * 200_000)
        assert there.get("a") == b"old"
        assert [p.name for p in place.iterdir()] == ["a"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_bucket_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION"):
        monkeypatch.setenv(f"AWS_{name}", "x")
    with pytest.raises(objects.Unreachable, match=r"s3://city/store: .*127") as error:
        objects.of("s3://city/store").get("current/x.json")
    assert "\n" not in str(error.value)


def test_an_address_nobody_knows_is_one_line() -> None:
    with pytest.raises(UserError, match="nosuch"):
        objects.of("nosuch://x").get("a")
