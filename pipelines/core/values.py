"""What values in params.yaml are made of: durations, instants, names, and models that refuse unknown keys."""

import datetime as dt
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pipelines.core.errors import nearest

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Unquoted:
    """A date that stands in YAML without quotes; no key takes one."""

    text: str

    @property
    def advice(self) -> str:
        return f'write the date in quotes: "{self.text}" (DVC stops at an unquoted date)'

    def __str__(self) -> str:
        return self.text


def parse_duration(text: Any) -> dt.timedelta:
    """`5min`, `1h`, `2d` … as a timedelta. Raises ValueError for anything else."""
    if isinstance(text, dt.timedelta):
        return text
    match = re.fullmatch(r"(\d+)\s*(s|min|h|d|w)", str(text).strip())
    if not match or int(match[1]) == 0:
        raise ValueError(f"{text!r} is not a duration; write a whole number and s, min, h, d or w, such as 15min")
    return dt.timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def parse_instant(text: Any) -> dt.datetime:
    """An ISO date or date-time as an aware UTC datetime; one without a zone is UTC. Raises ValueError."""
    if isinstance(text, dt.datetime) and text.tzinfo is not None:
        return text.astimezone(dt.UTC)
    if isinstance(text, Unquoted):
        raise ValueError(text.advice)
    if not isinstance(text, str):
        raise ValueError(f'{text!r} is not a date; write it in quotes, as "2025-03-01" or "2025-03-01T06:00:00Z"')
    try:
        value = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'{text!r} is not a date; write it as "2025-03-01" or "2025-03-01T06:00:00Z"') from None
    return value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", text):
        raise ValueError(f"{text!r} is not a name; use small letters, digits and _, beginning with a letter")
    return text


def _timezone(text: str) -> str:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{text!r} is not a time zone; write an IANA name such as Europe/Paris") from None
    return text


Duration = Annotated[dt.timedelta, BeforeValidator(parse_duration)]
Instant = Annotated[dt.datetime, BeforeValidator(parse_instant)]
Name = Annotated[str, AfterValidator(_name)]
Zone = Annotated[str, AfterValidator(_timezone)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Model(BaseModel):
    """Frozen; an unknown key is an error that suggests the nearest valid one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in known:
                    hint = nearest(str(key), known)
                    raise PydanticCustomError("unknown_key", "unknown key; {hint}", {"key": str(key), "hint": hint})
        return data
