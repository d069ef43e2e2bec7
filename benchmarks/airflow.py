"""What Airflow adds to the commands it runs: a DAG run against the sum of its commands, on the stack of `make up`.

A tiny city (that of the tests) is made and trained, then a day of new data is ingested and its task trained anew, and
once more with nothing new. A command's time is that between two lines of its task's log.

    python benchmarks/airflow.py
"""

import datetime as dt
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("tests", "tests/e2e"))

import stacked
from looping import Loop, city
from workspaces import SOURCES, Workspace, tiny

from pipelines import city as cities

HERE = Path(__file__).parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        root = city(_trained(folder), folder / "city", lambda params: None)
        print(f"a tiny city, trained: {time.monotonic() - began:.0f} s", file=sys.stderr)
        began = time.monotonic()
        with stacked.up(folder, root=root) as stack:
            print(f"the stack, from nothing to well: {time.monotonic() - began:.0f} s")
            loop = Loop(root, stack)
            loop.ready("train_air_quality", "ingest_air")  # its clock is switched on, so that it runs
            _told(loop, "ingest_air", loop.new_run("ingest_air", {}))
            _told(loop, "train_air_quality", loop.new_run("train_air_quality", {}))
            _told(loop, "train_air_quality", loop.trigger("train_air_quality"), "nothing new")


def _trained(folder: Path) -> Workspace:
    (folder / "tiny").mkdir()
    params = tiny(yaml.safe_load((HERE / "params.yaml").read_text()))
    (folder / "tiny/params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "tiny/window.yaml").write_text("".join(f'{name}: "2025-04-07"\n' for name in SOURCES))
    made = Workspace(cities.run(folder / "tiny", root=HERE))
    made.repro()
    return made


def _told(loop: Loop, dag: str, run: str, what: str = "new data") -> None:
    states = loop.succeeds(dag, run, 900)
    found = loop.airflow("GET", f"/dags/{dag}/dagRuns/{run}")
    whole = (_time(found["end_date"]) - _time(found["start_date"])).total_seconds()
    ran = [task for task, state in states.items() if state == "success" or task == "plan"]
    commands = {task: _command(loop, dag, run, task) for task in ran}
    rest = whole - sum(commands.values())
    print(f"{dag}, {what}: {whole:.1f} s for {len(ran)} tasks, commands {sum(commands.values()):.1f} s; "
          f"Airflow's share {rest / len(ran):.1f} s a task")  # fmt: skip


def _command(loop: Loop, dag: str, run: str, task: str) -> float:
    entries: list[Any] = loop.airflow("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/1")["content"]
    at = {
        words: _time(entry["timestamp"])
        for entry in entries
        for words in ("Running command", "Command exited")
        if str(entry.get("event", "")).startswith(words)
    }
    return (at["Command exited"] - at["Running command"]).total_seconds()


def _time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text.replace("Z", "+00:00"))


if __name__ == "__main__":
    main()
