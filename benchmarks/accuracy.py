"""A city's tasks under several seeds: the model beside every baseline on the frozen test, as the rooms report it.

Each seed pretrains a backbone of its own. Data are linked from a city whose `join` and `corpus` have run; each task's
protocol (split, context, horizon, stride) is what its params.yaml says, that of examples/real_city for instance.

    python benchmarks/accuracy.py --root my_city --seeds 0 1 2
"""

import shutil
import time
from pathlib import Path
from typing import Any

import cells
import numpy as np
import yaml

from pipelines import evaluate, finetune, pretrain
from pipelines.core import files, log, params
from pipelines.core.paths import Paths

BASELINES = ("last_value", "profile", "ridge", "gbt")


def main() -> None:
    parser = cells.arguments(__doc__ or "", ".cityloop/benchmarks/accuracy")
    given = parser.parse_args()
    log.setup()
    reports: dict[str, list[dict[str, Any]]] = {}
    for seed in given.seeds:
        place = _workspace(given.root, given.out / f"seed{seed}", seed)
        for key in given.tasks or list(params.load(place).tasks):
            done = Paths(place).metrics("evaluate", key)
            if not done.exists():
                began = time.monotonic()
                _train(place, key)
                evaluate.run(key, root=place)
                files.write_json(place / f"seconds/{key}.json", round(time.monotonic() - began))
            seconds = files.read_json(place / f"seconds/{key}.json")
            reports.setdefault(key, []).append({**files.read_json(done), "seconds": seconds})
    print(table(reports))


def _workspace(root: Path, place: Path, seed: int) -> Path:
    """A folder with the city's data, and its params.yaml under another seed. Emptied when those have changed."""
    city = yaml.safe_load((root / "params.yaml").read_text())
    for backbone in city["backbones"].values():
        backbone["pretrain"] = {**(backbone.get("pretrain") or {}), "seed": seed}
    for task in city["tasks"].values():
        task["finetune"] = {**(task.get("finetune") or {}), "seed": seed}
    text = yaml.safe_dump(city, sort_keys=False)
    if not (place / "params.yaml").exists() or (place / "params.yaml").read_text() != text:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "data").symlink_to((root / "data").resolve())
        shutil.copy(root / "window.yaml", place)
        (place / "params.yaml").write_text(text)
    return place


def _train(place: Path, key: str) -> None:
    backbone = params.load(place).task(key).backbone
    if not (Paths(place).backbone(backbone) / "weights.safetensors").exists():
        pretrain.run(backbone, root=place)
    finetune.run(key, root=place)


def table(reports: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown, a row a task and span: the model's mean over seeds and their spread, and the baselines.

    Then the first seed's difference to the best baseline, and in how many seeds that difference's 95 % interval lies
    wholly in the model's favour.
    """
    head = ["task", "metric", "model", *BASELINES, "− best baseline, 95 %", "better in", "coverage80", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for key, seeds in reports.items():
        primary, versus = seeds[0]["primary"], [r["interval"]["versus_best_baseline"] for r in seeds]
        cover = [r["model"].get("coverage80", np.nan) for r in seeds]
        seconds = np.mean([r["seconds"] for r in seeds])
        of = {m: [r[m][primary] for r in seeds] for m in ("model", *BASELINES) if m in seeds[0]}
        lines.append(_row(key, primary, of, seeds[0], versus, f"{np.mean(cover):.1%}", f"{seconds:.0f}"))
        if "mse_standardised" in seeds[0]["model"]:
            of = {m: [r[m]["mse_standardised"] for r in seeds] for m in of}
            lines.append(_row("", "mse_standardised", of, seeds[0], []))
        for span in seeds[0].get("at", {}):
            at = [r["at"][span] for r in seeds]
            of = {m: [a[m] for a in at] for m in of if m in at[0]}
            lines.append(_row("", f"{primary} at {span}", of, seeds[0], at))
    return "\n".join(lines)


def _row(
    key: str, metric: str, of: dict[str, list[float]], one: dict[str, Any], versus: list[dict[str, Any]], *more: str
) -> str:
    model = np.array(of["model"])
    spread = f" ± {model.std(ddof=1):.2g}" if len(model) > 1 else ""
    told, better = "", ""
    known = [v for v in versus if v["low"] is not None]
    if known:
        first, sign = known[0], -1 if one["higher_is_better"] else 1
        wins = sum(max(sign * v["low"], sign * v["high"]) < 0 for v in known)
        told = f"{first['difference']:+.3g} [{first['low']:+.3g}, {first['high']:+.3g}] ({first['baseline']})"
        better = f"{wins} of {len(versus)}"
    values = [f"{np.mean(of[m]):.4g}" if m in of else "" for m in BASELINES]
    cells_ = [key, metric, f"{model.mean():.4g}{spread}", *values, told, better, *(more or ("", ""))]
    return "| " + " | ".join(cells_) + " |"


if __name__ == "__main__":
    main()
