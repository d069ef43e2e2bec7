"""What params.yaml says of watching a task: from when an error or a drift counts, when to train anew, whom to tell."""

import datetime as dt
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.core.values import Duration, Fraction, Model, Name, Positive


class Retrain(Model):
    """When training anew pays, and on what. The new model learns from `learn` of new data, or more, is chosen on
    `validation` after it and judged on `test`, the latest."""

    automatic: bool = True
    """False: a decision to train is written down and told, and starts nothing."""
    continual: bool = True
    """Go on from the champion; False: from the backbone."""
    learn: Duration = dt.timedelta(days=2)
    validation: Duration = dt.timedelta(days=1)
    test: Duration = dt.timedelta(days=1)
    every: Duration = dt.timedelta(days=7)
    """The budget: at most once in so long."""


class Monitor(Model):
    """From when something counts. Judgements are made of whole UTC days."""

    error: Annotated[float, Field(ge=0)] = 0.2
    """Live error above that of the frozen test by more than this share is too high (of scores: below)."""
    days: Positive = 2
    """So many days running it must be so before it counts, and so many not before it is over."""
    false_discoveries: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Of the channels that are said to have drifted, the share that may not have, at most."""
    drifted: Fraction = 0.05
    """The share of a task's channels that must have drifted for the city to have changed."""
    missing: Fraction = 0.3
    """The share of answers that may be without truth before figures are not trusted."""
    age: Duration | None = None
    """A champion trained on data older than this is trained anew; None: age alone is no reason."""
    new_sensors: Fraction = 0.1
    """So many of the sensors unknown to the champion are a reason."""
    retrain: Retrain = Retrain()
    rollback: Literal["propose", "automatic"] = "propose"
    """What follows when `previous` would have been better, by an interval that excludes zero."""


class Above(Model):
    """People are told when a forecast says that a kind goes above, or below, a limit."""

    kind: Name
    above: float | None = None
    below: float | None = None
    sure: Fraction = 0.5
    """With at least this probability: 0.1, 0.5 or 0.9 are the quantiles there are."""
    mean: Duration | None = None
    """The limit is of the mean over so long, counted from when it was asked; None: of any step. Of a mean the quantiles
    are taken for the steps' own, which at 0.9 tells too little rather than too much, and at 0.1 too much."""
    do: str = ""
    """What whoever is told is to do."""

    @model_validator(mode="after")
    def _one(self) -> "Above":
        if (self.above is None) == (self.below is None):
            raise ValueError("give `above` or `below`")
        if self.sure not in (0.1, 0.5, 0.9):
            raise ValueError(f"sure: {self.sure:g} is none of 0.1, 0.5, 0.9")
        return self

    @property
    def limit(self) -> float:
        return self.above if self.above is not None else self.below or 0.0

    @property
    def quantile(self) -> float:
        """The one that must be beyond the limit."""
        return round(1 - self.sure, 1) if self.above is not None else self.sure


class Alerts(Model):
    """Of one task: limits whose crossing is told, and whether its alarms are. Routes are the department's."""

    limits: tuple[Above, ...] = ()
    alarms: bool = True
    """anomaly: tell what was alarmed about."""
    repeat: Duration = dt.timedelta(days=7)
    """What goes on is told again after so long."""
    clear: Duration = dt.timedelta(hours=6)
    """It is over, and people are told, when it was not so for this long."""
