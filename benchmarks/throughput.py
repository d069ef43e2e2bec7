"""How fast pretraining trains on a CPU, in channel-patches a second, beside PatchTST of `transformers`.

    python benchmarks/throughput.py --threads 2

Width, depth, heads, perceptron ratio, patch length, patches and channels are equal, nothing is dropped out, and both
train on batches made beforehand from one made-up 5-minute grid. Ours is the model, the loss and the step
that `cityloop pretrain` runs (gradient clipping, AdamW, schedule and averaged weights included); theirs is a plain loop
with the same clipping and AdamW. Rounds alternate between all; the median round counts. PatchTST is given twice:
with batch normalisation, its default, and with layer normalisation, which is what ours has. Space attention stands
in every second block, as everywhere. Seconds are the process's own on all its threads, so that what else the machine
does counts less; `--clock wall` takes the clock's.
"""

import argparse
import datetime as dt
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.core import grid
from pipelines.core.params import Pretrain
from pipelines.core.windows import PATCHES, Spec
from pipelines.models import families, lit, loop, processes, vocabulary
from pipelines.models.checkpoints import Checkpoints
from pipelines.models.data import Windows
from pipelines.models.pretraining import CONTEXT, FUTURE, Sampler, loss
from pipelines.models.series import Pretraining
from pipelines.models.tokens import SIZES, Config

CADENCE, PATCH = "5min", PATCHES["5min"]
Step = Callable[[int], None]
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


def sampler(folder: Path, channels: int, batch: int, space: bool, size: str) -> Sampler:
    """Pretraining batches of `channels` sensors over ten days."""
    start, step, length = dt.datetime(2025, 3, 1, tzinfo=dt.UTC), dt.timedelta(minutes=5), 2880
    rng = np.random.default_rng(0)
    daily = 50 + 10 * np.sin(np.arange(length) * 2 * np.pi / 288)[:, None]
    values = (daily + rng.normal(0, 2, (length, channels))).astype(np.float32)
    table: dict[str, list[Any]] = {"sensor": [f"s{i}" for i in range(channels)]}
    same = {"kind": "a", "unit": "u", "aggregate": "mean", "label": False, "district": None}
    table |= {k: [v] * channels for k, v in same.items()}
    table |= {k: (52 + rng.normal(0, 0.05, channels)).tolist() for k in ("latitude", "longitude")}
    splits = {"train": (0, 2304), "validation": (2304, length), "test": (length, length)}
    months = [("2025-03", values)]
    grid.write(folder, start=start, step=step, months=months, channels=pa.table(table), splits=splits)
    spec = Spec.of(300, CONTEXT * PATCH, FUTURE * PATCH, "UTC")
    domains = {"x": Windows(grid.Series.open(folder), spec, tuple(range(channels)), channels)}
    config = replace(Config(size, **vocabulary.collect(list(domains.values()))), space=space)
    return Sampler(domains, config, Pretrain(batch=batch, steps=10_000, accelerator="cpu"))


def ours(made: Sampler, batches: list[lit.Batch]) -> Step:
    """The step of `lit.train` on the model that `cityloop pretrain` trains."""
    torch.manual_seed(0)
    model = Pretraining(families.build(made.config))
    fabric = processes.launch(made.settings, "throughput")
    kept = Checkpoints(None, "throughput ours", "")
    training = loop.Training(fabric, model, lambda b: loss(model, b), made.settings, "throughput", kept, None)
    return lambda i: (training.step([batches[i % len(batches)]], False), None)[1]


def theirs(made: Sampler, batches: list[lit.Batch], norm: str) -> Step:
    """A plain loop over PatchTST's masked pretraining."""
    from transformers import PatchTSTConfig, PatchTSTForPretraining

    torch.manual_seed(0)
    width, layers, heads = SIZES[made.config.size]
    channels = batches[0]["values"].shape[-1]
    model = PatchTSTForPretraining(
        PatchTSTConfig(
            num_input_channels=channels, context_length=(CONTEXT + FUTURE) * PATCH, patch_length=PATCH,
            patch_stride=PATCH, num_hidden_layers=layers, d_model=width, num_attention_heads=heads, ffn_dim=2 * width,
            norm_type=norm, mask_type="random", random_mask_ratio=0.4,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def step(i: int) -> None:
        model(past_values=batches[i % len(batches)]["values"]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(
    steps: dict[str, Step], rounds: int, each: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds a step in each round, all in turn; a first round warms up and is not counted."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            began = clock()
            for i in range(each):
                step(i)
            if turn:
                found[name].append((clock() - began) / each)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"channels": 40, "batch": 8, "rounds": 15, "each": 8, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        made = {
            space: sampler(Path(folder) / str(space), options.channels, options.batch, space, options.size)
            for space in (False, True)
        }
        batches = [made[True].draw(i, 0, 1) for i in range(options.each)]
        steps = {
            "ours, without space attention": ours(made[False], batches),
            "PatchTST, batch normalisation (its default)": theirs(made[True], batches, "batchnorm"),
            "ours, with space attention": ours(made[True], batches),
            "PatchTST, layer normalisation": theirs(made[True], batches, "layernorm"),
        }
        found = seconds(steps, options.rounds, options.each, CLOCKS[options.clock])
    middle = {name: statistics.median(times) for name, times in found.items()}
    patches = options.channels * options.batch * (CONTEXT + FUTURE)
    default, layered = (middle[name] for name in middle if name.startswith("PatchTST"))
    shape = f"{options.batch} windows × {options.channels} channels × {CONTEXT + FUTURE} patches of {PATCH} steps"
    asked = [f"--{k} {v}" for k, v in vars(options).items() if v != parser.get_default(k)]
    told = "CPU seconds of the process" if options.clock == "cpu" else "wall-clock seconds"
    print(f"`{' '.join(['python benchmarks/throughput.py', *asked])}`: {shape}, {told}\n")
    columns = [f"{options.clock} ms a step", "channel-patches/s", "÷ PatchTST (default)", "÷ PatchTST (layer norm)"]
    print(f"| | {' | '.join(columns)} |\n|{'---|' * 5}")
    for name, s in middle.items():
        print(f"| {name} | {s * 1e3:.1f} | {patches / s:,.0f} | {default / s:.2f}× | {layered / s:.2f}× |")


if __name__ == "__main__":
    main()
