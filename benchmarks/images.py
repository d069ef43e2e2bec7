"""What a city's own pictures teach, in how long, and how fast training is.

    python benchmarks/images.py tasks --city CITY --task vehicle_type --seeds 3 --labels 1 0.1
    python benchmarks/images.py speed                                   # images a second; MFU on an accelerator
    python benchmarks/images.py speed --family transformer --size base --side 224 --precision bf16-mixed --batch 256

`tasks` wants the city's joined data and corpus, as `cityloop join` and `cityloop corpus` leave them, and prints one
Markdown table: each family pretrained on the city's pictures and from scratch, beside the plain baselines, on the test
split; minutes are those of this machine, pretraining included. `--steps` and the like stand in for the params of both
trainings. `speed` trains on random pixels, augmentation and all. Its figures on an accelerator are yet to be taken.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.core import files, params
from pipelines.core.params import Backbone, Task, Trainer
from pipelines.core.paths import Paths
from pipelines.models import lit
from pipelines.models.image import backbones, export, pretraining, tuning
from pipelines.models.items import questions
from pipelines.models.items.held import Items


def tasks(chosen: argparse.Namespace) -> None:
    city, paths = params.load(chosen.city), Paths(chosen.city)
    task = city.task(chosen.task)
    data = Items.open(paths.joined(chosen.task), chosen.task)
    judge = questions.load(task.objective)
    test = judge.asked(data.part("test"))
    shown = ("accuracy", "macro_f1") if task.objective == "classify" else ("map50", "map50_95")
    print(f"| model | labels | {' | '.join(shown)} | minutes |\n|---|---:|{'---:|' * len(shown)}---:|")

    def row(name: str, labels: str, scores: list[dict[str, float]], minutes: float) -> None:
        cells = []
        for metric in shown:
            values = [s[metric] for s in scores]
            spread = f" ± {np.std(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}")
        print(f"| {name} | {labels} | {' | '.join(cells)} | {minutes:.1f} |", flush=True)

    truth = judge.truth(test)
    for name, ask in judge.baselines(judge.asked(data.part("train", "validation"))).items():
        row(name, "all", [judge.score(ask(test.inputs, test), truth, data.names)], 0)
    for family in chosen.families:
        own = city.backbone(task.backbone).model_dump(by_alias=True)
        pretrain = {**own["pretrain"], **_given(chosen, "pretrain_")}
        asked = Backbone.model_validate({**own, "family": family, "pretrain": pretrain})
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            made = pretraining.pretrain(family, asked, paths.corpus(task.backbone), paths)
            for name, content in made.contents.items():
                files.write_bytes(Path(folder) / name, content)
            made.forget()
            before = (time.monotonic() - began) / 60
            for labels in chosen.labels:
                for scratch in (False, True):
                    scores, took = [], 0.0
                    for seed in range(chosen.seeds):
                        more = {**_given(chosen, ""), "labels": labels, "scratch": scratch, "seed": seed}
                        began = time.monotonic()
                        scores.append(_learnt(task, more, paths, chosen.task, Path(folder), judge, test, truth))
                        took += (time.monotonic() - began) / 60 / chosen.seeds
                    name = f"{family}, {'from scratch' if scratch else 'pretrained here'}"
                    row(name, f"{labels:g}", scores, took + (0 if scratch else before))


def _given(chosen: argparse.Namespace, prefix: str) -> dict[str, Any]:
    names = ("steps", "batch", "learning_rate", "patience")
    return {n: v for n in names if (v := getattr(chosen, prefix + n)) is not None}


def _learnt(
    task: Task, more: dict[str, Any], paths: Paths, key: str, backbone: Path, judge: Any, test: Items, truth: Any
) -> dict[str, float]:
    """A fine-tuning's scores on the test, by its exported graph."""
    settings = task.finetune.model_copy(update=more)
    task = task.model_copy(update={"finetune": settings})
    made = tuning.finetune(key, task, paths.joined(key), backbone, None, paths)
    made.forget()
    ask = export.session(made.contents["model.onnx"])
    parts = [ask(np.ascontiguousarray(test.inputs[i : i + 64])) for i in range(0, len(test), 64)]
    if task.objective == "classify":
        answer: Any = np.concatenate([p["probabilities"] for p in parts])
    else:
        from pipelines.models.items.questions import locate

        rows = [r for p in parts for r in zip(p["boxes"], p["scores"], p["labels"], strict=True)]
        answer = [locate.found(*r, len(test.names), made.config["decision"]) for r in rows]
    return judge.score(answer, truth, test.names)


