"""A bundle's reference, made of the windows it learnt from, and read again. No torch."""

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files, grid
from pipelines.models.data import Windows
from pipelines.models.reference import FILE, FORM, Reference, of

Array = np.ndarray[Any, Any]


def made(data: Windows, init: Path | None = None) -> Reference | None:
    """Of the whole UTC days of training and validation, since the city changed; None where they are too few.

    init: the bundle gone on from, which says what few days do not tell. `tables` has besides: `seen` [slots], whether
    training read anything in a slot of the week; and `about` the times between which the days lie.
    """
    series, columns = data.series, np.arange(len(data.columns))
    lo = series.splits["train"][0] if data.since is None else data.since
    hi = series.splits["validation"][1]
    per_day = 86400 // data.spec.step_s
    days = [
        (a, b) for _, a, b in grid.days(series.when(0), series.when(1) - series.when(0), lo, hi) if b - a == per_day
    ]

    def day(number: int) -> tuple[Array, Array]:
        start = np.array([days[number][0]])
        values = data.read(start, per_day)
        return values[0], data.usual(start, values, columns)[0]

    earlier = lent(init, list(zip(data.channel("sensor"), data.channel("kind"), strict=True))) if init else None
    found = of(day, len(days), data.channel("kind"), per_day, earlier)
    if found is None:
        return None
    seen: Array = np.asarray((data.week.count > 0).any(1), np.uint8)
    ends = {"from": f"{series.when(days[0][0]):%FT%TZ}", "until": f"{series.when(days[-1][1]):%FT%TZ}"}
    return Reference({**found.tables, "seen": seen}, {**found.about, **ends})


def read(folder: Path, config: dict[str, Any]) -> Reference | None:
    """A bundle's; None where it was made before there were any, or of too few days."""
    from safetensors.numpy import load_file

    about = config.get("reference")
    if about is None or about["form"] != FORM:
        return None
    return Reference(load_file(folder / FILE), about)


def lent(folder: Path, names: list[tuple[str, str]]) -> Reference | None:
    """A bundle's for other channels, (sensor, kind): one that it does not know is as those of its kind are.

    None where it has none, or does not know a kind.
    """
    config = files.read_json(folder / "config.json")
    found = read(folder, config)
    if found is None or {kind for _, kind in names} != set(found.about["kinds"]):
        return None
    own = [(c["sensor"], c["kind"]) for c in config["channels"]]
    where = {name: i for i, name in enumerate(own)}
    kinds = [k for _, k in own]
    # In a stranger's place stands one of its kind whose spread is the middle one.
    middle = {}
    for kind in set(kinds):
        same = np.array([i for i, k in enumerate(kinds) if k == kind])
        middle[kind] = int(same[np.argsort(found.tables["spread"][same], kind="stable")[len(same) // 2]])
    at = np.array([where.get(name, middle[name[1]]) for name in names])
    new = {old: i for i, old in reversed(list(enumerate(at.tolist())))}
    known = np.array([name in where for name in names])
    peers = found.tables["peers"][at]
    moved = np.array([new.get(p, -1) for p in peers.reshape(-1).tolist()], np.int32).reshape(peers.shape)
    tables = {k: found.tables[k] for k in ("df", "growth", "carry", "held", "step", "stepped")}
    tables |= {k: found.tables[k][at] for k in ("spread", "group", "loading", "quantiles", "missing")}
    tables |= {k: found.tables[k][:, at] for k in ("centre", "sd")}
    return Reference({**tables, "peers": np.where(known[:, None], moved, -1)}, found.about)
