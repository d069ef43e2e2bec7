"""What was answered, a row a step and channel: the log that a server keeps, and the forecasts of a batch.

    predictions/<task>/date=2025-04-07/<writer>-<n>.parquet   the day of `issued`, UTC; written once, whole
    predictions/<task>/date=2025-04-07/batch-….parquet        a batch forecast; made again, it is replaced whole
    predictions/<task>/latest.json                            where the newest batch forecast lies

    log = Log(store.objects, "server-1")
    log.add(Answered("traffic_speed", predictor, "stable", request_id, issued, first, answer))
    log.close()

Columns: request_id, task, digest, role (stable, canary, shadow, batch), issued, sensor, kind, time (the step's begin),
step (1 for the first asked), then the answer's as `Predictor.columns` has them; of requests also `given`: at step 1,
what was said of the channel's newest step before it. Times are UTC in microseconds, numbers float32, a missing one is
null. A window that was asked twice has its rows twice.

Of pictures and messages a row an item: request_id, task, digest, role, issued, sha256 (of the picture's file or of the
text; neither is kept, since they may show or name people), and the answer as JSON.
"""

import contextlib
import hashlib
import itertools
import json
import re
import secrets
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.core.answers import MORE
from pipelines.core.errors import UserError
from pipelines.core.log import logger

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.release.objects import Objects
    from pipelines.release.predictor import Predictor

Array = np.ndarray[Any, Any]
FOLDER = "predictions"
Codes = defaultdict[str, dict[str, int]]
"""Of each column of words, the number of each word."""
DATED = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/[^/]+\.parquet$")
REPEATED = ("request_id", "task", "digest", "role", "issued", "sensor", "kind", "time", "step", "class")
"""Columns of few different values."""
ROW_GROUP = 1 << 16
"""About so many rows are made, and must be read, at once."""
TRIES = 10
FIRST_S, LONGEST_S = 1.0, 60.0
"""Seconds before the second try to write a file, doubled each time, and at most."""


class Answered(NamedTuple):
    """The answer to one window, as `Predictor.predict` gave it, and what it was the answer to."""

    task: str
    predictor: "Predictor"
    role: str
    request_id: str
    issued: np.datetime64
    first: np.datetime64
    """When the first asked step begins."""
    answer: Array
    """[H, n, names], of the predictor's first n channels."""
    more: Mapping[str, Array] = {}
    """What `core.answers.more` said, [H, n] each."""
    given: Array | None = None
    """What the request said of the newest step before the first asked one, [n]; None: it was no request's."""

    @property
    def rows(self) -> int:
        return int(self.answer.shape[0] * self.answer.shape[1])

    @property
    def columns(self) -> tuple[str, ...]:
        """Answers of the same ones can lie in one file."""
        return self.predictor.names if self.given is None else (*self.predictor.names, "given")

    def own(self) -> "Answered":
        """Itself, with arrays that are not part of larger ones: those would keep all of them in memory."""
        given = None if self.given is None else _own(self.given)
        return self._replace(answer=_own(self.answer), more={k: _own(v) for k, v in self.more.items()}, given=given)


class Seen(NamedTuple):
    """The answer to a request of pictures or messages."""

    task: str
    digest: str
    role: str
    request_id: str
    issued: np.datetime64
    items: tuple[tuple[str, str], ...]
    """SHA-256 and answer, JSON, of each."""

    @property
    def rows(self) -> int:
        return len(self.items)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("sha256", "answer")

    def own(self) -> "Seen":
        return self


