"""What all DAGs have in common, and the assets that they hand each other."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, AssetAlias

from cityloop_airflow import notify
from cityloop_airflow.command import reviewer, run_name

START = datetime(2025, 1, 1, tzinfo=UTC)
UNTIL = r"^(now|\+\d+(s|min|h|d|w)|\d{4}-\d\d-\d\d[0-9T:.Z+-]*)$"
UNTIL_SAYS = "now; +1d, from where it ends at present; or a date, 2025-04-08 or 2025-04-08T06:00:00Z (UTC)"
DEPLOYED = Asset("cityloop://live/deployed")
DRIFTED = AssetAlias("drifted")
"""Outlet of a step that is mapped over tasks: which drift assets are new it says when it ends."""
DEADLINES = {
    "ingest": timedelta(hours=1),
    "monitor": timedelta(hours=1),
    "train": timedelta(hours=12),
    "pretrain": timedelta(days=3),
}
"""Longer than such a run should take: then people are told. It goes on all the same."""


def source(name: str) -> Asset:
    return Asset(f"cityloop://source/{name}")


def backbone(name: str) -> Asset:
    return Asset(f"cityloop://backbone/{name}")


def drift(task: str) -> Asset:
    return Asset(f"cityloop://drift/{task}")


def candidate(task: str) -> Asset:
    return Asset(f"cityloop://candidate/{task}")


def dag(
    dag_id: str, page: str, *, owner: str, tags: set[str], what: str, schedule: Any = None, **kwargs: Any
) -> DAG:  # fmt: skip
    """A DAG of this house: one run at a time, no catching up, failures told, retries that back off."""
    if limit := DEADLINES.get(dag_id.split("_")[0]):
        kwargs.setdefault("deadline", [notify.deadline(dag_id, limit, f"not over after {limit}")])
    defaults = {
        "owner": owner,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=10),
        "on_failure_callback": notify.failed,
    }
    return DAG(
        dag_id, schedule=schedule, description=what, doc_md=page, tags={"cityloop", *tags}, default_args=defaults,
        start_date=START, catchup=False, user_defined_macros={"run_name": run_name, "reviewer": reviewer},
        # Clocks are for the operator to start; what is asked for by an event or by hand runs at once.
        is_paused_upon_creation=isinstance(schedule, str),
        **{"max_active_runs": 1, "max_active_tasks": 4, **kwargs},
    )  # fmt: skip
