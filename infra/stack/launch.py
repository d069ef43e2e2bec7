"""What supervisord starts: `launch.py NAME COMMAND…` ends what an earlier NAME left behind, and becomes COMMAND.

COMMAND gets the environment in run/env/NAME.json: secrets stand in a private file, never in an argument. A service that
was killed may leave children that hold its port or go on with a task that is given out again.
"""

import json
import os
import sys
from pathlib import Path

import keeper


def main(name: str, command: list[str]) -> None:
    run = Path(os.environ["STACK"]) / "run"
    keeper.end(keeper.processes(run / name))
    environment = os.environ | json.loads((run / "env" / f"{name}.json").read_text())
    os.execvpe(command[0], command, environment | {keeper.MARK: str(run / name)})  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
