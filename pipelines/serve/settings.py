"""What a server is told: where it keeps things, whom it lets in, and how much it takes on."""

import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class Settings:
    """Limits are of one process. Where two limits meet a request, the first that it breaks is named to the client."""

    state: Path
    """Holds `serve/` (copies of what is served), and `keys.json` unless `keys` names another file."""
    host: str = "127.0.0.1"
    no_auth: bool = False
    """Everybody may ask everything; on a loopback address only."""
    keys: Path | None = None
    name: str = field(default_factory=_name)
    """In the heartbeat and in the prediction log; of no two servers the same."""

    threads: int = field(default_factory=_cores)
    """That infer; each session uses one."""
    queue: int = 128
    """Requests that may wait for a thread."""
    batch_cells: int = 512
    """Windows times channels up to which waiting requests are answered in one go; beyond, that gains nothing."""
    time_s: float = 10.0
    """From the body's end to the answer."""

    header_s: float = 10.0
    body_s: float = 30.0
    body_bytes: int = 32 << 20
    bodies_bytes: int = 128 << 20
    """Of all requests that are being read or answered."""
    readings: int = 4 << 20
    """Windows times steps times channels of a request, windows as long as the model reads them."""
    sensors: int = 10_000
    items: int = 32
    """Pictures or messages of a request."""
    characters: int = 20_000
    """Of a message."""
    rate: float = 200.0
    burst: float = 400.0
    """Requests a second of one key, and at once; 0: no limit. Without authentication there is none."""
    connections: int = 800

    poll_s: float = 1.0
    """How often the store is asked what should answer."""
    beat_s: float = 2.0
    drain_s: float = 10.0
    log_share: float = 1.0
    """Of requests, in the prediction log; 0: none."""
    log_rows: int = 400_000
    """Of it that may wait in memory."""

    @property
    def keep(self) -> Path:
        return self.state / "serve"
