"""What a command may cost before it works: heavy libraries load where they are used, not before."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
HEAVY = [
    "torch",
    "pytorch_lightning",
    "lightning_fabric",
    "mlflow",
    "great_expectations",
    "pandas",
    "ibis",
    "duckdb",
    "dvc",
    "h5py",
    "matplotlib",
    "onnxruntime",
    "captum",
    "optuna",
    "peft",
    "sklearn",
    "transformers",
]
ROOMS = sorted(p.stem for p in (ROOT / "pipelines").glob("*.py") if not p.stem.startswith("_"))


def loaded(code: str) -> list[str]:
    """The heavy libraries that are loaded after `code` ran in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('loaded', *(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.splitlines()[-1].split()[1:]


def test_help_of_every_command_loads_nothing_heavy() -> None:
    names = ["", *sorted(main.commands)]
    code = (
        "from pipelines.__main__ import main\n"
        f"for name in {names!r}:\n"
        "    assert main([*filter(None, [name]), '--help'], prog_name='cityloop', standalone_mode=False) == 0"
    )
    assert loaded(code) == []


@pytest.mark.parametrize("room", ROOMS)
def test_opening_a_room_loads_nothing_heavy(room: str) -> None:
    assert loaded(f"import pipelines.{room}") == []


def test_the_probe_sees_a_heavy_library_that_is_loaded() -> None:
    assert loaded("import pandas") == ["pandas"]


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
