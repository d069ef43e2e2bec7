"""What is known of a watched task, in the store where every worker and server sees it: `monitor/<task>/…`.

kept = Kept(store.objects, "traffic_speed")
kept.write("summary.json", files.to_json(summary))
kept.read("summary.json")
"""

import json
from dataclasses import dataclass
from typing import Any

from pipelines.core import files
from pipelines.release.objects import Folder, Objects

FOLDER, GLANCE = "monitor", "glance.json"
_DAY = "date="


@dataclass(frozen=True)
class Kept:
    objects: Objects
    task: str

    def key(self, name: str) -> str:
        return f"{FOLDER}/{self.task}/{name}"

    def read(self, name: str) -> Any:
        """What a JSON object says; None where it is not there, or is no JSON."""
        try:
            return json.loads(self.objects.get(self.key(name)))
        except (FileNotFoundError, ValueError):
            return None

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all."""
        self.objects.put(self.key(name), data)

    def days(self, folder: str = "") -> list[str]:
        """Days (ISO, ascending) that have a file in `folder`, named as `day` says."""
        names = self.objects.names(self.key(folder).rstrip("/"))
        return [n.removeprefix(_DAY).removesuffix(".json") for n in names if n.startswith(_DAY)]

    def day(self, day: str, folder: str = "") -> str:
        """The name of a day's file."""
        return f"{folder}/{_DAY}{day}.json" if folder else f"{_DAY}{day}.json"

    def sweep(self) -> None:
        """Remove what a killed writer left behind; only a folder can keep such."""
        if isinstance(self.objects, Folder):
            files.sweep(self.objects.root / FOLDER / self.task)
