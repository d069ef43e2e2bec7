"""From what params.yaml says about a file to local files that exist and have the right bytes."""

import contextlib
import glob
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.core import files, log
from pipelines.core.errors import UserError, nearest
from pipelines.core.paths import Paths

DATA = "CITYLOOP_DATA"
_FORMATS = {".csv": "csv", ".txt": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}
_FORMATS |= {".npz": "npz", ".npy": "npy", ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5"}
_PACKED = (".gz", ".bz2", ".zst")


class File(NamedTuple):
    """A local file, and the name under which the user knows it."""

    path: Path
    name: str

    @property
    def stem(self) -> str:
        """The file name without its endings."""
        return _unpacked(self.name).rpartition(".")[0] or _unpacked(self.name)

    def format(self, given: str | None = None) -> str:
        """`given`, or what the ending says. Raises UserError for an unknown ending."""
        ending = "." + _unpacked(self.name).rpartition(".")[2].lower()
        if given is None and ending not in _FORMATS:
            if ending in (".pkl", ".pickle"):
                raise UserError(
                    f"{self.name}: pickle files can run code and are never read; save it as CSV, .npz or HDF5"
                )
            raise UserError(
                f"{self.name}: unknown kind of file {ending!r}; set `format`, or {nearest(ending, _FORMATS)}"
            )
        return given or _FORMATS[ending]


def locate(path: str, sha256: str | None, root: Path) -> list[File]:
    """The files that `path` names, sorted by name: one, or those of a glob, or a URL's local copy.

    A relative path is relative to `root`; `{data}` is the folder named by CITYLOOP_DATA.
    Raises UserError when there is none, or when its SHA-256 is not the expected one.
    """
    if "{data}" in path:
        path = path.replace("{data}", _data_folder(path))
    if "://" in path:
        assert sha256 is not None, "params refuses URLs without a checksum"
        return [File(_fetched(path, sha256, Paths(root).state / "downloads"), path)]
    full = root / Path(path).expanduser()
    found = [full] if full.is_file() else [Path(p) for p in sorted(glob.glob(str(full), recursive=True))]
    found = [p for p in found if p.is_file()]
    if not found:
        raise UserError(f"{full}: {_why_missing(full)}")
    if sha256 is not None and (actual := files.sha256_file(found[0])) != sha256:
        raise UserError(_wrong(str(full), sha256, actual, "get the right file, or correct `sha256`"))
    return [File(p, str(p)) for p in found]


def _data_folder(path: str) -> str:
    folder = os.environ.get(DATA, "")
    if not folder:
        raise UserError(f"{path}: set the environment variable {DATA} to the folder that {{data}} stands for")
    if not Path(folder).is_dir():
        raise UserError(f"{path}: {DATA} names {folder}, which is not a folder")
    return str(Path(folder).resolve())


def _why_missing(full: Path) -> str:
    if any(mark in str(full) for mark in "*?["):
        return "no file matches; check the pattern"
    if full.is_dir():
        return f"is a folder; name a file, or a pattern such as {full / '*.csv'}"
    if not full.parent.is_dir():
        return f"no such file, nor is there a folder {full.parent}"
    beside = [p.name for p in full.parent.iterdir() if p.is_file()]
    return f"no such file; {nearest(full.name, beside) if len(beside) < 50 else 'check the path'}"


def _fetched(url: str, sha256: str, cache: Path) -> Path:
    """A URL's content in `cache`, under its checksum; fetched unless it is there and whole."""
    name = _unpacked(url, keep=True)
    local = cache / f"{sha256}-{name}"
    if local.is_file() and files.sha256_file(local) == sha256:
        return local
    import fsspec

    log.logger.info("fetching %s", url)
    with files.replacing(local) as temporary:
        try:
            with fsspec.open(url, "rb") as source, temporary.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        except UserError:
            raise
        except Exception as error:  # each file system has errors of its own
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            temporary.touch()
            raise UserError(f"{url}: cannot be fetched: {first_line(error)}") from None
        actual = files.sha256_file(temporary)
        if actual != sha256:
            raise UserError(_wrong(url, sha256, actual, "check the address, or correct `sha256`"))
    return local


def _wrong(name: str, expected: str, actual: str, advice: str) -> str:
    return f"{name}: SHA-256 is {actual}, expected {expected}; {advice}"


def _unpacked(name: str, keep: bool = False) -> str:
    """The last part of a path or URL (the inner file of a chained one), without .gz unless kept."""
    inner = name.partition("::")[0].partition("?")[0].partition("#")[0] if "://" in name else name
    last = inner.rstrip("/").replace("\\", "/").rpartition("/")[2]
    packed = next((p for p in _PACKED if last.lower().endswith(p)), "")
    return last if keep or not packed else last[: -len(packed)]


def first_line(error: Any) -> str:
    """An exception's message on one line of reasonable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "…"
