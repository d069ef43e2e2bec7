"""Our server against `mlflow models serve` on the very same bundle: throughput, latency, start, memory, swaps.

    python benchmarks/serving.py --rounds 5 --seconds 10

Without --bundle, a model of --sensors simulated detectors × 144 steps is trained for a moment and kept in --out. Each
server is one worker on this machine. Cells that are compared take turns (A B A B …) and one server is asked at a time;
a ratio is the median over the rounds, and its range stands beside it. MLflow is asked in the form that it answers
fastest of those it reads; the answers are compared first.
"""

import argparse
import concurrent.futures
import contextlib
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bundles
import forms
import load
import numpy as np
import servers
from load import Form, Load
from servers import Server

from pipelines.release.predictor import Predictor
from pipelines.release.store import Pointer, Store

CELLS = ("throughput", "latency", "cold", "memory", "swaps")
EIGHT = 8


@dataclass
class Bench:
    """What all cells share, and the table so far."""

    options: argparse.Namespace
    bundle: Path
    scratch: Path
    predictor: Predictor
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.task = str(self.predictor.config["task"])
        self.all, self.one = forms.Asked(self.predictor, one=False), forms.Asked(self.predictor, one=True)
        self.shape = f"{len(self.predictor.channels)} sensors × {self.predictor.spec.context} steps"

    def row(self, cell: str, ours: str, theirs: str, ratio: str, target: str) -> None:
        self.lines.append(f"| {cell} | {ours} | {theirs} | {ratio} | {target} |")
        print(self.lines[-1], flush=True)

    def store(self, name: str, tasks: dict[str, Path]) -> Store:
        """A store that points to a bundle a task."""
        store = Store(str(self.scratch / name), self.scratch / f"{name}-cache")
        for task, folder in tasks.items():
            store.point(Pointer(task, 1, store.put(task, folder)))
        return store

    @contextlib.contextmanager
    def ours(self, name: str, store: Store) -> Iterator[Server]:
        server = servers.ours(Path(store.where), self.scratch / f"{name}-ours")
        with contextlib.closing(_Stopped(server)):
            yield server

    @contextlib.contextmanager
    def theirs(self, name: str) -> Iterator[Server]:
        server = servers.mlflow(self.model, self.scratch / f"{name}-mlflow")
        with contextlib.closing(_Stopped(server)):
            yield server

    @property
    def model(self) -> Path:
        place = self.scratch / "model"
        return place if place.is_dir() else servers.logged(self.bundle, place)

    def put(self, server: Server, form: Form, connections: int = EIGHT, seconds: float | None = None) -> Load:
        files = self.scratch / f"load-{server.port}-{len(form.bodies[0])}"
        found = load.put(server.url, form, files, connections, seconds or self.options.seconds)
        if found.errors:
            self.notes.append(f"{found.errors} of {found.requests} requests failed: {server.name}, {form.name}")
        return found

    def turns(self, ways: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
        """A number a round of each way, all in turn."""
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self.options.rounds):
            for name, way in ways.items():
                found[name].append(way())
        return found


@dataclass
class _Stopped:
    server: Server

    def close(self) -> None:
        self.server.stop()


def ratio(ours: list[float], theirs: list[float], digits: int = 1) -> str:
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"**{statistics.median(each):.{digits}f}** ({min(each):.{digits}f}–{max(each):.{digits}f})"


def throughput(bench: Bench) -> None:
    """Requests a second at eight connections: ours and MLflow's, all sensors and one."""
    with bench.ours("t", bench.store("t", {bench.task: bench.bundle})) as ours, bench.theirs("t") as theirs:
        _same(bench, ours, theirs)
        for asked, said in ((bench.all, bench.shape), (bench.one, f"1 sensor × {bench.predictor.spec.context} steps")):
            mine, best = asked.ours(), _best(bench, theirs, asked)
            ways = {name: (ours, form) for name, form in mine.items()} | {k: (theirs, f) for k, f in best.items()}
            rates = bench.turns({k: lambda w=w: bench.put(*w).rate for k, w in ways.items()})
            targets = {"binary": "≥ 4", "arrays": "≥ 3"} if asked is bench.all else {"arrays": "≥ 8"}
            pairs = [("binary", "parquet"), ("arrays", "json"), ("rows", "json"), ("binary", "json")]
            if asked is bench.one:
                pairs = [("arrays", "json"), ("arrays", "parquet"), ("binary", "parquet")]
            for a, b in pairs:
                shown = [f"{statistics.median(rates[name]):.0f}/s ({ways[name][1].name})" for name in (a, b)]
                target = targets.pop(a, "")
                bench.row(f"{said}, {EIGHT} connections", *shown, ratio(rates[a], rates[b]), target)


