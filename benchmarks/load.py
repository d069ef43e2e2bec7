"""Load on an HTTP server: wrk, or where it is not installed a client of our own that keeps as many connections busy.

Used by serving.py. Each connection sends its next request when the answer has come; bodies take turns.
"""

import asyncio
import json
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

SCRIPT = Path(__file__).with_name("load.lua")
WRK = shutil.which("wrk")


class Form(NamedTuple):
    """One way to ask one thing: `bodies` are different windows of it."""

    name: str
    path: str
    headers: dict[str, str]
    bodies: list[bytes]


class Load(NamedTuple):
    """What a time of load came to. `errors`: answers that are no 200, and requests without one."""

    connections: int
    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests a second; those under way at the end count half, which matters where an answer takes a second."""
        return (self.requests + self.connections / 2) / self.seconds


def put(url: str, form: Form, folder: Path, connections: int, seconds: float) -> Load:
    """Load for so long, whole seconds; `folder` is for files."""
    if WRK is None:
        return asyncio.run(_ours(url, form, connections, seconds))
    command = [WRK, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(SCRIPT)]
    given = [*command, url, "--", str(_written(form, folder))]
    out = subprocess.run(given, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Load(connections, **json.loads(next(line for line in out.splitlines() if line.startswith("{"))))


def _written(form: Form, folder: Path) -> Path:
    """The form as load.lua reads it."""
    place = folder / form.name.replace(" ", "-").replace("/", "-")
    if not place.is_dir():
        place.mkdir(parents=True)
        lines = [form.path, str(len(form.bodies)), *(f"{k}: {v}" for k, v in form.headers.items())]
        (place / "head").write_text("\n".join(lines) + "\n")
        for i, body in enumerate(form.bodies):
            (place / str(i)).write_bytes(body)
    return place


def raw(url: str, form: Form) -> list[bytes]:
    """The requests' bytes."""
    lines = [
        f"POST {form.path} HTTP/1.1",
        f"host: {urlsplit(url).netloc}",
        *(f"{k}: {v}" for k, v in form.headers.items()),
    ]
    head = "\r\n".join(lines)
    return [f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body for body in form.bodies]


async def _ours(url: str, form: Form, connections: int, seconds: float) -> Load:
    place, requests = urlsplit(url), raw(url, form)
    took: list[float] = []
    errors, began = 0, time.perf_counter()

    async def client(number: int) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 24)
        while time.perf_counter() < began + seconds:
            asked = time.perf_counter()
            writer.write(requests[(number + len(took)) % len(requests)])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            took.append(time.perf_counter() - asked)
            errors += b" 200 " not in head.split(b"\r\n")[0]
        writer.close()

    ends = await asyncio.gather(*(client(i) for i in range(connections)), return_exceptions=True)
    errors += sum(isinstance(end, BaseException) for end in ends)
    ms = sorted(1e3 * t for t in took)
    return Load(
        connections, len(ms), time.perf_counter() - began, errors, statistics.median(ms), ms[int(0.99 * (len(ms) - 1))]
    )
