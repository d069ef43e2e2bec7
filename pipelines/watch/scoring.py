"""A day's prediction files → sums of live scores, and what of these files could not be scored, by name."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core import files, log
from pipelines.core.errors import UserError
from pipelines.models.evaluation import live
from pipelines.models.evaluation.live import Scored
from pipelines.models.evaluation.logged import Release, Rows, Truth, Words
from pipelines.models.evaluation.sums import COUNTS, QUARANTINED
from pipelines.release.objects import Unreachable
from pipelines.release.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[Any, Any]
Groups = dict[str, dict[str, Any]]
"""By digest: the layout of sums, and groups of part, role, value and sums."""
HEAD = ("digest", "role", "issued", "sensor", "kind", "time", "step")
STABLE, SHADOW = "stable", "shadow"


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
        found = Release(files.read_json(folder / "config.json"), load_file(folder / "tables.safetensors"), self.label)
        if other := found.other_units(self.truth):
            (sensor, kind), (own, read) = next(iter(other.items()))
            log.logger.warning(
                "monitor %s: answers by %s about %d channels are not scored, whose units are not its own: %s/%s: %s, "
                "was %s", self.task, digest[:12], len(other), sensor, kind, read, own
            )  # fmt: skip
        return found

    @property
    def late(self) -> str | None:
        return None if self.truth.late is None else str(self.truth.late)

    def end(self, reaches: str) -> str:
        """Until when readings count for answers about the time until `reaches`."""
        series = self.truth.series
        return min(str(series.start + self.truth.end * series.step), reaches)


def score(room: Room, day: str, marks: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is to be kept of a day, of whose files `marks` tells; and of each sensor, to be kept apart from it.

    What of its files cannot be read whole is left out whole, and named.
    """
    import pyarrow as pa

    total, unknown, distrusted = dict[str, Scored](), dict[str, int](), dict[str, dict[str, int]]()
    rests, readable = [np.zeros(0, np.int64)], list[str]()
    for key in sorted(marks):
        try:
            found = _of_file(room, room.store.objects.get(key))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            line = str(error).partition("\n")[0]
            log.logger.warning("monitor %s: %s cannot be read, and is left out: %s", room.task, key, line)
            continue
        readable.append(key)
        for digest, scored in found.scored.items():
            total.setdefault(digest, Scored()).add(scored)
        for digest, rows in found.unknown.items():
            unknown[digest] = unknown.get(digest, 0) + rows
        if counts := found.distrusted:
            distrusted[key] = counts
            told = ", ".join(f"{name} {n}" for name, n in counts.items())
            log.logger.warning("monitor %s: rows of %s are not scored: %s", room.task, key, told)
        rests.append(found.rests)
    spans = room.truth.spans(np.unique(np.concatenate(rests)))
    reaches = max((one.reaches for one in total.values()), default="")
    kept = {
        "day": day,
        "predictions": marks,
        "unreadable": sorted(set(marks) - set(readable)),
        "unknown": unknown,
        "distrusted": distrusted,
        "units": {d: {"/".join(name): list(units) for name, units in r.other_units(room.truth).items()}
                  for d in total if (r := room.release(d)) and r.other_units(room.truth)},
        "reaches": reaches,
        "until": room.end(reaches),
        "late": room.late,
        "truth": {"spans": spans, "sha256": room.truth.sha256(spans)},
        "pairs": list(_pairs(room, readable, total)),
        "releases": _written(total, lambda part: part != "sensor"),
    }  # fmt: skip
    return kept, {"day": day, "releases": _written(total, lambda part: part == "sensor")}


def _written(total: dict[str, Scored], wanted: Any) -> Groups:
    return {
        digest: {
            "layout": one.layout,
            "groups": [[*key, values.tolist()] for key, values in sorted(one.groups.items()) if wanted(key[0])],
        }
        for digest, one in total.items()
    }


