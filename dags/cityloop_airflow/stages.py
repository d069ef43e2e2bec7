"""The steps of a run as Airflow tasks, in the order that dvc.yaml's graph has (tests/dags compares them)."""

from collections.abc import Iterable, Sequence
from typing import Any

from airflow.sdk import Asset, TaskGroup, TriggerRule

from cityloop_airflow.city import City
from cityloop_airflow.command import command

RUN = "{{ run_name(dag.dag_id, run_id) }}"
AFTER = {
    "validate": ("ingest",),
    "features": ("validate",),
    "corpus": ("features",),
    "pretrain": ("corpus",),
    "join": ("features",),
    "finetune": ("join", "pretrain"),
    "evaluate": ("join", "finetune"),
    "card": ("validate", "pretrain", "finetune", "evaluate"),
}
"""Room → the rooms whose outputs it reads; `upstream` stands for those of all sources."""


def begin(*words: str) -> Any:
    return command("begin", "begin", *words, "--run", RUN, "--json")


def plan(*targets: str) -> Any:
    """Skips what follows when nothing would change."""
    return command("plan", "plan", RUN, *targets, "--json", "--needed", skip_on=(3,))


def upstream(city: City) -> Any:
    """What all tasks share: the features of every source, in one task, for they are seldom out of date here."""
    return command("upstream", "run", *(f"features@{name}" for name in city.sources), "--run", RUN, "--no-merge")


def stages(keys: dict[str, str], after: Any, *, suffix: str = "", group: str = "stages") -> dict[str, Any]:
    """Room → its task, in the graph's order, for `keys`: room → source, backbone or task. `after`: what comes first."""
    made: dict[str, Any] = {}
    with TaskGroup(group, prefix_group_id=False, tooltip="Stages of dvc.yaml, each in a workspace of its own"):
        for room, key in keys.items():
            made[room] = command(f"{room}{suffix}", "run-stage", f"{room}@{key}", "--run", RUN, kind=room)
            above = AFTER.get(room, ())
            for name in above:
                if name in made:
                    made[name] >> made[room]
            if not above or not set(above) <= set(made):
                after >> made[room]
    return made


def merge(after: Iterable[Any], outlets: Sequence[Asset], *, whole: bool = False) -> Any:
    """Brings what succeeded to `live`, and is red, with no event of its outlets, when something before it failed.

    whole: nothing is merged unless everything succeeded.
    """
    tasks = list(after)
    rule = TriggerRule.ALL_SUCCESS if whole else TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
    needs = () if whole else [task.task_id for task in tasks]
    made = command("merge", "merge-run", RUN, "--json", outlets=outlets, needs=needs, trigger_rule=rule)
    tasks >> made
    return made
