"""Cities to test in: the simulated one's two files, and a tiny one that has been through the whole loop."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def city_files(tmp_path: Path) -> Path:
    """A folder with copies of params.yaml and window.yaml."""
    for name in ("params.yaml", "window.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path
