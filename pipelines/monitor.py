"""predictions + arrivals → live error: what was answered, scored as soon as the truth is there.

    $CITYLOOP_STATE/monitor/<task>/date=2025-04-07.json   sums over the answers issued on that day; what they rest on
    $CITYLOOP_STATE/monitor/<task>/summary.json           figures by release and role, beside baselines, frozen test
    $CITYLOOP_STATE/monitor/<task>/live.png               the error by day

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core import files, log, params
from pipelines.core.errors import UserError
from pipelines.core.grid import Series
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.models.evaluation import live
from pipelines.models.evaluation.live import Release, Rows, Scored, Truth, Words
from pipelines.release import bundle, predictions
from pipelines.release.objects import Unreachable
from pipelines.release.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[Any, Any]
FORM = 1
"""Of a day's file. Another number: all is scored again."""
HEAD = ("digest", "role", "sensor", "kind", "time", "step")
DAY = re.compile(r"date=(\d{4}-\d{2}-\d{2})/[^/]+\.parquet$")
TRIED = ("canary", "shadow")


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
        store, folder = Store.of(paths), paths.state / "monitor" / task
        files.sweep(folder)
        room = Room(task, store, _truth(city, paths, task, end), asked.label if asked.objective == "anomaly" else None)
        days, again = _days(room, folder)
        if not days:
            raise UserError(
                f"{store.where}: nothing was answered of {task}; `cityloop serve` or `cityloop predict {task}`"
            )
        summary = _summary(city, paths, room, days, end)
        files.write_json(folder / "summary.json", summary)
        _draw(folder / "live.png", task, summary)
        counts = {k: summary["join"][k] for k in ("scored", "waiting", "missing")}
        told.update(counts, days=len(days), scored_now=again)
        told.update(_in_short(summary))
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


