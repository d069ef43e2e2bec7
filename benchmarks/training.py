"""How fast the pretraining of a backbone trains here: channel-patches a second, MFU, memory, data wait.

    python benchmarks/training.py                                                # tiny, on the processor
    python benchmarks/training.py --size base --precision bf16-mixed --compile --batch 64
    torchrun --nproc-per-node 8 benchmarks/training.py --size large --strategy fsdp --precision bf16-mixed

The model, its loss and the whole training loop are the real ones; the batches are random numbers, made anew each step.
The first tenth of the steps is not counted. Prints one Markdown table, with a row for the accelerator and, where
there is none, a line that says so.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.core.calendar import FEATURES
from pipelines.core.params import Trainer
from pipelines.core.windows import LEAD, PATCHES
from pipelines.models import families, lit, pretraining
from pipelines.models.series import Pretraining
from pipelines.models.tokens import PLACES, SIZES, Config

CADENCE = "15min" if "15min" in PATCHES else next(iter(PATCHES))
HEADER = "| device | size | family | precision | compiled | processes | batch × channels × patches | channel-patches/s | step | MFU | peak memory | data wait | energy a million patches |"  # noqa: E501


def batch(rng: np.random.Generator, size: int, channels: int, part: int, parts: int) -> dict[str, Any]:
    """A pretraining batch of random readings; see `pretraining.Sampler`."""
    patches, p = pretraining.CONTEXT + pretraining.FUTURE, PATCHES[CADENCE]
    values = rng.random((size, patches * p, channels), dtype=np.float32)[part::parts]
    mask = (rng.random((size, patches, channels), dtype=np.float32) < pretraining.HIDDEN)[part::parts]
    made = {
        "values": values,
        "observed": np.ones_like(values),
        "profile": np.zeros_like(values),
        "calendar": np.zeros((len(values), patches, FEATURES + LEAD), np.float32),
        "mask": mask.astype(np.float32),
        "hidden": np.flatnonzero(mask.transpose(0, 2, 1)),
        "mean": np.zeros(channels, np.float32),
        "std": np.ones(channels, np.float32),
        "place": np.zeros((channels, PLACES), np.float32),
        "near": np.zeros((channels, 0), np.int64),
        "close": np.zeros((channels, 0), np.float32),
        **{k: np.zeros(channels, np.int64) for k in ("kind", "sensor", "unit_id")},
    }
    return {**{k: torch.from_numpy(v) for k, v in made.items()}, "cadence": CADENCE}


def measure(chosen: argparse.Namespace) -> str:
    """A row of the table."""
    settings = Trainer(
        steps=chosen.steps,
        batch=chosen.batch,
        patience=chosen.steps,
        accumulate=chosen.accumulate,
        compile=chosen.compile,
        accelerator="gpu" if torch.cuda.is_available() and chosen.accelerator != "cpu" else "cpu",
        devices=chosen.devices,
        strategy=chosen.strategy,
        precision=chosen.precision,
    )
    torch.set_float32_matmul_precision("high")
    model = Pretraining(families.build(Config(chosen.size, ("a",), ("x/a",), units=("m",), family=chosen.family)))

    def draw(step: int, part: int, parts: int) -> dict[str, Any]:
        return batch(np.random.default_rng([0, step]), chosen.batch, chosen.channels, part, parts)

    held = [batch(np.random.default_rng(1), min(4, chosen.batch), chosen.channels, 0, 1)]
    told = lit.train(model, lambda b: pretraining.loss(model, b), draw, held, settings, "benchmark training").telemetry
    device = torch.cuda.get_device_name() if settings.accelerator == "gpu" else f"{torch.get_num_threads()} CPU threads"
    shape = f"{chosen.batch} × {chosen.channels} × {pretraining.CONTEXT + pretraining.FUTURE}"
    mfu = f"{told['mfu']:.1%}" if "mfu" in told else "–"
    energy = f"{told['joules_per_million']:.0f} J" if "joules_per_million" in told else "–"
    return (
        f"| {device} | {chosen.size} | {chosen.family} | {chosen.precision} | {'yes' if chosen.compile else 'no'} "
        f"| {int(told['processes'])} | {shape} | {told['patches_per_s']:,.0f} | {1000 * told['step_seconds']:.1f} ms "
        f"| {mfu} | {told['memory_bytes'] / 2**30:.2f} GiB | {told['data_wait']:.2%} | {energy} |"
    )


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--size", choices=SIZES, default="tiny")
    ask.add_argument("--family", default="transformer")
    ask.add_argument("--steps", type=int, default=50)
    ask.add_argument("--batch", type=int, default=8)
    ask.add_argument("--channels", type=int, default=48)
    ask.add_argument("--accumulate", type=int, default=1)
    ask.add_argument("--precision", default="32-true")
    ask.add_argument("--strategy", default="auto")
    ask.add_argument("--accelerator", choices=("auto", "cpu"), default="auto")
    ask.add_argument("--devices", type=int, default=1)
    ask.add_argument("--compile", action="store_true")
    chosen = ask.parse_args()
    row = measure(chosen)
    print(HEADER)
    print("|" + " --- |" * (HEADER.count("|") - 1))
    print(row)
    if not torch.cuda.is_available():
        print("\nNo accelerator here: the row above is the processor's, and MFU and energy have no figure.")


if __name__ == "__main__":
    main()