def speed(chosen: argparse.Namespace) -> None:
    print("| device | training | family | size | side | precision | batch | images/s | step | MFU | data wait |")
    print("|---|---|---|---|---:|---|---:|---:|---:|---:|---:|")
    for kind in ("pretrain", "classify"):
        print(_speed(chosen, kind), flush=True)
    if not torch.cuda.is_available():
        print("\nNo accelerator here: its row, with MFU, is yet to be measured.")


def _speed(chosen: argparse.Namespace, kind: str) -> str:
    settings = Trainer(
        steps=chosen.steps or 20, batch=chosen.batch or 64, patience=1000, compile=chosen.compile,
        precision=chosen.precision, accelerator="gpu" if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
    torch.set_float32_matmul_precision("high")
    config = backbones.fresh(chosen.family, chosen.size, chosen.side)

    def draw(step: int, part: int, parts: int) -> dict[str, Any]:
        rng = np.random.default_rng([0, step])
        values = rng.integers(0, 256, (settings.batch, chosen.side, chosen.side, 3), np.uint8)[part::parts]
        turn = {"seed": step, "part": part, "parts": parts, "whole": settings.batch}
        truth = torch.from_numpy(rng.integers(0, 10, len(values)))
        return {"values": torch.from_numpy(np.ascontiguousarray(values)), "turn": turn, "truth": truth}

    model: Any
    if kind == "pretrain":
        model = (pretraining.SimClr if chosen.family == "cnn" else pretraining.Mae)(config, {})
        trained = lit.train(model, lambda b: model(b), draw, [draw(0, 0, 8)], settings, "benchmark images")
    else:
        from pipelines.models.image import models

        model = models.build("classify", config, chosen.side, 10)
        trained = lit.train(model, lambda b: model.loss(b), draw, [draw(0, 0, 8)], settings, "benchmark images")
    told = trained.telemetry
    device = torch.cuda.get_device_name() if settings.accelerator == "gpu" else f"{torch.get_num_threads()} CPU threads"
    mfu = f"{told['mfu']:.1%}" if "mfu" in told else "–"
    return (
        f"| {device} | {kind} | {chosen.family} | {chosen.size} | {chosen.side} | {settings.precision} "
        f"| {settings.batch} | {settings.batch / told['step_seconds']:,.0f} | {1000 * told['step_seconds']:.0f} ms "
        f"| {mfu} | {told['data_wait']:.1%} |"
    )


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ask.add_subparsers(dest="part", required=True)
    one = parts.add_parser("tasks")
    one.add_argument("--city", type=Path, required=True)
    one.add_argument("--task", required=True)
    one.add_argument("--families", nargs="+", choices=("cnn", "transformer"), default=["cnn", "transformer"])
    one.add_argument("--labels", nargs="+", type=float, default=[1.0])
    one.add_argument("--seeds", type=int, default=1)
    for name in ("steps", "batch", "patience"):
        one.add_argument(f"--pretrain-{name}", type=int)
    one.add_argument("--pretrain-learning-rate", type=float)
    one.add_argument("--learning-rate", type=float)
    one.add_argument("--patience", type=int)
    two = parts.add_parser("speed")
    two.add_argument("--family", choices=("cnn", "transformer"), default="cnn")
    two.add_argument("--size", choices=tuple(backbones.VIT), default="tiny")
    two.add_argument("--side", type=int, default=96)
    two.add_argument("--precision", choices=("32-true", "bf16-mixed", "bf16-true"), default="32-true")
    two.add_argument("--compile", action="store_true")
    for each in (one, two):
        each.add_argument("--steps", type=int)
        each.add_argument("--batch", type=int)
        each.add_argument("--threads", type=int)
    chosen = ask.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    {"tasks": tasks, "speed": speed}[chosen.part](chosen)


if __name__ == "__main__":
    main()
