"""On what streams the benchmark's detector was chosen: labelled ones of simulated cities, none of the benchmark's own.

    python benchmarks/nab/choose.py --seeds 11 12 21 22

A seed is a city: up to eight traffic detectors whose incidents and up to six water gauges whose leaks stand in windows
as the benchmark draws them. Every detector was at a loss on seeds 11 and 12; seeds from 20 on have stronger anomalies
(speed halved, leaks doubled) and weaker recurring jams. Each candidate is the task that `run.py` trains, with two sets
of tables (as of the probation; brought up to date), three leads (a reading judged as the last hidden step, the first,
or by the mean over all), three scales, and with or without the Gaussian's own distance. The rule, set before seeds 21
and 22 were looked at: the highest mean of the four. It chose `walk last median`, 28.8, by little (`fixed first
likelihood` 28.2; fixed tables and root mean square, the detector before, 24.6; windowed Gaussian 20.0; isolation forest
17.1). Without labels, the mean error on readings not learnt from agrees as to the tables: brought up to date it is less
in 40 of 46 streams, 0.56 against 0.63 of the stream's spread.
The choice did not carry over: on the benchmark it scores less than the detector before, see `run.py`.
"""

import argparse
import copy
import csv
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import run
import yaml
from run import Array, Feed

from pipelines.core import answers, files, params
from pipelines.core.params import City
from pipelines.models import nab
from pipelines.release.predictor import Predictor
from pipelines.sources.simulated.traffic import Jam, Traffic
from pipelines.sources.simulated.water import Leak, Water

LENGTH, DROPPED, STRONG = 2400, 0.1, 20
SCALES: dict[str, Callable[[Array], float]] = {
    "rms": lambda past: float(np.sqrt((past**2).mean())),
    "median": lambda past: 1.4826 * float(np.median(past)),
}


class Calm(Traffic):
    """The same roads without what happens elsewhere than at their bottlenecks."""

    def _begun(self, day: int) -> list[Jam]:
        weak = {site for site, _ in self.bottlenecks}
        return [jam for jam in Traffic._begun(self, day) if jam.site in weak]


class Bursts(Water):
    """Leaks twice as strong."""

    def _begun(self, day: int) -> list[Leak]:
        return [dataclasses.replace(leak, drop=2 * leak.drop) for leak in Water._begun(self, day)]


