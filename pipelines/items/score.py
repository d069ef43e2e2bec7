"""How well the flags found what the simulator had spoiled. Read after the split, never before."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.core.records import day_files, read_day
from pipelines.items.rules import Judged


def score(raw: Path, table: pa.Table, judged: Judged) -> dict[str, dict[str, float | int | None]]:
    """Recall and n by fault, and overall with the precision of the quarantine.

    A fault is found when an item of that name and time is in quarantine, for whatever reason; one that is nearly
    another's copy, when it is there or in one group with that other.
    """
    key = "blob" if "blob" in table.schema.names else "id"
    where: dict[tuple[Any, str], list[int]] = defaultdict(list)
    named: dict[str, list[int]] = defaultdict(list)
    for i, (time, name) in enumerate(zip(table["time"].to_pylist(), table[key].to_pylist(), strict=True)):
        where[time, name].append(i)
        named[name].append(i)
    bad, group = judged.bad.tolist(), judged.group.tolist()
    tally: dict[str, list[bool]] = defaultdict(list)
    right: set[int] = set()
    for path in day_files(raw / "truth").values():
        for truth in read_day(path).to_pylist():
            mine = where.get((truth["time"], truth["item"]), [])
            caught = any(bad[i] for i in mine)
            if "near" in truth["fault"]:
                others = {group[i] for i in named.get(truth["of"], [])} - {-1}
                caught = caught or any(group[i] in others for i in mine)
            tally[truth["fault"]].append(caught)
            right.update(mine)
            if truth["of"] is not None:  # of two equal items either may be the one that stays
                right.update(named.get(truth["of"], []))
    every = [caught for found in tally.values() for caught in found]
    held = [i for i, suspect in enumerate(bad) if suspect]
    out: dict[str, dict[str, float | int | None]] = {name: _rate(tally[name]) for name in sorted(tally)}
    precision = round(sum(i in right for i in held) / len(held), 4) if held else None
    return out | {"overall": _rate(every) | {"precision": precision, "flagged": len(held)}}


def _rate(found: list[bool]) -> dict[str, float | int | None]:
    return {"recall": round(sum(found) / len(found), 4) if found else None, "n": len(found)}
