"""Connector for free text in tables: CSV, Parquet or JSON lines, with labels and spans where somebody gave them."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.errors import UserError, nearest
from pipelines.core.params import City, Source
from pipelines.core.personal import mask
from pipelines.core.reads import MessagesRead
from pipelines.core.records import TEXTS
from pipelines.sources import ItemBatch, Items, Window
from pipelines.sources.files_fetch import File, first_line, locate
from pipelines.sources.files_time import BadTime, Clock, parse

Array = np.ndarray[Any, Any]
Row = dict[str, Any]
BATCH_ITEMS, BATCH_CHARACTERS = 5000, 32 << 20
_FORMATS = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
_FORMATS |= {".jsonl": "jsonl", ".ndjson": "jsonl"}
_PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": None}
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_LONE = re.compile("[\ud800-\udfff]")


def read(source: Source, city: City, window: Window, root: Path) -> Items:
    """Every message in the files that `source.read` names, whatever the window. Raises UserError with file and line.

    Bytes that are not of the encoding become U+FFFD, which validation takes for damage.
    """
    spec = source.read
    assert isinstance(spec, MessagesRead)
    return Items(_batches(locate(spec.path, spec.sha256, root), spec, source))


def _batches(found: list[File], spec: MessagesRead, source: Source) -> Iterator[ItemBatch]:
    seen: set[str] = set()
    optional = {name for name in (spec.label, spec.spans) if name}
    for file in found:
        clock = Clock(spec.timezone)
        rows: list[tuple[str, Row]] = []
        held = 0
        for at, row in _rows(file, spec, seen):
            rows.append((at, row))
            held += sum(len(str(row.get(name) or "")) for name in _columns(spec))
            if len(rows) >= BATCH_ITEMS or held >= BATCH_CHARACTERS:
                yield ItemBatch(_table(rows, spec, source, clock))
                rows, held = [], 0
        if rows:
            yield ItemBatch(_table(rows, spec, source, clock))
    for name in sorted(optional - seen):
        raise UserError(f"{found[0].name}: no column {name!r}, in no file of `path`; {_nearest(name, seen)}")


def _nearest(name: str, there: Iterable[str]) -> str:
    """Of a file without a header what stands for a column's name may be what a citizen wrote."""
    return nearest(name, [one for one in there if len(one) <= 40 and mask(one).text == one])


def _columns(spec: MessagesRead) -> tuple[str, ...]:
    return (spec.text,) if isinstance(spec.text, str) else spec.text


def _rows(file: File, spec: MessagesRead, seen: set[str]) -> Iterator[tuple[str, Row]]:
    """(where it stands, columns) of each row; the columns' names go into `seen`.

    Raises UserError for a missing column; files without label or spans are fine as long as another has them.
    """
    name = file.name
    packed = next((ending for ending in _PACKED if name.lower().endswith(ending)), "")
    ending = "." + name[: len(name) - len(packed)].rpartition(".")[2].lower()
    kind = spec.format or _FORMATS.get(ending)
    if kind is None:
        raise UserError(f"{name}: unknown kind of file {ending!r}; set `format`, or {nearest(ending, _FORMATS)}")
    if not file.path.stat().st_size:
        raise UserError(f"{name}: the file is empty")
    needed = [*_columns(spec), *(c for c in (spec.id, spec.time) if c)]
    checked: set[str] = set()
    try:
        for at, row in {"csv": _csv, "parquet": _parquet, "jsonl": _jsonl}[kind](file, spec, packed):
            if not checked or not checked <= row.keys():
                checked = set(row)
                seen |= checked
                if missing := next((c for c in needed if c not in row), None):
                    raise UserError(f"{at}: no column {missing!r}; {_nearest(missing, row)}")
            yield at, row
    except (pa.ArrowInvalid, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{name}: is cut short or damaged: {first_line(error)}; fetch it again") from None
    except LookupError:
        raise UserError(f"{name}: no encoding {spec.encoding!r}; name one such as utf-8, gb18030 or latin-1") from None


def _lines(file: File, spec: MessagesRead, packed: str) -> io.TextIOWrapper:
    raw: Any
    if packed == ".zst":
        raw = pa.input_stream(str(file.path), compression="zstd")
    else:
        raw = (_PACKED[packed] or open)(file.path, "rb") if packed else file.path.open("rb")
    encoding = "utf-8-sig" if spec.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else spec.encoding
    return io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="")


def _csv(file: File, spec: MessagesRead, packed: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(1 << 30)
    with _lines(file, spec, packed) as lines:
        reader = csv.reader(lines, delimiter="\t" if ".tsv" in file.name.lower() else spec.separator)
        try:
            header = next(reader, [])
            for cells in reader:
                at = f"{file.name}: line {reader.line_num}"
                if len(cells) == len(header):
                    yield at, dict(zip(header, cells, strict=True))
                elif cells:
                    raise UserError(f"{at}: {len(cells)} cells, the header has {len(header)}; quote the text")
        except csv.Error as error:
            raise UserError(f"{file.name}: line {reader.line_num}: {first_line(error)}; correct the line") from None


def _jsonl(file: File, spec: MessagesRead, packed: str) -> Iterator[tuple[str, Row]]:
    with _lines(file, spec, packed) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            at = f"{file.name}: line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{at}: not JSON: {first_line(error)}; correct the line") from None
            if not isinstance(row, dict):
                raise UserError(f"{at}: expected a JSON object with a message's columns")
            needed = (*_columns(spec), *(c for c in (spec.id, spec.time) if c))
            yield at, {**dict.fromkeys(needed), **row} if row.keys() & set(needed) else row


