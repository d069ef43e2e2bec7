"""Every task watched, by a clock: its champion asked, if wanted → live error, drift, decision → trained anew, if so."""

from airflow.sdk import task_group
from cityloop_airflow import city, house, pages, watch

CITY = city.load()
TASKS = [task for task in CITY.tasks.values() if task.watched or task.predicts]


@task_group(group_id="watched", prefix_group_id=False, tooltip="Once for each task; one that fails stops no other")
def watched(task: str) -> None:
    predict = [watch.predict(task, CITY.every)] if any(task.predicts for task in TASKS) else []
    monitor = watch.monitor(task, after=predict)
    for step in predict:
        step >> monitor
    monitor >> watch.retrain(task)


if TASKS:
    with house.dag(
        "monitor",
        pages.monitor(CITY),
        owner=city.PLATFORM,
        tags={"monitor"},
        what="Live error, drift, and whether to train anew, of every task",
        schedule=CITY.watch,
    ):
        watched.expand(task=[task.name for task in TASKS])
