"""A month of watching in fast motion: what is noticed, what is trained anew, what is not.

    python benchmarks/month.py --folder /tmp/month --seeds 7 11 23

A simulated city of 24 detectors every 15 minutes and one task, what flows over the next hour. It learns from nine
weeks, and its model passes the gate, is approved and serves. Then day after day, by the commands that a city runs: the
window goes on by a day, ingest, validate, features, join, a forecast an hour, monitor; and where that decides to train
anew, retrain and all that follows up to the gate, where the candidate waits for a person who never comes. Scenarios
differ in what befalls the city on the eleventh day, which nothing but the simulator is told:

    quiet     nothing
    bridge    a road is closed for good, in and out; its traffic goes elsewhere
    broken    the sensors of a cabinet repeat their last value

All scenarios of a seed begin with one and the same training. What was done stands in `--folder`, and a call goes on
from there. It prints the table of docs/monitoring.md, and writes month.json.
"""

import argparse
import datetime as dt
import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from pipelines.__main__ import main as cityloop
from pipelines.core import files, log
from pipelines.core.paths import Paths
from pipelines.core.records import read_day
from pipelines.release.store import Store
from pipelines.watch.kept import Kept

TASK = "traffic_flow"
START, VALIDATION, TEST, SERVES = "2025-01-06", "2025-02-24", "2025-03-03", "2025-03-10"
EVENT = 10
"""Days after SERVES on which something happens, where it does."""
BRIDGE, CABINET = ("det003", "det004"), {"det005", "det006", "det013", "det014"}
SCENARIOS: dict[str, dict[str, Any] | None] = {
    "quiet": None,
    "bridge": {"kind": "closed_road", "sensors": list(BRIDGE)},
    "broken": {"kind": "broken", "sensors": sorted(CABINET), "fault": "stuck"},
}
SPOILT = 12
"""Records, three hours of them."""
DATA = ("data", "models", "metrics", "plots", "cards")


def day_after(days: int) -> str:
    return f"{dt.date.fromisoformat(SERVES) + dt.timedelta(days=days):%F}"


def params(seed: int, change: dict[str, Any] | None) -> dict[str, Any]:
    read = {"connector": "simulator", "feed": "traffic", "sensors": 24}
    changes = [{**change, "at": day_after(EVENT)}] if change else []
    trainer = {"batch": 8, "learning_rate": 0.002, "accelerator": "cpu"}
    source = {
        "department": "transport", "start": START, "validation_from": VALIDATION, "test_from": TEST, "step": "15min",
        "read": {**read, "changes": changes},
        "kinds": {
            "speed": {"unit": "km/h", "range": [0, 150], "mixups": ["mph"], "constant_with": ["flow"]},
            "flow": {"unit": "veh/h", "range": [0, 7200], "constant_ok": [0]},
        },
    }  # fmt: skip
    task = {
        "department": "transport", "question": "How much traffic will each detector count over the next hour?",
        "objective": "forecast", "backbone": "series", "target": {"source": "traffic", "kinds": ["flow"]},
        "inputs": [{"source": "traffic", "kinds": ["speed"]}], "context": "12h", "horizon": "1h",
        "finetune": {**trainer, "steps": 300, "patience": 6},
        # With a quarter of the detectors stuck for four hours each method errs twice as much or more, the ridge too.
        "gate": {"robustness": 1.5},
    }  # fmt: skip
    return {
        "city": {"name": "month", "timezone": "Europe/Amsterdam", "seed": seed},
        "sources": {"traffic": source},
        "backbones": {"series": {"pretrain": {**trainer, "steps": 150}}},
        "tasks": {TASK: task},
    }


