"""retrain.yaml: which tasks are trained anew, from what and on what. Machine-written; a key a task, null or an entry.

traffic_speed: {init: "3f…", start: "2025-04-10", validation_from: "2025-04-12", test_from: "2025-04-13"}
water_leak: null

A task without an entry goes by its source's dates and its own `finetune.init`. DVC stops at a key that is not there, so
every task has one.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import model_validator

from pipelines.core.reads import Sha256
from pipelines.core.values import Instant, Model

RETRAIN = "retrain.yaml"
HEAD = "# Machine-written: tasks that are trained anew, see `cityloop retrain`; null: by the dates of params.yaml.\n"
KEYS = ("init", "start", "validation_from", "test_from")


class Anew(Model):
    """One task's retraining, in place of its source's dates and of where `finetune` begins."""

    init: Sha256 | None = None
    """A bundle in the store to go on from; None: the backbone."""
    start: Instant | None = None
    """No answer of before is learnt from; None: as the source says. Usual week and spreads are of all time before
    validation all the same: a few days tell neither."""
    validation_from: Instant
    test_from: Instant

    @model_validator(mode="after")
    def _ordered(self) -> "Anew":
        if not (self.start is None or self.start < self.validation_from) or not self.validation_from < self.test_from:
            raise ValueError("dates must run start < validation_from < test_from")
        return self

    def inside(self, begin: dt.datetime, end: dt.datetime | None) -> None:
        """Raises ValueError unless the dates lie in the window [begin, end) of the task's target source."""
        if self.start is not None and self.start < begin:
            raise ValueError(f"start: {instant(self.start)} lies before the source's start {instant(begin)}")
        if self.validation_from <= begin:
            raise ValueError(
                f"validation_from: {instant(self.validation_from)} leaves nothing to learn from; the source starts on "
                f"{instant(begin)}"
            )
        if end is not None and self.test_from >= end:
            raise ValueError(
                f"test_from: {instant(self.test_from)} leaves no test; the source's window ends on {instant(end)}"
            )

    def plain(self) -> dict[str, str | None]:
        """As it stands in the file."""
        dates = {name: getattr(self, name) for name in KEYS[1:]}
        return {"init": self.init, **{k: None if v is None else instant(v) for k, v in dates.items()}}


def instant(moment: dt.datetime) -> str:
    """A UTC moment as machine-written files have it: a date, or a date-time where it is no midnight."""
    return f"{moment:%Y-%m-%d}" if f"{moment:%H:%M:%S}" == "00:00:00" else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def text(entries: Mapping[str, Mapping[str, str | None] | None]) -> str:
    """The file. Values are quoted, for DVC stops at an unquoted date."""
    return HEAD + ("".join(f"{task}: {_flow(entry)}\n" for task, entry in sorted(entries.items())) or "{}\n")


def _flow(entry: Mapping[str, str | None] | None) -> str:
    if entry is None:
        return "null"
    parts = (f"{key}: " + ("null" if entry.get(key) is None else f'"{entry[key]}"') for key in KEYS)
    return "{" + ", ".join(parts) + "}"


def completed(found: Mapping[str, Any] | None, tasks: Iterable[str]) -> str:
    """The file with a key for each of `tasks` and no other: entries in `found` stay, what is missing is null."""
    return text({task: (found or {}).get(task) for task in tasks})
