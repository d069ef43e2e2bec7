"""Where each source's window ends: the one thing a scheduled run changes."""

import datetime as dt
from pathlib import Path

from pipelines.core import files, params
from pipelines.core.errors import UserError, nearest
from pipelines.core.retraining import instant

HEAD = "# Machine-written: where each source's window ends.\n"


def run(sources: tuple[str, ...], until: str, *, root: Path = Path()) -> None:
    """Write `until` as the window's end of `sources`, or of all: ISO (UTC), `now`, or `+1d` from where each ends.

    Raises UserError for an unknown source, or a date that is none or lies before a source's start.
    """
    city = params.load(root)
    for name in sources:
        if name not in city.sources:
            raise UserError(f"no source {name!r} in {root / params.PARAMS}; {nearest(name, city.sources)}")
    ends = dict(city.window)
    for name in sources or tuple(city.sources):
        start = city.sources[name].start
        end = ends[name] = _end(until, city.window.get(name, start))
        if end <= start:
            raise UserError(f"--until {until}: the window of {name} starts on {start:%Y-%m-%d}; give a later date")
    lines = [f'{name}: "{instant(end)}"\n' for name, end in sorted(ends.items())]
    files.write_bytes(root / params.WINDOW, (HEAD + "".join(lines)).encode())
    params.complete(root)


def _end(until: str, before: dt.datetime) -> dt.datetime:
    try:
        if until == "now":
            return dt.datetime.now(dt.UTC).replace(microsecond=0)
        return before + params.parse_duration(until[1:]) if until.startswith("+") else params.parse_instant(until)
    except ValueError as error:
        raise UserError(f"--until: {error}") from None
