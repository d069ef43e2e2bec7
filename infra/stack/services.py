"""The stack's processes: what each runs, and how one sees that it is well."""

import contextlib
import json
import os
import shlex
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import bundled
import psutil
from place import Place

Info = dict[str, Any]
"""What supervisord knows of a process."""
Health = Callable[[Place, dict[str, Any], Info], bool]
"""Of place, secrets and that."""
HERE = Path(__file__).parent
WATCH = ("exporter", "prometheus")
"""Nothing needs them."""
LAST = ("postgres", "redis")
"""To be stopped, for the others need them."""


@dataclass(frozen=True)
class Service:
    name: str
    command: list[str]
    well: Health
    stop_signal: str = "TERM"
    stop_wait: int = 10
    """Seconds. Some have ended their work at once and then tidy their memory for long."""
    stop_group: bool = False
    """Its children are told to stop too, rather than by it."""
    launched: bool = True
    """By launch.py, in run/NAME."""

    def program(self, place: Place) -> dict[str, object]:
        """For keeper.configure."""
        launch = [sys.executable, str(HERE / "launch.py"), self.name] if self.launched else []
        return {
            "name": self.name,
            "command": shlex.join([*launch, *self.command]),
            "directory": place.run / self.name if self.launched else "/",
            "user": os.getuid() if self.launched else bundled.user()[0],
            "stop_signal": self.stop_signal,
            "stop_wait": self.stop_wait,
            "stop_group": str(self.stop_group).lower(),
        }


def of(place: Place) -> list[Service]:
    """In the order in which they start."""
    port = {name: str(number) for name, number in place.ports.items()}
    loopback, city = ["--host", "127.0.0.1"], ["cityloop", "-C", str(place.root)]
    services = [] if place.own_postgres else [_postgres(place)]
    if place.executor == "celery":
        services.append(Service("redis", [str(bundled.redis()), str(place.run / "redis.conf")], _redis))
    services += [
        Service(
            "mlflow",
            ["mlflow", "server", "--app-name", "basic-auth", *loopback, "--port", port["mlflow"], "--workers", "1",
             "--artifacts-destination", str(place.folder / "mlflow")],
            partial(_answers, "mlflow", "/health"), stop_wait=3, stop_group=True,
        ),
        Service("serving", [*city, "serve", "--port", port["serving"]], partial(_answers, "serving", "/livez"),
                stop_wait=15),
        Service("api", ["airflow", "api-server", *loopback, "--port", port["airflow"], "--workers", "1"],
                partial(_answers, "airflow", "/api/v2/version"), stop_wait=3, stop_group=True),
        # Airflow's log servers would listen on every interface; all here share one log folder and need none.
        Service("scheduler", ["airflow", "scheduler", "--skip-serve-logs"], _beats),
        Service("dag-processor", ["airflow", "dag-processor"], _beats),
        Service("triggerer", ["airflow", "triggerer", "--skip-serve-logs"], _beats, stop_wait=3, stop_group=True),
    ]  # fmt: skip
    if place.executor == "celery":
        for name in ("w1", "w2"):
            quiet = ["--skip-serve-logs", "--without-gossip", "--without-mingle"]
            command = ["airflow", "celery", "worker", *quiet, "-H", name, "--pid", str(place.run / f"{name}.pid")]
            services.append(Service(name, command, _listens, stop_signal="QUIT"))
    services.append(Service("promoter", [*city, "promote", "--watch", "--live"], _lasts))
    live = ["--live"] if os.environ.get("CITYLOOP_GIT") or (place.root / ".git").exists() else []
    metrics = [*city, "metrics", *live, "--port", port["exporter"]]
    services.append(Service("exporter", metrics, partial(_answers, "exporter", "/metrics")))
    return [*services, *([_prometheus(place, binary)] if (binary := bundled.prometheus()) else [])]


def well(service: Service, place: Place, secrets: dict[str, Any], info: Info) -> bool:
    """Whether it runs and does its work."""
    return info["statename"] == "RUNNING" and service.well(place, secrets, info)


def _postgres(place: Place) -> Service:
    settings = {
        "listen_addresses": "127.0.0.1", "port": place.ports["postgres"], "unix_socket_directories": "",
        "max_connections": 150, "shared_buffers": "64MB",
    }  # fmt: skip
    given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [str(bundled.postgres(place.folder) / "bin/postgres"), "-D", str(place.folder / "postgres"), *given]
    # SIGINT: a clean stop that does not wait for clients.
    return Service("postgres", command, _connects, stop_signal="INT", launched=False)


def _prometheus(place: Place, binary: Path) -> Service:
    settings = {
        "config.file": "prometheus.yml", "web.listen-address": f"127.0.0.1:{place.ports['prometheus']}",
        "storage.tsdb.path": place.folder / "prometheus", "storage.tsdb.retention.time": "30d",
        "storage.tsdb.retention.size": "1GB", "log.level": "warn",
    }  # fmt: skip
    command = [str(binary), *(f"--{name}={value}" for name, value in settings.items())]
    return Service("prometheus", command, partial(_answers, "prometheus", "/-/ready"), stop_wait=15)


def _connects(place: Place, secrets: dict[str, Any], _: Info) -> bool:
    return bundled.accepts(place, secrets)


def _redis(place: Place, secrets: dict[str, Any], _: Info) -> bool:
    return bool(_broker(place, secrets, lambda client: client.ping()))


def _listens(place: Place, secrets: dict[str, Any], info: Info) -> bool:
    """A worker that works has subscribed to what is said to all."""
    with contextlib.suppress(psutil.Error):
        ports = {str(c.laddr.port) for c in psutil.Process(info["pid"]).net_connections("tcp")}
        clients = _broker(place, secrets, lambda client: client.client_list()) or []
        return any(c["psub"] != "0" and c["addr"].rpartition(":")[2] in ports for c in clients)
    return False


def _broker(place: Place, secrets: dict[str, Any], ask: Callable[[Any], Any]) -> Any:
    import redis

    try:
        with redis.Redis(port=place.ports["redis"], password=secrets["internal"]["redis"], socket_timeout=2) as client:
            return ask(client)
    except redis.RedisError:
        return 0


def _answers(port: str, path: str, place: Place, _: dict[str, Any], __: Info) -> bool:
    return get(place.url(port) + path) is not None


def _beats(place: Place, _: dict[str, Any], info: Info) -> bool:
    """Its heartbeat in Airflow's database is its own, not that of who ran before."""
    name = str(info["name"]).replace("-", "_")
    told = json.loads(get(f"{place.url('airflow')}/api/v2/monitor/health") or "{}").get(name) or {}
    beat = told.get(f"latest_{name}_heartbeat")
    return told.get("status") == "healthy" and datetime.fromisoformat(str(beat)).timestamp() > float(info["start"])


def _lasts(_: Place, __: dict[str, Any], info: Info) -> bool:
    return time.time() - int(info["start"]) >= 2


def get(url: str) -> str | None:
    """The body; None where there is no good answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            body: str = answer.read().decode()
            return body
    except (OSError, urllib.error.HTTPError):
        return None
