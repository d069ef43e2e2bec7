"""What came of pictures or messages, over the whole window: days, cameras, classes, groups, gaps, freshness."""

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pipelines.core.params import Source
from pipelines.items.rules import Judged, Rows

PLACELESS = "(none)"
"""The camera of messages."""


@dataclass(frozen=True)
class Profile:
    """Frames are lists of rows, small enough for any engine to judge."""

    metrics: dict[str, Any]
    batch: dict[str, Any]
    days: Rows
    cameras: Rows
    classes: Rows


def profile(source: Source, end: dt.datetime, rows: Rows, judged: Judged, privacy: dict[str, Any]) -> Profile:
    """`rows`: the raw items in the order of time; `privacy`: what ingest masked.

    Of a collection without dates (features.split: group) coverage, gaps and age say nothing, and are null.
    """
    dated = source.features.split == "time"
    good = ~judged.bad
    kept = [row for row, fine in zip(rows, good.tolist(), strict=True) if fine]
    day = dt.timedelta(days=1)
    dates = [(source.start + i * day).date() for i in range(max(1, -(-(end - source.start) // day)))]
    by_day = {True: Counter[dt.date](), False: Counter[dt.date]()}
    cameras: dict[str, dict[str, Any]] = {}
    for row, fine in zip(rows, good.tolist(), strict=True):
        by_day[fine][row["time"].date()] += 1
        camera = cameras.setdefault(row.get("camera", PLACELESS), {"raw": 0, "validated": 0, "days": set()})
        camera["raw"] += 1
        if fine:
            camera["validated"] += 1
            camera["days"].add(row["time"].date())
    shares = {name: len(camera["days"]) / len(dates) for name, camera in sorted(cameras.items())}
    gap = max((_gap(kept, name, source.start, end) for name in cameras), default=0.0)
    age = (end - max((row["time"] for row in kept), default=source.start)) / dt.timedelta(hours=1)
    classes = list(_classes(source, kept))
    sizes = Counter(judged.group[good].tolist())
    together = [n for n in sizes.values() if n > 1]
    fraction = float(judged.bad.mean()) if len(rows) else 1.0
    metrics: dict[str, Any] = {
        "records": len(rows),
        "validated": int(good.sum()),
        "quarantined": int(judged.bad.sum()),
        "fraction_quarantined": round(fraction, 6),
        "reasons": dict(zip(judged.reasons, judged.flags.sum(0).tolist(), strict=True)),
        "gaps": {"longest_h": round(gap, 3) if dated else None},
        "coverage": {
            "min": round(min(shares.values(), default=0), 4) if dated else None,
            "mean": round(sum(shares.values()) / max(len(shares), 1), 4) if dated else None,
        },
        "age_h": round(age, 3) if dated else None,
        "days": len({row["time"].date() for row in rows}),
        "annotated": {k: sum(said(row, k) is not None for row in kept) for k in source.kinds},
        "classes": {k: {c["label"]: c["count"] for c in classes if c["kind"] == k} for k in source.kinds},
        "near_duplicates": {"groups": len(together), "items": sum(together), "largest": max(together, default=1)},
        "masked": privacy,
    }
    if source.modality == "image":
        metrics["cameras"] = len(cameras)
    else:
        spoken = Counter(w for w, fine in zip(judged.language, good.tolist(), strict=True) if fine)
        metrics["languages"] = dict(sorted(spoken.items()))
        lengths = [len(row["text"]) for row in kept]
        metrics["length"] = dict(
            zip(("5 %", "50 %", "95 %"), np.percentile(lengths or [0], [5, 50, 95]).tolist(), strict=True)
        )
    batch = {
        "validated": int(good.sum()),
        "fraction_quarantined": fraction,
        "hours_since_newest": age if dated else 0.0,
        "longest_gap_hours": gap if dated else 0.0,
        "frozen": metrics["reasons"].get("frozen", 0),
        "unknown_labels": metrics["reasons"]["unknown_label"],
    }
    return Profile(
        metrics,
        batch,
        [{"day": str(d), "validated": by_day[True][d], "quarantined": by_day[False][d]} for d in dates],
        [
            {"camera": name, "raw": c["raw"], "validated": c["validated"], "coverage": shares[name]}
            for name, c in sorted(cameras.items())
        ],
        classes,
    )


def _classes(source: Source, kept: Rows) -> Iterator[dict[str, Any]]:
    """A row a kind and label: validated annotations, and their share of those of the kind."""
    for kind, spec in source.kinds.items():
        found: Counter[str] = Counter()
        for row in kept:
            found.update(said(row, kind) or ())
        for label in spec.labels:
            share = found[label] / max(found.total(), 1)
            yield {"kind": kind, "label": label, "count": found[label], "share": share, "any": found.total()}


def said(row: dict[str, Any], kind: str) -> list[str] | None:
    """The labels that a record has of a kind; None: not annotated."""
    if kind in ("boxes", "spans"):
        return None if row[kind] is None else [part["label"] for part in row[kind]]
    if "labels" in row:
        return row["labels"]
    return None if row["label"] is None else [row["label"]]


def _gap(kept: Rows, camera: str, start: dt.datetime, end: dt.datetime) -> float:
    """Hours of the longest time in the window without a validated item of one camera."""
    times = [start, *(row["time"] for row in kept if row.get("camera", PLACELESS) == camera), end]
    return max((b - a for a, b in pairwise(times)), default=dt.timedelta()) / dt.timedelta(hours=1)
