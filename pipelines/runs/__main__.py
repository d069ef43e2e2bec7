"""`python -m pipelines.runs STAGE RUN ROOT [FORMER …]`: how `run` starts each stage, as a process of its own."""

import json
import sys
from pathlib import Path

from pipelines.core import log
from pipelines.core.errors import UserError
from pipelines.runs.stage import run_stage


def main(stage: str, run: str, root: str, *former: str) -> int:
    """Print the result as one line of JSON; an error as one line on standard error, with its exit code."""
    log.setup()
    try:
        print(json.dumps(run_stage(stage, run, former=former, root=Path(root)).line()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
