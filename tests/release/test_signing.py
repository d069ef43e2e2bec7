"""Signed releases: what the right key signed is fetched; unsigned, changed or of another key is refused."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pipelines.core.errors import UserError
from pipelines.release import bundle
from pipelines.release.store import Store


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    for name in ("ours", "theirs"):
        private = ec.generate_private_key(ec.SECP256R1())
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / f"{name}.pem").write_bytes(pem)
        public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pub").write_bytes(public)
    return tmp_path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    bundle.write(tmp_path / "made", {"config.json": b"{}", "model.onnx": b"graph"})
    return tmp_path / "made"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"), tmp_path / "fetched")


@pytest.mark.parametrize("kept", [False, True])
def test_what_we_signed_is_fetched_and_what_others_signed_is_not(
    store: Store, made: Path, keys: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = keys / "keep" if kept else None
    monkeypatch.setenv("CITYLOOP_SIGN_KEY", str(keys / "ours.pem"))
    digest = store.put("speed", made)
    monkeypatch.setenv("CITYLOOP_VERIFY_KEY", str(keys / "ours.pub"))
    assert bundle.verify(store.fetch("speed", digest, keep)) == digest
    assert store.releases("speed") == (digest,)
    monkeypatch.setenv("CITYLOOP_VERIFY_KEY", str(keys / "theirs.pub"))
    with pytest.raises(UserError, match="its signature is not good") as error:
        store.fetch("speed", digest, keep)
    assert "\n" not in str(error.value)


def test_an_unsigned_release_is_refused_where_signatures_are_asked_for(
    store: Store, made: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put("speed", made)
    assert store.fetch("speed", digest)
    monkeypatch.setenv("CITYLOOP_VERIFY_KEY", str(keys / "ours.pub"))
    with pytest.raises(UserError, match="is not signed"):
        store.fetch("speed", digest)
    monkeypatch.setenv("CITYLOOP_SIGN_KEY", str(keys / "ours.pem"))
    store.put("speed", made)
    assert store.fetch("speed", digest)


def test_a_signature_of_other_bytes_is_refused(
    store: Store, made: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITYLOOP_SIGN_KEY", str(keys / "ours.pem"))
    monkeypatch.setenv("CITYLOOP_VERIFY_KEY", str(keys / "ours.pub"))
    first = store.put("speed", made)
    bundle.write(made, {"config.json": b"{}", "model.onnx": b"another"})
    second = store.put("speed", made)
    place = Path(store.where) / "releases/speed"
    shutil.copy(place / f"{first}.sig", place / f"{second}.sig")
    with pytest.raises(UserError, match="its signature is not good"):
        store.fetch("speed", second)


def test_a_key_that_is_none_is_one_line(store: Store, made: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYLOOP_SIGN_KEY", str(keys / "nowhere.pem"))
    with pytest.raises(UserError, match=r"CITYLOOP_SIGN_KEY=.*nowhere\.pem: cannot sign with it"):
        store.put("speed", made)
