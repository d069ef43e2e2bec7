"""Tells people: failures, runs that take too long, reviews that wait. Off until CITYLOOP_NOTIFY is set.

CITYLOOP_NOTIFY: Apprise addresses, divided by spaces: `json://hook.city.example/airflow mailtos://user:password@city.example`.
It is read where the message is sent, by workers, DAG processor and triggerer.
"""

import asyncio
import logging
import os
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import AsyncCallback, Context, DeadlineAlert, DeadlineReference, conf

from cityloop_airflow.answer import Partly
from cityloop_airflow.kinds import KINDS

WHERE = "CITYLOOP_NOTIFY"
MOST_REMINDERS = 14
log = logging.getLogger(__name__)


def tell(title: str, body: str, *, bad: bool = True) -> None:
    """Send it, or note that it was not to be sent. What goes wrong with that is logged, and stops nothing."""
    where = os.environ.get(WHERE, "").split()
    if not where:
        log.info("%s (not sent: %s is not set)", title, WHERE)
        return
    from airflow.providers.apprise.hooks.apprise import AppriseHook
    from apprise import AppriseConfig, NotifyType

    config = AppriseConfig()
    if not config.add_config("\n".join(where), format="text"):
        log.error("%s: not addresses that Apprise knows; nothing was sent", WHERE)
        return
    kind = NotifyType.FAILURE if bad else NotifyType.WARNING
    try:
        AppriseHook().notify(title=title, body=body, notify_type=kind, config=config)
    except Exception:
        log.exception("notification not sent: %s", title)


def failed(context: Context) -> None:
    """A task failed for good: what it means, whether it can wait, what to do, and where to look."""
    ti = context["ti"]
    if isinstance(context.get("exception"), Partly):
        return
    kind = KINDS[kind_of(context["task"])]
    why = " ".join(str(context.get("exception") or "").split())[:500]
    lines = [kind.means, why and f"Reason: {why}", f"Can it wait? {kind.wait}", f"What to do: {kind.do}",
             f"Owner: {context['task'].owner}", f"Log: {ti.log_url}"]  # fmt: skip
    of = getattr(ti, "rendered_map_index", None)
    tell(f"{ti.dag_id}: {ti.task_id} failed" + (f" for {of}" if of else ""), "\n".join(filter(None, lines)))


def kind_of(task: Any) -> str:
    """The task's row in KINDS: `pretrain_series` is of kind pretrain."""
    name = str(task.task_id)
    return name if name in KINDS else name.split("_")[0]


def waiting(context: Context, said: dict[str, Any], expires: timedelta) -> None:
    """A version waits for a person."""
    ti = context["ti"]
    title = f"{said.get('task')}: version {said.get('version')} waits for review"
    body = f"Until it expires in {expires}.\nCard: {said.get('url') or ''}\nIn Airflow: {ti.log_url}"
    tell(title, body, bad=False)


async def late(dag_id: str, what: str, context: Any = None) -> None:
    """What a deadline does when it is missed; awaited by the triggerer."""
    run = ((context or {}).get("dag_run") or {}).get("dag_run_id", "")
    where = f"{conf.get('api', 'base_url', fallback='')}/dags/{dag_id}/runs/{quote(run)}"
    body = f"It goes on all the same. The DAG's page says what to do, the graph where it stands: {where}"
    await asyncio.to_thread(tell, f"{dag_id}: {what}", body, bad=False)


def deadline(dag_id: str, after: timedelta, what: str) -> DeadlineAlert:
    """Has `late` called when a run is not over `after` it was queued."""
    callback = AsyncCallback(late, kwargs={"dag_id": dag_id, "what": what})
    # In seconds, as Airflow stored it before 3.3: with a timedelta, clearing a task of a failed run ends in HTTP 500
    # (airflow.models.taskinstance._recalculate_dagrun_queued_at_deadlines of 3.3.2).
    seconds: Any = int(after.total_seconds())
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, interval=seconds, callback=callback, name=what)


def reminders(dag_id: str, task: str, every: timedelta, until: timedelta) -> list[DeadlineAlert]:
    """One `every` so often, for as long as a review may wait."""
    count = min(MOST_REMINDERS, max(1, -(-until // every) - 1)) if every < until else 0
    waits = [every * n for n in range(1, count + 1)]
    return [deadline(dag_id, wait, f"no decision on {task} after {wait}; does a review wait?") for wait in waits]
