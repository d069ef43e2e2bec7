"""A real Prometheus for tests, by the configuration of infra/monitoring with shorter intervals, on a free port."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from ceph import free_ports
from workspaces import ROOT

MONITORING = ROOT / "infra/monitoring"
_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
PROMETHEUS, PROMTOOL = shutil.which("prometheus", path=_PATH), shutil.which("promtool", path=_PATH)
needed = pytest.mark.skipif(not (PROMETHEUS and PROMTOOL), reason="no Prometheus: `make prometheus` gets it")


@dataclass
class Prometheus:
    process: "subprocess.Popen[bytes]"
    port: int

    def ask(self, what: str, **given: str) -> Any:
        answer = requests.get(f"http://127.0.0.1:{self.port}/api/v1/{what}", params=given, timeout=10)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def query(self, expr: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Values by their labels, sorted; the name, instance and job left out."""
        found = {}
        for each in self.ask("query", query=expr)["result"]:
            labels = {k: v for k, v in each["metric"].items() if k not in ("__name__", "instance", "job")}
            found[tuple(sorted(labels.items()))] = float(each["value"][1])
        return found

    def firing(self) -> dict[str, dict[str, Any]]:
        """Alerts by name."""
        alerts = self.ask("alerts")["alerts"]
        return {a["labels"]["alertname"]: a for a in alerts if a["state"] == "firing"}


@contextlib.contextmanager
def running(folder: Path, *, serving: int, exporter: int) -> Iterator[Prometheus]:
    """One that asks these ports of this machine every second, and tells what lasts a second."""
    (port,) = free_ports(1)
    folder.mkdir()
    text = (MONITORING / "prometheus.yml").read_text()
    (folder / "prometheus.yml").write_text(re.sub(r"1[05]s", "1s", text))
    (folder / "rules").mkdir()
    for path in (MONITORING / "rules").glob("*.yaml"):
        (folder / "rules" / path.name).write_text(re.sub(r"(?m)^( +)for: .+$", r"\1for: 1s", path.read_text()))
    (folder / "targets").mkdir()
    for name, number in (("serving", serving), ("exporter", exporter)):
        (folder / f"targets/{name}.yaml").write_text(f"- targets: ['127.0.0.1:{number}']\n")
    (folder / "serving.key").touch()
    flags = {"config.file": "prometheus.yml", "web.listen-address": f"127.0.0.1:{port}", "storage.tsdb.path": "data"}
    command = [str(PROMETHEUS), "--log.level=warn", *(f"--{k}={v}" for k, v in flags.items())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        eventually(lambda: process.poll() is not None or _ready(port))
        assert process.poll() is None, (folder / "log").read_text()
        yield Prometheus(process, port)
    finally:
        process.kill()
        process.wait()


def _ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=5).ok
    except requests.ConnectionError:
        return False


def eventually(said: Callable[[], Any], within: float = 40.0) -> Any:
    """What `said` says once that is true."""
    until = time.monotonic() + within
    while not (found := said()):
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def exporter(root: Path, *words: str, **environ: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """`cityloop metrics` of the city in `root`, and its port."""
    command = [sys.executable, "-m", "pipelines", "-C", str(root), "metrics", "--port", "0", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    run = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert run.stderr is not None
        said = run.stderr.readline()
        assert "metrics on http://" in said, said + run.stderr.read()
        yield run, int(said.rsplit(":", 1)[1].split("/")[0])
    finally:
        run.kill()
        run.wait()
        assert run.stderr is not None
        run.stderr.close()
