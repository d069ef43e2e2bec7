"""Where the stack's things lie, which ports it takes, and its secrets, made on first start."""

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.paths import Paths

REPOSITORY = Path(__file__).resolve().parents[2]
PORTS = {
    "airflow": 8088, "mlflow": 5000, "serving": 8080, "postgres": 15432, "redis": 16379,
    "exporter": 9108, "prometheus": 9090,
}  # fmt: skip
FOLDER, POSTGRES = "CITYLOOP_STACK", "CITYLOOP_POSTGRES"
USERS = {"airflow": ("admin", "reviewer", "viewer"), "mlflow": ("admin", "airflow", "reviewer", "viewer")}


@dataclass(frozen=True)
class Place:
    """A stack: of the city at `root`, its own things in `folder`, on `ports` of this machine.

    `run/` holds what a start writes and `down` removes; the rest stays.
    """

    root: Path
    folder: Path
    executor: str
    ports: Mapping[str, int]
    own_postgres: str | None = None
    """The address of the PostgreSQL that was given in place of the bundled one."""

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials.json"

    @property
    def state(self) -> Path:
        return Paths(self.root).state

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    @classmethod
    def kept(cls) -> "Place | None":
        """The stack that was started here and not ended."""
        told = folder() / "run/stack.json"
        if not told.is_file():
            return None
        found = json.loads(told.read_text())
        return cls(**found | {"root": Path(found["root"]), "folder": Path(found["folder"])})

    def keep(self) -> None:
        write(self.run / "stack.json", json.dumps(asdict(self), default=str))

    def make(self) -> None:
        """The folders, each closed to others; as root the outer one can be passed through, since PostgreSQL must."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711 if os.getuid() == 0 else 0o700)
        for name in ("run", "run/env", "logs", "airflow", "mlflow", "redis", "prometheus", "workers"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)

    def secrets(self) -> dict[str, Any]:
        """What nobody else may know; made and kept where it is not there yet."""
        if not self.credentials.is_file() and (self.folder / "postgres").exists():
            raise UserError(
                f"{self.credentials} is gone, and {self.folder / 'postgres'} opens with nothing else; restore it, or "
                f"remove {self.folder} to begin anew"
            )
        before = json.loads(self.credentials.read_text()) if self.credentials.is_file() else {}
        known: dict[str, Any] = json.loads(json.dumps(before))
        for service, users in USERS.items():
            known.setdefault(service, {})
            for user in users:
                known[service].setdefault(user, secrets.token_urlsafe(15))
        inner = known.setdefault("internal", {})
        for name in ("postgres", "airflow_db", "mlflow_db", "redis", "jwt", "api", "flask"):
            inner.setdefault(name, secrets.token_urlsafe(32))
        if "fernet" not in inner:
            from cryptography.fernet import Fernet

            inner["fernet"] = Fernet.generate_key().decode()
        if known != before:
            self.save(known)
        return known

    def save(self, secrets: dict[str, Any]) -> None:
        write(self.credentials, json.dumps(secrets, indent=2) + "\n")


def root() -> Path:
    """The city: CITYLOOP_ROOT, else the folder one stands in where that is a city, else the checkout."""
    given = os.environ.get("CITYLOOP_ROOT")
    return (Path(given) if given else Path() if Path("params.yaml").is_file() else REPOSITORY).resolve()


def folder() -> Path:
    given = os.environ.get(FOLDER)
    return Path(given).resolve() if given else Paths(root()).state / "stack"


def own_postgres() -> str | None:
    return os.environ.get(POSTGRES) or None


def choose(given: Mapping[str, int], free: bool) -> dict[str, int]:
    """Ports: those of PORTS, or of `given`, or free ones. Raises UserError where one is taken."""
    if free:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
        found = [s.getsockname()[1] for s in sockets]
        for each in sockets:
            each.close()
        return dict(zip(PORTS, found, strict=True)) | dict(given)
    return PORTS | dict(given)


def assert_free(ports: Mapping[str, int], names: list[str]) -> None:
    """Raises UserError that names the first port somebody listens on."""
    for name in names:
        try:
            socket.create_server(("127.0.0.1", ports[name])).close()
        except OSError as error:
            raise UserError(
                f"port {ports[name]}, for {name}, cannot be had ({os.strerror(error.errno or 0)}); end what listens "
                f'there, or choose another: make up ARGS="--port {name}={ports[name] + 1}"'
            ) from None


def write(path: Path, text: str) -> None:
    """Whole or not at all, and readable by the owner alone."""
    new = path.with_name(f".{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
