"""How long Airflow takes to read the DAG files, net of importing Airflow: `python benchmarks/dags.py [TASKS]`.

TASKS: how many tasks params.yaml is given; default: those it has. Airflow's own Python reads the DAGs.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5


def main() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else len(params["tasks"])
    first = next(iter(params["tasks"].values()))
    for number in range(wanted - len(params["tasks"])):
        params["tasks"][f"task_{number}"] = first
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        told = [_told(folder) for _ in range(REPEATS)]
    seconds = sorted(one["seconds"] for one in told)
    dags = told[0]["dags"].values()
    count = sum(len(dag["tasks"]) for dag in dags)
    print(f"{len(dags)} DAGs, {count} Airflow tasks: {seconds[REPEATS // 2]:.3f} s CPU (best {seconds[0]:.3f})")


def _told(folder: str) -> dict:
    environ = {
        **os.environ,
        "AIRFLOW_HOME": folder,
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "CITYLOOP_ROOT": folder,
        "PYTHONPATH": str(ROOT / "dags"),
    }
    command = [ROOT / ".venv-airflow/bin/python", ROOT / "tests/dags/told_by_airflow.py"]
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
