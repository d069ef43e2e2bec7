"""A training small enough to run many times: two kinds of input, uneven weights, blocks to shard.

As a program: python toy_training.py FOLDER KEY=VALUE… (settings of `Trainer`, and `nan_at`, `stop_at`, `kill_at`).
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.core import files, log
from pipelines.core.errors import UserError
from pipelines.core.params import Trainer
from pipelines.core.paths import Paths
from pipelines.models import lit

WIDTH = 16
SETTINGS: dict[str, Any] = {"steps": 20, "batch": 8, "learning_rate": 0.01, "accelerator": "cpu", "patience": 20}


class Toy(nn.Module):
    """Each step uses one of two first layers, as a batch of one cadence does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.ModuleDict({"a": nn.Linear(6, WIDTH), "b": nn.Linear(4, WIDTH)})
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)) for _ in range(2))
        self.last = nn.Linear(WIDTH, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.register_buffer("unit", torch.tensor(2.0))

    def forward(self, kind: str, x: Tensor) -> Tensor:
        x = self.first[kind](x)
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.frozen(self.last(x))[..., 0] * self.unit


def batch(rng: np.random.Generator, size: int, part: int = 0, parts: int = 1) -> dict[str, Any]:
    kind = "a" if rng.random() < 0.5 else "b"
    x = rng.normal(size=(size, 6 if kind == "a" else 4)).astype(np.float32)
    seen = (rng.random(size) < 0.6).astype(np.float32)
    y = np.sin(x.sum(1)).astype(np.float32)
    found = {"x": x[part::parts], "y": y[part::parts], "seen": seen[part::parts]}
    return {**{k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in found.items()}, "cadence": kind}


def run(root: Path, *, nan_at: int = -1, stop_at: int = -1, kill_at: int = -1, **settings: Any) -> tuple[Any, Toy]:
    """Train a toy with its state in `root`. At a step: data that are no numbers, SIGTERM, SIGKILL (the last rank)."""
    chosen = Trainer(**{**SETTINGS, **settings})
    model = Toy()

    def draw(step: int, part: int, parts: int) -> dict[str, Any]:
        found = batch(np.random.default_rng([chosen.seed, step]), chosen.batch, part, parts)
        if step == nan_at:
            found["x"] = found["x"] * torch.nan
        return {**found, "name": f"toy rows of step {step}"}

    def loss(data: dict[str, Any]) -> tuple[Tensor, Tensor]:
        error = (model(data["cadence"], data["x"]) - data["y"]) ** 2 * data["seen"]
        return error.sum(), data["seen"].sum()

    def after(step: int) -> None:
        last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
        if step in (stop_at, kill_at) and last:
            os.kill(os.getpid(), signal.SIGTERM if step == stop_at else signal.SIGKILL)

    held = [batch(np.random.default_rng([9, i]), 8) for i in range(3)]
    parts = list(model.modules())
    trained = lit.train(model, loss, draw, held, chosen, "pretrain toy", paths=Paths(root), after=after)
    assert [id(m) for m in model.modules()] == [id(m) for m in parts], "adapters hold on to modules"
    assert type(model.blocks[0]) is nn.Sequential
    assert all(type(p) is nn.Parameter and p.device.type == "cpu" for p in model.parameters())
    return trained, model


def main(root: Path, words: dict[str, Any]) -> None:
    """What `run` came to, in `root`: result.json and weights.safetensors. A UserError ends as the command does."""
    os.environ.pop("CITYLOOP_STATE", None)
    log.setup()
    try:
        trained, model = run(root, **words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, root / "weights.safetensors")
    files.write_json(root / "result.json", {"curve": trained.curve, "best": trained.best, "pid": os.getpid()})
    trained.forget()


if __name__ == "__main__":
    given = (word.split("=", 1) for word in sys.argv[2:])
    main(Path(sys.argv[1]), {k: json.loads(v) if v[:1] in "0123456789-" else v for k, v in given})
