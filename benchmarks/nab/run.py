"""Seven traffic streams of the Numenta Anomaly Benchmark: the city's anomaly models beside two plain detectors.

    CITYLOOP_DATA=/where/the/data/is python benchmarks/nab/run.py --seeds 0 1 2

The benchmark's protocol: readings come in order, a stream's first 15 % are probation, one threshold for all streams is
the one of the highest score. No detector learns from a reading before it has judged it, and none from a label. Our
backbone learns from the probation alone, in the rooms that any city goes through; each stream's task is then fine-tuned
on that stream's past, at the end of the probation and, with `--refit`, every so many readings. What is usual (the time
of week's profile, mean and spread) is reckoned anew from the whole past as the stream goes on, and scores are in units
of the stream's median score so far, as the Gaussian takes readings in units of their mean and spread so far.
`unlabelled` is the score of a threshold chosen without labels: a reading alarms that is among the highest 1 in 200 of
its stream so far.

That the usual is reckoned anew, and the median, were chosen on other streams: `choose.py`, with its table.
Scored once after that choice, seeds 0 to 2, standard profile: reconstruct 70.28 (sd 4.49), vae 68.32 (1.27), isolation
forest 55.90, windowed Gaussian 81.95: the aim, above both, is missed. With tables as of the probation and the root mean
square in place of the median, reconstruct had 78.32 and vae 77.18; but those were taken from some fourteen variants by
this very score, so they are no fair estimate, and they too stay below the Gaussian.
"""

import argparse
import csv
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipelines import corpus, features, ingest, join, pretrain, validate
from pipelines.core import answers, files, params
from pipelines.core.params import Params
from pipelines.core.paths import Paths
from pipelines.models import beginning, export, nab, package
from pipelines.models.adapt import Adaptation
from pipelines.models.data import Windows, spread_out
from pipelines.release.predictor import Predictor

HERE = Path(__file__).parent
Array = np.ndarray[Any, Any]
EVERY = 100
"""Readings after which a detector takes its stream's newest into account, as the benchmark's own Gaussian does."""
BUDGET = 0.005


@dataclass(frozen=True)
class Feed:
    """A stream's times (datetime64[s]) and readings in order, and its windows as first and last reading number."""

    times: Array
    values: Array
    windows: list[tuple[int, int]]

    @property
    def learnt(self) -> int:
        """The first reading that validates: all before it may be learnt from."""
        return int(0.7 * nab.probation(len(self.values)))


def feeds(city: Params) -> dict[str, Feed]:
    """The streams of the city's sources."""
    folder = Path(os.environ["CITYLOOP_DATA"]) / "anomaly_nab"
    labels = files.read_json(folder / "windows.json")
    found = {}
    for name in city.sources:
        file = re.sub(".*/", "", city.source(name).read.path)  # type: ignore[union-attr]
        with (folder / file).open() as text:
            rows = list(csv.DictReader(text))
        times = np.array([row["timestamp"] for row in rows], "datetime64[s]")
        spans = [np.flatnonzero((times >= np.datetime64(a)) & (times <= np.datetime64(b))) for a, b in labels[file]]
        values = np.array([float(row["value"]) for row in rows])
        found[name] = Feed(times, values, [(int(span[0]), int(span[-1])) for span in spans])
    return found


def gaussian(feed: Feed) -> Array:
    """The benchmark's `windowed_gaussian`: distance from the mean of the last 6,400 readings, in their spread."""
    out = np.zeros(len(feed.values))
    for i in range(1, len(out)):
        past = feed.values[max(0, i - 6400) : i]
        out[i] = abs(feed.values[i] - past.mean()) / max(past.std(), 1e-6)
    return out


def forest(feed: Feed, lags: int = 10) -> Array:
    """An isolation forest (Liu et al., 2008) on the latest `lags` readings, fitted anew on all so far."""
    from sklearn.ensemble import IsolationForest

    padded = np.concatenate([np.full(lags - 1, feed.values[0]), feed.values])
    rows = np.lib.stride_tricks.sliding_window_view(padded, lags)
    out = np.full(len(rows), np.nan)
    for a in range(feed.learnt, len(rows), EVERY):
        fitted = IsolationForest(random_state=0).fit(rows[:a])
        out[a : a + EVERY] = -fitted.score_samples(rows[a : a + EVERY])
    return out


