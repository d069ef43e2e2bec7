"""Hold pictures or messages to their contract: split them into validated and quarantine, or stop the run.

Every raw item lands in exactly one of the two, with its blob. What a picture looks like is kept beside the quarantine,
so each is decoded once; the flags themselves see the whole window, and only files whose bytes change are written.
"""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.checks import suite
from pipelines.core import files, log, pictures
from pipelines.core.errors import BrokenBatch, UserError
from pipelines.core.params import Params, Source
from pipelines.core.paths import Paths
from pipelines.core.records import IMAGES, TEXTS, day_file, day_files, read_day, unlike
from pipelines.items import contract, looks, near, plots, profile, rules, score
from pipelines.items.store import PRIVACY, put

LOOKS = "looks.parquet"
STATE = "looks.json"
REASONS = pa.field("reasons", pa.list_(pa.string()))
GROUP = pa.field("group", pa.int64())
LANGUAGE = pa.field("language", pa.string())


def run(source: str, city: Params, root: Path) -> None:
    """Write `data/validated/<source>/`, `data/quarantine/<source>/`, the metrics, the plots and the Data Docs.

    Raises UserError when there is nothing to validate, BrokenBatch (after writing the report) when it is unfit.
    """
    spec, end, paths = city.source(source), city.window_end(source), Paths(root)
    raw, good, bad = paths.raw(source), paths.validated(source), paths.quarantine(source)
    every = day_files(raw)
    if not every or not (raw / PRIVACY).is_file():
        raise UserError(f"{raw}: no day files to validate; run `cityloop ingest {source}` first")
    with log.room("validate", source) as told:
        image = spec.modality == "image"
        schema = unlike(every, IMAGES if image else TEXTS)
        broken = {row["file"] for row in schema}
        days = {day: read_day(path) for day, path in every.items() if path.name not in broken}
        table = pa.concat_tables(days.values()) if days else (IMAGES if image else TEXTS).empty_table()
        rows = table.to_pylist()
        for folder in (good, bad):
            folder.mkdir(parents=True, exist_ok=True)
            files.sweep(folder)
        seen, computed = _looks(spec, raw / "blobs", bad, rows) if image else ({}, 0)
        judged = rules.pictures(spec, rows, seen) if image else rules.messages(spec, rows)
        _split(raw, good, bad, days, table, judged, image)
        found = profile.profile(spec, end, rows, judged, files.read_json(raw / PRIVACY))
        results = contract.judge(source, spec, found, schema)
        metrics = found.metrics | {"expectations": results.counts, "warnings": results.warnings}
        if (raw / "truth").is_dir():
            metrics["faults"] = score.score(raw, table, judged)
        report = paths.metrics("validate", source)
        files.write_json(report, metrics)
        suite.write_docs(paths.plots("validate", source) / "data_docs", results, end)
        plots.draw(paths.plots("validate", source), source, spec, found, rows, judged, raw / "blobs")
        told.update(records=metrics["records"], validated=metrics["validated"], quarantined=metrics["quarantined"])
        told.update(days=len(days), looked_at=computed, warnings=results.counts["warnings"])
    if results.failures:
        more = f" (and {len(results.failures) - 1} more)" if len(results.failures) > 1 else ""
        raise BrokenBatch(f"{source}: {results.failures[0]}{more}; report in {report.relative_to(root)}")


def _looks(spec: Source, blobs: Path, bad: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], int]:
    """What each blob looks like, and how many had to be decoded to know: those of the last time are remembered."""
    code = [files.sha256_file(Path(str(module.__file__))) for module in (pictures, looks, near)]
    key = files.sha256_json([code, looks.bounds(spec.contract)])
    known: dict[str, dict[str, Any]] = {}
    if (bad / STATE).is_file() and (bad / LOOKS).is_file() and files.read_json(bad / STATE) == {"key": key}:
        known = {row["blob"]: row for row in pq.read_table(bad / LOOKS, partitioning=None).to_pylist()}
    wanted = sorted({row["blob"] for row in rows})
    new = [blobs / name for name in wanted if name not in known or not (blobs / name).is_file()]
    with log.Progress("validate", len(new), "pictures") as shown:
        for row in looks.look_at(new, looks.bounds(spec.contract)):
            known[row["blob"]] = dict.fromkeys(looks.LOOKS.names) | row
            shown.add()
    # What is about to be rewritten is forgotten first, so that a killed run leaves no stale promise.
    (bad / STATE).unlink(missing_ok=True)
    files.write_table(bad / LOOKS, pa.Table.from_pylist([known[name] for name in wanted], looks.LOOKS))
    files.write_json(bad / STATE, {"key": key})
    return known, len(new)


def _split(
    raw: Path, good: Path, bad: Path, days: dict[dt.date, pa.Table], table: pa.Table, judged: rules.Judged, image: bool
) -> None:
    """Bring both folders up to date, blobs included."""
    wanted = {good: set[Path](), bad: {bad / LOOKS, bad / STATE} if image else set[Path]()}
    told = judged.told()
    at = 0
    for day, records in days.items():
        here = slice(at, at + len(records))
        suspect = judged.bad[here]
        fine = records.append_column(GROUP, pa.array(judged.group[here], GROUP.type))
        if not image:
            fine = fine.append_column(LANGUAGE, pa.array(judged.language[here], LANGUAGE.type))
        split = {good: fine.filter(pa.array(~suspect)), bad: records.append_column(REASONS, told[here])}
        split[bad] = split[bad].filter(pa.array(suspect))
        assert sum(map(len, split.values())) == len(records), "each item lies in exactly one place"
        for folder, part in split.items():
            files.write_table(day_file(folder, day), part)
            wanted[folder].add(day_file(folder, day))
        at += len(records)
    if image:
        blobs = np.array(table["blob"].to_pylist())
        for folder, mine in ((good, ~judged.bad), (bad, judged.bad)):
            for name in np.unique(blobs[mine]).tolist() if len(blobs) else ():
                if (raw / "blobs" / name).is_file():
                    put(raw / "blobs" / name, folder / "blobs" / name)
                    wanted[folder].add(folder / "blobs" / name)
    for folder, paths in wanted.items():
        files.tidy(folder, paths)
