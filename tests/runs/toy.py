"""A toy city in a git repository: real git, real DVC, commands that take no time and do as the test tells them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.retraining import completed
from pipelines.runs.git import LOCAL

CODE = Path(__file__).parents[2]
TASKS = tuple(f"t{n}" for n in range(1, 7))
FILES = {
    ".gitignore": "/data/\n/models/\n/.cityloop/\n__pycache__/\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    ".dvcignore": "__pycache__\n.cityloop\n.git\n",
    ".dvc/config": '[core]\n    analytics = false\n[cache]\n    type = "reflink,hardlink,copy"\n',
    "params.yaml": "sources: {a: {factor: 1}, b: {factor: 2}}\ntasks:\n"
    + "".join(f"  {t}: {{power: 1, source: {'a' if n % 2 else 'b'}}}\n" for n, t in enumerate(TASKS, 1)),
    "window.yaml": 'a: "2025-01-03"\nb: "2025-01-03"\n',
    "retrain.yaml": completed({}, TASKS),
    "pipelines/__init__.py": "",
    "pipelines/tool.py": "SCALE = 1\n",
    "pipelines/__main__.py": '''
import os, pathlib, shutil, signal, sys, time
import yaml
from pipelines.tool import SCALE

what, key, *rest = sys.argv[1:]
state = pathlib.Path(os.environ.get("CITYLOOP_STATE", ".cityloop"))
name = f"{what}@{key}"
params, window = (yaml.safe_load(open(f)) for f in ("params.yaml", "window.yaml"))


def told(kind):
    """What the test asks of this stage: the file's text, or None."""
    path = state / f"{kind}-{name}"
    return path.read_text() if path.exists() else None


def put(path, text):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)


if what == "window":
    for source in rest[1:] or window:
        window[source] = rest[0]
    put("window.yaml", "".join(f'{k}: "{v}"\\n' for k, v in sorted(window.items())))
    sys.exit()
if what == "retrain":
    names = [word.strip("-").replace("-", "_") for word in rest[::2]]
    entry = None if rest == ["--clear"] else dict(zip(names, rest[1::2]))
    anew = yaml.safe_load(open("retrain.yaml")) | {key: entry}
    put("retrain.yaml", yaml.safe_dump(anew, default_flow_style=None))
    sys.exit()
with open(state / "ran.txt", "a") as file:
    print(name, file=file)
if told("save") is not None:
    signal.signal(signal.SIGTERM, lambda *_: (put(state / "saved", name), sys.exit(143)))
(state / f"pid-{name}").write_text(str(os.getpid()))
if told("sleep"):
    time.sleep(float(told("sleep")))
if told("fail") is not None:
    sys.exit(f"error: {name} has no data today")
if told("edit"):
    path, _, text = told("edit").partition(" ")
    put(path, text)
if what == "raw":
    for day in range(1, int(window[key][-2:])):
        put(f"data/raw/{key}/{day}.txt", str(day * params["sources"][key]["factor"]))
if what == "feat":
    days = sorted(pathlib.Path(f"data/raw/{key}").iterdir())
    put(f"data/feat/{key}/sum.txt", str(SCALE * sum(int(d.read_text()) for d in days)))
if what == "join":
    source = params["tasks"][key]["source"]
    put(f"data/joined/{key}.txt", pathlib.Path(f"data/feat/{source}/sum.txt").read_text())
if what == "fit":
    power = params["tasks"][key]["power"]
    put(f"models/{key}/weights.txt", str(int(pathlib.Path(f"data/joined/{key}.txt").read_text()) ** power))
