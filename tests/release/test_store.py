"""The store: what is put is fetched byte for byte, once, from a folder or a URL; what was changed is refused."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from small_city import tree

from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.release import bundle
from pipelines.release.store import Store

OTHER = "0" * 64


@pytest.fixture
def made(tmp_path: Path) -> Path:
    bundle.write(tmp_path / "made", {"config.json": b"{}", "model.onnx": b"graph", "deep/er.bin": b"1"})
    return tmp_path / "made"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("CITYLOOP_STORE", raising=False)
    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    return Store.of(Paths(tmp_path))


@pytest.fixture
def address() -> Iterator[str]:
    """A store in memory that fsspec reaches by URL."""
    yield "memory://bucket/store"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def upload(folder: Path, to: str) -> None:
    system = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"{to.removeprefix('memory:/')}/{path.relative_to(folder)}", path.read_bytes())


def test_what_is_put_is_fetched_byte_for_byte_and_lies_by_digest(store: Store, made: Path, tmp_path: Path) -> None:
    digest = store.put("ahead", made)
    folder = store.fetch("ahead", digest)
    assert tree(folder) == tree(made)
    assert folder == tmp_path / "state/store/releases/ahead" / digest
    assert store.releases("ahead") == (digest,)
    assert store.releases("other") == ()


def test_putting_again_leaves_the_first_alone(store: Store, made: Path) -> None:
    digest = store.put("ahead", made)
    path = store.fetch("ahead", digest) / "model.onnx"
    before = path.stat().st_ino
    assert store.put("ahead", made) == digest
    assert path.stat().st_ino == before
    assert not list(path.parent.parent.glob(".*"))


def test_a_folder_that_is_no_whole_bundle_is_not_taken(store: Store, made: Path) -> None:
    (made / "model.onnx").write_bytes(b"other")
    with pytest.raises(UserError, match=r"model\.onnx"):
        store.put("ahead", made)
    assert store.releases("ahead") == ()


def test_a_changed_byte_in_the_store_is_found(store: Store, made: Path) -> None:
    digest = store.put("ahead", made)
    (store.fetch("ahead", digest) / "deep/er.bin").write_bytes(b"2")
    for again in (lambda: store.fetch("ahead", digest), lambda: store.put("ahead", made)):
        with pytest.raises(UserError, match=r"er\.bin"):
            again()


def test_a_bundle_under_another_digest_is_refused(store: Store, made: Path) -> None:
    digest = store.put("ahead", made)
    folder = store.fetch("ahead", digest)
    folder.rename(folder.with_name(OTHER))
    with pytest.raises(UserError, match=digest):
        store.fetch("ahead", OTHER)


def test_what_is_not_there_is_one_line_that_says_what_is(store: Store, made: Path) -> None:
    with pytest.raises(UserError, match="none of this task"):
        store.fetch("ahead", OTHER)
    digest = store.put("ahead", made)
    with pytest.raises(UserError, match=rf"{OTHER}.*it has {digest}") as error:
        store.fetch("ahead", OTHER)
    assert "\n" not in str(error.value)


def test_a_url_is_read_and_verified_and_not_written(
    made: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = bundle.digest(made)
    upload(made, f"{address}/releases/ahead/{digest}")
    monkeypatch.setenv("CITYLOOP_STORE", address)
    monkeypatch.setenv("CITYLOOP_STATE", str(tmp_path / "state"))
    store = Store.of(Paths(tmp_path))
    assert store.releases("ahead") == (digest,)
    assert tree(store.fetch("ahead", digest)) == tree(made)
    with pytest.raises(UserError, match=rf"it has {digest}"):
        store.fetch("ahead", OTHER)
    assert store.put("ahead", made) == digest, "what is there already needs no writing"
    bundle.write(made, {"config.json": b"other"})
    with pytest.raises(UserError, match="read only; write to a folder or to s3://"):
        store.put("ahead", made)


def test_half_a_download_is_not_taken_for_a_bundle(made: Path, tmp_path: Path, address: str) -> None:
    digest = bundle.digest(made)
    upload(made, f"{address}/releases/ahead/{digest}")
    fsspec.filesystem("memory").rm(f"/bucket/store/releases/ahead/{digest}/model.onnx")
    store = Store(address, tmp_path / "fetched")
    with pytest.raises(UserError, match=r"model\.onnx: missing"):
        store.fetch("ahead", digest)
    assert not [p for p in (tmp_path / "fetched").rglob("*") if p.is_file()]
