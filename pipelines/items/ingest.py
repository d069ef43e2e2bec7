"""Fetch a source's pictures or messages into day files: mask personal data, spool, then publish what changed.

As for series, memory is that of a batch or a day, and a feed that breaks half-way changes nothing. A picture's file is
kept once, under the SHA-256 of what is left of it when all that it says of people and places has gone.
"""

import datetime as dt
import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core import files, log, params, personal, pictures
from pipelines.core.errors import UserError
from pipelines.core.params import Params, Privacy
from pipelines.core.paths import Paths
from pipelines.core.records import IMAGES, TEXTS, day_file
from pipelines.core.scratch import scratch
from pipelines.items.store import PRIVACY, put
from pipelines.sources import ITEM_TRUTH, ItemBatch, Items, Window, open_feed

HASH_KEY = "CITYLOOP_HASH_KEY"
_DAY = 86_400_000_000  # microseconds
_EPOCH = dt.date(1970, 1, 1)

Array = np.ndarray[Any, Any]


def run(source: str, city: Params, root: Path) -> None:
    """Write `data/raw/<source>/`: day files, blobs, counts of what was masked, and truth where the feed has it.

    Raises UserError and changes nothing when the feed cannot be read, or has nothing in the window.
    """
    spec = city.source(source)
    window = Window(spec.start, city.window_end(source))
    paths = Paths(root)
    mask = Mask(spec.privacy, f"{root / params.PARAMS}: sources.{source}.privacy")
    with log.room("ingest", source) as told, scratch(paths.state / "ingest", source) as spools:
        feed = open_feed(spec, city.city, window, root)
        assert isinstance(feed, Items), "params gives pictures and messages a connector of theirs"
        records = Spool(spools / "records", IMAGES if spec.modality == "image" else TEXTS)
        truth = Spool(spools / "truth", ITEM_TRUTH)
        blobs = _Blobs(spools / "blobs", paths.raw(source) / "blobs")
        dropped = 0
        with log.Progress(f"ingest {source}", unit="items") as shown:
            for batch in feed.batches:
                inside = _inside(batch.table, window)
                dropped += len(batch.table) - len(inside)
                table, new, known = mask(ItemBatch(inside, batch.blobs, batch.truth))
                blobs.add(new)
                records.add(table)
                if known is not None:
                    truth.add(_inside(known, window))
                shown.add(len(batch.table))
        if not records.rows:
            has = f"{dropped:,} outside it" if dropped else "none at all"
            raise UserError(
                f"sources.{source}: no item in the window [{window.start:%F}, {window.end:%F}), and {has}; correct "
                "its dates or its window"
            )
        written, kept, removed = _publish(paths.raw(source), records, truth, blobs, mask.counts())
        told.update(records=records.rows, days_written=written, days_unchanged=kept, days_removed=removed)
        told.update(dropped_outside_window=dropped, masked=sum(mask.found.values()), **mask.files)


class Mask:
    """The privacy rules, applied to batches. Raises UserError for a rule that cannot be kept."""

    def __init__(self, rules: Privacy, at: str) -> None:
        self.rules = rules
        self.found: Counter[str] = Counter()
        self.files: Counter[str] = Counter()
        self._key = os.environ.get(HASH_KEY, "").encode()
        if rules.hash_sensors and len(self._key) < 16:
            raise UserError(f"{at}.hash_sensors: set {HASH_KEY} to a secret of at least 16 characters, kept safe")
        self._names: dict[str, str] = {}
        self._short = lru_cache(1 << 16)(self._words)

    def __call__(self, batch: ItemBatch) -> tuple[pa.Table, dict[str, bytes], pa.Table | None]:
        """The batch's records, blobs and truth as they may be kept."""
        if batch.table.schema.equals(IMAGES):
            return self._pictures(batch)
        return self._messages(batch)

    def counts(self) -> dict[str, Any]:
        return {"found": dict(sorted(self.found.items())), "files": dict(sorted(self.files.items()))}

    def _pictures(self, batch: ItemBatch) -> tuple[pa.Table, dict[str, bytes], pa.Table | None]:
        names, blobs = {}, {}
        for old in dict.fromkeys(batch.table["blob"].to_pylist()):
            data = pictures.clean(batch.blobs[old]) if self.rules.mask else batch.blobs[old]
            self.files["files_cleaned"] += data != batch.blobs[old]
            names[old] = hashlib.sha256(data).hexdigest()
            blobs[names[old]] = data
        rows = batch.table.to_pylist()
        for row in rows:
            row["blob"] = names[row["blob"]]
            row["camera"] = self._id(row["camera"]) if self.rules.hash_sensors else self._short(row["camera"])
            if row["labels"] is not None:
                row["labels"] = [self._short(word) for word in row["labels"]]
            for box in row["boxes"] or ():
                box["label"] = self._short(box["label"])
        if batch.truth is not None:
            self._names |= names  # what a later batch repeats may stand in this one
        return (
            pa.Table.from_pylist(rows, IMAGES),
            blobs,
            _renamed(batch.truth, lambda item: self._names.get(item, item)),
        )

    def _messages(self, batch: ItemBatch) -> tuple[pa.Table, dict[str, bytes], pa.Table | None]:
        rows = batch.table.to_pylist()
        for row in rows:
            row["id"] = self._id(row["id"])
            if not self.rules.mask:
                continue
            masked = personal.mask(row["text"])
            self.found.update(masked.found)
            for span in row["spans"] or ():
                # A span that lies outside the text is left to validation as it is, beyond the new end.
                inside = 0 <= span["start"] <= span["end"] <= len(row["text"])
                shift = len(masked.text) - len(row["text"])
                span["start"], span["end"] = (
                    masked.moved(span["start"], span["end"])
                    if inside
                    else (span["start"], span["end"] + (shift if span["end"] > len(row["text"]) else 0))
                )
                span["label"] = self._short(span["label"])
            row["text"] = masked.text
            row["label"] = None if row["label"] is None else self._short(row["label"])
        return pa.Table.from_pylist(rows, TEXTS), {}, _renamed(batch.truth, self._id)

    def _words(self, text: str) -> str:
        return personal.mask(text).text if self.rules.mask else text

    def _id(self, name: str) -> str:
        """What an item is called may itself be personal (a telephone number, a file's name): its hash says less. One
        without a key can be found by trying all numbers, so where CITYLOOP_HASH_KEY is set it is used."""
        if self.rules.hash_sensors or (self.rules.mask and self._key):
            return hmac.digest(self._key, name.encode(), "sha256").hex()[:32]
        return hashlib.sha256(name.encode()).hexdigest()[:16] if self.rules.mask else name


