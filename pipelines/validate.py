"""Hold a source to its contract: split its records into validated and quarantine, or stop the run.

Suspect records go into quarantine with their reasons; every raw record lands in exactly one of the two.
Only days whose input changed are computed again: a day's key names its file, the files it looks back at, the
sensors and the rules. A batch too broken to go on with is reported first, then refused with exit code 3.
"""

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.checks import flags, mixups, plots, profile, score, split, suite, tables
from pipelines.checks import rules as contract_rules
from pipelines.core import files, log, params, units
from pipelines.core.errors import BrokenBatch, UserError
from pipelines.core.params import Source
from pipelines.core.paths import Paths
from pipelines.core.records import RECORDS, day_file, day_files, read_sensors, unlike
from pipelines.items import validate as items

STATE = "days.json"
CHANNELS = "channels.parquet"
CODE = (flags, mixups, tables, contract_rules, split, profile, units)
"""What a day's files follow from, beside its input: a change of these computes every day anew."""


def run(source: str, *, root: Path = Path()) -> None:
    """Write `data/validated/<source>/`, `data/quarantine/<source>/`, the metrics, the plots and the Data Docs.

    Raises UserError when there is nothing to validate, BrokenBatch (after writing the report) when it is unfit.
    """
    city = params.load(root)
    spec, end, paths = city.source(source), city.window_end(source), Paths(root)
    if spec.modality != "series":
        return items.run(source, city, root)
    raw = paths.raw(source)
    every = day_files(raw)
    if not every or not (raw / "sensors.parquet").is_file():
        raise UserError(f"{raw}: no day files to validate; run `cityloop ingest {source}` first")
    rules = contract_rules.rules(source, spec)
    with log.room("validate", source) as told:
        schema = unlike(every, RECORDS)
        whole = {day: path for day, path in every.items() if path.name not in {row["file"] for row in schema}}
        good, bad = paths.validated(source), paths.quarantine(source)
        days, channels, computed = _split(spec, rules, raw, whole, good, bad)
        found = profile.profile(spec, end, days, channels, read_sensors(raw))
        results = suite.judge(source, spec, found, schema)
        metrics = found.metrics | {"expectations": results.counts}
        if (raw / "truth").is_dir():
            metrics["faults"] = score.score(spec, raw, good, bad)
        report = paths.metrics("validate", source)
        files.write_json(report, metrics)
        suite.write_docs(paths.plots("validate", source) / "data_docs", results, end)
        plots.draw(paths.plots("validate", source), source, found)
        told.update(records=metrics["records"], validated=metrics["validated"], quarantined=metrics["quarantined"])
        told.update(days=len(days), days_computed=computed, warnings=results.counts["warnings"])
    if results.failures:
        more = f" (and {len(results.failures) - 1} more)" if len(results.failures) > 1 else ""
        raise BrokenBatch(f"{source}: {results.failures[0]}{more}; report in {report.relative_to(root)}")


def _split(
    spec: Source, rules: contract_rules.Rules, raw: Path, every: dict[dt.date, Path], good: Path, bad: Path
) -> tuple[dict[str, Any], pa.Table, int]:
    """Bring both folders up to date; returns counts a day, channels a day, and how many days were computed."""
    for folder in (good, bad):
        folder.mkdir(parents=True, exist_ok=True)
        files.sweep(folder)
    where = split.placed(read_sensors(raw), spec.contract.bounds)
    keys = _keys(spec, where, every)
    before = files.read_json(bad / STATE) if (bad / STATE).is_file() and (bad / CHANNELS).is_file() else {}
    kept = {
        str(day): before[str(day)]
        for day, key in keys.items()
        if before.get(str(day), {}).get("key") == key and all(day_file(f, day).is_file() for f in (good, bad))
    }
    changed = [day for day in every if str(day) not in kept]
    old = (
        profile.only(pq.read_table(bad / CHANNELS, partitioning=None), kept) if kept else profile.CHANNELS.empty_table()
    )
    # What is about to be rewritten is forgotten first, so that a killed run leaves no stale promise.
    if changed:
        files.write_json(bad / STATE, kept)
    profiles, days = [old], dict(kept)
    with log.Progress("validate", len(changed), "days") as shown:
        for batch in split.batches(changed, every):
            for day in split.flagged(batch, every, rules, where):
                validated, quarantined = day.validated, day.quarantined
                assert len(validated) + len(quarantined) == len(day.records), "each record lies in exactly one place"
                files.write_table(day_file(good, day.date), validated)
                files.write_table(day_file(bad, day.date), quarantined)
                profiles.append(profile.channels(day, spec))
                counts = {"raw": len(day.records), "validated": len(validated), "quarantined": len(quarantined)}
                days[str(day.date)] = {"key": keys[day.date], **counts, "reasons": day.reasons}
                shown.add()
    for folder in (good, bad):
        for date, path in day_files(folder).items():
            if date not in every:
                path.unlink()
    for name in ("sensors.parquet", "edges.parquet"):
        if (raw / name).is_file():
            files.write_table(good / name, pq.read_table(raw / name, partitioning=None))
        else:
            (good / name).unlink(missing_ok=True)
    channels = (
        pa.concat_tables(profiles).sort_by([(c, "ascending") for c in ("day", "sensor", "kind")]).combine_chunks()
    )
    files.write_table(bad / CHANNELS, channels)
    files.write_json(bad / STATE, days)
    return days, channels, len(changed)


def _keys(spec: Source, where: pa.Table, every: dict[dt.date, Path]) -> dict[dt.date, str]:
    """What each day's split follows from, as a hash."""
    contract = spec.contract.model_dump(mode="json", exclude={"freshness", "coverage", "max_quarantined"})
    common = {
        "contract": contract,
        "kinds": {name: kind.model_dump(mode="json") for name, kind in spec.kinds.items()},
        "step": spec.step.total_seconds(),
        "sensors": sorted(zip(where["sensor"].to_pylist(), where["inside"].to_pylist(), strict=True)),
        "code": [files.sha256_file(Path(str(module.__file__))) for module in CODE],
    }
    rules = files.sha256_json(common)
    hashes = {day: files.sha256_file(path) for day, path in every.items()}
    return {
        day: files.sha256_json([rules, *([str(d), hashes[d]] for d in [*split.lookback(day, every), day])])
        for day in every
    }
