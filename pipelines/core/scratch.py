"""Folders that live as long as the work done in them, and do not outlive a killed process for long."""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """A folder of our own, held by a lock that dies with the process; folders of dead processes are removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.iterdir():
        with _held(leftover) as ours:
            if ours:
                shutil.rmtree(leftover, ignore_errors=True)
    while True:
        folder = parent / f"{name}-{secrets.token_hex(4)}"
        folder.mkdir()
        with _held(folder) as ours:
            # Another process may have swept it between the making and the locking.
            if not ours or not folder.exists():
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(handle)
