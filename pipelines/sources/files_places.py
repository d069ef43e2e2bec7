"""Where sensors stand and which roads join them: a source's sensor table and graph files."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.errors import UserError
from pipelines.core.reads import FilesRead
from pipelines.core.records import EDGES, SENSORS
from pipelines.sources.files_fetch import File, locate
from pipelines.sources.files_tables import Table, first_null, matrix, numbers, open_table, texts

Array = np.ndarray[Any, Any]


def read_sensors(spec: FilesRead, root: Path) -> pa.Table:
    """The sensor table in its file's order (schema SENSORS); empty when there is none."""
    part = spec.sensors
    if part is None:
        return SENSORS.empty_table()
    table = open_table(locate(part.path, part.sha256, root)[0], spec)
    columns: dict[str, str] = {"sensor": table.column(part.sensor)}
    for key in ("latitude", "longitude", "district"):
        name = getattr(part, key)
        if name is not None and (name in table.names or key in part.model_fields_set):
            columns[key] = table.column(name)
    out = {key: pa.array([], SENSORS.field(key).type) for key in SENSORS.names}
    chunks = []
    for row, chunk in table.chunks(list(columns.values())):
        for key in SENSORS.names:
            if key not in columns:
                out[key] = pa.nulls(len(chunk), SENSORS.field(key).type)
            elif key in ("latitude", "longitude"):
                where = lambda i, row=row, key=key: table.at(row + i, columns[key])  # noqa: E731
                out[key] = pa.array(numbers(chunk[columns[key]], spec, where), from_pandas=True)
            else:
                out[key] = texts(chunk[columns[key]])
        if out["sensor"].null_count:
            raise UserError(f"{table.at(row + first_null(out['sensor']), columns['sensor'])}: no sensor id; give one")
        chunks.append(pa.Table.from_pydict(out, schema=SENSORS))
    sensors = pa.concat_tables(chunks) if chunks else SENSORS.empty_table()
    _unique(table, sensors["sensor"].to_pylist(), columns["sensor"])
    return sensors


def _unique(table: Table, ids: list[str], column: str) -> None:
    seen: dict[str, int] = {}
    for row, sensor in enumerate(ids):
        if sensor in seen:
            first = table.at(seen[sensor]).rpartition(": ")[2]
            raise UserError(f"{table.at(row, column)}: sensor id {sensor!r} is that of {first} too; ids must be unique")
        seen[sensor] = row


def read_edges(spec: FilesRead, root: Path, order: list[str]) -> pa.Table:
    """The road graph (schema EDGES); no edge from a sensor to itself, nor of weight 0."""
    part = spec.graph
    assert part is not None
    file = locate(part.path, part.sha256, root)[0]
    if part.form == "matrix":
        return _matrix_edges(file, spec, order)
    table = open_table(file, spec)
    source, target = table.column(part.source), table.column(part.target)
    weight = table.column(part.weight) if part.weight else None
    parts = []
    for row, chunk in table.chunks([source, target, *([weight] if weight else [])]):
        ends = [texts(chunk[source]), texts(chunk[target])]
        for end, column in zip(ends, (source, target), strict=True):
            if end.null_count:
                raise UserError(f"{table.at(row + first_null(end), column)}: no sensor id; give one")
        values = np.ones(len(chunk))
        if weight:
            values = numbers(chunk[weight], spec, lambda i, row=row: table.at(row + i, weight))  # type: ignore[misc]
        parts.append(pa.Table.from_arrays([*ends, pa.array(values)], schema=EDGES))
    edges = pa.concat_tables(parts) if parts else EDGES.empty_table()
    proper = pc.and_(pc.not_equal(edges["source"], edges["target"]), pc.is_finite(edges["weight"]))
    return edges.filter(pc.and_(proper, pc.not_equal(edges["weight"], 0)))


def _matrix_edges(file: File, spec: FilesRead, order: list[str]) -> pa.Table:
    weights = _weights(file, spec)
    n = len(order)
    if weights.shape != (n, n):
        shape = " × ".join(map(str, weights.shape))
        raise UserError(f"{file.name}: the matrix is {shape}, but there are {n} sensors; give a matrix {n} × {n}")
    weights = np.where(np.isfinite(weights), weights, 0)
    np.fill_diagonal(weights, 0)
    rows, columns = np.nonzero(weights)
    ids = pa.array(order, pa.string())
    ends = [ids.take(pa.array(rows)), ids.take(pa.array(columns))]
    return pa.Table.from_arrays([*ends, pa.array(weights[rows, columns])], schema=EDGES)


def _weights(file: File, spec: FilesRead) -> Array:
    """The numbers of a matrix file, float64; a CSV has no header."""
    format = file.format()
    if format == "csv":
        return _csv_matrix(file, spec)
    table = open_table(file, spec.model_copy(update={"dataset": None}), format)
    blocks = [matrix(table, spec, row, chunk, table.names) for row, chunk in table.chunks(table.names)]
    return np.concatenate(blocks) if blocks else np.zeros((0, 0))


def _csv_matrix(file: File, spec: FilesRead) -> Array:
    rows: list[list[float]] = []
    with file.path.open(encoding=spec.encoding) as lines:
        for number, line in enumerate(lines, 1):
            cells = line.strip().split(spec.separator)
            try:
                rows.append([float(cell) for cell in cells] if line.strip() else [])
            except ValueError:
                raise UserError(f"{file.name}: line {number}: not numbers only; a matrix has no header") from None
            if len(cells) != len(rows[0]):
                raise UserError(f"{file.name}: line {number}: {len(cells)} numbers, expected {len(rows[0])}")
    return np.array(rows)
