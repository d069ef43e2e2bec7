"""params.yaml as the DAG files need it: who there is, what feeds what, and when. `cityloop` itself checks the rest."""

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from airflow.sdk import get_parsing_context

HERE = Path(__file__).resolve().parents[2]
"""The checkout that these DAGs lie in."""
PLATFORM = "platform"
"""Owner of what belongs to no department."""
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class CityError(ValueError):
    """params.yaml cannot be used: says what and where."""


@dataclass(frozen=True)
class Review:
    door: str
    remind: timedelta
    expires: timedelta


@dataclass(frozen=True)
class Source:
    name: str
    department: str
    about: str
    schedule: str


@dataclass(frozen=True)
class Backbone:
    name: str
    modality: str
    schedule: str


@dataclass(frozen=True)
class Task:
    name: str
    department: str
    question: str
    backbone: str
    sources: tuple[str, ...]
    review: Review
    modality: str
    predicts: bool
    """Its champion is asked for all sensors, by the clock."""
    retrains: bool
    """Of itself, where `cityloop monitor` says so."""

    @property
    def watched(self) -> bool:
        """Whether anything tells afterwards what was right."""
        return self.modality == "series"


@dataclass(frozen=True)
class City:
    name: str
    until: str
    watch: str
    """When tasks are watched."""
    every: str
    """How far apart their champions answer by the clock."""
    sources: dict[str, Source]
    backbones: dict[str, Backbone]
    tasks: dict[str, Task]


def root() -> Path:
    """The city's folder on this machine."""
    return Path(os.environ.get("CITYLOOP_ROOT") or HERE)


def load() -> City:
    """The city, read once a process. Raises CityError, one line, which Airflow shows as the import error."""
    return _load(root() / "params.yaml")


@functools.cache
def _load(path: Path) -> City:
    try:
        # The C loader is as safe as `safe_load`, and ten times as fast.
        data = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        return _city(data)
    except OSError as error:
        raise CityError(f"{path}: {error.strerror}; set CITYLOOP_ROOT to the city's folder") from None
    except yaml.YAMLError as error:
        raise CityError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    except CityError as error:
        raise CityError(f"{path}: {error}; `cityloop status` in that folder checks all of it") from None


def _city(data: Any) -> City:
    schedule = _block(data, "schedule", {})
    review = {"door": "mlflow", "remind": "1d", "expires": "7d", **_block(schedule, "review", {}, "schedule")}
    names = ("ingest", "pretrain", "tasks", "monitor")
    fetched, learnt, own, watch = (_block(schedule, key, {}, "schedule") for key in names)
    sources = {name: _source(name, block, fetched.get(name)) for name, block in _named(data, "sources")}
    backbones = {
        name: Backbone(name, str(block.get("modality", "series")), str(learnt.get(name, "@weekly")))
        for name, block in _named(data, "backbones")
    }
    tasks = {
        name: _task(name, block, {**review, **(own.get(name) or {})}, sources, backbones, watch.get("predict", ()))
        for name, block in _named(data, "tasks")
    }
    name = str(_block(data, "city", {}).get("name", "city"))
    until, clock = str(schedule.get("until", "now")), str(watch.get("cron", "30 * * * *"))
    return City(name, until, clock, str(watch.get("every", "1h")), sources, backbones, tasks)


def _source(name: str, block: dict[str, Any], cron: Any) -> Source:
    step = _duration(block.get("step"), f"sources.{name}.step")
    by_step = "@hourly" if step <= timedelta(minutes=15) else "0 */6 * * *" if step <= timedelta(hours=1) else "@daily"
    about = str(block.get("about") or "").rstrip(".")
    return Source(name, str(block.get("department") or PLATFORM), about, str(cron or by_step))


def _task(
    name: str, block: dict[str, Any], review: dict[str, Any], sources: Iterable[str], backbones: Iterable[str],
    predict: Any,
) -> Task:  # fmt: skip
    feeds = [block.get("target"), *(block.get("inputs") or [])]
    used = tuple(dict.fromkeys(str(feed.get("source")) if isinstance(feed, dict) else "" for feed in feeds))
    if unknown := [source for source in used if source not in sources]:
        raise CityError(f"tasks.{name}: no source {unknown[0]!r} there")
    if block.get("backbone") not in backbones:
        raise CityError(f"tasks.{name}: no backbone {block.get('backbone')!r} there")
    if review["door"] not in ("mlflow", "form"):
        raise CityError(f"schedule: review door {review['door']!r}; there are mlflow and form")
    waits = (_duration(review[key], f"schedule: review.{key}") for key in ("remind", "expires"))
    question = str(block.get("question") or "")
    department = str(block.get("department") or PLATFORM)
    at, modality = f"tasks.{name}", str(block.get("modality", "series"))
    retrain = _block(_block(block, "monitor", {}, at), "retrain", {}, f"{at}.monitor")
    return Task(
        name, department, question, str(block["backbone"]), used, Review(review["door"], *waits),
        modality, modality == "series" if predict == "all" else name in predict, bool(retrain.get("automatic", True)),
    )  # fmt: skip


def _block(data: Any, key: str, default: Any, where: str = "") -> dict[str, Any]:
    found = data.get(key, default) if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise CityError(f"{f'{where}.' if where else ''}{key}: a block with keys is expected")
    return found


def _named(data: Any, key: str) -> list[tuple[str, dict[str, Any]]]:
    found = _block(data, key, {})
    for name, block in found.items():
        if not _NAME.fullmatch(str(name)) or not isinstance(block, dict):
            raise CityError(f"{key}.{name}: a name of small letters, digits and _ with a block is expected")
    return list(found.items())


def _duration(text: Any, where: str) -> timedelta:
    match = re.fullmatch(r"(\d+)\s*(s|min|h|d|w)", str(text).strip())
    if not match or not int(match[1]):
        raise CityError(f"{where}: {text!r} is no duration such as 15min, 1h or 7d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def asked_for(dag_id: str) -> bool:
    """Whether this process wants the DAG: one that runs a task of another wants only that one."""
    wanted = get_parsing_context().dag_id
    return wanted is None or wanted == dag_id


def instant(text: str, since: str = "") -> datetime:
    """A moment as `cityloop begin --until` takes it: `now`, `+1d` from `since`, or an ISO date; UTC."""
    if text == "now":
        return datetime.now(UTC)
    if text.startswith("+"):
        return instant(since) + _duration(text[1:], "until")
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
