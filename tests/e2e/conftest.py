import json
from collections.abc import Iterator
from typing import Any

import pytest
import stacked
from looping import Loop, city
from workspaces import Workspace

YEARLY = "0 0 1 1 *"


@pytest.fixture(scope="module")
def loop(looped: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """A tiny city in which all is trained and nothing registered, on a running stack."""

    def change(params: Any) -> None:
        for task in params["tasks"].values():
            task["gate"] = {"enabled": False}  # trained for four steps, it would not pass
        params["schedule"] |= {"tasks": {"traffic_speed": {"door": "form"}}}
        # Once, when it is switched on: what a test finds must not hang on the minute it runs at.
        params["schedule"]["monitor"] |= {"cron": YEARLY}
        params["schedule"]["ingest"] = dict.fromkeys(params["sources"], YEARLY)

    folder = tmp_path_factory.mktemp("loop")
    root = city(looped, folder / "tiny", change)
    lineage = {"type": "file", "log_file_path": str(folder / "lineage.json"), "append": True}
    with stacked.up(folder, root=root, env={"AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(lineage)}) as stack:
        yield Loop(root, stack)
