"""When a row was measured: times as files write them, as UTC microseconds."""

import datetime as dt
import zoneinfo
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array = np.ndarray[Any, Any]
_SLOT = 900_000_000  # offsets change on quarter hours at the finest
_ZONED = r":\d\d(\.\d+)?(Z|[+-]\d\d(:?\d\d)?)$"
_EPOCH = dt.datetime(1970, 1, 1)


class BadTime(Exception):
    """Row (counted in the chunk) whose time cannot be read, and why."""

    def __init__(self, row: int, why: str) -> None:
        super().__init__(why)
        self.row, self.why = row, why


def parse(column: pa.Array, pattern: str | None) -> tuple[Array, Array]:
    """Microseconds since 1970, int64 [rows], and which of them are UTC rather than on the local clock, bool [rows].

    Text is ISO 8601 or of strptime `pattern`; numbers are seconds (`unix`) or milliseconds (`unix_ms`), or digits
    of `pattern`. Raises BadTime.
    """
    if column.null_count:
        raise BadTime(pc.index(column.is_null(), True).as_py(), "is missing")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        aware = pa.types.is_timestamp(column.type) and column.type.tz is not None
        unit = pa.timestamp("us", "UTC") if aware else pa.timestamp("us")
        return column.cast(unit, safe=False).cast(pa.int64()).to_numpy(), np.full(len(column), aware)
    coded = column.cast(pa.string()).dictionary_encode()
    index, words = coded.indices.to_numpy(), coded.dictionary
    try:
        values, zoned = _parse_words(pc.utf8_trim_whitespace(words), pattern)
    except BadTime as error:
        raise BadTime(int(np.argmax(index == error.row)), error.why) from None
    return values[index], zoned[index]


def _parse_words(words: pa.Array, pattern: str | None) -> tuple[Array, Array]:
    if pattern in ("unix", "unix_ms"):
        return _unix(words, 1_000_000 if pattern == "unix" else 1_000), np.ones(len(words), bool)
    zoned = np.zeros(len(words), bool)
    if pattern is None:
        zoned = pc.match_substring_regex(words, _ZONED).to_numpy(zero_copy_only=False)
        values = np.zeros(len(words), np.int64)
        for part, unit in ((zoned, pa.timestamp("us", "UTC")), (~zoned, pa.timestamp("us"))):
            rows = np.flatnonzero(part)
            values[rows] = _cast(words.take(pa.array(rows)), unit, rows)
        return values, zoned
    parsed = pc.strptime(words, format=pattern, unit="us", error_is_null=True).cast(pa.int64())
    values = parsed.fill_null(0).to_numpy(zero_copy_only=False).copy()
    # Arrow's strptime lets 30 February roll over into March and knows fewer directives than Python's: what it
    # could not read, what may have rolled over and what has an offset is read again, one by one.
    again = parsed.is_null().to_numpy(zero_copy_only=False)
    days = values.astype("datetime64[us]").astype("datetime64[D]")
    again |= (days - days.astype("datetime64[M]").astype("datetime64[D]")).astype(int) < 3
    if "%z" in pattern or "%Z" in pattern:
        again[:] = True
    for i in np.flatnonzero(again):
        try:
            moment = dt.datetime.strptime(words[int(i)].as_py(), pattern)
        except ValueError:
            raise BadTime(int(i), f"{words[int(i)].as_py()!r} is not of the form {pattern!r}") from None
        zoned[i] = moment.tzinfo is not None
        wall = moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment
        values[i] = (wall - _EPOCH) // dt.timedelta(microseconds=1)
    return values, zoned


def _cast(words: pa.Array, unit: pa.DataType, rows: Array) -> Array:
    try:
        return words.cast(unit).cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        for i, word in enumerate(words):
            try:
                word.cast(unit)
            except pa.ArrowInvalid:
                why = f"{word.as_py()!r} is not an ISO 8601 time; set `time_format`, such as '%d/%m/%Y %H:%M'"
                raise BadTime(int(rows[i]), why) from None
        raise