def _renamed(truth: pa.Table | None, name: Callable[[str], str]) -> pa.Table | None:
    if truth is None:
        return None
    for column in ("item", "of"):
        new = [None if item is None else name(item) for item in truth[column].to_pylist()]
        truth = truth.set_column(truth.schema.get_field_index(column), column, pa.array(new, pa.string()))
    return truth


def _inside(table: pa.Table, window: Window) -> pa.Table:
    times = table["time"].cast(pa.int64()).to_numpy()
    lo, hi = (int(np.datetime64(t.replace(tzinfo=None), "us").astype(np.int64)) for t in window)
    keep = (times >= lo) & (times < hi)
    return table if keep.all() else table.filter(pa.array(keep))


class Spool:
    """Tables on disk, read back a day at a time, sorted by time and by the columns of text after it."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir(parents=True)
        self.folder, self.schema, self.rows = folder, schema, 0
        self._days: dict[int, list[tuple[int, int, int]]] = {}
        self._files = 0

    def add(self, table: pa.Table) -> None:
        if not len(table):
            return
        table = table.select(self.schema.names).cast(self.schema)
        times = table["time"].cast(pa.int64()).to_numpy()
        order = np.argsort(times, kind="stable")
        with pa.OSFile(str(self._file(self._files)), "wb") as sink, pa.ipc.new_file(sink, self.schema) as writer:
            writer.write_table(table.take(pa.array(order)).combine_chunks())
        days, starts = np.unique(times[order] // _DAY, return_index=True)
        for day, lo, hi in zip(days.tolist(), starts.tolist(), [*starts[1:].tolist(), len(times)], strict=True):
            self._days.setdefault(day, []).append((self._files, lo, hi))
        self._files += 1
        self.rows += len(table)

    def days(self) -> Iterator[tuple[dt.date, Callable[[], pa.Table]]]:
        """Each day in order, with a function that reads it."""
        for day in sorted(self._days):
            yield _EPOCH + dt.timedelta(days=day), lambda day=day: self._day(day)  # type: ignore[misc]

    def _day(self, day: int) -> pa.Table:
        parts = []
        for number, lo, hi in self._days[day]:
            with pa.memory_map(str(self._file(number))) as file:
                parts.append(pa.ipc.open_file(file).read_all().slice(lo, hi - lo))
        table = pa.concat_tables(parts)
        # Pictures of one camera and moment, by their blob; messages of one moment, by their id.
        keys = [f.name for f in self.schema if f.name == "time" or f.type == pa.string()]
        return table.sort_by([(key, "ascending") for key in keys]).combine_chunks()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.arrow"


class _Blobs:
    """Files under the hash of their bytes: those not published yet wait beside the spool."""

    def __init__(self, folder: Path, published: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.published = folder, published
        self.names: set[str] = set()

    def add(self, blobs: dict[str, bytes]) -> None:
        for name, data in blobs.items():
            there = self.published / name
            if name not in self.names and not (there.is_file() and there.stat().st_size == len(data)):
                (self.folder / name).write_bytes(data)
            self.names.add(name)

    def publish(self) -> None:
        for path in self.folder.iterdir():
            put(path, self.published / path.name)


def _publish(folder: Path, records: Spool, truth: Spool, blobs: _Blobs, counts: dict[str, Any]) -> tuple[int, int, int]:
    """Write what differs and remove what no longer belongs; returns days written, unchanged and removed."""
    files.sweep(folder)
    before = set(folder.glob("date=*.parquet"))
    wanted = {folder / PRIVACY, *(folder / "blobs" / name for name in blobs.names)}
    blobs.publish()
    days = list(records.days())
    written = 0
    for day, read in log.progress(days, "ingest: writing", len(days), "days"):
        written += files.write_table(day_file(folder, day), read())
        wanted.add(day_file(folder, day))
    for day, read in truth.days():
        files.write_table(day_file(folder / "truth", day), read())
        wanted.add(day_file(folder / "truth", day))
    files.write_json(folder / PRIVACY, counts)
    files.tidy(folder, wanted)
    return written, len(days) - written, len(before - wanted)
