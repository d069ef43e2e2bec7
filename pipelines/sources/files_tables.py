"""Files as tables that are read a chunk of rows at a time: CSV, Parquet, .npy, .npz and pandas' HDF5."""

import contextlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from pipelines.core.errors import UserError, nearest
from pipelines.core.reads import FilesRead
from pipelines.sources.files_fetch import File, first_line

BLOCK_BYTES = 2 << 20
CHUNK_CELLS = 1 << 19
INDEX = "index"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Table:
    """A file's columns by name; `chunks` reads some of them from the first row on.

    `channels`: the file is an array [row, column, channel], whose columns are called `column/channel`.
    `named`: whether the names come from the file, or are mere positions.
    """

    file: File
    names: list[str]
    read: Callable[[list[str]], Iterator[pa.RecordBatch]]
    lines: bool = False
    named: bool = True
    channels: int = 0

    def column(self, name: str) -> str:
        """The file's column of that name, blanks apart. Raises UserError when it is missing or stands twice."""
        if name in self.names:
            found = [n for n in self.names if n == name]
        else:
            found = [n for n in self.names if n.split() == name.split()]
        if not found:
            raise UserError(f"{self.file.name}: no column {name!r}; {nearest(name, self.names)}")
        if len(found) > 1:
            raise UserError(f"{self.file.name}: column {name!r} stands {len(found)} times in the header; rename one")
        return found[0]

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(rows before it, chunk) with the columns `names`. Raises UserError for a file that breaks off."""
        row = 0
        with readable(self.file):
            for batch in self.read(list(dict.fromkeys(names))):
                if len(batch):
                    yield row, batch
                row += len(batch)

    def at(self, row: int, column: str | None = None) -> str:
        """Where a row (from 0) is, as a person would look for it."""
        place = f"{self.file.name}: " + (f"line {row + 2}" if self.lines else f"row {row + 1}")
        return place if column is None else f"{place}, column {column!r}"


@contextlib.contextmanager
def readable(file: File) -> Iterator[None]:
    """Turns what the file libraries raise into a UserError of one line."""
    try:
        yield
    except pa.ArrowInvalid as error:
        text = first_line(error)
        if "Empty CSV" in text:
            raise UserError(f"{file.name}: the file is empty; expected a header and rows") from None
        hint = "; set `encoding`, such as latin-1" if "UTF8" in text else "; correct or re-fetch the file"
        raise UserError(f"{file.name}: cannot be read: {text}{hint}") from None
    except (UnicodeDecodeError, LookupError) as error:
        raise UserError(f"{file.name}: cannot be read: {first_line(error)}; correct `encoding`") from None
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        text = first_line(error)
        advice = "the file is cut short or damaged, fetch it again" if _broken(text) else "check the file"
        raise UserError(f"{file.name}: cannot be read: {text}; {advice}") from None


def _broken(text: str) -> bool:
    return any(
        word in text.lower() for word in ("truncated", "inflate", "decompress", "zip", "eof", "bad", "signature")
    )


def open_table(file: File, read: FilesRead, format: str | None = None) -> Table:
    """Read a file's header. Raises UserError for one that is empty, damaged or holds pickled objects."""
    kind = file.format(format)
    openers = {"csv": _csv, "parquet": _parquet, "npz": _npz, "npy": _npz, "hdf5": _hdf5}
    if not file.path.stat().st_size:
        raise UserError(f"{file.name}: the file is empty")
    with readable(file):
        return openers[kind](file, read)


def numbers(column: pa.Array, read: FilesRead, where: Callable[[int], str]) -> Array:
    """float64 [rows], NaN for null, NaN and the NA spellings. Raises UserError; `where` names a row of the chunk."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        missing = pc.is_in(column, pa.array(read.na, column.type))
        column = pc.if_else(missing, pa.scalar(None, column.type), column)
        if read.decimal != ".":
            column = pc.replace_substring(column, read.decimal, ".")
    try:
        values: Array = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        row = next((i for i, word in enumerate(column) if not _is_number(word)), 0)
        found = column[row].as_py()
        raise UserError(f"{where(row)}: {found!r} is not a number; correct it, or add it to `na`") from None
    spelt = [float(word) for word in read.na if _is_number(pa.scalar(word))]
    return np.where(np.isin(values, spelt), np.nan, values) if spelt else values


def _is_number(word: pa.Scalar) -> bool:
    try:
        return word.cast(pa.float64()) is not None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False


def texts(column: pa.Array) -> pa.Array:
    """A column as trimmed strings; an empty one is null."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    words = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(words, ""), pa.scalar(None, pa.string()), words)


