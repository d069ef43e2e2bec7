"""Writing whole or not at all, and hashing. Nothing here knows what the bytes mean."""

import contextlib
import filecmp
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1 << 22


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it over `path`, on failure remove it.

    A killed process leaves at most a hidden `.name.*.tmp`, never half a file; `sweep` clears those.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what a killed writer left behind in `folder`."""
    for leftover in folder.rglob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def tidy(folder: Path, wanted: set[Path]) -> None:
    """Remove from `folder` what is not wanted, and folders that are then empty."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds comes before the folder
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in wanted:
            path.unlink()


def write_bytes(path: Path, data: bytes) -> bool:
    """Write atomically unless the file has these bytes already; returns whether it was written.

    A file with other bytes is replaced by a new one: DVC's cache links are never written through.
    """
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return False
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return True


def to_json(data: Any) -> bytes:
    """Sorted, indented, newline at the end; numpy numbers allowed; NaN and infinities become null."""
    return (json.dumps(_plain(data), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, data: Any) -> bool:
    return write_bytes(path, to_json(data))


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_table(path: Path, table: "pa.Table") -> bool:
    """An Arrow table as Parquet (zstd); equal tables give equal bytes. Returns whether the file changed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd", store_schema=False)
    return write_bytes(path, sink.getvalue().to_pybytes())


def write_array(path: Path, array: np.ndarray[Any, Any]) -> bool:
    """An array as .npy, to be memory-mapped. Returns whether the file changed."""
    array = np.ascontiguousarray(array)
    if path.is_file() and _holds(path, array):
        return False
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
    return True


def _holds(path: Path, array: np.ndarray[Any, Any]) -> bool:
    """Whether `path` is the .npy of `array`, bit for bit (a NaN equals itself)."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    header = head.getvalue()
    if path.stat().st_size != len(header) + array.nbytes:
        return False
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            return False
        data = array.reshape(-1).view(np.uint8).data
        return all(file.read(BLOCK) == data[i : i + BLOCK] for i in range(0, len(data), BLOCK))


def link(source: Path, path: Path) -> bool:
    """Make `path` the same file as `source`: a hard link, or a copy where none can be. Returns whether it changed."""
    source = source.resolve()
    if path.is_file() and (path.samefile(source) or filecmp.cmp(path, source, shallow=False)):
        return False
    with replacing(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, temporary)
    return True


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(data: Any) -> str:
    return hashlib.sha256(to_json(data)).hexdigest()
