"""Whole or not at all; never through a link."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.core import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


WRITER = """
import sys
import numpy as np
from pathlib import Path
from pipelines.core import files
print("go", flush=True)
for i in range(10**6):
    files.write_array(Path(sys.argv[1]), np.full(1_000_000, float(i)))
"""


def test_a_killed_writer_leaves_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.npy"
    for delay in (0.12, 0.25, 0.31):
        command = [sys.executable, "-c", WRITER, str(path)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert writer.stdout is not None
        writer.stdout.readline()
        while not path.exists():  # the first file may be long in coming on a busy machine
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        values = np.load(path)
        assert values.shape == (1_000_000,)
        assert (values == values[0]).all()
    (path.parent / ".a.npy.beef.tmp").write_text("half")
    files.sweep(tmp_path)
    assert [p.name for p in path.parent.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("kind", ["bytes", "array", "table"])
def test_equal_content_keeps_the_file_and_other_content_leaves_a_link_alone(tmp_path: Path, kind: str) -> None:
    path, cache = tmp_path / "out", tmp_path / "cache"

    def write(n: int) -> bool:
        if kind == "bytes":
            return files.write_bytes(path, b"x" * n)
        if kind == "array":
            return files.write_array(path, np.array([n, np.nan], np.float32))
        return files.write_table(path, pa.table({"a": [n]}))

    assert write(1)
    os.link(path, cache)
    cache.chmod(0o444)
    before, inode = cache.read_bytes(), path.stat().st_ino
    assert not write(1)
    assert path.stat().st_ino == inode
    assert write(2)
    assert cache.read_bytes() == before
    assert path.read_bytes() != before
    assert not path.samefile(cache)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (2, 3)])
def test_arrays_of_any_shape_come_back_mapped(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.asfortranarray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    assert files.write_array(tmp_path / "a.npy", array)
    assert not files.write_array(tmp_path / "a.npy", np.ascontiguousarray(array))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), array)
    assert files.write_array(tmp_path / "a.npy", array.astype(np.int32))  # as many bytes, another type


def test_link_shares_the_file_and_copies_where_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("one")
    assert files.link(tmp_path / "a", tmp_path / "b" / "a")
    assert (tmp_path / "b/a").samefile(tmp_path / "a")
    assert not files.link(tmp_path / "a", tmp_path / "b" / "a")
    files.write_bytes(tmp_path / "a", b"two")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert files.link(tmp_path / "a", tmp_path / "b" / "a")
    assert (tmp_path / "b/a").read_text() == "two"
    assert not (tmp_path / "b/a").samefile(tmp_path / "a")


def test_json_has_one_form() -> None:
    data = {"b": np.float32(1.5), "a": [np.int64(2), float("nan"), float("inf")], 3: np.array([True, False])}
    text = files.to_json(data)
    assert json.loads(text) == {"3": [True, False], "a": [2, None, None], "b": 1.5}
    assert text == files.to_json(dict(reversed(data.items())))
    assert files.sha256_json({"x": 1}) == files.sha256_json({"x": np.int64(1)})
    assert text.endswith(b"}\n")


def test_tables_of_equal_rows_have_equal_bytes_whatever_their_chunks(tmp_path: Path) -> None:
    whole = pa.table({"a": list(range(1000)), "s": [f"n{i % 7}" for i in range(1000)]})
    pieces = pa.concat_tables([whole.slice(0, 300), whole.slice(300)]).replace_schema_metadata({"made": "today"})
    files.write_table(tmp_path / "a", whole)
    files.write_table(tmp_path / "b", pieces)
    assert files.sha256_file(tmp_path / "a") == files.sha256_file(tmp_path / "b")