def matrix(table: Table, spec: FilesRead, row: int, chunk: pa.RecordBatch, names: list[str]) -> Array:
    """Columns of a chunk that begins at `row`, as float64 [rows, names]."""
    columns = [numbers(chunk[n], spec, lambda i, n=n: table.at(row + i, n)) for n in names]  # type: ignore[misc]
    return np.column_stack(columns)


def first_null(column: pa.Array) -> int:
    """Position of the first null; there must be one."""
    return int(pc.index(column.is_null(), True).as_py())


def _csv(file: File, read: FilesRead) -> Table:
    parsing = pcsv.ParseOptions(delimiter="\t" if file.name.endswith(".tsv") else read.separator)

    def rows(convert: pcsv.ConvertOptions) -> pcsv.CSVStreamingReader:
        # One thread, since only then do Arrow's messages name the row.
        reading = pcsv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False, encoding=read.encoding)
        stream = pa.input_stream(str(file.path), compression="detect")
        return pcsv.open_csv(stream, read_options=reading, parse_options=parsing, convert_options=convert)

    def chunks(names: list[str]) -> Iterator[pa.RecordBatch]:
        as_text = dict.fromkeys(names, pa.string())
        yield from rows(pcsv.ConvertOptions(include_columns=names, column_types=as_text, strings_can_be_null=False))

    header = rows(pcsv.ConvertOptions()).schema.names
    return Table(file, header, chunks, lines=True)