''',
    "dvc.yaml": """
stages:
  raw:
    foreach: ${sources}
    do:
      cmd: python -m pipelines raw ${key}
      deps: [pipelines/__main__.py]
      params: ["sources.${key}.factor", {window.yaml: ["${key}"]}]
      outs: [{"data/raw/${key}": {persist: true}}]
  feat:
    foreach: ${sources}
    do:
      cmd: python -m pipelines feat ${key}
      deps: [pipelines/tool.py, "data/raw/${key}"]
      outs: ["data/feat/${key}"]
  join:
    foreach: ${tasks}
    do:
      cmd: python -m pipelines join ${key}
      deps: [data/feat]
      params: ["tasks.${key}.source", {retrain.yaml: ["${key}"]}]
      outs: ["data/joined/${key}.txt"]
  fit:
    foreach: ${tasks}
    do:
      cmd: python -m pipelines fit ${key}
      deps: ["data/joined/${key}.txt"]
      params: ["tasks.${key}.power"]
      outs: ["models/${key}"]
""",
}


@dataclass(frozen=True)
class Toy:
    """The toy city's checkout, and how a person and a worker use it. `extra`: their environment."""

    root: Path
    extra: tuple[tuple[str, str], ...] = ()

    @classmethod
    def make(cls, root: Path) -> "Toy":
        toy = cls(root)
        for name, text in FILES.items():
            toy.write(name, text)
        toy.git("init", "-q", "-b", "main")
        toy.git("add", "--all")
        toy.git("commit", "-q", "-m", "A city")
        toy.state.mkdir()
        return toy

    @property
    def state(self) -> Path:
        return Path(dict(self.extra).get("CITYLOOP_STATE", self.root / ".cityloop"))

    @property
    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CITYLOOP_", "DVC_")) and k not in LOCAL}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return kept | {"PATH": path, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"} | dict(self.extra)

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def say(self, *words: str, cwd: Path | None = None) -> str:
        """What a command says; fails with all it said when it fails."""
        done = subprocess.run(
            words, cwd=cwd or self.root, env=self.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def git(self, *words: str) -> str:
        return self.say("git", "-c", "user.name=ada", "-c", "user.email=ada@city", *words)

    def commit(self, name: str, text: str) -> None:
        self.write(name, text)
        self.git("add", name)
        self.git("commit", "-q", "-m", f"Another {name}")

    def powers(self, power: int) -> None:
        """Another power for all six tasks: their `fit` is to run, and nothing else."""
        self.commit("params.yaml", FILES["params.yaml"].replace("power: 1", f"power: {power}"))

    def wait(self, stage: str, process: "subprocess.Popen[str]") -> None:
        """Until the stage's command is at work."""
        until = time.monotonic() + 60
        while not (self.state / f"pid-{stage}").exists():
            assert process.poll() is None, f"{stage} never ran: {process.communicate()}"
            assert time.monotonic() < until, f"{stage} never ran"
            time.sleep(0.02)

    def tell(self, kind: str, stage: str, text: str = "") -> Path:
        """Ask a stage to fail, sleep, save or edit when it runs; see the toy's __main__."""
        path = self.state / f"{kind}-{stage}"
        path.write_text(text)
        return path

    def ran(self) -> list[str]:
        """Stages whose commands ran since last asked, in order."""
        path = self.state / "ran.txt"
        lines = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def start(self, stage: str, run: str, *former: str) -> "subprocess.Popen[str]":
        """`run-stage` in a process of its own."""
        command = [sys.executable, "-m", "pipelines.runs", stage, run, str(self.root), *former]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=CODE, env=self.environ, stdout=pipe, stderr=pipe, text=True)

    def stage(self, stage: str, run: str, *former: str) -> dict[str, Any]:
        process = self.start(stage, run, *former)
        out, err = process.communicate()
        assert process.returncode == 0, err
        (line,) = out.splitlines()
        return json.loads(line)

    def refused(self, stage: str, run: str, *former: str) -> str:
        process = self.start(stage, run, *former)
        out, err = process.communicate()
        assert process.returncode != 0, f"it did not fail: {out}"
        return err.strip().splitlines()[-1]

    def entries(self, revision: str = "live") -> dict[str, str]:
        from pipelines.runs import lock

        return lock.split(self.git("show", f"{revision}:dvc.lock") + "\n")

    def looks(self) -> tuple[str, str, str]:
        """All that a person sees of the checkout: branch and head, status, index."""
        return self.git("rev-parse", "HEAD"), self.git("status", "--porcelain", "--branch"), self.git("ls-files", "-s")
