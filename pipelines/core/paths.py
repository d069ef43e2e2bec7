"""Where things lie, relative to a city's root. One name everywhere: a key is a folder, a stage suffix, a model."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    root: Path = Path()

    def raw(self, source: str) -> Path:
        return self.root / "data/raw" / source

    def validated(self, source: str) -> Path:
        return self.root / "data/validated" / source

    def quarantine(self, source: str) -> Path:
        return self.root / "data/quarantine" / source

    def features(self, modality: str, source: str = "") -> Path:
        return self.root / "data/features" / modality / source

    def corpus(self, backbone: str) -> Path:
        return self.root / "data/corpus" / backbone

    def joined(self, task: str) -> Path:
        return self.root / "data/joined" / task

    def learn(self, task: str) -> Path:
        return self.root / "data/learn" / task

    def backbone(self, backbone: str) -> Path:
        return self.root / "models/backbones" / backbone

    def task(self, task: str) -> Path:
        return self.root / "models/tasks" / task

    def metrics(self, stage: str, key: str) -> Path:
        return self.root / "metrics" / stage / f"{key}.json"

    def plots(self, stage: str, key: str) -> Path:
        return self.root / "plots" / stage / key

    def card(self, task: str) -> Path:
        return self.root / "cards" / task

    @property
    def state(self) -> Path:
        """Checkpoints, the local registry, logs: outlives workspaces, ignored by git."""
        return Path(os.environ.get("CITYLOOP_STATE") or self.root / ".cityloop").resolve()
