"""predictions + arrivals → live error: what was answered, scored as soon as the truth is there.

    monitor/<task>/date=2025-04-07.json   in the store: sums over the answers issued on that day; what they rest on
    monitor/<task>/summary.json           figures by release and role, beside baselines and frozen test
    monitor/<task>/live.png               the error by day

A day is scored again, and its file replaced whole, when its prediction files or the readings under them have changed:
by late data, by corrected data, by steps that have ended since. Any other stays as it is, so an answer counts once,
whenever this was killed or called. A window that was asked twice counts twice, as the log has it. A day whose log is
gone keeps what was scored.

The truth is what validate let through, on the grid of `features`. Where the step before the first asked one was not
read, `last_value` says what the profile says.
"""

import datetime as dt
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.models.evaluation import live, tally
from pipelines.models.evaluation.live import Release, Rows, Scored, Truth, Words
from pipelines.release import bundle, predictions
from pipelines.release.objects import Unreachable
from pipelines.release.store import Store
from pipelines.watch.kept import Kept

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[Any, Any]
FORM = 1
"""Of a day's file. Another number: all is scored again."""
HEAD = ("digest", "role", "sensor", "kind", "time", "step")
DAY = re.compile(r"date=(\d{4}-\d{2}-\d{2})/[^/]+\.parquet$")


def run(task: str, until: str | None = None, *, root: Path = Path()) -> dict[str, Any]:
    """Score what was answered by what was read until `until` (ISO, UTC; None: the end of the target source's window).

    Returns the summary. Raises UserError for a task of pictures or messages, without features, and where nothing was
    answered yet.
    """
    city, paths = params.load(root), Paths(root)
    asked = city.task(task)
    if asked.modality != "series":
        raise UserError(f"{task}: nothing tells yet what was right about a {asked.modality}; name a task of series")
    try:
        end = params.parse_instant(until) if until else city.window_end(asked.target.source)
    except ValueError as error:
        raise UserError(f"--until: {error}") from None
    with log.room("monitor", task) as told:
        store = Store.of(paths)
        kept = Kept(store.objects, task)
        kept.sweep()
        room = Room(task, store, _truth(city, paths, task, end), asked.label if asked.objective == "anomaly" else None)
        days, again = _days(room, kept)
        if not days:
            raise UserError(
                f"{store.where}: nothing was answered of {task}; `cityloop serve` or `cityloop predict {task}`"
            )
        summary = _summary(city, paths, room, days, end)
        kept.write("summary.json", files.to_json(summary))
        kept.write("live.png", tally.drawn(task, summary))
        counts = {k: summary["join"][k] for k in ("scored", "waiting", "missing")}
        told.update(counts, days=len(days), scored_now=again)
        told.update(tally.in_short(summary))
    return summary


@dataclass(frozen=True)
class Room:
    """What scoring a task takes; bundles are opened once."""

    task: str
    store: Store
    truth: Truth
    label: str | None
    opened: dict[str, Release | None] = field(default_factory=dict)

    def release(self, digest: str) -> Release | None:
        """None for a digest of which the store has no whole bundle."""
        if digest not in self.opened:
            self.opened[digest] = self._open(digest)
        return self.opened[digest]

    def _open(self, digest: str) -> Release | None:
        from safetensors.numpy import load_file

        try:
            folder = self.store.fetch(self.task, digest)
        except Unreachable:
            raise
        except UserError as error:
            log.logger.warning("monitor %s: answers by %s are not scored: %s", self.task, digest[:12], error)
            return None
        return Release(files.read_json(folder / "config.json"), load_file(folder / "tables.safetensors"), self.label)

    def end(self, reaches: str) -> str:
        """Until when readings count for answers about the time until `reaches`."""
        series = self.truth.series
        return min(str(series.start + self.truth.end * series.step), reaches)