def _days(room: Room, folder: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Every day's file as it should be now, and how many were made again."""
    given: dict[str, dict[str, str]] = {}
    for key, mark in room.store.objects.marks(f"{predictions.FOLDER}/{room.task}").items():
        if found := DAY.search(key):
            given.setdefault(found[1], {})[key] = mark
    old = {path.stem.removeprefix("date="): _read(path) for path in folder.glob("date=*.json")}
    days, again = {day: told for day, told in old.items() if told and day not in given}, 0
    for day, marks in log.progress(sorted(given.items()), "monitor", len(given), "days"):
        told = old.get(day)
        if told is None or not _holds(told, room, marks):
            told, again = _scored(room, day, marks), again + 1
            files.write_bytes(folder / f"date={day}.json", (json.dumps(told, sort_keys=True) + "\n").encode())
        days[day] = told
    return dict(sorted(days.items())), again


def _read(path: Path) -> dict[str, Any] | None:
    """None for a file that is not ours, or of another form."""
    try:
        told = files.read_json(path)
        return told if told["form"] == FORM else None
    except (ValueError, KeyError, TypeError):
        return None


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
    total, unknown, unreadable = dict[str, Scored](), dict[str, int](), list[str]()
    rests, reaches = [np.zeros(0, np.int64)], ""
    for key in sorted(marks):
        try:
            found = _of_file(room, room.store.objects.get(key))
        except (FileNotFoundError, KeyError, ValueError, OSError) as error:  # what pyarrow raises is one of these
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


@dataclass(frozen=True)
class Total:
    """Groups of one release over all days: a row of `sums` [G, K] each, laid out as `layout` says."""

    layout: list[tuple[str, int]]
    names: list[tuple[str, str, str, int]]
    """Day, role, kind, step."""
    sums: Array
    classes: tuple[str, ...]

    @classmethod
    def of(cls, days: dict[str, dict[str, Any]], digest: str, classes: tuple[str, ...]) -> "Total":
        mine = {day: told["releases"][digest] for day, told in days.items() if digest in told["releases"]}
        names = [(day, *group[:3]) for day, told in mine.items() for group in told["groups"]]
        sums = np.array([group[3] for told in mine.values() for group in told["groups"]], float)
        return cls(next(iter(mine.values()))["layout"], names, sums, classes)

    def figures(self, some: Callable[[tuple[str, str, str, int]], bool]) -> dict[str, Any]:
        """Of those groups alone."""
        total = self.sums[[i for i, name in enumerate(self.names) if some(name)]].sum(0)
        return self._figures(total)

    def by(self, part: int, role: str) -> dict[str, Any]:
        """Of a role, by one part of the groups' names."""
        mine = [i for i, name in enumerate(self.names) if name[1] == role]
        values = sorted({self.names[i][part] for i in mine}, key=lambda v: (isinstance(v, str), v))
        number = {value: i for i, value in enumerate(values)}
        total = np.zeros((len(values), self.sums.shape[1]))
        np.add.at(total, [number[self.names[i][part]] for i in mine], self.sums[mine])
        return {str(value): self._figures(total[i]) for value, i in number.items()}

    def _figures(self, total: Array) -> dict[str, Any]:
        cuts = np.cumsum([size for _, size in self.layout])[:-1]
        sums = {name: part for (name, _), part in zip(self.layout, np.split(total, cuts), strict=True)}
        return live.figures(sums, self.classes)


def _summary(
    city: Params, paths: Paths, room: Room, days: dict[str, dict[str, Any]], end: dt.datetime
) -> dict[str, Any]:
    asked, pointer = city.task(room.task), room.store.pointer(room.task)
    classes = asked.classes.names if asked.classes else ()
    totals = {d: Total.of(days, d, classes) for d in sorted({d for told in days.values() for d in told["releases"]})}
    alarm = "precision" if room.label else "alarm_rate"
    champion, candidate = (pointer.stable, pointer.canary) if pointer else (None, None)
    releases: dict[str, Any] = {}
    for digest, total in totals.items():
        roles = sorted({name[1] for name in total.names})
        releases[digest] = {
            role: {
                **total.figures(lambda name, role=role: name[1] == role),  # type: ignore[misc]
                **{f"by_{what}": total.by(part, role) for part, what in ((0, "day"), (2, "kind"), (3, "step"))},
            }
            for role in roles
        }
    return {
        "task": room.task,
        "until": f"{end:%FT%TZ}",
        "primary": {"classify": "macro_f1", "anomaly": alarm}.get(asked.objective, "mae"),
        "join": _join(releases, days),
        "frozen_test": _frozen(paths, room.task),
        "champion": champion,
        "candidate": candidate,
        "releases": releases,
        **_beside(totals, champion, candidate),
    }


def _join(releases: dict[str, Any], days: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What became of all that was logged."""
    each = [told for roles in releases.values() for told in roles.values()]
    found: dict[str, Any] = {name: sum(told[name] for told in each) for name in live.COUNTS}
    due = found["rows"] - found["waiting"] - found["unsettled"]
    unknown: dict[str, int] = {}
    for told in days.values():
        for digest, rows in told["unknown"].items():
            unknown[digest] = unknown.get(digest, 0) + rows
    unreadable = [key for told in days.values() for key in told["unreadable"]]
    share = found["scored"] / due if due else float("nan")
    return {**found, "coverage": share, "days": len(days), "unknown": unknown, "unreadable": unreadable}


def _frozen(paths: Paths, task: str) -> dict[str, Any] | None:
    """Figures of the last evaluation here, and of which bundle."""
    report, made = paths.metrics("evaluate", task), paths.task(task)
    if not report.is_file():
        return None
    told = files.read_json(report)
    methods = {name: told[name] for name in ("model", *live.RIVALS) if name in told}
    return {"digest": bundle.digest(made) if (made / bundle.MANIFEST).is_file() else None, **methods}


def _beside(totals: dict[str, Total], champion: str | None, candidate: str | None) -> dict[str, Any]:
    """Champion and candidate over the days on which both answered requests."""
    if champion not in totals or candidate not in totals:
        return {}
    asked = {champion: ("stable",), candidate: TRIED}
    on = [{n[0] for n in totals[digest].names if n[1] in roles} for digest, roles in asked.items()]
    both = on[0] & on[1]
    if not both:
        return {}
    told = {
        name: totals[digest].figures(lambda n, roles=roles: n[0] in both and n[1] in roles)  # type: ignore[misc]
        for name, (digest, roles) in zip(("champion", "candidate"), asked.items(), strict=True)
    }
    return {"side_by_side": {"days": sorted(both), **told}}


def _in_short(summary: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """The primary figure of each release and role, and of the frozen test."""
    primary = summary["primary"]
    for digest, roles in summary["releases"].items():
        for role, told in roles.items():
            yield f"{digest[:12]} {role}", f"{told['model'][primary]:.4g}"
    frozen = (summary["frozen_test"] or {}).get("model", {}).get(primary)
    yield from [("frozen test", f"{frozen:.4g}")] if frozen is not None else []
    yield "metric", primary


def _draw(path: Path, task: str, summary: dict[str, Any]) -> None:
    """The primary figure by day; the frozen test's as a line."""
    from matplotlib.figure import Figure

    from pipelines.models import figures

    figure, primary = Figure(figsize=(9, 3.6), layout="constrained"), summary["primary"]
    axes = figure.subplots()
    figures.panel(axes, f"{task}: live {primary} by the day of the answer")
    for digest, roles in summary["releases"].items():
        for role, told in roles.items():
            by_day = told["by_day"]
            when, values = np.array(list(by_day), "datetime64[D]"), [d["model"][primary] for d in by_day.values()]
            (line,) = axes.plot(when, values, "o-", ms=3, label=f"{digest[:8]} {role}")
            for name, dash in zip(live.RIVALS, (":", "--"), strict=True):
                if name in told:
                    values = [d[name][primary] for d in by_day.values()]
                    axes.plot(when, values, dash, lw=1, alpha=0.6, color=line.get_color(), label=f"  {name}")
    frozen = (summary["frozen_test"] or {}).get("model", {}).get(primary)
    if frozen is not None:
        axes.axhline(frozen, color="black", lw=1, label="frozen test")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.tick_params(axis="x", labelrotation=30, labelsize=8)
    figures.save(path, figure)