def _parquet(file: File, read: FilesRead) -> Table:
    with pq.ParquetFile(file.path) as opened:
        header = opened.schema_arrow.names

    def chunks(names: list[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(file.path) as opened:
            yield from opened.iter_batches(max(1, CHUNK_CELLS // len(names)), columns=names)

    return Table(file, header, chunks)


def _array(file: File, shape: tuple[int, ...], rows: Callable[[int, int], Array], **extra: Any) -> Table:
    """A table from an array [T, N] or [T, N, C] of which `rows(lo, hi)` gives a part; `extra`: names and index."""
    if len(shape) not in (2, 3):
        raise UserError(
            f"{file.name}: the array has shape {list(shape)}; expected [time, sensor] or [time, sensor, channel]"
        )
    names = extra.get("names") or [str(i) for i in range(shape[1])]
    channels = shape[2] if len(shape) == 3 else 0
    if channels:
        names = [f"{name}/{c}" for name in names for c in range(channels)]
    index: Any = extra.get("index")

    def chunks(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        places = {name: i for i, name in enumerate(names)}
        step = max(1, CHUNK_CELLS // len(names))
        for lo in range(0, shape[0], step):
            hi = min(lo + step, shape[0])
            block = np.asarray(rows(lo, hi)).reshape(hi - lo, -1)
            columns = [index.slice(lo, hi - lo) if n == INDEX else pa.array(block[:, places[n]]) for n in wanted]
            yield pa.RecordBatch.from_arrays(columns, wanted)

    header = names if index is None else [INDEX, *names]
    return Table(file, header, chunks, named="names" in extra, channels=channels)


def _npz(file: File, read: FilesRead) -> Table:
    if file.format(None) == "npy":
        values = _load(file, lambda: np.load(file.path, mmap_mode="r", allow_pickle=False))
        return _array(file, values.shape, lambda lo, hi: values[lo:hi])
    with zipfile.ZipFile(file.path) as archive:
        members = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        shapes = {n: _load(file, lambda n=n: _header(archive, n)) for n in members}  # type: ignore[misc]
    if read.dataset is not None and read.dataset not in members:
        raise UserError(f"{file.name}: no array {read.dataset!r}; {nearest(read.dataset, members)}")
    big = [read.dataset] if read.dataset else [n for n in members if len(shapes[n][0]) > 1]
    if len(big) == 1:
        shape, fortran, dtype = shapes[big[0]]
        rows = _rows_of_member(file, big[0], shape, dtype, fortran)
        return _array(file, shape, rows)
    if big:
        raise UserError(f"{file.name}: holds the arrays {', '.join(big)}; set `dataset` to one of them")
    return _npz_columns(file, {n: shapes[n][0] for n in members})


def _npz_columns(file: File, shapes: dict[str, tuple[int, ...]]) -> Table:
    """An .npz whose one-dimensional arrays, all of one length, are columns."""
    if len(set(shapes.values())) != 1:
        told = ", ".join(f"{n} {list(s)}" for n, s in shapes.items()) or "nothing"
        raise UserError(f"{file.name}: expected one array [time, sensor], or columns of equal length; found {told}")

    def chunks(names: list[str]) -> Iterator[pa.RecordBatch]:
        with np.load(file.path, allow_pickle=False) as arrays:
            yield pa.RecordBatch.from_arrays([pa.array(arrays[n]) for n in names], names)

    return Table(file, list(shapes), chunks)


def _load(file: File, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ValueError as error:
        if "pickle" in str(error) or "Object" in str(error):
            raise UserError(f"{file.name}: holds pickled objects, which can run code; save plain arrays") from None
        raise UserError(f"{file.name}: cannot be read: {first_line(error)}; save it again with numpy") from None


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    with archive.open(f"{name}.npy") as member:
        return _array_header(member)


def _array_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(member)
    if dtype.hasobject:
        raise ValueError("Object array")
    return shape, fortran, dtype


def _rows_of_member(
    file: File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool
) -> Callable[[int, int], Array]:
    """Rows of an array in an .npz, unpacked as they are asked for in order; one stored by columns is loaded whole."""
    state: dict[str, Any] = {}

    def rows(lo: int, hi: int) -> Array:
        if fortran:
            if not state:
                with np.load(file.path, allow_pickle=False) as arrays:
                    state["whole"] = arrays[name]
            return state["whole"][lo:hi]
        if lo == 0:
            state["archive"] = zipfile.ZipFile(file.path)
            state["member"] = state["archive"].open(f"{name}.npy")
            _array_header(state["member"])
        size = (hi - lo) * int(np.prod(shape[1:])) * dtype.itemsize
        data = state["member"].read(size)
        if len(data) < size:
            raise EOFError(f"array {name!r} is truncated")
        if hi == shape[0]:
            state["member"].read(1)  # beyond the end lies the checksum
            state["member"].close()
            state["archive"].close()
        return np.frombuffer(data, dtype).reshape(hi - lo, *shape[1:])

    return rows


def _hdf5(file: File, read: FilesRead) -> Table:
    import h5py

    with h5py.File(file.path, "r") as opened:
        keys = list(opened)
        key = read.dataset or (keys[0] if len(keys) == 1 else None)
        if key is None or key not in opened:
            raise UserError(f"{file.name}: set `dataset` to one of its keys: {', '.join(keys) or 'it has none'}")
        item = opened[key]
        if isinstance(item, h5py.Dataset):
            shape, dataset, extra = item.shape, key, {}
        elif {"axis0", "axis1", "block0_values"} <= set(item):
            if "block1_values" in item:
                raise UserError(f"{file.name}: {key!r} mixes types of columns; save it as floats only")
            # Columns of the block may be ordered differently from those of the frame.
            names = [n.decode() if isinstance(n, bytes) else str(n) for n in item["block0_items"][:]]
            shape, dataset = item["block0_values"].shape, f"{key}/block0_values"
            extra = {"names": names, "index": _hdf5_index(file, item)}
        else:
            raise UserError(
                f"{file.name}: {key!r} is neither an array nor pandas' fixed form; save it with format='fixed'"
            )

    def rows(lo: int, hi: int) -> Array:
        with h5py.File(file.path, "r") as opened:
            return opened[dataset][lo:hi]

    return _array(file, shape, rows, **extra)


def _hdf5_index(file: File, group: Any) -> pa.Array:
    """The frame's index: moments (UTC where it has a zone), or what it is."""
    index, attributes = group["axis1"], group["axis1"].attrs
    kind = attributes.get("kind", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    values = index[:]
    if kind.startswith("datetime64"):
        unit = kind[11:-1] or "ns"
        return pa.array(values.astype(np.int64)).cast(pa.timestamp(unit, "UTC" if "tz" in attributes else None))
    if values.dtype.kind in "SO":
        return pa.array([v.decode() if isinstance(v, bytes) else str(v) for v in values])
    return pa.array(values)
