"""`cityloop serve`: one process, one replica."""

import logging
import socket
from pathlib import Path

from pipelines.core.errors import UserError
from pipelines.core.log import logger
from pipelines.core.paths import Paths
from pipelines.serve import memory
from pipelines.serve.settings import LOOPBACK, Settings


def run(
    *, root: Path = Path(), host: str = "127.0.0.1", port: int = 8080, no_auth: bool = False,
    threads: int | None = None, rate: float | None = None, log_share: float = 1.0, keys: Path | None = None,
) -> None:  # fmt: skip
    """Serve what the city's store says is promoted, until SIGTERM or Ctrl+C; then finish what is under way and leave.

    port 0: a free one, which is said. threads: that infer (None: one a core). rate: requests a second of one key.
    Raises UserError for an address that cannot be had, and as `create_app` does.
    """
    memory.one_heap()
    import uvicorn

    from pipelines.release.store import Store
    from pipelines.serve.app import create_app
    from pipelines.serve.http import protocol

    told = {"threads": threads, "rate": rate, "burst": 2 * rate if rate else None}
    given = {name: value for name, value in told.items() if value is not None}
    settings = Settings(Paths(root).state, host, no_auth, keys, log_share=log_share, **given)  # type: ignore[arg-type]
    app = create_app(Store.of(Paths(root)), settings)
    listening = _bound(host, port)
    config = uvicorn.Config(
        app, http=protocol(settings.header_s), ws="none", loop="uvloop", lifespan="on", log_config=None,
        access_log=False, proxy_headers=False, server_header=False, limit_concurrency=settings.connections,
        timeout_keep_alive=30, timeout_graceful_shutdown=round(settings.drain_s), backlog=1024,
    )  # fmt: skip
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    shown = f"[{host}]" if ":" in host else host
    logger.info("serving on http://%s:%d (docs at /docs)", shown, listening.getsockname()[1])
    if no_auth:
        logger.warning("everybody on this machine may ask: --no-auth")
    elif host not in LOOPBACK:
        logger.info("keys travel as they are: put TLS in front of %s", shown)
    uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)  # from here on a client waits for the start, and is not refused
    except OSError as error:
        raise UserError(f"{host}:{port}: {error.strerror or error}; give another --host or --port (0: free)") from None
    return listening
