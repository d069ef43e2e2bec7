"""What params.yaml says to the scheduler: when what runs, and how long a review may wait. `dags/` reads it."""

import datetime as dt
import re
from typing import Annotated, Literal

from pydantic import AfterValidator

from pipelines.core.values import Duration, Model, Name, parse_duration, parse_instant

_PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@once")


def _cron(text: str) -> str:
    if text not in _PRESETS and not re.fullmatch(r"[\d*/,\-]+( [\d*/,\-A-Za-z]+){4}", text):
        presets = ", ".join(_PRESETS)
        raise ValueError(f"{text!r} is no schedule; write five cron fields such as '0 6 * * *', or one of {presets}")
    return text


def _until(text: str) -> str:
    if text != "now":
        _ = parse_duration(text[1:]) if text.startswith("+") else parse_instant(text)
    return text


Cron = Annotated[str, AfterValidator(_cron)]


class Review(Model):
    """Through which door a yes comes, and for how long it is waited for."""

    door: Literal["mlflow", "form"] = "mlflow"
    """mlflow: tags of the model version. form: Airflow's own, under Required Actions."""
    remind: Duration = dt.timedelta(days=1)
    expires: Duration = dt.timedelta(days=7)


class TaskReview(Model):
    """One task's own; what is left out is the city's."""

    door: Literal["mlflow", "form"] | None = None
    remind: Duration | None = None
    expires: Duration | None = None


class Watch(Model):
    """When tasks are watched: live error by the hour; what is judged by whole days, once a day has ended."""

    cron: Cron = "30 * * * *"
    """Half an hour after what is fetched on the hour, so that its truth is there."""
    predict: Literal["all"] | tuple[Name, ...] = ()
    """Tasks whose champion answers for all sensors before that, with no server asked. all: those of series."""
    every: Duration = dt.timedelta(hours=1)
    """So far apart, back to the newest answer: data that come by the day are answered for by the hour all the same."""

    @property
    def named(self) -> tuple[str, ...]:
        return () if self.predict == "all" else self.predict


class Schedule(Model):
    """Left out: a source is fetched hourly, every six hours or daily, as its step is; a backbone is seen to weekly."""

    until: Annotated[str, AfterValidator(_until)] = "now"
    """Where a scheduled run ends a source's window: `now`, or `+1d` from where it ends, as in a simulated city."""
    ingest: dict[Name, Cron] = {}
    pretrain: dict[Name, Cron] = {}
    monitor: Watch = Watch()
    review: Review = Review()
    tasks: dict[Name, TaskReview] = {}
