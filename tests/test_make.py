"""`make` on machines that are not ready yet."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout without .venv, and in bin/ a machine's tools without any Python."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "make", "rm", "touch", "awk", "env"):
        found = shutil.which(tool)
        assert found
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(folder / "bin"), "HOME": str(folder)}
    return subprocess.run(["make", *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


def a_python(folder: Path, name: str, version: tuple[int, int]) -> None:
    """A stand-in that has the version given and, asked for anything but its version, says its name and stops."""
    path = folder / "bin" / name
    code = 0 if (3, 11) <= version < (3, 14) else 1
    path.write_text(f'#!/usr/bin/env bash\n[ "$1" = -c ] && exit {code}\necho "{name} $*" >&2\nexit 9\n')
    path.chmod(0o755)


def test_without_a_suitable_python_it_says_what_to_install(bare: Path) -> None:
    a_python(bare, "python3", (3, 9))
    a_python(bare, "python3.14", (3, 14))
    done = make(bare, "run")
    assert done.returncode != 0
    assert "error: no Python 3.11, 3.12 or 3.13 with venv found; install one" in done.stderr
    assert not (bare / ".venv").exists()


def test_it_passes_over_a_python_that_does_not_suit(bare: Path) -> None:
    a_python(bare, "python3", (3, 9))
    a_python(bare, "python3.12", (3, 12))
    assert "python3.12 -m venv .venv" in make(bare, "setup").stderr


def test_the_interpreter_that_is_named_comes_first(bare: Path) -> None:
    a_python(bare, "python3", (3, 11))
    a_python(bare, "mine", (3, 13))
    assert "mine -m venv .venv" in make(bare, "setup", "PYTHON=mine").stderr


def test_set_up_is_done_once_and_again_when_the_lock_changes(bare: Path) -> None:
    (bare / ".venv").mkdir()
    (bare / ".venv/.ready").touch()
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(bare / name, (1, 1))
    assert make(bare, "--question", "setup").returncode == 0
    os.utime(bare / "requirements.lock")
    os.utime(bare / ".venv/.ready", (2, 2))
    assert make(bare, "--question", "setup").returncode == 1


def test_help_names_every_target(bare: Path) -> None:
    text = make(bare).stdout
    for target in ("run", "test", "browser", "lint", "ui", "lock", "deps", "clean"):
        assert f"make {target} " in text