class City:
    """A city's folder, and the commands run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def say(self, *words: str, may_refuse: bool = False) -> bool:
        """A command of `cityloop`; whether it succeeded. A refusal (exit code 4) may be an answer."""
        os.environ["CITYLOOP_STATE"] = str(self.folder / ".cityloop")
        code = cityloop(["-C", str(self.folder), *words], standalone_mode=False) or 0
        if code and not (may_refuse and code == 4):
            raise SystemExit(f"{self.folder}: cityloop {' '.join(words)} ended with exit code {code}")
        return not code

    def write(self, seed: int, change: dict[str, Any] | None) -> None:
        files.write_bytes(self.folder / "params.yaml", yaml.safe_dump(params(seed, change), sort_keys=False).encode())

    def data(self) -> None:
        for room in ("ingest", "validate", "features"):
            self.say(room, "traffic")
        self.say("join", TASK)

    def train(self) -> None:
        for room in ("finetune", "evaluate", "card"):
            self.say(room, TASK)

    @property
    def kept(self) -> Kept:
        return Kept(Store.of(Paths(self.folder)).objects, TASK)


def trained(folder: Path, seed: int) -> City:
    """The city of a seed, from nothing up to the card; once."""
    city = City(folder / f"{seed}" / "trained")
    if not (city.folder / "done").exists():
        city.write(seed, None)
        city.say("window", "--until", SERVES)
        city.data()
        for room in ("corpus", "pretrain"):
            city.say(room, "series")
        city.train()
        files.write_bytes(city.folder / "done", b"")
    return city


def serving(folder: Path, seed: int, scenario: str) -> City:
    """A city of its own with that model, reviewed and promoted; once."""
    city = City(folder / f"{seed}" / scenario)
    if not (city.folder / "done").exists():
        made = trained(folder, seed)
        shutil.rmtree(city.folder, ignore_errors=True)
        for part in DATA:
            shutil.copytree(made.folder / part, city.folder / part)
        city.write(seed, SCENARIOS[scenario])
        city.say("window", "--until", SERVES)
        city.say("register", TASK)
        city.say("gate", TASK)
        city.say("review", TASK, "--approve", "--as", "ada")
        city.say("promote", TASK)
        files.write_bytes(city.folder / "done", b"")
    return city


def month(folder: Path, seed: int, scenario: str, days: int) -> list[dict[str, Any]]:
    """What each of the days came to."""
    city = serving(folder, seed, scenario)
    path = city.folder / "days.json"
    told: list[dict[str, Any]] = files.read_json(path) if path.exists() else []
    left = range(len(told), days)
    for number in log.progress(left, f"{scenario}, seed {seed}", len(left), "days"):
        began = time.monotonic()
        told.append({**a_day(city, number), "seconds": round(time.monotonic() - began, 1)})
        files.write_json(path, told)
    return told[:days]


def a_day(city: City, number: int) -> dict[str, Any]:
    first, last = day_after(number), day_after(number + 1)
    city.say("window", "--until", last)
    city.data()
    city.say("predict", TASK, "--since", f"{first}T00:00Z", "--until", f"{first}T23:00Z", "--every", "1h")
    city.say("monitor", TASK)
    summary = city.kept.read("summary.json") or {}
    decision, drift = summary.get("decision") or {}, summary.get("drift") or {}
    today = drift.get("days", {}).get(first, {})
    candidate = anew(city) if decision.get("decision") == "retrain" else None
    return {
        "day": first,
        "decision": decision.get("decision"),
        "reasons": decision.get("reasons"),
        "error": decision.get("error"),
        "changed_since": drift.get("changed_since"),
        "faulty": sorted(drift.get("faulty", {})),
        "drift": {k: today.get(k) for k in ("tested", "drifted", "faults", "share", "predictions")},
        "live": summary.get("by_day", {}).get(first),
        "candidate": candidate,
    }


def anew(city: City) -> dict[str, Any]:
    """Train anew, up to the verdict; the candidate then waits."""
    began = time.monotonic()
    city.say("retrain", TASK)
    city.say("join", TASK)
    city.train()
    city.say("register", TASK)
    passed = city.say("gate", TASK, may_refuse=True)
    verdict = files.read_json(city.folder / ".cityloop/gates" / f"{TASK}.json")
    conditions = {c["name"]: c for c in verdict["conditions"]}
    return {
        "digest": verdict["candidate"],
        "champion": verdict["champion"],
        "passed": passed,
        "test": verdict["test"],
        "against_champion": conditions["champion"]["detail"],
        "failed": [c["detail"] for c in verdict["conditions"] if not c["passed"]],
        "seconds": round(time.monotonic() - began, 1),
    }


def believed(city: City) -> tuple[int, int]:
    """Channels told as broken, by day, and how many of them the simulator had spoilt for SPOILT or more of that day."""
    told = right = 0
    for day in city.kept.days("drift"):
        faults = (city.kept.read(city.kept.day(day, "drift")) or {}).get("faults", {}) if day >= SERVES else {}
        truth = city.folder / "data/raw/traffic/truth" / f"date={day}.parquet"
        rows = (
            Counter(zip(*(read_day(truth)[c].to_pylist() for c in ("sensor", "kind")), strict=True)) if faults else {}
        )
        for name in faults:  # a sensor that is broken in one kind is told as broken in both
            sensor = name.partition("/")[0]
            told, right = told + 1, right + (max(rows.get((sensor, k), 0) for k in ("speed", "flow")) >= SPOILT)
    return told, right


def row(scenario: str, days: list[dict[str, Any]], faults: tuple[int, int]) -> list[str]:
    """Of the table. Days are counted from when it happened, that day the first."""
    happens, at = SCENARIOS[scenario] is not None, EVENT if SCENARIOS[scenario] else len(days)
    before, after = days[:at], days[at:]
    seen: dict[str, Callable[[dict[str, Any]], Any]] = {
        "bridge": lambda day: day["decision"] != "fine" and day["changed_since"],
        "broken": lambda day: CABINET & _sensors(day["faulty"]),
    }
    due = [day["candidate"] for day in after if day["candidate"]] if scenario == "bridge" else []
    told = set().union(*(_sensors(day["faulty"]) for day in after))
    return [
        _first(after, seen[scenario]) if happens else "",
        _first(after, lambda day: day["decision"] == "retrain") if scenario == "bridge" else "",
        f"{sum(bool(day['candidate']) for day in days) - len(due)}",
        f"{sum(day['decision'] != 'fine' for day in (days if scenario == 'broken' else before))}",
        f"{len(told & CABINET)} of {len(CABINET)}" if scenario == "broken" else "",
        f"{faults[1]} of {faults[0]}",
        due[0]["against_champion"].partition(", asked")[0] if due else "",
        ("passed, waits for review" if due[0]["passed"] else "; ".join(due[0]["failed"])) if due else "",
    ]


def _first(days: list[dict[str, Any]], seen: Callable[[dict[str, Any]], Any]) -> str:
    return next((f"day {i}" for i, day in enumerate(days, 1) if seen(day)), "**never**")


def _sensors(channels: list[str]) -> set[str]:
    return {name.partition("/")[0] for name in channels}


HEAD = (
    "scenario", "seed", "noticed", "retraining began", "false retrainings", "days not fine without cause",
    "cabinet told as broken", "told as broken rightly", "first candidate against champion", "gate",
)  # fmt: skip


def table(folder: Path, told: dict[tuple[int, str], list[dict[str, Any]]]) -> Iterator[str]:
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"
    for (seed, scenario), days in told.items():
        faults = believed(City(folder / f"{seed}" / scenario))
        yield f"| {' | '.join([scenario, str(seed), *row(scenario, days, faults)])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the cities lie; a call goes on from there")
    parser.add_argument("--scenario", choices=SCENARIOS, nargs="+", default=[*SCENARIOS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 11, 23])
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=1, help="cities at a time")
    given = parser.parse_args()
    folder = given.folder.absolute()
    cases = [(seed, scenario) for scenario in given.scenario for seed in given.seeds]
    # A process a city: MLflow keeps the first registry of a process.
    pool = ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with pool:
        list(pool.map(trained, [folder] * len(given.seeds), given.seeds))
        made = [pool.submit(month, folder, *case, given.days) for case in cases]
        told = {case: one.result() for case, one in zip(cases, made, strict=True)}
    files.write_json(folder / "month.json", {f"{scenario}-{seed}": days for (seed, scenario), days in told.items()})
    print(f"`python benchmarks/month.py --days {given.days} --seeds {' '.join(map(str, given.seeds))}`\n")
    print("\n".join(table(folder, told)))


if __name__ == "__main__":
    main()