def _best(bench: Bench, server: Server, asked: forms.Asked) -> dict[str, Form]:
    """Parquet, MLflow's one binary form; and the JSON that it answers fastest, in a short trial."""
    found = asked.theirs()
    parquet = found.pop("parquet")
    rates = {k: bench.put(server, form, seconds=max(2, bench.options.seconds / 3)).rate for k, form in found.items()}
    bench.notes.append(
        "MLflow's JSON forms in a trial, requests/s: " + ", ".join(f"{k} {v:.1f}" for k, v in rates.items())
    )
    return {"parquet": parquet, "json": found[max(rates, key=lambda k: rates[k])]}


def _same(bench: Bench, ours: Server, theirs: Server) -> None:
    """Raises AssertionError unless every form is answered with the same numbers."""
    names = bench.predictor.names
    for asked in (bench.all, bench.one):
        told = []
        for form in asked.ours().values():
            body = ours.answered(form)[1]
            if form.name == "V2 binary":
                continue  # its columns are the arrays' bytes; the server's own tests compare them
            told.append(json.loads(body)["rows"])
        told += [json.loads(theirs.answered(form)[1])["predictions"] for form in asked.theirs().values()]
        tables = [np.array([[row[name] for name in names] for row in rows]) for rows in told]
        for table in tables[1:]:
            np.testing.assert_allclose(table, tables[0], rtol=1e-3)


def latency(bench: Bench) -> None:
    """One connection, all sensors, against the same question in this process."""
    values, starts = forms.windows(bench.predictor, 1), np.array([forms.START.replace(tzinfo=None)], "datetime64[s]")
    predictor = bench.predictor
    given = {k: v for k, v in predictor.inputs(values, starts).items() if k in predictor._wanted}
    with bench.ours("l", bench.store("l", {bench.task: bench.bundle})) as server:
        form = bench.all.ours()["binary"]
        server.answered(form)
        took = bench.turns(
            {
                "served": lambda: bench.put(server, form, connections=1).p50_ms,
                "predict": lambda: _each(lambda: predictor.predict(values, starts), bench.options.seconds),
                "session": lambda: _each(lambda: predictor.session.run(None, given), bench.options.seconds),
            }
        )
    shown = {name: f"{statistics.median(ms):.1f} ms" for name, ms in took.items()}
    told = {"predict": ("Predictor.predict in process", ""), "session": ("session.run alone in process", "≤ 1.3")}
    for name, (said, target) in told.items():
        cell = f"{bench.shape}, 1 connection, p50, binary ÷ {said}"
        bench.row(cell, shown["served"], f"{shown[name]} (no server)", ratio(took["served"], took[name], 2), target)


def _each(call: Callable[[], Any], seconds: float) -> float:
    """Median milliseconds of a call."""
    took, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return 1e3 * statistics.median(took)


def cold(bench: Bench) -> None:
    """From nothing to the first answer, and what a server of one task holds then."""
    store, told = bench.store("c", {bench.task: bench.bundle}), {}
    mine, parquet = bench.all.ours()["binary"], bench.all.theirs()["parquet"]

    def start(name: str, begin: Callable[[str], Any], form: Form) -> float:
        with begin(f"c{time.monotonic_ns()}") as server:  # each in a place of its own: nothing is kept
            seconds, _ = server.answered(form)
            told[name] = server.memory()
        return seconds

    ways = {
        "ours": lambda: start("ours", lambda name: bench.ours(name, store), mine),
        "theirs": lambda: start("theirs", bench.theirs, parquet),
    }
    bench.model  # noqa: B018 it is made before the clock runs
    for way in ways.values():
        way()  # from here on all files lie in memory
    took = bench.turns(ways)
    shown = [f"{statistics.median(took[name]):.2f} s" for name in ways]
    bench.row("cold start to first answer", *shown, ratio(took["ours"], took["theirs"], 2), "≤ 0.1")
    shown = [f"RSS {told[name].rss:.0f}, PSS {told[name].pss:.0f} MiB" for name in ways]
    share = told["ours"].rss / told["theirs"].rss
    bench.row("memory after the first answer, 1 task", *shown, f"{share:.2f}", "")