def encode(answered: Iterable[Answered | Seen]) -> bytes:
    """A Parquet file of answers with the same columns; those of one predictor stand together.

    A row group is made at a time, which bounds the memory: a server has little to spare.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    with contextlib.ExitStack() as closing:
        writer = None
        for group in _groups(answered):
            rows = table(group)
            if writer is None:
                repeated = [name for name in REPEATED if name in rows.column_names]
                made = pq.ParquetWriter(sink, rows.schema, compression="zstd", use_dictionary=repeated)
                writer = closing.enter_context(made)
            writer.write_table(rows)
    return bytes(sink.getvalue())


def table(answered: Iterable[Answered | Seen]) -> "pa.Table":
    """The rows of answers with the same columns."""
    import pyarrow as pa

    codes: Codes = defaultdict(dict)
    given = list(answered)
    seen = [one for one in given if isinstance(one, Seen)]
    parts = [_seen(seen, codes)] if seen else []
    parts += [_rows(alike, codes) for alike in _alike(one for one in given if isinstance(one, Answered))]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return pa.Table.from_arrays([_column(values, codes.get(k)) for k, values in columns.items()], names=list(columns))


def _alike(answered: Iterable[Answered]) -> Iterable[list[Answered]]:
    """Those of one shape by one predictor."""
    out: dict[Any, list[Answered]] = {}
    for one in answered:
        out.setdefault((id(one.predictor), one.answer.shape, one.given is None), []).append(one)
    return out.values()


def _groups(answered: Iterable[Answered | Seen]) -> Iterator[list[Answered | Seen]]:
    """In order, as many at a time as make a row group."""
    group: list[Answered | Seen] = []
    rows = 0
    for one in answered:
        group.append(one)
        rows += one.rows
        if rows >= ROW_GROUP:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _rows(alike: list[Answered], codes: Codes) -> dict[str, Array]:
    """Columns of answers of one shape by one predictor; words as numbers, which `codes` learns."""
    predictor = alike[0].predictor
    horizon, n, _ = alike[0].answer.shape
    number = np.arange(horizon)
    first, issued = (np.array([getattr(one, k) for one in alike], "datetime64[us]") for k in ("first", "issued"))
    times = first[:, None] + number * np.timedelta64(predictor.spec.step_s, "s")
    answers = np.stack([one.answer for one in alike])
    words = {k: [getattr(one, k) for one in alike] for k in ("request_id", "task", "role")}
    words["digest"] = [predictor.digest] * len(alike)
    asked = {k: [c[k] for c in predictor.channels[:n]] for k in ("sensor", "kind")}
    more = {k: np.stack([one.more[k] for one in alike]).reshape(-1) for k in MORE[predictor.config["objective"]]}
    if alike[0].given is not None:
        given = np.full((len(alike), horizon, n), np.nan, np.float32)
        given[:, 0] = [one.given for one in alike]
        more["given"] = given.reshape(-1)
    return {
        **{k: np.repeat(_coded(words[k], codes[k]), horizon * n) for k in ("request_id", "task", "digest", "role")},
        "issued": np.repeat(issued, horizon * n),
        **{k: np.tile(_coded(of, codes[k]), len(alike) * horizon) for k, of in asked.items()},
        "time": np.repeat(times.reshape(-1), n),
        "step": np.tile(np.repeat(number.astype(np.uint16) + np.uint16(1), n), len(alike)),
        **{name: answers[..., i].reshape(-1) for i, name in enumerate(predictor.names)},
        **{k: _coded(v.tolist(), codes[k]) if v.dtype.kind == "U" else v for k, v in more.items()},
    }


def _seen(seen: list[Seen], codes: Codes) -> dict[str, Array]:
    rows = [one.rows for one in seen]
    words = {k: [getattr(one, k) for one in seen] for k in ("request_id", "task", "digest", "role")}
    told = {k: [item[i] for one in seen for item in one.items] for i, k in enumerate(("sha256", "answer"))}
    return {
        **{k: np.repeat(_coded(each, codes[k]), rows) for k, each in words.items()},
        "issued": np.repeat(np.array([one.issued for one in seen], "datetime64[us]"), rows),
        **{k: _coded(each, codes[k]) for k, each in told.items()},
    }


def _coded(words: list[str], codes: dict[str, int]) -> Array:
    return np.array([codes.setdefault(word, len(codes)) for word in words], np.int32)


def _column(values: Array, codes: dict[str, int] | None) -> "pa.Array":
    """From buffers: `pa.array` would import pandas where there is one, 40 MB of a server that needs none."""
    import pyarrow as pa

    def made(kind: "pa.DataType", data: Array, known: Array | None = None) -> "pa.Array":
        bits = None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
        return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(np.ascontiguousarray(data))])

    if codes is not None:
        return pa.DictionaryArray.from_arrays(made(pa.int32(), values), _strings(codes))
    if values.dtype.kind == "M":
        return made(pa.timestamp("us", "UTC"), values)
    if values.dtype.kind == "b":
        return made(pa.bool_(), np.packbits(values, bitorder="little"))
    if values.dtype.kind == "f":
        return made(pa.float32(), values.astype(np.float32, copy=False), np.isfinite(values))
    return made(pa.uint16(), values)


def _strings(words: Iterable[str]) -> "pa.Array":
    import pyarrow as pa

    raw = [word.encode(errors="replace") for word in words]
    ends = np.cumsum([0, *map(len, raw)], dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(raw), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(raw))])


def publish(objects: "Objects", forecast: Answered) -> str:
    """Write a batch forecast, and make it the task's latest unless a later one is there; returns its key."""
    task, digest = forecast.task, forecast.predictor.digest
    issued = _iso(forecast.issued)
    name = f"batch-{digest[:16]}-{issued.replace('-', '').replace(':', '')}"
    key = f"{FOLDER}/{task}/date={_day(forecast.issued)}/{name}.parquet"
    until = forecast.first + len(forecast.answer) * np.timedelta64(forecast.predictor.spec.step_s, "s")
    objects.put(key, encode([forecast]))
    before = newest(objects, task)
    if before is None or before["issued"] <= issued:
        told = {"key": key, "digest": digest, "issued": issued, "until": _iso(until)}
        objects.put(f"{FOLDER}/{task}/latest.json", json.dumps(told).encode())
    return key