class Session:
    """A trained model, asked as the exported graph is, without the half minute that exporting seven of them takes."""

    def __init__(self, adapted: Adaptation) -> None:
        self.served = export.Served(adapted.model.cpu().eval(), adapted.objective, adapted.torch_aux())

    def get_inputs(self) -> list[Any]:
        return [argparse.Namespace(name=name) for name in export.INPUTS]

    def run(self, _: None, inputs: dict[str, Array]) -> list[Array]:
        import torch

        with torch.no_grad():
            given = (torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in export.INPUTS)
            return [self.served(*given).numpy()]


def past(root: Path, key: str, feed: Feed, until: int, share: float = 0.7) -> Windows:
    """A stream's grid as it stood before reading number `until`: that share of readings trains, the rest validates."""
    city = params.load(root)
    data = beginning.task_windows(city, city.task(key), Paths(root).joined(key))
    series = data.series
    cut, end = ((feed.times[[int(share * until), until]] - series.start) // series.step).astype(int)
    values = series.read(0, int(cut))
    # What the dates in params.yaml say is for the end of the probation; time has gone on since.
    vars(series)["splits"] = {
        "train": (0, int(cut)),
        "validation": (int(cut), int(end)),
        "test": (int(end), series.length),
    }
    vars(series)["scalers"] = np.stack([np.nanmean(values, 0), np.maximum(np.nanstd(values, 0), 1e-6)]).astype(
        np.float32
    )
    return data


def learn(root: Path, key: str, feed: Feed, until: int) -> Predictor:
    """Fine-tune a stream's task on what was read before number `until`, and calibrate it on the last part of that."""
    city, paths = params.load(root), Paths(root)
    task = city.task(key)
    data = past(root, key, feed, until)
    backbone = paths.backbone(task.backbone)
    adapted = Adaptation.prepare(
        task, data, files.read_json(backbone / "config.json"), backbone / "weights.safetensors"
    )
    adapted.train(f"finetune {key}")
    tables = {"profile": data.profile, **adapted.channels, "misfit": np.zeros(1, np.float32)}
    raw = Predictor({**package.describe(adapted), "alarm": {}}, tables, "", Session(adapted))
    rows = spread_out(data.rows("validation", 1), package.CALIBRATE_WINDOWS)
    answer = raw.predict(data.read(rows, data.spec.context), data.starts(rows))
    truth = np.concatenate([b["truth"] for b in data.batches(rows, 64)])
    spread = package.conformal(answer, truth)
    error = np.abs(truth - answers.calibrated(answer, spread)[..., 1])
    tables |= {"spread": spread, "misfit": np.array([np.nanmedian(error) + 1e-6], np.float32)}
    return Predictor(raw.config, tables, "", raw.session)


def abreast(predictor: Predictor, root: Path, key: str, feed: Feed, until: int) -> Predictor:
    """The same weights, told what is usual by all that was read before number `until`."""
    data = past(root, key, feed, until, share=1.0)
    tables = {"profile": data.profile, "mean": data.mean, "std": data.std}
    return Predictor(predictor.config, {**predictor.tables, **tables}, "", predictor.session)


def misfits(root: Path, key: str, feed: Feed, refit: int) -> Array:
    """Misfit of each reading after the learnt ones, by what was fitted last; `refit` 0: only once."""
    total = len(feed.values)
    begins = list(range(nab.probation(total), total, refit or total))
    out = np.full(total, np.nan)
    for begin, end in zip(begins, [*begins[1:], total], strict=True):
        predictor = learn(root, key, feed, begin)
        if begin == begins[0]:
            out[feed.learnt : begin] = judge(predictor, feed, feed.learnt, begin)
        for a in range(begin, end, EVERY):
            b = min(a + EVERY, end)
            out[a:b] = judge(abreast(predictor, root, key, feed, a), feed, a, b)
    return out


def judge(predictor: Predictor, feed: Feed, begin: int, stop: int) -> Array:
    """Misfit of readings [begin, stop): the last step of a window that ends with each."""
    context, step = predictor.spec.context, predictor.spec.step_s
    cell = feed.times.astype("datetime64[s]").astype(np.int64) // step
    first = int(cell[0]) - context
    grid = np.full(int(cell[-1]) - first + 1, np.nan, np.float32)
    windows = np.empty((len(cell), context, 1), np.float32)
    for i, value in enumerate(feed.values):
        end = int(cell[i]) - first + 1
        grid[end - 1] = value  # of several in a step the latest, and never a later one
        windows[i, :, 0] = grid[end - context : end]
    starts = ((cell - context + 1) * step).astype("datetime64[s]")
    answer = predictor.predict(windows[begin:stop], starts[begin:stop])[:, -1:]
    return answers.misfit(answer, feed.values[begin:stop, None, None], predictor.tables["misfit"])[:, 0, 0]


def walk(score: Array, scale: Callable[[Array], float], first: int = EVERY, every: int = EVERY) -> Array:
    """Scores ÷ what `scale` makes of those before, brought up to date every so many; the `first` as they are."""
    out = score.copy()
    seen = np.isfinite(score)
    for a in range(int(seen.argmax()) + first, len(score), every):
        out[a : a + every] = score[a : a + every] / max(scale(score[:a][seen[:a]]), 1e-9)
    return out


def usual(score: Array) -> Array:
    """Scores in units of the median so far, which past anomalies hardly move."""
    return walk(score, lambda past: 1.4826 * float(np.median(past)), first=60, every=20)


def report(name: str, scores: dict[str, Array], given: dict[str, Feed]) -> dict[str, float]:
    """Print a line, and return the scores by profile and without labels."""
    streams = [nab.Stream(scores[k], feed.windows) for k, feed in given.items()]
    found = {profile: nab.best(streams, weights)[0] for profile, weights in nab.PROFILES.items()}
    rare = {k: walk(s, lambda past: float(np.quantile(past, 1 - BUDGET))) for k, s in scores.items()}
    streams = [nab.Stream(rare[k], feed.windows) for k, feed in given.items()]
    found["unlabelled"] = nab.at(streams, nab.PROFILES["standard"], 1.0)
    print(f"{name:24s}" + "  ".join(f"{k} {v:6.2f}" for k, v in found.items()), flush=True)
    return found


def write_params(root: Path, seed: int, head: str | None, origin: Path = HERE) -> None:
    """The params of `origin` with a seed and a head."""
    told = yaml.safe_load((origin / "params.yaml").read_text())
    for backbone in told["backbones"].values():
        backbone["pretrain"] = {**backbone["pretrain"], "seed": seed}
    told["tasks"] = {
        k: {**t, "finetune": {**t["finetune"], "seed": seed, "head": head}} for k, t in told["tasks"].items()
    }
    (root / "params.yaml").write_text(yaml.safe_dump(told))


def prepare(root: Path) -> None:
    """All that comes before pretraining."""
    city = params.load(root)
    for source in city.sources:
        for room in (ingest, validate, features):
            room.run(source, root=root)
    corpus.run("series", root=root)
    for key in city.tasks:
        join.run(key, root=root)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    words.add_argument("--heads", nargs="+", choices=["reconstruct", "vae"], default=["reconstruct", "vae"])
    words.add_argument("--refit", type=int, default=0, help="readings between two fits of a stream's task; 0: only one")
    asked = words.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copy(HERE / "window.yaml", root)
        write_params(root, 0, None)
        given = feeds(params.load(root))
        report("windowed gaussian", {k: gaussian(feed) for k, feed in given.items()}, given)
        report("isolation forest", {k: forest(feed) for k, feed in given.items()}, given)
        prepare(root)
        all_found: dict[str, list[dict[str, float]]] = {}
        for seed in asked.seeds:
            write_params(root, seed, None)
            pretrain.run("series", root=root)
            for head in asked.heads:
                write_params(root, seed, None if head == "reconstruct" else head)
                raw = {key: misfits(root, key, feed, asked.refit) for key, feed in given.items()}
                scores = {k: usual(s) for k, s in raw.items()}
                all_found.setdefault(head, []).append(report(f"{head}, seed {seed}", scores, given))
        for head, found in all_found.items():
            columns = {k: np.array([f[k] for f in found]) for k in found[0]}
            print(f"{head}, mean (sd): " + "  ".join(f"{k} {v.mean():.2f} ({v.std():.2f})" for k, v in columns.items()))
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
