"""The bundle: whole or not at all, and what it says it is."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from pipelines.core import files
from pipelines.core.errors import UserError
from pipelines.release import bundle

CONTENTS = {"model.onnx": b"graph", "config.json": b"{}\n", "tables/scalers.safetensors": b"\0" * 1000}


def test_equal_contents_have_an_equal_digest_wherever_they_lie(tmp_path: Path) -> None:
    first = bundle.write(tmp_path / "a", CONTENTS)
    second = bundle.write(tmp_path / "deep/er/b", dict(reversed(CONTENTS.items())))
    assert first == second == bundle.verify(tmp_path / "a") == bundle.digest(tmp_path / "deep/er/b")
    assert first == hashlib.sha256((tmp_path / "a/manifest.json").read_bytes()).hexdigest()
    assert bundle.write(tmp_path / "c", {**CONTENTS, "config.json": b"{ }\n"}) != first


def test_writing_again_changes_nothing_and_other_contents_replace_all(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    first = bundle.write(folder, CONTENTS)
    inode = (folder / "model.onnx").stat().st_ino
    assert bundle.write(folder, CONTENTS) == first
    assert (folder / "model.onnx").stat().st_ino == inode
    second = bundle.write(folder, {"model.onnx": b"other"})
    assert bundle.verify(folder) == second != first
    assert sorted(p.name for p in folder.rglob("*")) == ["manifest.json", "model.onnx"]
    assert [p.name for p in tmp_path.iterdir()] == ["task"]


def test_a_linked_cache_is_never_written_through(tmp_path: Path) -> None:
    folder, cache = tmp_path / "task", tmp_path / "cache"
    bundle.write(folder, CONTENTS)
    os.link(folder / "model.onnx", cache)
    cache.chmod(0o444)
    bundle.write(folder, {"model.onnx": b"other"})
    assert cache.read_bytes() == b"graph"


def test_a_failed_write_leaves_the_older_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "task"
    first = bundle.write(folder, CONTENTS)
    real, calls = os.rename, []

    def fails_second(*args: Path) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise OSError("disk full")
        real(*args)

    monkeypatch.setattr(os, "rename", fails_second)
    with pytest.raises(OSError, match="disk full"):
        bundle.write(folder, {"model.onnx": b"other"})
    assert bundle.verify(folder) == first
    assert [p.name for p in tmp_path.iterdir()] == ["task"]


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../x", "./x", "a//x", "", ".", "a\\x", ".hidden", "manifest.json", "a/", "x\n"]
)
def test_names_that_are_no_plain_paths_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="bundle's file"):
        bundle.write(tmp_path / "a", {name: b"x"})
    assert not list(tmp_path.iterdir())


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def _replace_by_link(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


BREAKERS = {
    "one changed byte": ("model.onnx", _flip),
    "shorter": ("tables/scalers.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-1])),
    "missing": ("config.json", Path.unlink),
    "extra": ("extra.bin", lambda p: p.write_bytes(b"x")),
    "hidden extra": (".extra", lambda p: p.write_bytes(b"x")),
    "empty folder": ("folder", Path.mkdir),
    "link": ("model.onnx", _replace_by_link),
    "dangling link": ("dangling", lambda p: p.symlink_to("nowhere")),
    "linked manifest": ("manifest.json", _replace_by_link),
    "no manifest": ("manifest.json", Path.unlink),
    "manifest not JSON": ("manifest.json", lambda p: p.write_bytes(b"{")),
    "manifest a list": ("manifest.json", lambda p: p.write_bytes(b"[]\n")),
    "manifest reformatted": ("manifest.json", lambda p: p.write_text(json.dumps(json.loads(p.read_text())))),
}


@pytest.mark.parametrize("what", BREAKERS)
def test_verify_names_what_is_wrong(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "task"
    bundle.write(folder, CONTENTS)
    name, breaks = BREAKERS[what]
    breaks(folder / name)
    with pytest.raises(UserError) as caught:
        bundle.verify(folder)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_manifest_cannot_reach_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    listed = {name: {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}}
    files.write_json(tmp_path / "task/manifest.json", {"format": 1, "files": listed})
    with pytest.raises(UserError, match="not a plain path"):
        bundle.verify(tmp_path / "task")


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    files.write_json(tmp_path / "manifest.json", {"format": 2, "files": {}})
    with pytest.raises(UserError, match="format 2"):
        bundle.verify(tmp_path)
