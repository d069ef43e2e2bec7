"""How well the flags found what the simulator had spoiled. Read after the split, never before."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.checks.rules import stuck_after
from pipelines.core.params import Source
from pipelines.core.records import day_files, read_day

FAULTS = ("missing", "duplicate", "out_of_range", "stuck", "spike", "clock_skew", "unit_mixup")
SPIKE_SIGMA = 5.0
"""Spikes below so many sigma count for precision, not for recall."""


def score(spec: Source, raw: Path, good: Path, bad: Path) -> dict[str, dict[str, float | int | None]]:
    """Recall, precision and n by fault, and overall.

    A fault is found when its record is in quarantine for any reason, or, if it never arrived, absent from the raw
    records (it is counted as a gap). A flag is right when truth knows any fault of that (time, sensor, kind).
    A freeze is scored from `stuck_after` on: before, no one can know.
    """
    tally = {f: np.zeros(4, np.int64) for f in FAULTS}  # found, n, right, flagged
    overall = np.zeros(4, np.int64)
    truths = day_files(raw / "truth")
    for day, path in day_files(bad).items():
        truth = read_day(truths[day]) if day in truths else None
        held, kept = _keys(read_day(path)), _keys(read_day(day_files(good)[day]))
        table = read_day(path)
        known = _keys(truth) if truth is not None else pa.array([], pa.string())
        right = pc.is_in(held, known).to_numpy(zero_copy_only=False)
        overall[2:] += right.sum(), len(right)
        reasons = table["reasons"].combine_chunks()
        parent, word = pc.list_parent_indices(reasons).to_numpy(), reasons.flatten().to_numpy(zero_copy_only=False)
        for fault in FAULTS:
            rows = parent[word == fault]
            tally[fault][2:] += right[rows].sum(), len(rows)
        if truth is None or not len(truth):
            continue
        found = pc.is_in(known, held).to_numpy(zero_copy_only=False)
        absent = ~found & ~pc.is_in(known, kept).to_numpy(zero_copy_only=False)
        counts = _counts(spec, truth)
        name = truth["fault"].to_numpy(zero_copy_only=False)
        found = found | (absent & (name == "missing"))
        for fault in FAULTS:
            mine = counts & (name == fault)
            tally[fault][:2] += (found & mine).sum(), mine.sum()
            overall[:2] += (found & mine).sum(), mine.sum()
    return {name: _rates(row) for name, row in [*tally.items(), ("overall", overall)]}


def _keys(table: pa.Table) -> pa.Array:
    time = table["time"].cast(pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(time, table["sensor"], table["kind"], "|").combine_chunks()


def _counts(spec: Source, truth: pa.Table) -> Any:
    """Whether each true fault is one that must be found: bool [n]."""
    fault, kind = (truth[c].to_numpy(zero_copy_only=False) for c in ("fault", "kind"))
    size = truth["size"].to_numpy()
    after = {k: stuck_after(s, spec) for k, s in spec.kinds.items()}
    late = np.array([(after.get(k) or 0) / 1e6 for k in kind.tolist()])
    return np.where(fault == "stuck", size >= late, np.where(fault == "spike", np.abs(size) > SPIKE_SIGMA, True))


def _rates(row: Any) -> dict[str, float | int | None]:
    found, n, right, flagged = row.tolist()
    return {
        "recall": round(found / n, 4) if n else None,
        "precision": round(right / flagged, 4) if flagged else None,
        "n": n,
        "flagged": flagged,
    }