def _unix(words: pa.Array, scale: int) -> Array:
    out = np.empty(len(words), np.int64)
    for i, word in enumerate(words.to_pylist()):
        try:
            out[i] = int(word) * scale if word.lstrip("-").isdigit() else round(float(word) * scale)
        except (ValueError, OverflowError):
            raise BadTime(i, f"{word!r} is not a number of seconds since 1970") from None
    return out


def split(parts: dict[str, tuple[str, Array]]) -> Array:
    """Local microseconds, int64 [rows], of part (year … minute) → (column, int64 [rows]). Raises BadTime."""
    limits = {"year": (1900, 2200), "month": (1, 12), "day": (1, 31), "hour": (0, 23), "minute": (0, 59)}
    for part, (column, values) in parts.items():
        lo, hi = limits[part]
        bad = (values < lo) | (values > hi)
        if bad.any():
            row = int(np.argmax(bad))
            raise BadTime(row, f"{int(values[row])} in column {column!r} is not a {part} ({lo} to {hi})")
    zero = np.zeros(len(parts["year"][1]), np.int64)
    month = (parts["year"][1] - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (parts["month"][1] - 1)
    day = month.astype("datetime64[D]") + (parts["day"][1] - 1)
    if (wrong := day.astype("datetime64[M]") != month).any():
        row = int(np.argmax(wrong))
        raise BadTime(row, f"{month[row]} has no day {int(parts['day'][1][row])}")
    minutes = parts.get("hour", ("", zero))[1] * 60 + parts.get("minute", ("", zero))[1]
    return day.astype("datetime64[us]").astype(np.int64) + minutes * 60_000_000


class Clock:
    """Turns one file's local times into UTC, chunk by chunk, in the order of the file.

    An hour that the clock shows twice is summer time until a series (whatever `series` calls one) goes back or
    stands still, and winter time from then on; the other way round in a file that runs backwards. Raises BadTime
    for a time that the clock skipped.
    """

    def __init__(self, zone: str) -> None:
        self.zone = zone
        self._zone = zoneinfo.ZoneInfo(zone)
        self._offsets: dict[int, tuple[int, int]] = {}
        self._second: dict[tuple[Hashable, int], tuple[int, bool]] = {}

    def utc(self, local: Array, zoned: Array, series: Callable[[int], Hashable]) -> Array:
        """int64 [rows] microseconds UTC; `series` names the series a row belongs to."""
        if self.zone == "UTC" or zoned.all():
            return local
        slots, index = np.unique(local // _SLOT, return_inverse=True)
        pairs = np.array([self._offset(s) for s in slots.tolist()], np.int64).reshape(-1, 2)
        first, second = (local - pairs[index, i] for i in (0, 1))
        odd = ~zoned & (first != second)
        out = np.where(zoned, local, first)
        if not odd.any():
            return out
        backwards = int((local[1:] < local[:-1]).sum()) > int((local[1:] > local[:-1]).sum())
        for row in np.flatnonzero(odd).tolist():
            if first[row] > second[row]:
                moment = local[row : row + 1].astype("datetime64[us]").astype("datetime64[s]")[0]
                advice = "name the zone whose clock the file keeps, or a fixed one such as UTC or Etc/GMT-1"
                raise BadTime(row, f"{moment} does not exist in {self.zone} (summer time begins); {advice}")
            if self._is_second(series(row), int(local[row]), backwards):
                out[row] = second[row]
        return out

    def _is_second(self, series: Hashable, local: int, backwards: bool) -> bool:
        key = (series, local // 86_400_000_000)
        last, turned = self._second.get(key, (None, False))
        turned = turned or (last is not None and (local >= last if backwards else local <= last))
        self._second[key] = (local, turned)
        return turned != backwards

    def _offset(self, slot: int) -> tuple[int, int]:
        """Offsets in microseconds for the earlier and the later reading of a wall-clock time."""
        if slot not in self._offsets:
            wall = _EPOCH + dt.timedelta(microseconds=slot * _SLOT)
            pair = []
            for fold in (0, 1):
                offset = wall.replace(tzinfo=self._zone, fold=fold).utcoffset()
                assert offset is not None
                pair.append(offset // dt.timedelta(microseconds=1))
            self._offsets[slot] = (pair[0], pair[1])
        return self._offsets[slot]
