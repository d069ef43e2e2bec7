"""The two servers that serving.py compares, each a process group of its own on a free port of loopback.

Both load the same bundle: ours from a store that points to it, MLflow's from the model that `cityloop register` would
log (`loader_module`, the bundle as its data, the release code), without its database.
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from load import Form

ROOT = Path(__file__).parents[1]
PATIENCE_S = 120.0


class Memory(NamedTuple):
    """MiB of all processes of a server; of what several map, PSS counts a share and RSS all in each."""

    rss: float
    pss: float


@dataclass
class Server:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    began: float
    output: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answered(self, form: Form) -> tuple[float, bytes]:
        """Asked again and again: seconds from the process's start to its first answer, and that."""
        end = time.perf_counter() + PATIENCE_S
        while time.perf_counter() < end and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, body = self.ask(form)
                if status == 200:
                    return time.perf_counter() - self.began, body
                if status < 500:
                    raise RuntimeError(f"{self.name}: {status} {body[:400]!r}")
            time.sleep(0.005)
        raise RuntimeError(f"{self.name} did not answer:\n{self.output.read_text()[-2000:]}")

    def ask(self, form: Form) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("POST", form.path, form.bodies[0], form.headers)
            reply = connection.getresponse()
            return reply.status, reply.read()

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read()

    def memory(self) -> Memory:
        rss = pss = 0
        for pid in _family(self.process.pid):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                rss += int(line.split()[1]) if line.startswith("Rss:") else 0
                pss += int(line.split()[1]) if line.startswith("Pss:") else 0
        return Memory(rss / 1024, pss / 1024)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in below for p in _family(int(child)))]


def ours(store: Path, folder: Path, *options: str) -> Server:
    """`cityloop serve` on what `store` points to; `folder` keeps its state from one start to the next."""
    place = {"CITYLOOP_STORE": str(store), "CITYLOOP_STATE": str(folder / "state")}
    port = _free()
    command = ["-m", "pipelines", "serve", "--no-auth", "--port", str(port), *options]
    return _begun("cityloop serve", port, [sys.executable, *command], place, folder, ROOT)


def mlflow(model: Path, folder: Path) -> Server:
    """`mlflow models serve` of one worker in this environment."""
    port = _free()
    command = ["-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local", "-w", "1"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    return _begun("mlflow models serve", port, [sys.executable, *command, "-p", str(port)], quiet, folder, folder)


def logged(bundle: Path, place: Path) -> Path:
    """An MLflow model of `bundle`, as `register` makes it."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    from pipelines import register
    from pipelines.release.predictor import Predictor
    from pipelines.release.rows import Rows

    predictor = Predictor.load(bundle)
    example = register._example(predictor, bundle, "2025-04-05")
    shutil.rmtree(place, ignore_errors=True)
    code = place.with_name("code") / "pipelines"
    for part in ("__init__.py", "core", "release"):
        register._copy_code(ROOT / "pipelines" / part, code / part)
    mlflow.pyfunc.save_model(
        place, loader_module="pipelines.release.rows", data_path=str(bundle.resolve()), code_paths=[str(code)],
        signature=infer_signature(example, Rows(predictor).predict(example)), input_example=example,
        pip_requirements=list(register._REQUIREMENTS),
    )  # fmt: skip
    return place


def _begun(name: str, port: int, command: list[str], more: Mapping[str, str], folder: Path, home: Path) -> Server:
    folder.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output, began = folder / "output", time.perf_counter()
    with output.open("ab") as sink:
        process = subprocess.Popen(
            command,
            cwd=home,
            env={**os.environ, "PATH": path, **more},
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    return Server(name, port, process, began, output)


def _free() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