def latest(objects: "Objects", task: str, sensor: str | None = None) -> dict[str, Array] | None:
    """Columns of the newest batch forecast, of one sensor where one is named; None where there is none.

    Raises UserError for a file that is no such table.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    told = newest(objects, task)
    if told is None:
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(objects.get(told["key"])))
        groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
        if sensor is not None:
            wanted = _strings([sensor])[0]
            groups = [rows.filter(pc.equal(rows["sensor"], wanted)) for rows in groups]
        found = pa.concat_tables(groups)
    except FileNotFoundError:
        return None
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"{told['key']}: not a forecast ({error}); run `cityloop predict {task}` again") from None
    return {name: _array(found[name]) for name in found.column_names} if len(found) else None


def newest(objects: "Objects", task: str) -> dict[str, str] | None:
    """{key, digest, issued, until} of the newest batch forecast; None where there is none, or it is not ours."""
    try:
        told = json.loads(objects.get(f"{FOLDER}/{task}/latest.json"))
        return {name: str(told[name]) for name in ("key", "digest", "issued", "until")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def forget(objects: "Objects", before: str) -> int:
    """Remove what was answered on days before `before` (ISO date, UTC), of all tasks; returns how many files.

    The newest batch forecast of a task stays, whatever its age.
    """
    told = [newest(objects, task) for task in objects.names(FOLDER)]
    kept = {one["key"] for one in told if one}
    old = [
        key for key in objects.find(FOLDER)
        if (day := DATED.search(key)) and day[1] < before and key not in kept
    ]  # fmt: skip
    for key in old:
        objects.delete(key)
    return len(old)


def _array(column: "pa.ChunkedArray") -> Array:
    """By way of a list: `to_numpy` would import pandas."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        return np.array(column.cast(pa.int64()).to_pylist(), "datetime64[us]")
    return np.array(column.to_pylist(), np.float32 if pa.types.is_floating(column.type) else None)


def _iso(when: np.datetime64) -> str:
    return f"{np.datetime_as_string(when, unit='s')}Z"


def _day(when: np.datetime64) -> str:
    return str(np.datetime_as_string(when, unit="D"))


