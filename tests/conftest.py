"""Cities to test in: the simulated one's two files, and a tiny one that has been through the whole loop."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Before anything imports torch: sums come out alike whoever trains, and processes beside each other share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml
from ceph import s3 as s3
from workspaces import ROOT, SOURCES, Workspace, tiny

from pipelines import city


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """MLflow writes the address it is told into the environment; the next test's processes would inherit it."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture
def city_files(tmp_path: Path) -> Path:
    """A folder with copies of params.yaml and window.yaml."""
    for name in ("params.yaml", "window.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="session")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny city after `dvc repro`. Whoever changes it puts it back: see `kept`."""
    top = tmp_path_factory.mktemp("city")
    folder = top / "tiny"
    folder.mkdir()
    params = tiny(yaml.safe_load((ROOT / "params.yaml").read_text()))
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "window.yaml").write_text("".join(f'{name}: "2025-04-07"\n' for name in SOURCES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CITYLOOP_STATE", str(top / "state"))
        place = city.run(folder, root=ROOT)
    workspace = Workspace(place)
    workspace.repro()
    return workspace


@pytest.fixture
def kept(looped: Workspace) -> Iterator[Workspace]:
    """The looped city, its tracked files put back after the test. For tests that edit and ask, without running."""
    yield looped
    looped.run("git", "checkout", "-q", "--", ".")
