"""Steps of watching, mapped over the city's tasks: a step's task is the second word of its command."""

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context, TriggerRule

from cityloop_airflow import city, house
from cityloop_airflow.answer import Answers
from cityloop_airflow.command import command

LABEL = "{{ task.words[1] }}"
"""What the UI calls an instance."""


class OfTask(Answers):
    """Part of an operator that does nothing for some tasks."""

    words: list[str]

    def execute(self, context: Context) -> Any:
        """Raises AirflowSkipException, with `why_not`, for a task that the step is not for."""
        if why := self.why_not(context, city.load().tasks[self.words[1]]):
            self.leave(context, why)
        return super().execute(context)  # type: ignore[misc]

    def why_not(self, context: Context, task: city.Task) -> str | None:
        raise NotImplementedError


class Predict(OfTask):
    def why_not(self, context: Context, task: city.Task) -> str | None:
        return None if task.predicts else f"schedule.monitor.predict in params.yaml does not name {task.name}"


class Monitor(OfTask):
    def why_not(self, context: Context, task: city.Task) -> str | None:
        return None if task.watched else f"{task.name}: nothing tells yet what was right"


class Retrain(OfTask):
    """Only where `monitor` said so; then what `train_<task>` waits for is new."""

    def why_not(self, context: Context, task: city.Task) -> str | None:
        said = context["ti"].xcom_pull(task_ids="monitor", map_indexes=context["ti"].map_index)
        decision = said if isinstance(said, dict) else {"decision": "none"}
        if decision["decision"] != "retrain":
            return f"{decision['decision']}: {' '.join(decision.get('reasons', []))}"
        if not task.retrains:
            return f"tasks.{task.name}.monitor.retrain.automatic is false: `cityloop retrain {task.name} --live`"
        return None

    def settled(self, context: Context, *given: Any, **more: Any) -> Any:
        """Raises AirflowSkipException where the same decision was carried out before.

        Tried again it goes on all the same: the first try may have died between the commit and the event. An event that
        comes twice does no harm.
        """
        said = super().settled(context, *given, **more)
        if not said["changed"] and context["ti"].try_number == 1:
            self.leave(context, f"{said['task']} was to be trained anew already")
        events = context["outlet_events"][house.DRIFTED]
        events.add(house.drift(said["task"]), extra=self._extra(context))
        return said


def predict(task: Any, every: str) -> Any:
    words = ("predict", task, "--live", "--every", every)
    return command("predict", *words, base=Predict, skip_on=(4,), map_index_template=LABEL)


def monitor(task: Any, after: Sequence[Any]) -> Any:
    """Scores what was answered, whether what is to come before it could add to that or not; then it is red, though."""
    return command(
        "monitor", "monitor", task, "--live", "--json", base=Monitor, skip_on=(4,), map_index_template=LABEL,
        needs=[step.task_id for step in after], trigger_rule=TriggerRule.ALL_DONE,
    )  # fmt: skip


def retrain(task: Any) -> Any:
    return command(
        "retrain", "retrain", task, "--live", "--json", base=Retrain, skip_on=(4,), outlets=[house.DRIFTED],
        map_index_template=LABEL,
    )  # fmt: skip