def memory(bench: Bench) -> None:
    """A replica with four tasks, asked in all forms: what it holds, and whether that grows."""
    given = (
        sorted(p.parent for p in bench.options.city.glob("models/tasks/*/manifest.json")) if bench.options.city else []
    )
    named = {f"task{i}": bench.scratch / f"four/task{i}" for i in range(4)}
    tasks = {p.name: p for p in given[:4]} or {k: bundles.twin(bench.bundle, p, task=k) for k, p in named.items()}
    asked = [forms.Asked(Predictor.load(p, threads=1), one) for p in tasks.values() for one in (False, True)]
    turns = [form for a in asked for form in a.ours().values()]
    held, seconds = [], max(1.0, bench.options.soak / max(1, round(bench.options.soak / 5)))
    with bench.ours("m", bench.store("m", tasks)) as server:
        for form in turns:
            server.answered(form)
        idle = server.memory()
        while len(held) * seconds < bench.options.soak:
            bench.put(server, turns[len(held) % len(turns)], seconds=seconds)
            held.append(server.memory())
    minute = held[min(len(held) - 1, round(60 / seconds))]
    of = f"{', '.join(tasks)} of {bench.options.city.name}" if given else f"{bench.shape} four times"
    bench.row(f"memory, 4 tasks ({of}), each asked", f"RSS {idle.rss:.0f}, PSS {idle.pss:.0f} MiB", "", "", "≤ 200 MB")
    most, last = max(m.rss for m in held), held[-1]
    text = f"RSS {last.rss:.0f}, PSS {last.pss:.0f} MiB; most {most:.0f}"
    bench.row(f"the same after {bench.options.soak:g} s of load", text, "", "", "≤ 200 MB")
    bench.row("the last ÷ after a minute", f"{last.rss / minute.rss:.2f}", "", "", "flat")
    bench.notes.append(
        "memory under load, RSS MiB: " + " ".join(f"{m.rss:.0f}" for m in held[:: max(1, len(held) // 24)])
    )


def swaps(bench: Bench) -> None:
    """Two releases that take turns under load, against the same load without."""
    twin = bundles.twin(bench.bundle, bench.scratch / "twin", question="And once more?")
    store = bench.store("s", {bench.task: bench.bundle})
    digests = [store.put(bench.task, twin), store.put(bench.task, bench.bundle)]
    with bench.ours("s", store) as server:
        swap = Swaps(server, store, bench.task, digests)
        for asked, name in ((bench.all, "binary"), (bench.one, "arrays")):
            form, begun = asked.ours()[name], swap.done
            server.answered(form)
            calm, busy = [], []
            while swap.done < begun + bench.options.swaps:
                calm.append(_beside(lambda f=form: bench.put(server, f), lambda: swap.look()))
                busy.append(_beside(lambda f=form: bench.put(server, f), lambda: swap.next()))
            p99 = [[one.p99_ms for one in part] for part in (busy, calm)]
            failed, of = sum(one.errors for one in busy), sum(one.requests for one in busy)
            shown = f"{failed} of {of} failed, p99 {statistics.median(p99[0]):.0f} ms"
            without = f"(p99 without swaps {statistics.median(p99[1]):.0f} ms)"
            cell = f"{swap.done - begun} swaps under load, {len(asked.each[0][0])} sensors, {EIGHT} connections"
            bench.row(cell, shown, without, ratio(p99[0], p99[1], 2), "0 failed, ≤ 1.5")


@dataclass
class Swaps:
    """Points the store to the other of two releases as soon as the server answers with the one before."""

    server: Server
    store: Store
    task: str
    digests: list[str]
    done: int = 0

    def look(self) -> str:
        time.sleep(0.1)
        return str(json.loads(self.server.get(f"/v1/tasks/{self.task}"))["digest"])

    def next(self) -> None:
        wanted = self.digests[self.done % 2]
        self.store.point(Pointer(self.task, self.done + 2, wanted))
        while self.look() != wanted:
            pass
        self.done += 1


def _beside(put: Callable[[], Load], call: Callable[[], Any]) -> Load:
    """The load, with `call` again and again beside it."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        loading = pool.submit(put)
        while not loading.done():
            call()
        return loading.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a task's bundle; default: one made for this")
    parser.add_argument(
        "--city", type=Path, help="a city whose first four bundles the memory is of; default: this one's"
    )
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    for name, value in {"sensors": 207, "rounds": 5, "swaps": 50}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, seconds in {"seconds": 10.0, "soak": 60.0}.items():
        parser.add_argument(
            f"--{name}", type=float, default=seconds, help="of load, each time" if name == "seconds" else ""
        )
    parser.add_argument(
        "--out", type=Path, default=Path(".cityloop/benchmarks/serving"), help="the bundle made for this"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers it began end with it
    bundle = options.bundle or bundles.made(options.out / f"city-{options.sensors}", options.sensors)
    print(f"{'wrk' if load.WRK else 'no wrk here: load by a client of our own'}; rounds of {options.seconds:g} s\n")
    print("| cell | ours | MLflow | ratio | target |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="serving-") as scratch:
        bench = Bench(options, bundle.resolve(), Path(scratch), Predictor.load(bundle, threads=1))
        for cell in options.cells:
            globals()[cell](bench)
    print("\n" + "\n".join(bench.notes))


if __name__ == "__main__":
    main()