def read(department: Traffic | Water, kind: str, first: int) -> Array:
    """[LENGTH, sites] from day `first` on."""
    days = range(first, first - (-LENGTH * department.step_s // 86400))
    return np.concatenate([department.day(day)[kind] for day in days])[:LENGTH]


def traffic(city: City, first: int) -> tuple[Traffic, Array, Array]:
    """Speeds, and where an incident takes a quarter of them (a half)."""
    roads, calm, strong = Traffic(city), Calm(city), city.seed >= STRONG
    if strong:
        roads.bottlenecks = calm.bottlenecks = [(i, 0.3 * depth) for i, depth in roads.bottlenecks]
    speed = read(roads, "speed", first)
    return roads, speed, speed < (0.5 if strong else 0.75) * read(calm, "speed", first)


def water(city: City, first: int) -> tuple[Water, Array, Array]:
    """Pressures, and where there is a leak."""
    mains = Bursts(city) if city.seed >= STRONG else Water(city)
    return mains, read(mains, "pressure", first), read(mains, "leak", first) > 0


def events(mark: Array) -> list[tuple[int, int]]:
    """First and last number of each run, those less than 24 readings apart as one, single readings left out."""
    at = np.flatnonzero(mark)
    parts = np.split(at, np.flatnonzero(np.diff(at) > 24) + 1) if len(at) else []
    return [(int(part[0]), int(part[-1])) for part in parts if part[-1] - part[0] >= 2]


def spans(found: list[tuple[int, int]], length: int) -> list[list[int]]:
    """Windows about the events' beginnings, a tenth of the stream together; those that touch are one."""
    width, out = 0.1 * length / len(found), list[list[int]]()
    for begin, end in found:
        middle = (begin + min(end, begin + 12)) // 2
        a, b = max(int(middle - width / 2), nab.probation(length)), min(int(middle + width / 2), length - 1)
        if out and a <= out[-1][1]:
            out[-1][1] = b
        else:
            out.append([a, b])
    return out


def text(times: Array) -> list[str]:
    return [str(t).replace("T", " ") for t in times]


def write(root: Path, seed: int) -> None:
    """A city's streams under root/data and its params.yaml and window.yaml."""
    rng = np.random.default_rng(seed)
    city = params.load(run.HERE.parents[1]).city.model_copy(update={"seed": seed})
    told = yaml.safe_load((run.HERE / "params.yaml").read_text())
    like = {"speed": "speed_6005", "pressure": "travel_387"}
    sources, tasks, windows, labels = {}, {}, {}, {}
    folder = root / "data" / "anomaly_nab"
    folder.mkdir(parents=True)
    first = 20000 + 7 * int(rng.integers(20))
    for kind, unit, make, most in (("speed", "km/h", traffic, 8), ("pressure", "kPa", water, 6)):
        department, values, mark = make(city, first)
        step, taken = department.step_s, 0
        times = np.datetime64(first * 86400, "s") + np.arange(LENGTH) * np.timedelta64(step, "s")
        for i in rng.permutation(department.n):
            keep = np.isfinite(values[:, i]) & (rng.random(LENGTH) > DROPPED)
            found, clock, length = events(mark[keep, i]), times[keep], int(keep.sum())
            probation = nab.probation(length)
            if not found or len(found) > 5 or found[0][0] < probation + 60 or taken == most:
                continue
            taken, key = taken + 1, f"{kind}_{department.sites.names[i]}"
            with (folder / f"{key}.csv").open("w") as out:
                csv.writer(out).writerows([["timestamp", "value"], *zip(text(clock), values[keep, i], strict=True)])
            labels[f"{key}.csv"] = [text(clock[pair]) for pair in spans(found, length)]
            source, task = (copy.deepcopy(told[k][like[kind]]) for k in ("sources", "tasks"))
            source |= {"start": str(clock[0])[:10], "step": f"{step // 60}min"}
            source |= {"validation_from": str(clock[int(0.7 * probation)]), "test_from": str(clock[probation])}
            source["read"] |= {"path": f"{{data}}/anomaly_nab/{key}.csv", "columns": {"value": kind}}
            source["kinds"] = {kind: {"unit": unit, "range": [0, 1000], "spikes": False, "stuck_after": "never"}}
            sources[key], tasks[key] = source, {**task, "target": {"source": key}}
            if kind == "pressure":
                tasks[key] |= {"context": "12h", "horizon": "2h"}
            windows[key] = f"{clock[-1] + np.timedelta64(step, 's')}Z"
    files.write_json(folder / "windows.json", labels)
    told["city"]["timezone"] = "Europe/Amsterdam"
    (root / "params.yaml").write_text(yaml.safe_dump({**told, "sources": sources, "tasks": tasks}))
    (root / "window.yaml").write_text(yaml.safe_dump(windows))


def leads(predictor: Predictor, feed: Feed, begin: int, stop: int) -> Array:
    """Misfit of readings [begin, stop) as each of the hidden steps, [stop - begin, H]."""
    context, step, horizon = predictor.spec.context, predictor.spec.step_s, predictor.spec.horizon
    known, cell = context - predictor.spec.future, feed.times.astype("datetime64[s]").astype(np.int64) // step
    first = int(cell[0]) - context - horizon
    grid = np.full(int(cell[-1]) - first + 1, np.nan, np.float32)
    grid[cell - first] = feed.values
    hidden_from, which = np.unique(cell[begin:stop, None] - np.arange(horizon), return_inverse=True)
    windows = np.full((len(hidden_from), context, 1), np.nan, np.float32)
    for window, at in zip(windows, hidden_from, strict=True):
        window[:known, 0] = grid[at - first - known : at - first]
    answer = predictor.predict(windows, ((hidden_from - known) * step).astype("datetime64[s]"))[:, :, 0]
    answer = answer[which.reshape(-1, horizon), np.arange(horizon)]
    truth = np.repeat(feed.values[begin:stop, None], horizon, axis=1)
    return answers.misfit(answer, truth, predictor.tables["misfit"])


def likelihood(score: Array, latest: int = 10) -> Array:
    """Anomaly likelihood (Lavin and Ahmad, 2015): how unlikely the mean of the latest scores is, as a normal's z."""
    seen = score[np.isfinite(score)]
    out = np.full(len(score), np.nan)
    for i in range(len(seen)):
        past = seen[: max(i, 60)]
        short = seen[max(0, i - latest + 1) : i + 1].mean()
        out[len(score) - len(seen) + i] = max(0.0, (short - past.mean()) / max(past.std(), 1e-9))
    return out


def candidates(root: Path, key: str, feed: Feed) -> dict[str, Array]:
    """Every detector's scores of a stream."""
    total, begin = len(feed.values), nab.probation(len(feed.values))
    predictor = run.learn(root, key, feed, begin)
    early = leads(predictor, feed, feed.learnt, begin)
    later = [(a, min(a + run.EVERY, total)) for a in range(begin, total, run.EVERY)]
    tables = {
        "fixed": [leads(predictor, feed, begin, total)],
        "walk": [leads(run.abreast(predictor, root, key, feed, a), feed, a, b) for a, b in later],
    }
    gaussian = run.gaussian(feed)
    out = {"windowed gaussian": gaussian, "isolation forest": run.forest(feed)}
    for name, parts in tables.items():
        found = np.concatenate([np.full((feed.learnt, early.shape[1]), np.nan), early, *parts])
        for lead, misfit in {"last": found[:, -1], "first": found[:, 0], "mean": found.mean(1)}.items():
            out[f"{name} {lead} likelihood"] = likelihood(misfit)
            for scale, of in SCALES.items():
                score = run.walk(misfit, of, first=60, every=20)
                out |= {f"{name} {lead} {scale}": score, f"{name} {lead} {scale} + gaussian": np.hypot(score, gaussian)}
    return out


def city_scores(seed: int) -> dict[str, float]:
    """Standard score of every detector over one city's streams."""
    with tempfile.TemporaryDirectory() as folder:
        made, root = Path(folder) / "made", Path(folder) / "city"
        write(made, seed)
        root.mkdir()
        os.environ["CITYLOOP_DATA"] = str(made / "data")
        shutil.copy(made / "window.yaml", root)
        run.write_params(root, 0, None, made)
        given = run.feeds(params.load(root))
        run.prepare(root)
        run.pretrain.run("series", root=root)
        scores = {key: candidates(root, key, feed) for key, feed in given.items()}
        names = next(iter(scores.values()))
        streams = {n: [nab.Stream(scores[k][n], feed.windows) for k, feed in given.items()] for n in names}
        return {n: nab.best(found, nab.PROFILES["standard"])[0] for n, found in streams.items()}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 21, 22])
    cities = [city_scores(seed) for seed in words.parse_args().seeds]
    for name in sorted(cities[0], key=lambda n: -float(np.mean([found[n] for found in cities]))):
        each = [found[name] for found in cities]
        print(f"{name:32s}" + "".join(f"{v:7.1f}" for v in each) + f"{np.mean(each):8.1f}")


if __name__ == "__main__":
    main()
