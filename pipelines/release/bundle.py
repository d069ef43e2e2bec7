"""The bundle: a directory that is the model as evaluated, reviewed and served.

    folder/
      manifest.json     {"files": {name: {"sha256", "size"}}, "format": 1}, canonical JSON
      model.onnx, weights.safetensors, config.json, tables.safetensors, golden.safetensors
      model.int8.onnx   where it pays

Its digest is the SHA-256 of manifest.json's bytes, so equal contents have an equal digest wherever
they lie. Nothing here knows what the files mean.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.core import files
from pipelines.core.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def write(folder: Path, contents: Mapping[str, bytes]) -> str:
    """Make `folder` a bundle of exactly `contents` (relative POSIX names to bytes); returns its digest.

    Built beside `folder` and renamed into place. A folder that is this bundle already is left alone, any other is
    replaced whole. Raises ValueError for a name that is not a plain relative path.
    """
    manifest = _manifest(contents)
    digest = hashlib.sha256(manifest).hexdigest()
    if _is(folder, digest):
        return digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    new, old = (folder.with_name(f".{folder.name}.{token}.{role}.tmp") for role in ("new", "old"))
    try:
        for name, data in {**contents, MANIFEST: manifest}.items():
            _write(new / name, data)
        _swap(folder, new, old)
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
    return digest


def digest(folder: Path) -> str:
    """The digest `folder` claims, from its manifest alone. Raises UserError where there is none; see `verify`."""
    return hashlib.sha256(_manifest_bytes(folder)).hexdigest()


def verify(folder: Path) -> str:
    """The digest of `folder`, after every file in it was hashed again.

    Raises UserError naming the file that is missing, changed, not in the manifest, a link, or outside the folder.
    """
    raw = _manifest_bytes(folder)
    listed = _parse(folder, raw)
    for name, path in _walk(folder).items():
        if name != MANIFEST and name not in listed:
            raise UserError(f"{path}: not in the bundle's {MANIFEST}; remove it, or make the bundle again (dvc repro)")
    for name, (sha256, size) in listed.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing, though {MANIFEST} lists it; make the bundle again (dvc repro)")
        if path.stat().st_size != size or files.sha256_file(path) != sha256:
            raise UserError(f"{path}: not the bytes {MANIFEST} promises; make the bundle again (dvc repro)")
    return hashlib.sha256(raw).hexdigest()


def _manifest(contents: Mapping[str, bytes]) -> bytes:
    for name in contents:
        if not _plain(name) or name == MANIFEST:
            raise ValueError(f"{name!r} cannot be a bundle's file; expected a relative path such as model.onnx")
    listed = {n: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for n, data in contents.items()}
    return files.to_json({"format": FORMAT, "files": listed})


def _plain(name: str) -> bool:
    """Relative, POSIX, no dot folders, no hidden parts: the same file on every system."""
    return str(PurePosixPath(name)) == name and all(_PART.fullmatch(part) for part in name.split("/"))


def _is(folder: Path, digest: str) -> bool:
    try:
        return verify(folder) == digest
    except (UserError, OSError):
        return False


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _swap(folder: Path, new: Path, old: Path) -> None:
    """Put `new` where `folder` is; the former folder comes back if that fails."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    had = folder.exists()
    if had:
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        if had:
            os.rename(old, folder)
        raise


def _manifest_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST
    if path.is_symlink():
        raise UserError(f"{path}: a link, where a bundle has plain files only")
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file, so {folder} is no bundle; make it (dvc repro)") from None


def _parse(folder: Path, raw: bytes) -> dict[str, tuple[str, int]]:
    """File name to (SHA-256, size). A manifest that `write` would not have written byte for byte is refused."""
    path = folder / MANIFEST
    try:
        data: Any = json.loads(raw)
        listed = {name: (entry["sha256"], entry["size"]) for name, entry in data["files"].items()}
        canonical = files.to_json(
            {"format": FORMAT, "files": {n: {"sha256": h, "size": s} for n, (h, s) in listed.items()}}
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a bundle's manifest; make the bundle again (dvc repro)") from None
    for name, (sha256, size) in listed.items():
        if not _plain(name) or name == MANIFEST:
            raise UserError(f"{path}: {name!r} is not a plain path inside the bundle")
        if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256) and type(size) is int):
            raise UserError(f"{path}: {name}: expected a SHA-256 and a size in bytes")
    if canonical != raw:
        raise UserError(
            f"{path}: format {data.get('format')!r} in a form not ours; expected format {FORMAT}, canonical"
        )
    return listed


def _walk(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by relative POSIX name. Raises UserError at a link or anything that is not a file."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: a link or special file, where a bundle has plain files only")
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path
        elif not any(path.iterdir()):
            raise UserError(f"{path}: an empty folder, not in the bundle's {MANIFEST}; remove it")
    return found