class Log:
    """Keeps what a server answers, off the path of its requests: `add` neither waits nor raises.

    Rows wait in memory, at most `max_rows`; one thread writes them after `flush_s` seconds or once `flush_rows` wait.
    What a store refuses is tried again for some minutes, then dropped; what comes while the memory is full is dropped
    too. share: of the requests, chosen by their ids, so that all answers to one are kept or none is.
    """

    def __init__(
        self,
        objects: "Objects",
        writer: str,
        *,
        share: float = 1.0,
        max_rows: int = 500_000,
        flush_s: float = 30.0,
        flush_rows: int = 200_000,
    ) -> None:
        self._objects = objects
        self._writer = f"{writer}-{secrets.token_hex(4)}"  # of two processes with one name neither overwrites
        self._share, self._max_rows = share, max_rows
        self._flush_s, self._flush_rows = flush_s, min(flush_rows, max_rows)
        self._waiting: deque[Answered | Seen] = deque()
        self._rows = 0
        self._counts = {"written": 0, "dropped": 0, "failed": 0, "files": 0}
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> dict[str, int]:
        """Rows `written`, `dropped` and still `waiting`; `files` written, and tries to write one that `failed`."""
        with self._wake:
            return {**self._counts, "waiting": self._rows}

    def add(self, one: Answered | Seen) -> None:
        """Keep an answer. Its arrays are not copied, unless they are part of larger ones: leave them as they are."""
        if not _chosen(one.request_id, self._share):
            return
        rows, one = one.rows, one.own()
        with self._wake:
            if self._closed or self._rows + rows > self._max_rows:
                self._counts["dropped"] += rows
                return
            self._waiting.append(one)
            self._rows += rows
            if self._rows >= self._flush_rows:
                self._wake.notify()

    def close(self, timeout: float = 10.0) -> bool:
        """Write what waits, each file tried once; whether all was done in `timeout` seconds."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        numbers = itertools.count()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._rows >= self._flush_rows, self._flush_s)
                if self._closed and not self._waiting:
                    return
            for (task, day, _), answered in _files(self._take()).items():
                self._write(f"{FOLDER}/{task}/date={day}/{self._writer}-{next(numbers):06d}.parquet", answered)

    def _take(self) -> list[Answered | Seen]:
        """The oldest that wait, about a file's worth. They count as waiting until they are written or given up."""
        batch, rows = [], 0
        while rows < self._flush_rows and self._waiting:
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        return batch

    def _write(self, key: str, answered: Sequence[Answered | Seen]) -> None:
        rows = sum(one.rows for one in answered)
        try:
            done = self._put(key, encode(answered))
        except Exception:  # whatever it is, the log goes on
            logger.exception("prediction log: %d rows cannot be written", rows)
            done = False
        with self._wake:
            self._rows -= rows
            self._counts["written" if done else "dropped"] += rows
            self._counts["files"] += done

    def _put(self, key: str, data: bytes) -> bool:
        for number in range(TRIES):
            try:
                self._objects.put(key, data)
                return True
            except (UserError, OSError) as error:
                if number == 0:
                    logger.warning("prediction log: %s; trying again", error)
                with self._wake:
                    self._counts["failed"] += 1
                    if self._wake.wait_for(lambda: self._closed, min(LONGEST_S, FIRST_S * 2**number)):
                        return False
        return False


def _chosen(request_id: str, share: float) -> bool:
    """Whether a request is of the share that is kept. The key makes this choice independent of any other by id."""
    if share >= 1:
        return True
    drawn = hashlib.blake2b(request_id.encode(errors="replace"), digest_size=8, key=b"prediction log").digest()
    return int.from_bytes(drawn, "big") < share * 2**64


def _own(values: Array) -> Array:
    return values.copy() if values.base is not None and values.size < values.base.size else values


def _files(batch: list[Answered | Seen]) -> dict[tuple[str, str, tuple[str, ...]], list[Answered | Seen]]:
    """What goes into one file: answers of one task and day with the same columns."""
    out: dict[tuple[str, str, tuple[str, ...]], list[Answered | Seen]] = {}
    for one in batch:
        out.setdefault((one.task, _day(one.issued), one.columns), []).append(one)
    return out
