import shutil
from pathlib import Path

import pytest
from toy import Toy

from pipelines.runs.run import run


@pytest.fixture(scope="session")
def looped_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, object]:
    toy = Toy.make(tmp_path_factory.mktemp("toy") / "city")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CITYLOOP_STATE", "CITYLOOP_GIT", "CITYLOOP_DVC_REMOTE", "CITYLOOP_CACHE"):
            patch.delenv(name, raising=False)
        outcome = run(jobs=6, root=toy.root)
    return toy, outcome


@pytest.fixture
def toy(looped_once: tuple[Toy, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy city after its first run, to be done with as one likes."""
    for name in ("CITYLOOP_STATE", "CITYLOOP_GIT", "CITYLOOP_DVC_REMOTE", "CITYLOOP_CACHE"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(looped_once[0].root, tmp_path / "city", symlinks=True)
    for leftover in [*(tmp_path / "city/.cityloop").glob("pid-*"), tmp_path / "city/.cityloop/ran.txt"]:
        leftover.unlink()
    return Toy(tmp_path / "city")
