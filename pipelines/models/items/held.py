"""A task's joined items: pictures or messages, when and where they are from, and which part of the data they lie in."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core import files
from pipelines.core.errors import UserError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Items:
    """Some items (`rows`) of joined/<task>/.

    items = Items.open(paths.joined("vehicle_type"), "vehicle_type")
    items.part("test").inputs       # uint8 [N, S, S, 3], or a list of texts
    """

    about: dict[str, Any]
    columns: dict[str, list[Any]]
    """Of the whole file, by name."""
    pixels: Array | None
    """Of the whole file, memory-mapped; None for messages."""
    rows: Array

    @classmethod
    def open(cls, folder: Path, key: str, room: str = "join") -> "Items":
        """Raises UserError where there is nothing of `key` yet, which `room` makes."""
        import pyarrow.parquet as pq

        if not (folder / "items.parquet").exists():
            raise UserError(
                f"{folder}: no {'joined data' if room == 'join' else room}; run `cityloop {room} {key}` first"
            )
        table = pq.read_table(folder / "items.parquet", partitioning=None)
        about = files.read_json(folder / "about.json")
        pixels = np.load(folder / "pixels.npy", mmap_mode="r") if about["modality"] == "image" else None
        columns = {name: table[name].to_pylist() for name in table.column_names if name != "time"}
        columns["time"] = table["time"].to_numpy()
        return cls(about, columns, pixels, np.arange(table.num_rows))

    def fits(self, config: dict[str, Any], bundle: Path) -> None:
        """Raises UserError where a bundle's `config` is about other labels, or pictures of another size."""
        for key, here in ((k, self.about.get(k)) for k in ("names", "size")):
            there = config.get(key)
            if there is not None and there != here:
                raise UserError(f"{bundle}: its {key} are {there}, those of the joined data {here}; run finetune again")

    def part(self, *splits: str) -> "Items":
        """Those of the named splits."""
        split = self.columns["split"]
        return replace(self, rows=np.array([row for row in self.rows if split[row] in splits], int))

    def take(self, chosen: Array) -> "Items":
        """Those numbered, or marked, `chosen`."""
        return replace(self, rows=self.rows[chosen])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def modality(self) -> str:
        return str(self.about["modality"])

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that the task tells apart."""
        return tuple(self.about["names"])

    def column(self, name: str) -> list[Any]:
        of = self.columns[name]
        return [of[row] for row in self.rows]

    @property
    def inputs(self) -> Any:
        """Pixels uint8 [N, S, S, 3], or N texts."""
        return np.asarray(self.pixels[self.rows]) if self.pixels is not None else self.column("text")

    @cached_property
    def times(self) -> Array:
        """UTC [N], NaT where an item has none."""
        times: Array = np.asarray(self.columns["time"])[self.rows].astype("datetime64[s]")
        return times

    @cached_property
    def group(self) -> Array:
        """Near duplicates share a number: they are resampled together, [N]."""
        return np.array(self.column("group"), int)

    def spread(self, most: int) -> "Items":
        """At most so many of them, evenly chosen."""
        return self.take(np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(int)))

    def period(self) -> dict[str, Any]:
        """What the report says of the test. Sets without dates have one and the same time everywhere."""
        seen = self.times[~np.isnat(self.times)]
        dated = len(seen) > 0 and seen.min() < seen.max()
        ends = (str(seen.min()), str(seen.max())) if dated else ("undated", "undated")
        return {"from": ends[0], "until": ends[1], "items": len(self), "groups": len(np.unique(self.group))}