def _pairs(room: Room, keys: list[str], total: dict[str, Scored]) -> Iterator[dict[str, Any]]:
    """Of each champion and each release in its shadow: sums over the requests that both answered, and how many."""
    answered = {(digest, role) for digest, one in total.items() for _, role, _ in one.groups}
    shadows, stables = ([d for d, role in answered if role == wanted] for wanted in (SHADOW, STABLE))
    if not shadows or not stables:
        return
    asked: dict[tuple[str, str], set[str]] = {}
    for key in keys:
        for name, ids in _requests(room.store.objects.get(key)).items():
            asked.setdefault(name, set()).update(ids)
    for one in sorted(stables):
        for other in sorted(shadows):
            both = asked[one, STABLE] & asked[other, SHADOW]
            sums = dict[str, Scored]()
            for key in keys if both else ():
                for digest, scored in _of_file(room, room.store.objects.get(key), both).scored.items():
                    sums.setdefault(digest, Scored()).add(scored)
            if both:
                told = {STABLE: sums[one].groups["all", STABLE, ""], SHADOW: sums[other].groups["all", SHADOW, ""]}
                yield {"champion": one, "candidate": other, "requests": len(both),
                       "sums": [told[STABLE].tolist(), told[SHADOW].tolist()]}  # fmt: skip


def _requests(data: bytes) -> dict[tuple[str, str], set[str]]:
    """By digest and role, who was answered."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data), columns=["request_id", "digest", "role"])
    of, digest, role = (_words(table[name]) for name in table.column_names)
    codes = (role.codes.astype(np.int64) * len(digest.words) + digest.codes) * len(of.words) + of.codes
    found: dict[tuple[str, str], set[str]] = {}
    for code in np.unique(codes).tolist():
        rest, number = divmod(code, len(of.words))
        name = digest.words[rest % len(digest.words)], role.words[rest // len(digest.words)]
        found.setdefault(name, set()).add(of.words[number])
    return found


@dataclass
class File:
    """What a prediction file comes to."""

    scored: dict[str, Scored]
    unknown: dict[str, int]
    rests: Array

    @property
    def distrusted(self) -> dict[str, int]:
        """How many rows for which reason."""
        states = [
            values for one in self.scored.values() for (part, _, _), values in one.groups.items() if part == "all"
        ]
        total = np.sum(states, axis=0) if states else np.zeros(len(COUNTS))
        return {name: int(total[COUNTS.index(name)]) for name in QUARANTINED if total[COUNTS.index(name)]}


def _of_file(room: Room, data: bytes, only: set[str] | None = None) -> File:
    """A row group at a time, which bounds the memory. only: requests whose rows are looked at."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file, out, rests = pq.ParquetFile(pa.BufferReader(data)), File({}, {}, np.zeros(0, np.int64)), []
    left = {"task"} if only else {"task", "request_id"}
    names = [name for name in file.schema_arrow.names if name not in left]
    for i in range(file.num_row_groups):
        table = file.read_row_group(i, columns=names)
        if only:
            ids = table["request_id"].cast(pa.string())
            table = table.filter(pc.is_in(ids, pa.array(sorted(only)))).drop_columns("request_id")
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
    out.rests = np.unique(np.concatenate([out.rests, *rests]))
    return out


def _rows(table: "pa.Table", release: Release) -> Rows:
    answer = {}
    for name in (n for n in table.column_names if n not in HEAD and n != "class"):
        answer[name] = table[name].combine_chunks().to_numpy(zero_copy_only=False)
    if release.classes:
        said = _words(table["class"])
        answer["class"] = np.array([release.classes.index(word) for word in said.words], np.int64)[said.codes]
    step = table["step"].combine_chunks().to_numpy()
    words = {name: _words(table[name]) for name in ("role", "sensor", "kind")}
    return Rows(**words, time=_times(table["time"]), step=step, issued=_times(table["issued"]), answer=answer)


def _times(column: "pa.ChunkedArray") -> Array:
    import pyarrow as pa

    found: Array = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).combine_chunks().to_numpy()
    return found.view("datetime64[us]")


def _words(column: "pa.ChunkedArray") -> Words:
    import pyarrow as pa

    found = column.combine_chunks()
    if not pa.types.is_dictionary(found.type):
        found = found.dictionary_encode()
    if found.null_count:
        raise ValueError("a row without a name")
    return Words(found.indices.to_numpy(zero_copy_only=False), found.dictionary.to_pylist())