def _truth(city: Params, paths: Paths, task: str, end: dt.datetime) -> Truth:
    """Of the task's targets, or of the label that says what was an anomaly."""
    asked = city.task(task)
    folder = paths.features("series", asked.target.source)
    try:
        series = Series.open(folder)
    except FileNotFoundError:
        raise UserError(f"{folder}: no features; run `cityloop features {asked.target.source}`") from None
    labelled = asked.label if asked.objective == "anomaly" else None
    kinds = (labelled,) if labelled else city.kinds(asked.target)
    there = np.array([kind in kinds for kind in series.channels["kind"].to_pylist()], bool)
    ended = int((np.datetime64(end.replace(tzinfo=None), "s") - series.start) // series.step)
    return Truth(series, np.flatnonzero(there), max(0, min(ended, series.length)))


def _days(room: Room, kept: Kept) -> tuple[dict[str, dict[str, Any]], int]:
    """Every day's file as it should be now, and how many were made again."""
    given: dict[str, dict[str, str]] = {}
    for key, mark in room.store.objects.marks(f"{predictions.FOLDER}/{room.task}").items():
        if found := DAY.search(key):
            given.setdefault(found[1], {})[key] = mark
    old = {day: _of_form(kept.read(kept.day(day))) for day in kept.days()}
    days, again = {day: told for day, told in old.items() if told and day not in given}, 0
    for day, marks in log.progress(sorted(given.items()), "monitor", len(given), "days"):
        told = old.get(day)
        if told is None or not _holds(told, room, marks):
            told, again = _scored(room, day, marks), again + 1
            kept.write(kept.day(day), (json.dumps(told, sort_keys=True) + "\n").encode())
        days[day] = told
    return dict(sorted(days.items())), again


def _of_form(told: Any) -> dict[str, Any] | None:
    """None for a day that is not ours, or of another form."""
    return told if isinstance(told, dict) and told.get("form") == FORM else None


def _holds(told: dict[str, Any], room: Room, marks: dict[str, str]) -> bool:
    """Whether a day's file is made of just what there is now."""
    return bool(
        told["predictions"] == marks
        and told["until"] == room.end(told["reaches"])
        and told["truth"]["sha256"] == room.truth.sha256(told["truth"]["spans"])
        and not any(room.store.holds(room.task, digest) for digest in told["unknown"])
    )


def _scored(room: Room, day: str, marks: dict[str, str]) -> dict[str, Any]:
    """Score a day. What of its files cannot be read whole is left out whole, and named."""
    import pyarrow as pa

    total, unknown, unreadable = dict[str, Scored](), dict[str, int](), list[str]()
    rests, reaches = [np.zeros(0, np.int64)], ""
    for key in sorted(marks):
        try:
            found = _of_file(room, room.store.objects.get(key))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            line = str(error).partition("\n")[0]
            log.logger.warning("monitor %s: %s cannot be read, and is left out: %s", room.task, key, line)
            unreadable.append(key)
            continue
        for digest, scored in found.scored.items():
            total.setdefault(digest, Scored()).add(scored)
        for digest, rows in found.unknown.items():
            unknown[digest] = unknown.get(digest, 0) + rows
        rests.append(found.rests)
        reaches = max(reaches, found.reaches)
    spans = room.truth.spans(np.unique(np.concatenate(rests)))
    return {
        "form": FORM,
        "day": day,
        "predictions": marks,
        "unreadable": unreadable,
        "unknown": unknown,
        "reaches": reaches,
        "until": room.end(reaches),
        "truth": {"spans": spans, "sha256": room.truth.sha256(spans)},
        "releases": {
            digest: {"layout": one.layout, "groups": [[*k, v.tolist()] for k, v in sorted(one.groups.items())]}
            for digest, one in total.items()
        },
    }


@dataclass
class File:
    """What a prediction file comes to."""

    scored: dict[str, Scored]
    unknown: dict[str, int]
    rests: Array
    reaches: str


def _of_file(room: Room, data: bytes) -> File:
    """A row group at a time, which bounds the memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, out, rests = pq.ParquetFile(pa.BufferReader(data)), File({}, {}, np.zeros(0, np.int64), ""), []
    names = [name for name in file.schema_arrow.names if name not in ("request_id", "task", "issued")]
    for i in range(file.num_row_groups):
        table = file.read_row_group(i, columns=names)
        if not len(table):
            continue
        digests = _words(table["digest"])
        for code in np.unique(digests.codes).tolist():
            digest, mine = digests.words[code], digests.codes == code
            release = room.release(digest)
            if release is None:
                out.unknown[digest] = out.unknown.get(digest, 0) + int(mine.sum())
                continue
            rows = _rows(table if mine.all() else table.filter(pa.array(mine)), release)
            scored, rest = live.score(release, rows, room.truth)
            out.scored.setdefault(digest, Scored()).add(scored)
            rests.append(rest)
            last = rows.time.max().astype("datetime64[s]") + room.truth.series.step
            out.reaches = max(out.reaches, str(last))
    out.rests = np.unique(np.concatenate([out.rests, *rests]))
    return out


def _rows(table: "pa.Table", release: Release) -> Rows:
    import pyarrow as pa

    answer = {}
    for name in (n for n in table.column_names if n not in HEAD and n != "class"):
        answer[name] = table[name].combine_chunks().to_numpy(zero_copy_only=False)
    if release.classes:
        said = _words(table["class"])
        answer["class"] = np.array([release.classes.index(word) for word in said.words], np.int64)[said.codes]
    time = table["time"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).combine_chunks().to_numpy()
    step = table["step"].combine_chunks().to_numpy()
    words = {name: _words(table[name]) for name in ("role", "sensor", "kind")}
    return Rows(**words, time=time.view("datetime64[us]"), step=step, answer=answer)


def _words(column: "pa.ChunkedArray") -> Words:
    import pyarrow as pa

    found = column.combine_chunks()
    if not pa.types.is_dictionary(found.type):
        found = found.dictionary_encode()
    if found.null_count:
        raise ValueError("a row without a name")
    return Words(found.indices.to_numpy(zero_copy_only=False), found.dictionary.to_pylist())


def _summary(
    city: Params, paths: Paths, room: Room, days: dict[str, dict[str, Any]], end: dt.datetime
) -> dict[str, Any]:
    asked, pointer = city.task(room.task), room.store.pointer(room.task)
    champion, candidate = (pointer.stable, pointer.canary) if pointer else (None, None)
    alarm = "precision" if room.label else "alarm_rate"
    return {
        "task": room.task,
        "until": f"{end:%FT%TZ}",
        "primary": {"classify": "macro_f1", "anomaly": alarm}.get(asked.objective, "mae"),
        "frozen_test": _frozen(paths, room.task),
        "champion": champion,
        "candidate": candidate,
        **tally.report(days, asked.classes.names if asked.classes else (), champion, candidate),
    }


def _frozen(paths: Paths, task: str) -> dict[str, Any] | None:
    """Figures of the last evaluation here, and of which bundle."""
    report, made = paths.metrics("evaluate", task), paths.task(task)
    if not report.is_file():
        return None
    told = files.read_json(report)
    methods = {name: told[name] for name in ("model", *live.RIVALS) if name in told}
    return {"digest": bundle.digest(made) if (made / bundle.MANIFEST).is_file() else None, **methods}