def _parquet(file: File, spec: MessagesRead, packed: str) -> Iterator[tuple[str, Row]]:
    chosen = (*_columns(spec), *(c for c in (spec.id, spec.time, spec.label, spec.spans) if c))
    with pq.ParquetFile(file.path) as opened:
        names = [name for name in opened.schema_arrow.names if name in chosen]
        number = 0
        for batch in opened.iter_batches(BATCH_ITEMS, columns=names):
            # Text is decoded by us, as damage in it is for validation to judge.
            columns = {
                n: batch[n].cast(pa.binary()).to_pylist() if pa.types.is_string(batch[n].type) else batch[n].to_pylist()
                for n in names
            }
            for cells in zip(*columns.values(), strict=True):
                number += 1
                told = (c.decode("utf-8", "replace") if isinstance(c, bytes) else c for c in cells)
                yield f"{file.name}: row {number}", dict(zip(names, told, strict=True))


def _table(rows: list[tuple[str, Row]], spec: MessagesRead, source: Source, clock: Clock) -> pa.Table:
    out = []
    for (at, row), time in zip(rows, _times(rows, spec, source, clock), strict=True):
        parts = [_text(row.get(name)) for name in _columns(spec)]
        text = "\n".join(part for part in parts if part)
        label = _text(row.get(spec.label)).strip() if spec.label else ""
        spans = _spans(at, row.get(spec.spans), text, spec) if spec.spans else None
        # A message without an id is known by its place in the file.
        name = _text(row[spec.id]).strip() if spec.id else ""
        said = spec.words.get(label, label) or None
        out.append({"time": time, "id": name or Path(at).name, "text": text, "label": said, "spans": spans})
    return pa.Table.from_pylist(out, TEXTS)


def _text(value: Any) -> str:
    """A cell as text; half a surrogate pair, which no encoding can write, is damage like any other."""
    return "" if value is None else _LONE.sub("\ufffd", str(value))


def _times(rows: list[tuple[str, Row]], spec: MessagesRead, source: Source, clock: Clock) -> list[Any]:
    if spec.time is None:
        return [source.start] * len(rows)
    cells = [row[spec.time] for _, row in rows]
    if not all(hasattr(cell, "year") for cell in cells):
        cells = [None if cell is None or cell == "" else str(cell) for cell in cells]
    try:
        local, zoned = _parsed(cells, spec.time_format)
        moments = clock.utc(local, zoned, lambda i: None)
    except BadTime as error:
        raise UserError(f"{rows[error.row][0]}, column {spec.time!r}: time {mask(error.why).text}") from None
    return pa.array(np.asarray(moments)).cast(TEXTS.field("time").type).to_pylist()


def _parsed(cells: list[Any], pattern: str | None) -> tuple[Array, Array]:
    """As `files_time.parse`; where a pattern is given, ISO 8601 is understood beside it, as exports mix the two."""
    iso = [i for i, cell in enumerate(cells) if pattern and isinstance(cell, str) and _ISO.match(cell)]
    if not iso or pattern in ("unix", "unix_ms"):
        return parse(pa.array(cells), pattern)
    local, zoned = np.zeros(len(cells), np.int64), np.zeros(len(cells), bool)
    rest = sorted(set(range(len(cells))) - set(iso))
    for rows, form in ((iso, None), (rest, pattern)):
        try:
            if rows:
                local[rows], zoned[rows] = parse(pa.array([cells[i] for i in rows]), form)
        except BadTime as error:
            raise BadTime(rows[error.row], error.why) from None
    return local, zoned


def _spans(at: str, cell: Any, text: str, spec: MessagesRead) -> list[Row] | None:
    """Spans of a cell: JSON [{start, end, label}, …], or a list of BIO tags, one for each word or character of the
    text; empty: None, not annotated. Whether they fit the text is for validation to say."""
    try:
        found = json.loads(cell) if isinstance(cell, str) and cell.strip() else cell
        if found is None or found == "":
            return None
        if found and all(isinstance(tag, str) for tag in found):
            spans = _tagged(found, text)
        else:
            spans = [{"start": int(s["start"]), "end": int(s["end"]), "label": str(s["label"])} for s in found]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise UserError(
            f'{at}, column {spec.spans!r}: expected [{{"start": 0, "end": 4, "label": "…"}}] or BIO tags: {why}'
        ) from None
    far = 2**31 - 1
    return [
        {
            "start": max(-far, min(far, s["start"])),
            "end": max(-far, min(far, s["end"])),
            "label": spec.words.get(s["label"], s["label"]),
        }
        for s in spans
    ]


def _tagged(tags: list[str], text: str) -> list[Row]:
    """Spans of BIO tags. Raises ValueError when they are as many as neither the words nor the characters."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    if len(tags) != len(words):
        words = [(i, i + 1) for i in range(len(text))]
    if len(tags) != len(words):
        raise ValueError(f"{len(tags)} tags for {len(text.split())} words, {len(text)} characters")
    spans: list[Row] = []
    before = "O"
    for tag, (start, end) in zip(tags, words, strict=True):
        mark, _, label = tag.partition("-")
        if mark not in ("B", "I", "O") or (mark == "O") != (not label):
            raise ValueError(f"{tag!r} is not O, B-… or I-…")
        if mark == "I" and before == label:
            spans[-1]["end"] = end
        elif mark != "O":
            spans.append({"start": start, "end": end, "label": label})
        before = label if mark != "O" else "O"
    return spans
