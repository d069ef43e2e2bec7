"""Objects by key, in a folder or at a URL: the few operations that the store stands on.

    objects = of("s3://city/store")            # or a folder
    objects.create("ledger/x/00000001.json", b"{}")   # FileExistsError if another was quicker

A folder, S3, Google and Azure are written; any other address that fsspec knows is read. Credentials and the endpoint
come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION …).
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pipelines.core import files
from pipelines.core.errors import UserError

CLOUDS = ("s3", "s3a", "gs", "az", "abfs", "abfss")
"""Schemes that are written to."""
_PATIENCE = {"timeout": "20s", "connect_timeout": "3s"}
_RETRY = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
"""Where obstore looks for an address. Only one that says http is spoken to in plain text."""
_MISSING = ("NoSuchKey", "BlobNotFound")
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY as the server knows them"
_CAUSES = {
    "NoSuchBucket": "there is no such bucket; make it, or correct its name",
    "AccessDenied": "who asks may not do this; look at the bucket's policy",
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch"), _CREDENTIALS),
}


class Unreachable(UserError):
    """The store does not answer, or refuses; what was asked may be tried again."""


class Objects(Protocol):
    """Keys are relative POSIX paths. What cannot be reached raises Unreachable, a missing key FileNotFoundError."""

    def get(self, key: str) -> bytes: ...

    def put(self, key: str, data: bytes) -> None:
        """Whole or not at all; what was there is replaced."""

    def create(self, key: str, data: bytes) -> None:
        """As `put`, but of several who try one alone succeeds: FileExistsError for the others."""

    def delete(self, key: str) -> None:
        """One that is not there is no error."""

    def names(self, prefix: str) -> list[str]:
        """Names directly below `prefix`, sorted, without what a killed writer left."""

    def find(self, prefix: str) -> list[str]:
        """Keys of all objects below `prefix`, sorted."""

    def marks(self, prefix: str) -> dict[str, str]:
        """As `find`, each with a mark that is another one once the object was replaced."""


def of(where: str) -> Objects:
    """The objects at a folder or URL. Raises UserError for an address that nothing here can open."""
    scheme, found, _ = where.partition("://")
    if not found:
        return Folder(Path(where))
    return Cloud(where) if scheme in CLOUDS else Remote(where)


@dataclass(frozen=True)
class Folder:
    """Objects as files below `root`."""

    root: Path

    def get(self, key: str) -> bytes:
        with _reaching(str(self.root)):
            return self._path(key).read_bytes()

    def put(self, key: str, data: bytes) -> None:
        with _reaching(str(self.root)), files.replacing(self._path(key)) as new:
            new.write_bytes(data)

    def create(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with _reaching(str(self.root)):
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            try:
                with new.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(new, path)  # unlike a rename, it never replaces
            finally:
                new.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        with _reaching(str(self.root)):
            self._path(key).unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        with _reaching(str(self.root)):
            folder = self._path(prefix)
            return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []

    def find(self, prefix: str) -> list[str]:
        with _reaching(str(self.root)):
            found = [p.relative_to(self.root) for p in self._path(prefix).rglob("*") if p.is_file()]
        return sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))

    def marks(self, prefix: str) -> dict[str, str]:
        found = {}
        for key in self.find(prefix):
            with contextlib.suppress(FileNotFoundError), _reaching(str(self.root)):  # one that was deleted meanwhile
                told = self._path(key).stat()
                found[key] = f"{told.st_size}-{told.st_mtime_ns}"
        return found

    def _path(self, key: str) -> Path:
        return self.root / _plain(key)


@dataclass(frozen=True)
class Cloud:
    """Objects of a bucket; creating is one conditional PUT."""

    where: str

    @cached_property
    def _store(self) -> Any:
        from obstore import store

        open_: Any = store.from_url  # its overloads know no common call
        plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
        try:
            options: dict[str, Any] = {**_PATIENCE, "allow_http": plain}
            return open_(self.where, client_options=options, retry_config=_RETRY)
        except Exception as error:
            raise UserError(f"{self.where}: not an address of a store: {_cause(error)}") from None

    def get(self, key: str) -> bytes:
        import obstore

        with self._reaching():
            return bytes(obstore.get(self._store, _plain(key)).bytes())

    def put(self, key: str, data: bytes) -> None:
        import obstore

        with self._reaching():
            obstore.put(self._store, _plain(key), data, use_multipart=False)

    def create(self, key: str, data: bytes) -> None:
        import obstore

        with self._reaching():
            obstore.put(self._store, _plain(key), data, mode="create", use_multipart=False)

    def delete(self, key: str) -> None:
        import obstore

        with contextlib.suppress(FileNotFoundError), self._reaching():
            obstore.delete(self._store, _plain(key))

    def names(self, prefix: str) -> list[str]:
        import obstore

        with self._reaching():
            found = obstore.list_with_delimiter(self._store, _plain(prefix))
        keys = [*found["common_prefixes"], *(o["path"] for o in found["objects"])]
        return sorted(str(k).rstrip("/").rpartition("/")[2] for k in keys)

    def find(self, prefix: str) -> list[str]:
        import obstore

        with self._reaching():
            return sorted(str(o["path"]) for some in obstore.list(self._store, _plain(prefix)) for o in some)

    def marks(self, prefix: str) -> dict[str, str]:
        import obstore

        with self._reaching():
            found = [o for some in obstore.list(self._store, _plain(prefix)) for o in some]
        return {str(o["path"]): f"{o['size']}-{o['e_tag'] or o['last_modified']}" for o in found}

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except exceptions.AlreadyExistsError as error:
            raise FileExistsError(_cause(error)) from None
        except (FileNotFoundError, exceptions.BaseError) as error:
            # No bucket, or a proxy that knows no such page, must not be taken for a store with nothing in it.
            if isinstance(error, FileNotFoundError) and _code(error) in _MISSING:
                raise FileNotFoundError(_cause(error)) from None
            raise Unreachable(f"{self.where}: {_cause(error)}") from None


@dataclass(frozen=True)
class Remote:
    """Whatever fsspec can open, read only."""

    where: str

    @cached_property
    def _system(self) -> tuple[Any, str]:
        import fsspec

        try:
            system, base = fsspec.core.url_to_fs(self.where)
        except (ValueError, ImportError) as error:
            raise UserError(f"{self.where}: {error}") from None
        return system, str(base).rstrip("/")

    def get(self, key: str) -> bytes:
        system, base = self._system
        with _reaching(self.where):
            return bytes(system.cat_file(f"{base}/{_plain(key)}"))

    def put(self, key: str, data: bytes) -> None:
        raise UserError(f"{self.where}: read only; write to a folder or to {', '.join(c + '://' for c in CLOUDS[:4])}")

    create = put

    def delete(self, key: str) -> None:
        self.put(key, b"")

    def names(self, prefix: str) -> list[str]:
        system, base = self._system
        folder = f"{base}/{_plain(prefix)}"
        with _reaching(self.where):
            names = system.ls(folder, detail=False) if system.isdir(folder) else []
        return sorted(str(n).rstrip("/").rpartition("/")[2] for n in names)

    def find(self, prefix: str) -> list[str]:
        system, base = self._system
        folder = f"{base}/{_plain(prefix)}"
        with _reaching(self.where):
            found = system.find(folder) if system.isdir(folder) else []
        return sorted(f"{prefix}/{str(p)[str(p).index(folder) + len(folder) :].lstrip('/')}" for p in found)

    def marks(self, prefix: str) -> dict[str, str]:
        system, base = self._system
        told = {key: system.info(f"{base}/{key}") for key in self.find(prefix)}
        said = ("size", "ETag", "etag", "mtime", "LastModified", "updated")  # each file system has its own of these
        return {key: "-".join(str(about[k]) for k in said if about.get(k)) for key, about in told.items()}


def _plain(key: str) -> str:
    """`key`, which may not lead out of the store. Raises ValueError."""
    if not key or key.startswith("/") or any(part in ("", ".", "..") for part in key.rstrip("/").split("/")):
        raise ValueError(f"{key!r} is not a key; expected a relative path such as current/traffic_speed.json")
    return key.rstrip("/")


@contextlib.contextmanager
def _reaching(where: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise Unreachable(f"{where}: {error.strerror or error}") from error


def _code(error: BaseException) -> str:
    """What the store itself calls the trouble; nothing where something else answered, or nobody."""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else ""


def _cause(error: BaseException) -> str:
    """One line, without an address's query: that may be signed."""
    code, line = _code(error), str(error).partition("\n")[0].partition("<?xml")[0]
    if "//169.254.169.254" in line:  # asked for credentials when the environment has none
        return f"no credentials; {_CREDENTIALS}"
    told = _CAUSES.get(code) or re.sub(r"\?\S*", "", line).strip()[:300]
    return f"{code}: {told}" if code else told
